"""One run as a job of a cluster, on submitit's local one."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import cluster, submit
from mrc_jax.decode import decode, weights_sha256
from mrc_jax.errors import UsageError

pytest.importorskip("submitit")
ROOT = pathlib.Path(__file__).parents[1]


def submitted(workdir: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`experiments.submit` of the smoke config, waited for."""
    command = [sys.executable, "-m", "experiments.submit", "--cluster=local", "--wait"]
    command += [f"--config={ROOT / 'configs' / 'smoke.py'}", f"--workdir={workdir}", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)


def test_a_submitted_run_ends_as_any_other(tmp_path: pathlib.Path) -> None:
    done = submitted(tmp_path, "--", "--config.seed=3")
    assert done.returncode == 0, done.stderr
    assert f"what it says is in {tmp_path / 'cluster'}" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    data = (tmp_path / "model.mrc").read_bytes()
    assert report["seed"] == 3 and report["file_bytes"] == len(data)
    assert weights_sha256(decode(data)) == report["weights_sha256"]


def test_a_run_that_fails_is_told(tmp_path: pathlib.Path) -> None:
    done = submitted(tmp_path, "--", "--config.file_bytes=1")
    assert done.returncode != 0
    assert "the job ended with exit code" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_of_a_job_find_each_other(tmp_path: pathlib.Path) -> None:
    """Both hold half of the mesh, and one writes the file."""
    slurm = "--slurm=tasks_per_node=2"
    done = submitted(tmp_path, "--tasks=2", slurm, "--", "--config.mesh=data=2")
    said = "".join(p.read_text() for p in (tmp_path / "cluster").glob("*_log.*"))
    assert done.returncode == 0, done.stderr + said
    assert json.loads((tmp_path / "report.json").read_text())["config"]["mesh"] == "data=2"


def test_each_process_is_told_where_the_first_is_and_which_it_is() -> None:
    found = [submit.variables("host7", "1234_5", 4, number) for number in range(4)]
    assert {f["JAX_COORDINATOR_ADDRESS"] for f in found} == {"host7:32345"}
    assert [f["JAX_PROCESS_ID"] for f in found] == ["0", "1", "2", "3"]
    assert {f["JAX_NUM_PROCESSES"] for f in found} == {"4"}
    ports = {submit.variables("h", str(j), 2, 0)["JAX_COORDINATOR_ADDRESS"] for j in range(100)}
    assert len(ports) == 100


def test_a_job_on_this_machine_is_not_ended_after_submitit_s_two_minutes(
    tmp_path: pathlib.Path,
) -> None:
    for given, minutes in (({}, 365 * 24 * 60), ({"timeout_min": 7}, 7)):
        job = cluster.made_executor("local", tmp_path, given)
        assert job._executor.parameters["timeout_min"] == minutes


def test_parameters_are_pairs() -> None:
    assert submit.parameters(["nodes=2", "partition=a=b"]) == {"nodes": 2, "partition": "a=b"}
    with pytest.raises(UsageError, match="'nodes' where NAME=VALUE belongs"):
        submit.parameters(["nodes"])


def test_a_job_whose_time_is_up_is_queued_again_as_it_was() -> None:
    """Its process is ended first, and so leaves a checkpoint."""
    task = submit.Task(["--config=x"], 2)
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env=os.environ
    )
    task._process = process
    again = task.checkpoint()
    assert process.returncode is not None and process.returncode != 0
    assert (again.function.arguments, again.function.tasks) == (["--config=x"], 2)
    assert again.function._process is None
