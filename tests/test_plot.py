"""Plots of error against size, and the published points that they show."""

import pathlib
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from experiments.plot import Point, _plain_lines, curves, draw, published
from experiments.table import run_folders
from mrc_jax.errors import DataError

matplotlib.use("Agg")


def report(seed: int, wanted: int, error: float, **config: Any) -> dict[str, Any]:
    return {
        "config": {"seed": seed, "file_bytes": wanted, "bits": 20, **config},
        "file_bytes": wanted - 1,
        "parameters": 1000,
        "validation_error": error,
        "plain_validation_error": 0.01,
        "posterior_mean_validation_error": 0.02,
    }


def test_seeds_are_one_point_and_sizes_one_curve() -> None:
    reports = [report(0, 900, 0.02), report(1, 900, 0.04), report(0, 400, 0.05)]
    found = curves(reports, "validation_error")
    assert found == {"": [Point(399, (5.0,)), Point(899, (2.0, 4.0))]}
    assert found[""][1].mean == 3.0


def test_curves_are_labelled_by_the_fewest_fields_that_tell_them_apart() -> None:
    reports = [report(0, 900, 0.02), report(0, 900, 0.03, bits=16), report(1, 900, 0.05)]
    assert set(curves(reports, "validation_error")) == {"bits = 20", "bits = 16"}
    reports = [report(0, 900, 0.02, steps=1), report(0, 900, 0.03, bits=16, steps=2)]
    assert set(curves(reports, "validation_error")) == {"steps = 1, ...", "steps = 2, ..."}
    grid = [report(0, 9, 0.1, bits=b, steps=s) for b in (8, 9) for s in (1, 2)]
    assert len(curves(grid, "validation_error")) == 4


def test_given_fields_alone_tell_curves_apart() -> None:
    reports = [report(0, size, 0.02, bits=b, steps=size) for b in (8, 9) for size in (400, 900)]
    found = curves(reports, "validation_error", ["bits"])
    assert {label: len(points) for label, points in found.items()} == {"bits = 8": 2, "bits = 9": 2}
    assert set(curves(reports, "validation_error", ["data"])) == {""}


def test_every_published_point_of_vgg16_has_a_source() -> None:
    """MIRACLE: arXiv 1810.00440, Table 1, which quotes Bayesian Compression; EPR: arXiv 1906.06624;
    DeepCABAC: its paper; LilNetX: arXiv 2204.02965, at second hand.
    """
    points = published("cifar10", "vgg16")["published"]
    assert all(point.source and point.name for point in points)
    assert {(point.name, point.file_bytes, point.mean) for point in points} >= {
        ("uncompressed", 60_000_000, 6.5), ("MIRACLE", 384_000, 6.57), ("MIRACLE", 135_000, 10.0),
        ("Bayesian Compression", 642_000, 8.6), ("Bayesian Compression", 525_000, 9.2),
        ("EPR", 101_000, 10.0), ("LilNetX", 129_000, 7.4), ("LilNetX", 76_000, 10.0),
        ("DeepCABAC", 960_000, 9.0),
    }  # fmt: skip


def test_every_published_point_of_lenet5_has_a_source() -> None:
    """MIRACLE: arXiv 1810.00440, Table 1, which quotes the first systems; EPR: arXiv 1906.06624;
    the exchange format: its repository's README; NNCodec and LZMA: measured for this project.
    """
    series = published("mnist", "lenet5")
    assert set(series) == {"published", "measured"}
    points = [point for part in series.values() for point in part]
    assert all(point.source and point.name and point.file_bytes > 1000 for point in points)
    found = {(point.name, point.file_bytes, point.mean) for point in points}
    assert found >= {
        ("MIRACLE", 3030, 0.69), ("MIRACLE", 1520, 0.96), ("uncompressed", 1_720_000, 0.7),
        ("Deep Compression", 44_000, 0.8), ("Weightless", 4520, 1.0),
        ("Bayesian Compression", 2300, 1.0), ("EPR", 2840, 1.0),
        ("MIRACLE exchange format", 1694, 0.83), ("MIRACLE exchange format", 1140, 0.98),
    }  # fmt: skip
    front = [point for point in points if point.name == "NNCodec 2.1.3"]
    assert len(front) == 10
    assert [p.mean for p in sorted(front, key=lambda p: p.file_bytes)] == sorted(
        (p.mean for p in front), reverse=True
    )
    assert published("digits", "mlp") == {}


@pytest.mark.parametrize("others", [None, published("mnist", "lenet5")])
def test_a_picture_is_drawn_even_of_an_error_of_zero(
    tmp_path: pathlib.Path, others: dict[str, list[Point]] | None
) -> None:
    reports = [report(0, 900, 0.0), report(1, 900, 0.01), report(0, 400, 0.05)]
    draw(reports, tmp_path / "rate.png", "Title", others)
    assert (tmp_path / "rate.png").read_bytes().startswith(b"\x89PNG")


def test_plain_networks_of_two_sizes_have_a_line_each() -> None:
    reports = [report(0, 900, 0.1), {**report(0, 400, 0.05), "parameters": 10}]
    reports[1]["plain_validation_error"] = 0.04
    axes = pyplot.figure().add_subplot()
    _plain_lines(axes, reports, "plain_validation_error")
    lines = {line.get_label(): set(np.asarray(line.get_ydata())) for line in axes.get_lines()}
    assert lines == {"plain network, 40 B": {4.0}, "plain network, 4,000 B": {1.0}}
    pyplot.close("all")


def test_a_folder_without_runs_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="no run there; give a run's or a sweep's"):
        run_folders(tmp_path)
