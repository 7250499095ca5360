"""The pictures of docs/how_it_works.md: numbers against closed forms, and that all are there."""

import math
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from experiments import coding_cases as cases
from experiments.coding_pictures import table

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how_it_works.md"
NAMED = re.findall(r"!\[[^\]]+\]\((pictures/\w+\.png)\)", PAGE.read_text())


def test_the_page_names_pictures_that_are_there_and_small() -> None:
    assert 4 <= len(NAMED) <= 6
    pictures = {f"pictures/{path.name}" for path in (PAGE.parent / "pictures").iterdir()}
    assert pictures == set(NAMED)
    for name in NAMED:
        data = (PAGE.parent / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) < 80_000, name


@pytest.mark.slow
def test_the_command_draws_every_picture_of_the_page(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "new" / "pictures"
    command = [sys.executable, "-m", "experiments.pictures", f"--out={out}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {f"pictures/{path.name}" for path in out.iterdir()} == set(NAMED)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())
    wrong = subprocess.run([*command, "more"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("kl_bits", [0.5, 1, 4])
def test_a_weight_has_the_divergence_asked_for_half_of_it_in_its_mean(kl_bits: float) -> None:
    one, nats = cases.weight(kl_bits), kl_bits * math.log(2)
    assert one.mean**2 / 2 == pytest.approx(nats / 2, rel=1e-5)
    variance = one.deviation**2
    assert (variance - 1 - math.log(variance)) / 2 == pytest.approx(nats / 2, rel=1e-5)


def test_log_weights_are_log_ratios_of_two_normal_densities() -> None:
    one, values = cases.Weight(0.5, 0.25, 0.0), np.asarray([[0.5, 1.0], [0.0, 0.5]], np.float32)
    at_mean = 0.125 - math.log(0.25)  # nats: exp(-0) / 0.25 over exp(-0.5^2 / 2)
    off = [-2 - math.log(0.25), 0.5 - 2 - math.log(0.25)]  # two deviations below, and above
    wanted = np.asarray([at_mean + off[0], off[1] + at_mean]) / math.log(2)
    np.testing.assert_allclose(cases.log2_weights(values, one), wanted, rtol=1e-5)


def test_candidates_that_weigh_most_are_likeliest() -> None:
    one = cases.weight(4)
    drawn = cases.draw_one(one, 6)
    distance = (drawn.values - one.mean) / one.deviation
    shares = np.exp((drawn.values**2 - distance**2) / 2)
    np.testing.assert_allclose(drawn.shares, shares / shares.sum(), rtol=1e-4, atol=1e-7)
    assert drawn.shares[drawn.chosen] > 0.01


def test_error_is_the_priors_without_a_choice_and_the_posteriors_with_many_candidates() -> None:
    """1,000 blocks of 4 weights: at 0 bits the mean of 4,000 squares of N(m, 1) / s, within 5 of
    its standard errors (1 in 2 million).
    """
    one = cases.weight(cases.SMALL.kl_bits)
    found = cases.errors_by_bits(cases.SMALL, 9, 1000)
    prior = (1 + one.mean**2) / one.deviation**2
    error = math.sqrt((2 + 4 * one.mean**2) / 4000) / one.deviation**2
    assert found[0] == pytest.approx(prior, abs=5 * error)
    assert found[9] == pytest.approx(1, abs=0.1)
    assert np.all(np.diff(found) < 0)


def test_the_coder_has_the_error_that_its_candidates_give_it() -> None:
    """1,000 blocks of 4 weights: both means have standard errors below 0.04; 5 of them differ by
    chance less than once in a million times.
    """
    wanted = cases.errors_by_bits(cases.SMALL, 4, 1000)[4]
    measured = cases.law(cases.SMALL, 4, 1000)
    assert 1.5 < wanted < 2
    assert measured.error == pytest.approx(wanted, abs=5 * 0.04 * math.sqrt(2))
    assert measured.log2_weight < cases.SMALL.block_bits


def test_the_pages_table_is_of_cases_and_tells_of_less_bias_with_more_candidates() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    rows = [row for row in rows if len(row) == 7 and row[2].startswith("2^")]
    assert len(rows) == 2 * len(cases.EXTRA_BITS)
    for case, found in zip((cases.ALONE, cases.LARGE), (rows[:3], rows[3:]), strict=True):
        for extra, row in zip(cases.EXTRA_BITS, found, strict=True):
            assert row[:3] == [case.label, f"{case.block_bits:g}", f"2^{case.block_bits + extra}"]
            mean, deviation, error, log2_weight = map(float, row[3:])
            assert error == pytest.approx(mean**2 + deviation**2, abs=0.03)
            assert log2_weight <= case.block_bits
        errors = [float(row[5]) for row in found]
        assert errors == sorted(errors, reverse=True) and 1 <= errors[-1] < 1.1 < errors[0]


def test_a_table_row_is_the_numbers_of_its_case() -> None:
    law = cases.Law(6, np.asarray([-1.0, 1.0, 3.0, -3.0]), 3.756)
    (row,) = table({cases.ALONE: [law]})[2:]
    assert row == "| 1 weight of 4 bits | 4 | 2^6 | 0.00 | 2.24 | 5.00 | 3.76 |"
