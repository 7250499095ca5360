"""A run with Mean-KL, stopped and resumed, and the comparison of finished runs."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from configs import smoke
from experiments import parameterisations
from experiments.data import load
from experiments.run import Run, compress
from experiments.settings import Config
from mrc_jax.checkpoint import encode
from mrc_jax.errors import UsageError


def mean_kl_config() -> Config:
    values = smoke.get_config()
    values.update(parameterisation="mean_kl", learning_rate=3e-2, steps=250, file_bytes=180)
    return Config.from_config_dict(values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with Mean-KL that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    compress(mean_kl_config(), workdir)
    return workdir


def test_a_mean_kl_run_has_its_budget_and_a_network_that_works(finished: pathlib.Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["kl_nats"] == pytest.approx(report["blocks"] * report["budget_nats"], rel=1e-5)
    assert report["validation_error"] < 0.6  # chance is 0.9


def test_a_mean_kl_run_resumes_to_the_same_file_and_its_checkpoint_is_encoded(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = Run(mean_kl_config(), load("digits", ""), tmp_path)

    def stop_while_coding(phase: str, unit: str, done: int, *_: Any) -> None:
        job.stop = unit == "blocks" and done == 20

    job.bar.update = stop_while_coding  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        job.go()
    job.checkpoints.close()
    assert len(encode(tmp_path)) == (finished / "model.mrc").stat().st_size
    compress(mean_kl_config(), tmp_path)
    for name in ("model.mrc", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_runs_are_compared_by_their_logs_and_their_decoded_weights(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    report = json.loads((finished / "report.json").read_text())
    one = parameterisations.finished(finished)
    assert one.settings == ("mean_kl", 250, 3e-2)
    assert one.steps.tolist() == [250] and one.kl == pytest.approx([1], rel=1e-5)
    assert one.errors[0] == report["validation_error"] < one.errors[-1]
    rows = parameterisations.table([[one, one]]).splitlines()
    assert len(rows) == 3 and rows[2].startswith("| Mean-KL | 250 | 0.03 | 2 |")
    assert len({row.count("|") for row in rows}) == 1
    parameterisations.draw([[one, one]], tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_held_nothing_out_is_not_compared(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    report = json.loads((finished / "report.json").read_text())
    report["config"].update(data="mnist", hold_out=False)
    (tmp_path / "report.json").write_text(json.dumps(report))
    shutil.copy(finished / "metrics.jsonl", tmp_path)
    with pytest.raises(UsageError, match="hold_out = False"):
        parameterisations.finished(tmp_path)


def test_the_smallest_weights_of_all_are_zeroed() -> None:
    weights = {"a": np.asarray([[3.0, -1.0], [-6.0, 2.0]]), "b": np.asarray([4.0, -5.0])}
    half = parameterisations.zeroed(weights, 0.5)
    np.testing.assert_array_equal(half["a"], [[0, 0], [-6, 0]])
    np.testing.assert_array_equal(half["b"], [4, -5])
    for share, left in ((0.0, 6), (0.9, 1), (1.0, 0)):
        found = parameterisations.zeroed(weights, share)
        assert sum(np.count_nonzero(w) for w in found.values()) == left
