"""Members of a sweep trained together: which, to what numbers, and what one's fault does."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from test_sweep import sweep_of

from experiments import first_state, together, workers
from experiments import sweep as job
from experiments.estimate import plans_of
from experiments.members import Member, claim, members_of
from experiments.run import Run, opened
from mrc_jax.compress import train_to_budget
from mrc_jax.errors import NumericsError
from mrc_jax.feed import steps_on

SHORT = {"steps": 60, "steps_per_call": 20, "plain_steps": 20, "beta_step": 1e-2}
GRID = {"seed": (0, 1), "file_bytes": (120, 150)}


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> workers.Stop:
    """One that no signal reaches."""
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    return workers.Stop()


def _members(workdir: pathlib.Path, grid: dict[str, Any], **fields: Any) -> list[Member]:
    sweep = sweep_of(grid=grid)
    sweep.base.update({**SHORT, **fields})
    return members_of(sweep, workdir)


@contextlib.contextmanager
def _runs(members: Sequence[Member], workdir: pathlib.Path) -> Iterator[list[Run]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(opened(m.config, workdir / m.name)) for m in members]


def _alone(one: Run, steps: int = 0) -> None:
    problem = one.problem
    if steps:
        recipe = dataclasses.replace(problem.recipe, steps_per_call=steps)
        problem = dataclasses.replace(problem, recipe=recipe)
    run_steps = steps_on(one.problem, one.arrays, one.data())
    if steps:
        one.state, _ = run_steps(one.state, steps, False)
    else:
        one.state = train_to_budget(problem, one.state, run_steps)


def _compared(runs: list[Run], own: list[Run]) -> None:
    """What runs kept that were trained together, with what they are alone."""
    for found, wanted in zip(runs, own, strict=True):
        _alone(wanted)
        assert found.meta["trained_together"] == len(runs)
        kept = found.checkpoints.restore(found.state)
        assert kept is not None and int(kept[0].step) == 60
        for a, b in zip(*map(jax.tree.leaves, (kept[0], wanted.state)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_members_that_differ_in_seed_size_or_rates_are_a_group(tmp_path: pathlib.Path) -> None:
    members = _members(tmp_path, {**GRID, "learning_rate": (1e-3, 2e-3), "batch_size": (32, 64)})
    found = together.groups(members, plans_of(members))
    assert [len(group) for group in found] == [8, 8]
    assert [{m.config.batch_size for m in group} for group in found] == [{32}, {64}]
    few = _members(tmp_path, {"batch_size": (32, 64)})
    assert together.groups(few, plans_of(few)) == []
    other = _members(tmp_path, GRID, parameterisation="mean_kl")
    blocks = [
        {plans_of(group)[m.name].header.blocks for m in group}
        for group in together.groups(other, plans_of(other))
    ]
    assert len(blocks) == 2 and all(len(b) == 1 for b in blocks)


@pytest.mark.parametrize("distil", [pytest.param(False, marks=pytest.mark.slow), True])
def test_members_together_have_the_states_of_members_alone(
    tmp_path: pathlib.Path, stop: workers.Stop, distil: bool
) -> None:
    """One of them has made 20 steps before, in a process of its own."""
    members = _members(tmp_path, GRID, distil=distil)
    with _runs(members, tmp_path / "together") as runs, _runs(members, tmp_path / "alone") as own:
        _alone(runs[1], 20)
        together.train(runs, stop)
        _compared(runs, own)
        values = [np.asarray(one.state.params["mean"]) for one in runs]
        assert not np.allclose(values[0], values[1], atol=1e-2)  # another seed


def test_members_together_start_where_each_alone_would(
    tmp_path: pathlib.Path, stop: workers.Stop
) -> None:
    larger = _members(tmp_path, {"file_bytes": (300,)})
    with _runs(larger, tmp_path / "larger") as (run,):
        _alone(run)
        first_state.keep(run.workdir, run.config, run.problem, run.state, run.meta)
    source = tmp_path / "larger" / larger[0].name
    members = _members(tmp_path, {"file_bytes": (120, 150)}, start_from=str(source))
    assert [len(group) for group in together.groups(members, plans_of(members))] == [2]
    with _runs(members, tmp_path / "together") as runs, _runs(members, tmp_path / "alone") as own:
        together.train(runs, stop)
        _compared(runs, own)


def test_a_member_without_a_finite_loss_leaves_the_others_alone(
    tmp_path: pathlib.Path, stop: workers.Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = _members(tmp_path, {"seed": (0, 1, 2)})
    whole = together.report

    def report(problem: Any, state: Any, phase: str, done: int, *rest: Any) -> None:
        if done == 40 and problem is runs[1].problem:
            raise NumericsError("the loss is not finite")
        whole(problem, state, phase, done, *rest)

    monkeypatch.setattr(together, "report", report)
    with _runs(members, tmp_path) as runs:
        together.train(runs, stop)
        assert [int(one.state.step) for one in runs] == [60, 40, 60]
        assert [one.checkpoints.restore(one.state) is None for one in runs] == [False, True, False]


def test_once_stopped_all_save_their_state_and_go_on_from_there(
    tmp_path: pathlib.Path, stop: workers.Stop
) -> None:
    members = _members(tmp_path, {"seed": (0, 1)})
    with _runs(members, tmp_path) as runs:
        runs[1].metrics.add = lambda **_: setattr(stop, "signals", 1)  # type: ignore[method-assign]
        together.train(runs, stop)
    stop.signals = 0
    with _runs(members, tmp_path) as runs:
        assert [int(one.state.step) for one in runs] == [20, 20]
        together.train(runs, stop)
        assert [int(one.state.step) for one in runs] == [60, 60]


def test_a_sweep_together_trains_groups_first_and_ends_with_every_report(
    tmp_path: pathlib.Path, stop: workers.Stop
) -> None:
    members = _members(tmp_path, {"seed": (0, 1)}, steps=1000, steps_per_call=500)
    job.sweep(members, tmp_path, workers.starter(2), 2, is_together=True)
    for member in members:
        report = json.loads((member.folder / "report.json").read_text())
        assert report["trained_together"] == 2
        assert 0.97 * 150 <= report["file_bytes"] <= 150 and report["validation_error"] < 0.6
        lines = (member.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(x)["done"] for x in lines[:2]] == [500, 1000]


def test_where_the_group_s_process_fails_members_train_one_by_one(
    tmp_path: pathlib.Path, stop: workers.Stop, capsys: pytest.CaptureFixture[str]
) -> None:
    members = _members(tmp_path, {"seed": (0, 1)})
    for member in members:
        claim(member)
    (members[0].folder / "member.json").write_text("{")
    workers.run_together(members, tmp_path, stop)
    told = capsys.readouterr().out
    assert "exit code 1" in told and "one by one" in told
