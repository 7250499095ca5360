"""Long work tells where it is: a line every minute where there is no terminal."""

import io
import sys

import pytest

from experiments import progress


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_line_every_minute_with_the_time_left(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = progress.Bar()
    for done in range(100, 600, 100):  # a call every 25 seconds: 4 steps a second
        bar.update("train", "steps", done, 1500, f"loss {done / 1000}")
        now[0] += 25
    bar.update("code", "blocks", 7, 8)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "train: 1500 steps",
        "train: 400 of 1500 steps, 5 minutes left; loss 0.4",
        "code: 8 blocks",
    ]


def test_what_an_earlier_process_did_does_not_count_in_the_time_left(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = progress.Bar()
    bar.update("code", "blocks", 900, 1000, "")
    now[0] += 80
    bar.update("code", "blocks", 980, 1000, "fine")
    assert capsys.readouterr().err.splitlines()[1] == (
        "code: 980 of 1000 blocks, 20 seconds left; fine"
    )


def test_a_terminal_has_a_bar_for_each_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress.Bar()
    bar.update("train", "steps", 2, 4, "loss 0.5")
    bar.update("code", "blocks", 8, 8, "")
    bar.close()
    drawn = terminal.getvalue()
    assert "train" in drawn and "code: 100%" in drawn and "8/8" in drawn
    assert " left" not in drawn
