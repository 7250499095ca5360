"""Runs a sweep: a run for each combination of a grid, and a table of what they found.

python -m experiments.sweep --config=configs/sweeps/digits_rate.py --workdir=out/sweep --workers=2

A sweep that was stopped goes on when the same command is given again; so do members that failed.
"""

import pathlib
import signal
import sys
import time
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from experiments import cluster, members, table, together, workers
from experiments.command import run
from experiments.estimate import Plan, Speed, measure, plans_of, speed_key
from experiments.members import Member
from experiments.progress import duration
from experiments.record import read_json
from mrc_jax.checkpoint import lock
from mrc_jax.errors import MrcError, UsageError


class Log:
    """Tells of members as they start and end: one line each, with the time that is left."""

    def __init__(self, todo: Sequence[Member], total: int, plans: dict[str, Plan]) -> None:
        self._plans, self._total = plans, total
        self._done = total - len(todo)
        self._left = sum(plans[member.name].steps for member in todo)
        self._spent, self._begin = 0, time.monotonic()
        self.failed: list[str] = []

    def tell(self, member: Member, event: str) -> None:
        """Prints an event of a member: start, done, failed or stopped."""
        text = event
        if event == "done":
            self._done += 1
            self._spend(self._plans[member.name].steps)
            report = read_json(member.folder / "report.json")
            wrong = report.get("validation_error", report.get("test_error"))
            told = "" if wrong is None else f", {wrong:.2%} wrong"
            text = f"done, {report['file_bytes']} bytes{told}"
        elif event == "failed":
            self._spend(self._plans[member.name].steps)
            failure = read_json(member.folder / "failure.json")
            exit_code, error = failure["exit_code"], failure["error"]
            text = f"failed, exit code {exit_code}: {error}"
            self.failed.append(f"{member.name}: exit code {exit_code}, {error}")
        left = ""
        if self._spent and self._left and event != "start":
            seconds = (time.monotonic() - self._begin) / self._spent * self._left
            left = f"; about {duration(seconds)} left"
        print(f"[{self._done}/{self._total}] {member.name}: {text}{left}", flush=True)

    def _spend(self, steps: int) -> None:
        self._spent += steps
        self._left -= steps


def sweep(
    found: list[Member],
    workdir: pathlib.Path,
    start: workers.Start,
    count: int,
    is_together: bool = False,
) -> None:
    """Runs the members that are not done, `count` at a time, and writes the table; where
    `is_together`, those that one program can train are trained by it before.

    Raises:
      BusyError: another sweep works there.
      UsageError: a member's size cannot be, or its folder holds a run of another config.
      MrcError: members failed; the table and the error have them.
    """
    plans = plans_of(found)
    with lock(workdir):
        for member in found:
            members.check(member)
        for member in found:
            members.claim(member)
        todo = [member for member in found if member.status != "done"]
        log, stop = Log(todo, len(found), plans), workers.Stop()
        print(f"[{len(found) - len(todo)}/{len(found)}] members are done", flush=True)
        if is_together:
            for group in together.groups(todo, plans):
                print(f"training {len(group)} members together", flush=True)
                workers.run_together(group, workdir, stop)
        workers.run_all(todo, count, start, stop, log.tell)
        table.write(workdir)
    if log.failed:
        print("failed:\n  " + "\n  ".join(log.failed), flush=True)
    if stop.signals:
        command = f"{pathlib.Path(sys.executable).name} -m experiments.sweep"
        print(f"stopped; go on with: {command} {' '.join(sys.argv[1:])}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    if log.failed:
        raise MrcError(
            f"{len(log.failed)} of {len(found)} members failed; the same command tries them again"
        )
    print(f"results.csv and results.jsonl are in {workdir}")


def dry_run(found: list[Member], count: int) -> None:
    """Lists the members with their bytes and estimated hours, and writes nothing."""
    plans, speeds, left = plans_of(found), dict[object, Speed](), dict[str, float]()
    ends = dict[str, float]()  # with as many workers as there are members
    width = max(len(member.name) for member in found)
    print(f"{'member':{width}}  {'bytes':>9}  {'blocks':>7}  {'bits':>4}  {'hours':>7}  status")
    for member in found:
        key = speed_key(member.config)
        if key not in speeds:
            speeds[key] = measure(member.config)
        plan, hours = plans[member.name], speeds[key].hours(plans[member.name])
        header = plan.header
        print(f"{member.name:{width}}  {plan.file_bytes:>9,}  {header.blocks:>7,}  "
              f"{header.bits:>4}  {hours:>7.3f}  {member.status}")  # fmt: skip
        left[member.name] = 0.0 if member.status == "done" else hours
        ends[member.name] = ends.get(member.after, 0.0) + left[member.name]
    total = sum(left.values())
    at_once = max(total / count, *ends.values(), 0.0)
    steps = ", ".join(f"{1000 * speed.step_s:.1f}" for speed in speeds.values())
    waves = ", ".join(f"{1000 * speed.wave_s:.0f}" for speed in speeds.values())
    print(
        f"{total:.3f} hours for what is not done, {at_once:.3f} with {count} at a time: from\n"
        f"{steps} ms a training step and {waves} ms a wave of blocks, measured now on this machine "
        "by\none worker; a step of the plain network counts as much, evaluation nothing"
    )


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"unknown argument {argv[1]!r}; fields are --config.base.FIELD=VALUE")
    workdir = pathlib.Path(str(flags.FLAGS.workdir)).absolute()
    if flags.FLAGS.table:
        table.write(workdir)
        return
    if flags.FLAGS.config is None:
        raise UsageError("--config is missing; give a file of configs/sweeps/")
    found = members.members_of(flags.FLAGS.config, workdir)
    count = flags.FLAGS.workers or (len(found) if flags.FLAGS.cluster else 1)
    if flags.FLAGS.dry_run:
        with workers.pinned(workers.shares(count)[0]):  # before JAX counts the cores
            dry_run(found, count)
    elif flags.FLAGS.cluster:
        parameters = dict((flags.FLAGS.config.get("cluster") or {}).items())
        if flags.FLAGS.together:
            raise UsageError("--together trains on this machine; leave it or --cluster out")
        sweep(found, workdir, cluster.starter(flags.FLAGS.cluster, workdir, parameters), count)
    else:
        sweep(found, workdir, workers.starter(count), count, flags.FLAGS.together)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The sweep's config file.")
    flags.DEFINE_string("workdir", None, "The folder of the members' folders.")
    flags.DEFINE_integer(
        "workers", None, "Members at work at once: 1, or with --cluster all.", lower_bound=1
    )
    flags.DEFINE_enum(
        "cluster", None, ["slurm", "local"], "Submit members as jobs through submitit."
    )
    flags.DEFINE_bool(
        "together", False, "First train members that differ in seed, size or rate by one program."
    )
    flags.DEFINE_bool("dry_run", False, "List members, bytes and hours; run nothing.")
    flags.DEFINE_bool("table", False, "Make the table again from the folders; run nothing.")
    flags.mark_flags_as_required(["workdir"])
    run(main)
