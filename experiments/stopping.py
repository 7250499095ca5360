"""SIGTERM and SIGINT to a run: it saves its state when the program's call at work ends, or leaves
without after GRACE_S seconds, its last checkpoint being there.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

GRACE_S = 8.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stopping(ask: Callable[[int], None], last_words: Callable[[], str]) -> Iterator[None]:
    """While the block runs, a signal calls `ask` with its number as soon as Python can run.

    Where the block has not ended GRACE_S seconds later, since a compiled program or a long loop is
    at work, `last_words` go to standard error and the process ends with 128 + the signal's number.
    """
    over = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        number = int.from_bytes(os.read(reader, 1))  # 0 once the block has ended
        if number in _SIGNALS and not over.wait(GRACE_S):
            print(last_words(), file=sys.stderr, flush=True)
            os._exit(128 + number)

    before = {number: signal.signal(number, lambda n, _: ask(n)) for number in _SIGNALS}
    wakeup = signal.set_wakeup_fd(writer)  # is told even while a compiled program runs
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)
