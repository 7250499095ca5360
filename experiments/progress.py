"""A progress bar on a terminal; elsewhere nothing but a line for each phase; times for people."""

import math
import sys

import jax
from tqdm import tqdm


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{math.ceil(seconds)} seconds"
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"


class Bar:
    """Shows one phase after the other: rate, time left, loss, and mean KL against the budget."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._phase = ""

    def update(self, phase: str, unit: str, done: int, total: int, text: str = "") -> None:
        """Moves to `done` of `total` units of a phase; `text` stands at the end of the bar."""
        if phase != self._phase:
            self.close()
            self._phase = phase
            if not sys.stderr.isatty() and jax.process_index() == 0:
                print(f"{phase}: {total} {unit}", file=sys.stderr, flush=True)
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=phase,
                unit=f" {unit}",
                disable=not sys.stderr.isatty() or jax.process_index() > 0,
                dynamic_ncols=True,
            )
        assert self._bar is not None
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leaves the bar of the last phase standing."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
