"""Trains members of a sweep that differ in seed, size or learning rate together, by one program.

python -m experiments.together out/sweep/seed=0 out/sweep/seed=1

Each folder has a member.json; what is left there is a checkpoint of the end of training, from which
`experiments.compress` goes on. A sweep does this where it is given --together.
"""

import contextlib
import dataclasses
import json
import pathlib
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments.command import run
from experiments.estimate import Plan
from experiments.members import Member
from experiments.run import Run, opened
from experiments.settings import Config
from experiments.workers import Stop
from mrc_jax.compress import report
from mrc_jax.errors import NumericsError, UsageError
from mrc_jax.files import read
from mrc_jax.vmap_members import vmap_members

_MAY_DIFFER = {
    "name": "any", "seed": 0, "file_bytes": 1, "learning_rate": 1.0, "final_learning_rate": 1.0,
    "refine_learning_rate": 1.0, "plain_learning_rate": 1.0, "report_test": False,
}  # fmt: skip


def groups(members: Sequence[Member], plans: dict[str, Plan]) -> list[list[Member]]:
    """The members that one program can train, two or more each; those of other kinds are left out.

    Args:
      members: of a sweep.
      plans: of each, by its name.
    """
    found = defaultdict[object, list[Member]](list)
    for member in members:
        header, config = plans[member.name].header, member.config
        blocks = header.blocks if config.parameterisation == "mean_kl" else None
        same = dataclasses.replace(config, **_MAY_DIFFER)
        found[same, header.bits, blocks].append(member)
    return [group for group in found.values() if len(group) > 1]


def train(jobs: Sequence[Run], stop: Stop) -> None:
    """Trains the runs' posteriors to their ends, from wherever each stands.

    A run whose loss is not finite is left at its last checkpoint, for a process of its own to name
    the fault. Once `stop` has a signal all save their state.
    """
    own = bool(jobs[0].config.distorted_copies or jobs[0].config.distil)
    data: dict[Run, Any] = {}
    steps, live = jobs[0].config.steps, list(jobs)
    for job in jobs:
        job.meta["trained_together"] = len(jobs)
    while not stop.signals and (left := [job for job in live if _done(job) < steps]):
        first = min(_done(job) for job in left)
        now = [job for job in left if _done(job) == first]
        until = min([_done(job) for job in left if job not in now], default=steps)
        config = jobs[0].config
        for job in now if own or config.start_from_plain or config.start_from else jobs[:1]:
            data[job] = data.get(job) or job.data()
        given = (
            jax.tree.map(_stacked, *(data[job] for job in now))
            if own
            else next(iter(data.values()))
        )
        given = jax.tree.map(lambda x: _in_shards(x, jobs[0].config.shards, own), given)
        program = vmap_members([j.problem for j in now], [j.arrays for j in now], given, own)
        while not stop.signals and first < until and set(now) <= set(live):
            states, metrics = program(
                [job.state for job in now], min(jobs[0].config.steps_per_call, until - first)
            )
            first = int(states[0].step)
            for job, state, values in zip(now, states, metrics, strict=True):
                job.state = state
                try:
                    report(job.problem, state, "train", first, steps, values, job.on_call)
                except NumericsError as error:
                    print(f"{job.workdir}: {error}", file=sys.stderr)
                    live.remove(job)
    for job in live:
        job.save(job.state)


def _done(job: Run) -> int:
    return int(job.state.step)


def _in_shards(x: np.ndarray, shards: int, own: bool) -> np.ndarray:
    """Examples as `train.train_on_arrays` takes them, behind the members' dimension if there is."""
    return x if shards == 1 else x.reshape(*x.shape[:own], shards, -1, *x.shape[1 + own :])


def _stacked(*leaves: Any) -> np.ndarray:
    return np.stack(leaves)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) < 3:
        raise UsageError("give the folders of two or more members")
    stop = Stop()
    with contextlib.ExitStack() as stack:
        jobs = []
        for folder in map(pathlib.Path, argv[1:]):
            values = json.loads(read(folder / "member.json"))["config"]
            config = Config.from_config_dict(ml_collections.ConfigDict(values))
            jobs.append(stack.enter_context(opened(config, folder)))
        train(jobs, stop)
    if stop.signals:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    run(main)
