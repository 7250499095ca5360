"""A run that is asked to stop does so in seconds, whatever it is at, and says how to go on."""

import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from smoke_runs import COMMAND, FAST, ROOT

from configs import smoke
from experiments.data import load
from experiments.run import Run
from experiments.settings import Config

BLOCK = """
import sys, time
from experiments import stopping
stopping.GRACE_S = 0.5
asked = []
with stopping.stopping(asked.append, lambda: "last words"):
    print("ready", flush=True)
    {work}
print(f"asked {{asked}}", flush=True)
"""
BUSY = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 10**9)"  # no handler runs meanwhile
PATIENT = "[time.sleep(0.01) for _ in iter(lambda: bool(asked), True)]"


def started(work: str) -> subprocess.Popen[str]:
    code = BLOCK.format(work=work)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_busy_leaves_without_when_its_time_is_up(how: signal.Signals) -> None:
    process = started(BUSY)
    process.send_signal(how)
    out, errors = process.communicate(timeout=5)
    assert (process.returncode, out, errors) == (128 + how, "", "last words\n")


def test_a_process_that_ends_by_itself_is_left_alone() -> None:
    process = started(PATIENT + "; time.sleep(0.1)")
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=5)
    assert (process.returncode, out, errors) == (0, f"asked [{int(signal.SIGTERM)}]\n", "")


def test_plain_training_that_is_stopped_goes_on_to_the_same_weights(tmp_path: pathlib.Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, f"--workdir={tmp_path / 'one'}", *FAST, "--config.steps_per_call=1"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    saved = tmp_path / "one" / "plain_training"
    while not any(x.name.isdecimal() and int(x.name) > 2 for x in saved.glob("*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM and "stopped; go on with: " in errors
    assert not list((tmp_path / "one" / "plain").glob("*"))
    values = smoke.get_config()
    values.steps_per_call = 1
    config, dataset = Config.from_config_dict(values), load("digits", "")
    weights = []
    for name in ("one", "other"):
        job = Run(config, dataset, tmp_path / name)
        calls = iter(range(1000))
        job.bar.update = lambda *_, calls=calls: next(calls)  # type: ignore[method-assign]
        job.data()
        job.checkpoints.close()
        weights.append(job.plain)
        assert (next(calls) < config.plain_steps) == (name == "one")
    jax.tree.map(np.testing.assert_array_equal, *weights)
