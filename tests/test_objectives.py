"""The objectives on trained networks: the tables by hand, and a small network measured."""

import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from configs import smoke
from experiments import networks, objectives
from experiments.data import load
from experiments.methods import few_values, importance_of, subject
from experiments.objectives_table import at_size, markdown
from experiments.settings import Config
from mrc_jax.errors import UsageError


def lines(seed: int, objective: str, losses: list[float], sizes: list[float]) -> list[Any]:
    whole = {"seed": seed, "objective": objective}
    found = [{**whole, "pruned": 0.5, "validation_loss": losses[0]}]
    for values, size, loss in zip((2, 4), sizes, losses[1:], strict=True):
        found.append({**whole, "values": values, "size": size, "validation_loss": loss})
    return found


def test_a_loss_between_two_sizes_is_interpolated_in_logarithms() -> None:
    found = lines(0, "baseline", [1.0, 4.0, 1.0], [0.01, 0.04])[1:]
    assert at_size(found, 0.02) == pytest.approx(2.0)
    assert at_size(found, 0.01) == pytest.approx(4.0)
    assert math.isnan(at_size(found, 0.05)) and math.isnan(at_size(found, 0.009))
    assert math.isnan(at_size([], 0.02))


def test_the_tables_say_means_spreads_and_how_often_the_baseline_is_beaten() -> None:
    found = lines(0, "baseline", [1.0, 4.0, 1.0], [0.01, 0.04])
    found += lines(1, "baseline", [3.0, 4.0, 1.0], [0.01, 0.04])
    found += lines(0, "hessian", [0.5, 8.0, 0.5], [0.005, 0.02])  # 0.01: 2
    found += lines(1, "hessian", [3.5, 8.0, 0.5], [0.02, 0.08])  # 0.04: 2
    text = markdown(found)
    assert "| baseline | 2 ± 1.41 |" in text and "| hessian | 2 ± 2.12 (1/2) |" in text
    assert "| size | 2 values, 1.0% | 4 values, 4.0% |" in text
    assert "| hessian | 2 (1/1) | 2 (0/1) |" in text


def test_a_network_is_measured_by_every_objective_and_not_again(tmp_path: pathlib.Path) -> None:
    base = smoke.get_config()
    base.hidden = ()
    config = Config.from_config_dict(base)
    dataset = load("digits", "")
    net = networks.network(config, dataset)
    weights = networks.initial_weights(net, dataset, 0)
    own = subject(net, weights, (dataset.train.inputs, dataset.train.labels), 0)
    objectives.add(tmp_path, own, dataset, 20)
    found = objectives.read(tmp_path)
    each = len(objectives.PRUNED) + len(objectives.VALUES)
    assert len(found) == 6 * each
    objectives.add(tmp_path, own, dataset, 20)
    assert objectives.read(tmp_path) == found
    # 640 and 10 weights of 2 values: at least a bit each, at most 9 of ceil(log2(640)) = 10
    two = next(x for x in found if x["objective"] == "baseline" and x.get("values") == 2)
    assert (650 + 4 * 32) / (32 * 650) <= two["size"] <= (650 * 10 + 4 * 32) / (32 * 650)
    tree = few_values(weights, importance_of(own, "baseline", 20), 3, is_pruned=False)
    for leaf in jax.tree.leaves(tree):
        assert len(np.unique(leaf)) <= 3
    with pytest.raises(UsageError, match="must be one of"):
        importance_of(own, "zip", 20)
