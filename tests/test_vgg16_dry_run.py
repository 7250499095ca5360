"""VGG-16 in its published width on a CPU: a few steps and a wave of blocks, all shapes real."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PEAK_BYTES = 4 << 30


@pytest.mark.slow
def test_a_few_steps_and_a_wave_of_the_real_network_fit_in_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "vgg16_dry_run.py")],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["parameters"] == found["entries"] == 15_245_130
    whole = found["entries"] // found["blocks"]
    assert found["coded"] in range(whole * found["wave"], (whole + 1) * found["wave"] + 1)
    assert found["wave"] == 1024
    assert math.isfinite(found["loss"]) and found["loss"] > 0
    assert found["peak_bytes"] < PEAK_BYTES
