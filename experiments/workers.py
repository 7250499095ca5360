"""Runs the members of a sweep, a few at a time, each in a process of its own."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from experiments import record
from experiments.members import ROOT, Member

_POLL_S = 0.05


class Job(Protocol):
    """A member at work."""

    def poll(self) -> int | None:
        """Its exit code, None while it works."""

    def stop(self, *, now: bool) -> None:
        """Asks it to save its state and end, or ends it now."""


class Stop:
    """Counts SIGTERM and SIGINT: the first asks for a graceful end, a second for a quick one."""

    def __init__(self) -> None:
        self.signals = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._count)

    def _count(self, *_: object) -> None:
        self.signals += 1


Start = Callable[[Member, int], Job]  # of a member and the number of the worker that is free
Tell = Callable[[Member, str], None]  # of a member and its event: start, done, failed, stopped


def run_all(members: Sequence[Member], workers: int, start: Start, stop: Stop, tell: Tell) -> None:
    """Runs members until all have ended, or until `stop` and those at work have saved their state.

    A member that starts from another waits until that one has ended. What one that failed said
    last is in failure.json in its folder, with its exit code.
    """
    waiting, running, asked = list(members), dict[int, tuple[Member, Job]](), 0
    try:
        while running or (waiting and not stop.signals):
            while len(running) < workers and not stop.signals:
                free = min(set(range(workers)) - running.keys())
                left = {m.name for m in (*waiting, *(member for member, _ in running.values()))}
                member = next((m for m in waiting if m.after not in left), None)
                if member is None:
                    break
                waiting.remove(member)
                (member.folder / "failure.json").unlink(missing_ok=True)
                running[free] = member, start(member, free)
                tell(member, "start")
            if stop.signals > asked:
                asked = stop.signals
                for _, job in running.values():
                    job.stop(now=asked > 1)
            for worker, (member, job) in list(running.items()):
                if (code := job.poll()) is not None:
                    del running[worker]
                    tell(member, _settle(member, code, bool(asked)))
            time.sleep(_POLL_S)
    finally:
        for _, job in running.values():
            job.stop(now=True)


def run_together(members: Sequence[Member], workdir: pathlib.Path, stop: Stop) -> None:
    """Trains members by one program in a process of its own, until it ends or `stop` asks it to;
    where it fails each member trains alone.
    """
    folders = [str(member.folder) for member in members]
    log = workdir / "together.txt"
    with open(log, "a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.together", *folders],
            env=environment(1),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    asked = 0
    while (code := process.poll()) is None:
        if stop.signals > asked:
            asked = stop.signals
            process.send_signal(signal.SIGTERM if asked == 1 else signal.SIGKILL)
        time.sleep(_POLL_S)
    if code and not asked:
        print(f"it ended with exit code {code}, see {log}; they train one by one", flush=True)


class Process:
    """A member in a process of this machine, on the cores given."""

    def __init__(self, member: Member, cores: Sequence[int], workers: int) -> None:
        # A process inherits its maker's cores, and XLA makes a thread for each; a session of its
        # own keeps a terminal's Ctrl-C from it.
        with pinned(cores):
            self._process = spawn(member, workers, start_new_session=True)

    def poll(self) -> int | None:
        """See Job."""
        return self._process.poll()

    def stop(self, *, now: bool) -> None:
        """See Job."""
        self._process.send_signal(signal.SIGKILL if now else signal.SIGTERM)


def starter(workers: int) -> Start:
    """A function that starts members on this machine, each worker on its own cores."""
    cores = shares(workers)
    return lambda member, worker: Process(member, cores[worker], workers)


def shares(workers: int) -> list[list[int]]:
    """The cores of each worker: as many as there are for it, at least one."""
    cores = sorted(os.sched_getaffinity(0))
    each = max(len(cores) // workers, 1)
    return [[cores[(w * each + i) % len(cores)] for i in range(each)] for w in range(workers)]


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keeps this thread, and what it starts, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def spawn(member: Member, workers: int, start_new_session: bool = False) -> subprocess.Popen[bytes]:
    """Starts a member's job, one of `workers` at once, with all that it says in its log.txt."""
    with open(member.folder / "log.txt", "a") as log:
        return subprocess.Popen(
            member.command,
            env=environment(workers),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=start_new_session,
        )


def environment(workers: int) -> dict[str, str]:
    """The environment of members, in which they find this checkout, share an accelerator, and say
    what they say in its order: an error comes last.
    """
    found = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, (str(ROOT), found)))
    memory = {} if workers == 1 else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / workers:.3f}"}
    return {**memory, **os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


def last_line(log: pathlib.Path) -> str:
    """The last line of a log that says anything."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _settle(member: Member, code: int, stopping: bool) -> str:
    """What became of a member that ended; a failure is written down."""
    if member.status == "done":
        return "done"
    if stopping:
        return "stopped"
    if code < 0:
        error = f"ended by {signal.Signals(-code).name}"
    else:
        error = last_line(member.folder / "log.txt") or "it said nothing"
    about = {"exit_code": code, "error": error, "commit": record.commit()}
    record.write_json(member.folder / "failure.json", about)
    return "failed"
