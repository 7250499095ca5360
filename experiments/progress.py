"""A progress bar on a terminal, elsewhere a line now and then; times for people."""

import math
import sys
import time

import jax
from tqdm import tqdm

EVERY_S = 60.0  # a line where there is no terminal


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{math.ceil(seconds)} seconds"
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"


class Bar:
    """Shows one phase after the other: rate, time left, loss, and mean KL against the budget.

    On a terminal it is a bar. Elsewhere, as in a job's log, it is a line where a phase begins and
    one every `EVERY_S` seconds of it.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._phase = ""
        self._began: tuple[float, int] | None = None  # when a phase's lines did, and what was done
        self._told = 0.0

    def update(self, phase: str, unit: str, done: int, total: int, text: str = "") -> None:
        """Moves to `done` of `total` units of a phase; `text` stands at the end of the bar."""
        if phase != self._phase:
            self.close()
            self._phase = phase
        if sys.stderr.isatty() and jax.process_index() == 0:
            self._draw(phase, unit, done, total, text)
        elif jax.process_index() == 0:
            self._tell(phase, unit, done, total, text)

    def _draw(self, phase: str, unit: str, done: int, total: int, text: str) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, desc=phase, unit=f" {unit}", dynamic_ncols=True
            )
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def _tell(self, phase: str, unit: str, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, line = (now, done), f"{phase}: {total} {unit}"
        elif now - self._told >= EVERY_S and done > self._began[1]:
            left = (now - self._began[0]) / (done - self._began[1]) * (total - done)
            line = f"{phase}: {done} of {total} {unit}, {duration(left)} left; {text}"
        else:
            return
        print(line, file=sys.stderr, flush=True)
        self._told = now

    def close(self) -> None:
        """Leaves the bar of the last phase standing."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._began = None
