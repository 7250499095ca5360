"""Runs of configs/smoke.py in processes of their own, as a user starts them."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "experiments.compress", "--config=configs/smoke.py"]
FAST = ["--config.checkpoint_every_s=0.001"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
