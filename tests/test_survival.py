"""Runs that are killed anywhere, short of space, beside another, or without a finite number."""

import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoke_runs import COMMAND, FAST, ROOT, run

from configs import smoke
from experiments import run as runs
from experiments.settings import Config
from mrc_jax.checkpoint import Checkpoints, lock
from mrc_jax.container import unpack
from mrc_jax.errors import NumericsError

TWENTY = ["--config.file_bytes=125", "--config.bits=16", "--config.parameterisation=mean_kl", *FAST]


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An undisturbed run whose file has 20 blocks."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    done = run(f"--workdir={workdir}", *TWENTY)
    assert done.returncode == 0, done.stderr
    assert unpack((workdir / "model.mrc").read_bytes()).header.blocks == 20
    return workdir


def same(one: pathlib.Path, other: pathlib.Path) -> bool:
    names = ("model.mrc", "metrics.jsonl")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


# Runs the command and kills itself when a given block is done, before it is saved or afterwards.
KILLED = """
import os, runpy, signal, sys
from experiments.run import Run
block, after = int(sys.argv.pop(1)), sys.argv.pop(1) == "after"
tell = Run.on_call
def on_call(self, state, progress):
    now = progress.phase == "code" and progress.done == block
    if now and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    tell(self, state, progress)
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
Run.on_call = on_call
runpy.run_module("experiments.compress", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_is_killed_at_every_block_ends_with_the_same_file(
    twenty: pathlib.Path, tmp_path: pathlib.Path, moment: str
) -> None:
    arguments = [*COMMAND[3:], f"--workdir={tmp_path}", *TWENTY]
    for block in range(1, 21):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(block), moment, *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "model.mrc").exists()
    assert run(*arguments[1:]).returncode == 0
    assert same(tmp_path, twenty)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_is_killed_at_any_time_ends_with_the_same_file(
    twenty: pathlib.Path, tmp_path: pathlib.Path, seed: int
) -> None:
    arguments = [f"--workdir={tmp_path}", *TWENTY, "--config.steps_per_call=5"]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    rng, metrics = random.Random(seed), tmp_path / "metrics.jsonl"
    calls = rng.randrange(200)  # of 200 in training
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < calls:
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1))  # while it trains, or saves
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert run(*arguments).returncode == 0
    assert (tmp_path / "model.mrc").read_bytes() == (twenty / "model.mrc").read_bytes()


# Has room for the plain network's weights, not for the posterior's state.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (14_000, 14_000))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_full_disk_ends_a_run_with_one_line_and_it_goes_on_to_the_same_file(
    twenty: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arguments = [f"--workdir={tmp_path}", *TWENTY]

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *COMMAND[1:], *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert "cannot write a checkpoint (File too large); free space and run the command" in line
    assert "Traceback" not in done.stderr and not (tmp_path / "model.mrc").exists()
    assert (tmp_path / "plain" / "1").is_dir()
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert same(tmp_path, twenty)


def test_a_second_process_is_refused_and_a_dead_one_s_lock_is_taken_over(
    tmp_path: pathlib.Path,
) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from mrc_jax.checkpoint import lock\n"
        "with lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        done = run(f"--workdir={tmp_path}")
        assert done.returncode == 4 and done.stderr.count("\n") == 1
        assert f"{tmp_path}: another process works there; wait for it or give" in done.stderr
        holder.kill()
    assert (tmp_path / "lock").exists()
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("what", ["loss", "posterior"])
def test_a_number_that_is_not_finite_stops_a_run_and_leaves_the_last_good_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    make = runs.steps_on

    def steps_on(*arguments: Any) -> Any:
        sound = make(*arguments)

        def go(state: Any, steps: int, refining: bool) -> Any:
            state, metrics = sound(state, steps, refining)
            if int(state.step) == 750 and what == "loss":
                metrics = {**metrics, "loss": jnp.float32(jnp.inf)}
            elif int(state.step) == 750:
                state.params["mean"] = state.params["mean"].at[3].set(jnp.nan)
            return state, metrics

        return go

    monkeypatch.setattr(runs, "steps_on", steps_on)
    values = smoke.get_config()
    values.checkpoint_every_s = 1e-3
    with pytest.raises(
        NumericsError, match=f"the {what} is not finite by step 750, .* 0.001: lower learning_rate"
    ):
        runs.compress(Config.from_config_dict(values), tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    restored = checkpoints.restore()
    checkpoints.close()
    assert restored is not None and int(restored[0]["step"]) == 500
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(restored[0]["params"]))
