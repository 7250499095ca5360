"""The experiment measures what it says, and the committed results keep its promises."""

import json
import math
import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments import linear_gaussian as lg
from experiments.record import read_json
from mrc_jax import rate_distortion as rd
from mrc_jax.blocks import Partition, entry_of_slot
from mrc_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments/results/linear_gaussian/results.json"
SMALL = lg.Point("even", 4, 4, 12, 512, 1)


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    return lg.measure(SMALL, 1)


def test_a_small_point_meets_the_distortion_between_the_bounds(row) -> None:
    """Of 512 blocks, so the bounds have 5 standard errors of grace (1 in 2 million)."""
    assert row["distortion_ratio"] == pytest.approx(1, abs=0.03 + 5 * row["standard_error"])
    assert 0.01 < row["standard_error"] < 0.06  # about sqrt(2 / 2048) = 0.031
    assert row["rate_at_measured_bits"] - 0.5 < row["coded_bits"] < row["bound_bits"] + 0.5
    assert row["bound_bits"] == pytest.approx(4 + math.log2(5) + 1)
    assert row["coded_bits"] == 8 * row["field_bytes"] / 512
    assert row["mean_kl_bits"] == pytest.approx(4, abs=5 * row["kl_deviation_bits"] / 512**0.5)
    wanted = 4 * (1 - 2.0**-2) ** 2 / 2  # variance of four weights' KL, nats^2
    assert row["kl_deviation_bits"] == pytest.approx(wanted**0.5 / math.log(2), rel=0.25)


@pytest.mark.slow
def test_too_few_candidates_are_seen_in_the_distortion() -> None:
    assert lg.measure(SMALL._replace(bits=4), 1)["distortion_ratio"] > 1.2


def test_unequal_weights_and_a_shared_codebook_meet_the_distortion_too() -> None:
    point = lg.Point("drawn", 4, 3, 13, 512, 32)
    found = lg.measure(point, 0)
    assert 512 < found["sent_weights"] < 3 * 512
    assert found["distortion_ratio"] == pytest.approx(1, abs=0.03 + 5 * found["standard_error"])
    assert found["rate_at_measured_bits"] - 0.5 < found["coded_bits"] < found["bound_bits"] + 0.5


@pytest.mark.parametrize("kind", ["even", "drawn"])
def test_a_model_has_the_bound_asked_for(kind: str) -> None:
    point = SMALL._replace(kind=kind)
    model = lg.draw_model(point, np.random.default_rng(0))
    bits = rd.rate_bits(*model)
    assert np.sum(bits) == pytest.approx(4 * 512, rel=1e-9)
    assert len(bits) == 4 * 512
    assert (np.ptp(bits) < 1e-9) == (kind == "even")
    assert np.std(np.log(model.weight_variance)) == pytest.approx(1, abs=0.1)


def test_the_ratio_and_its_error_of_a_hand_worked_case() -> None:
    """Groups' sums 3 and 5, of 2 and 2 expected: 2 +- sqrt((1 + 1) 2 / 1) / 4."""
    errors, expected, group = np.asarray([1.0, 5.0, 2.0]), np.asarray([1.5, 2.0, 0.5]), [0, 1, 0]
    assert lg._ratio(errors, expected, np.asarray(group)) == (2.0, 0.5)


def test_weights_are_counted_in_the_blocks_that_code_them() -> None:
    is_sent = np.asarray([True] * 10 + [False] * 5)[np.random.default_rng(0).permutation(15)]
    block = lg._blocks(SMALL._replace(blocks=3), is_sent, 7)
    of_slot = entry_of_slot(Partition(10, 3), np.uint32(7), np.arange(10, dtype=np.uint32))
    wanted = np.zeros(10)
    wanted[of_slot] = np.arange(10) % 3
    np.testing.assert_array_equal(block[is_sent], wanted)
    np.testing.assert_array_equal(block[~is_sent], [0, 1, 2, 0, 1])


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    given = SimpleNamespace(json=False, figure="", results="", most_bits=20.0, seed=0)
    monkeypatch.setattr(lg.flags, "FLAGS", given)
    return given


def test_the_command_keeps_points_prints_json_and_draws(
    row, parsed, monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setattr(lg, "POINTS", (SMALL, SMALL._replace(rate_bits=30)))
    monkeypatch.setattr(lg, "measure", lambda point, seed: row)
    results, picture = tmp_path / "new" / "results.json", tmp_path / "out.png"
    parsed.results, parsed.figure, parsed.json = str(results), str(picture), True
    lg.main([""])
    printed = json.loads(capsys.readouterr().out)
    assert printed == read_json(results)["rows"] and len(printed) == 1
    assert {**row, "commit": printed[0]["commit"]} == printed[0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(lg, "measure", lambda point, seed: pytest.fail("measured twice"))
    parsed.json = False
    lg.main([""])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
    parsed.seed = 5
    with pytest.raises(UsageError, match="holds seed 0"):
        lg.main([""])
    parsed.seed, parsed.most_bits = 0, 1.0
    with pytest.raises(UsageError, match="most_bits = 1"):
        lg.main([""])
    with pytest.raises(UsageError, match="no flag"):
        lg.main(["", "more"])


def test_committed_results_keep_the_promises() -> None:
    """A thousand blocks a point, bits below R + log2(R + 1) + 1, the distortion 1.03 D at most (two
    standard errors of grace), and fewer bits a weight in larger blocks.
    """
    kept = {tuple(row[k] for k in lg.Point._fields): row for row in read_json(RESULTS)["rows"]}
    rows = [kept[point] for point in lg.POINTS]
    for row in rows:
        assert row["blocks"] >= 1000
        assert row["distortion_ratio"] <= 1.03 + 2 * row["standard_error"]
        assert row["rate_at_measured_bits"] < row["coded_bits"] < row["bound_bits"]
        assert row["coded_bits"] == 8 * row["field_bytes"] / row["blocks"]
    for each in {row["rate_bits"] / row["weights"] for row in rows if row["kind"] == "even"}:
        own = sorted(
            (
                row
                for row in rows
                if row["kind"] == "even" and row["rate_bits"] / row["weights"] == each
            ),
            key=lambda row: row["rate_bits"],
        )
        over = [row["coded_bits"] / row["rate_bits"] for row in own]
        assert len(over) >= 3 and over == sorted(over, reverse=True)
