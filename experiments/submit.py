"""Submits one run as a job of a cluster through submitit, of one process or many.

python -m experiments.submit --cluster=slurm --config=FILE.py --workdir=DIR \
    --tasks=16 --slurm=nodes=2,tasks_per_node=8,gpus_per_task=1,timeout_min=600 \
    -- --config.mesh=data=16

What follows -- goes to `experiments.compress`. When a job's time is up it is queued again, and goes
on from its last checkpoint. docs/scaling.md has the commands of a TPU pod slice.
"""

import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import flags

from experiments.cluster import made_executor
from experiments.command import run
from experiments.workers import environment
from mrc_jax.errors import MrcError, UsageError

_PORTS = range(20_000, 60_000)  # of the first process; jobs of one machine should not meet


class Task:
    """One process of the job."""

    def __init__(self, arguments: list[str], tasks: int) -> None:
        self.arguments, self.tasks = arguments, tasks
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Runs it where submitit put it; returns its exit code."""
        import submitit

        place = submitit.JobEnvironment()
        found, command = environment(1), [sys.executable, "-m", "experiments.compress"]
        if self.tasks > 1:
            command.append("--distributed")
            found |= variables(place.hostnames[0], place.job_id, self.tasks, place.global_rank)
        self._process = subprocess.Popen([*command, *self.arguments], env=found)
        try:
            return self._process.wait()
        finally:
            self._process.terminate()

    def checkpoint(self) -> Any:
        """Called by submitit when the job's time is up; returns what to queue next."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return DelayedSubmission(Task(self.arguments, self.tasks))


def variables(host: str, job: str, tasks: int, number: int) -> dict[str, str]:
    """What tells a process of `experiments.compress --distributed` where the others are."""
    digits = int("".join(filter(str.isdigit, job)) or 0)
    port = _PORTS[digits % len(_PORTS)]
    return {
        "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
        "JAX_NUM_PROCESSES": str(tasks),
        "JAX_PROCESS_ID": str(number),
    }


def parameters(pairs: list[str]) -> dict[str, Any]:
    """Parameters of submitit's executor from NAME=VALUE pairs; whole numbers become such.

    Raises:
      UsageError: one is not a pair.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"--slurm: {pair!r} where NAME=VALUE belongs")
        found[name] = int(value) if value.isdecimal() else value
    return found


def main(argv: list[str]) -> None:
    """The command."""
    given = flags.FLAGS
    workdir = pathlib.Path(str(given.workdir)).absolute()
    executor = made_executor(given.cluster, workdir, parameters(given.slurm))
    config = os.path.abspath(str(given.config))
    arguments = [f"--config={config}", f"--workdir={workdir}", *argv[1:]]
    job = executor.submit(Task(arguments, given.tasks))
    print(f"job {job.job_id}; what it says is in {workdir / 'cluster'}", flush=True)
    if given.wait and (codes := [code for code in job.results() if code]):
        raise MrcError(f"the job ended with exit code {codes[0]}")


if __name__ == "__main__":
    flags.DEFINE_enum("cluster", "slurm", ["slurm", "local"], "Of submitit's.")
    flags.DEFINE_string("config", None, "The run's config file.")
    flags.DEFINE_string("workdir", None, "Of the run, on a disk that all hosts share.")
    flags.DEFINE_integer("tasks", 1, "Processes of the job in all.", lower_bound=1)
    flags.DEFINE_list("slurm", [], "NAME=VALUE pairs for submitit's executor.")
    flags.DEFINE_bool("wait", False, "Wait for the job's end, and fail if it failed.")
    flags.mark_flags_as_required(["config", "workdir"])
    run(main)
