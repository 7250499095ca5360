"""Members of a sweep as jobs of a cluster, through submitit."""

import pathlib
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from experiments.members import Member
from experiments.workers import Start, spawn
from mrc_jax.errors import UsageError

_STOPPED = -signal.SIGTERM
_YEAR_MIN = 365 * 24 * 60


class MemberTask:
    """Runs a member where submitit puts it; when its time is up it is queued again and resumes."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Returns the member's exit code."""
        self._process = spawn(self.member, 1)
        try:
            return self._process.wait()
        finally:
            self._process.terminate()  # it saves its state

    def checkpoint(self) -> Any:
        """Called by submitit when the job's time is up; returns what to queue next."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return DelayedSubmission(MemberTask(self.member))


class ClusterJob:
    """A member's job."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def poll(self) -> int | None:
        """See workers.Job."""
        if not self._job.done():
            return None
        error = self._job.exception()
        return _STOPPED if error is not None else self._job.result()

    def stop(self, *, now: bool) -> None:
        """See workers.Job; a cluster's own patience decides."""
        del now
        self._job.cancel(check=False)


def starter(name: str, workdir: pathlib.Path, parameters: Mapping[str, Any]) -> Start:
    """A function that submits a member to a cluster, of `made_executor`."""
    executor = made_executor(name, workdir, parameters)
    return lambda member, _: ClusterJob(executor.submit(MemberTask(member)))


def made_executor(name: str, workdir: pathlib.Path, parameters: Mapping[str, Any]) -> Any:
    """An executor of submitit's.

    Args:
      name: of the cluster: 'slurm' or 'local'.
      workdir: of the sweep or run; submitit's own files go into its folder 'cluster'.
      parameters: of submitit's AutoExecutor, such as timeout_min or slurm_partition. On this
        machine a job has a year where they do not say: submitit would end it after two minutes.

    Raises:
      UsageError: submitit or the cluster is not there, or a parameter is unknown.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise UsageError(
            "--cluster needs submitit: pip install 'mrc_jax[slurm]', or leave --cluster out"
        ) from None
    try:
        executor = submitit.AutoExecutor(folder=workdir / "cluster", cluster=name)
        own = {"timeout_min": _YEAR_MIN} if name == "local" else {}
        executor.update_parameters(**own | dict(parameters))
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise UsageError(f"--cluster={name}: {' '.join(str(error).split())}") from None
    return executor
