"""The networks of the experiments: their loss, their outputs as targets."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from configs import smoke
from experiments import networks
from experiments import run as runs
from experiments.data import Dataset, load
from experiments.settings import Config

LOGITS = np.random.default_rng(0).normal(0, 3, (7, 10)).astype(np.float32)


def test_the_loss_of_labels_and_of_probabilities_is_the_cross_entropy() -> None:
    labels = np.arange(7, dtype=np.int32)
    log_p = log_softmax(LOGITS.astype(np.float64), axis=1)
    found = networks.loss(LOGITS, labels)
    np.testing.assert_allclose(found, -log_p[np.arange(7), labels], rtol=1e-5)
    soft = softmax(np.random.default_rng(1).normal(size=(7, 10)), axis=1).astype(np.float32)
    np.testing.assert_allclose(networks.loss(LOGITS, soft), -(soft * log_p).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("distil", [True, False])
def test_targets_are_the_labels_or_what_the_plain_network_says(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, distil: bool
) -> None:
    config = Config.from_config_dict(smoke.get_config())
    config = dataclasses.replace(config, plain_steps=250, distorted_copies=2, distil=distil)
    dataset = load("digits", "")
    seen: list[Any] = []

    def stop_there(problem: Any, arrays: Any, data: Any) -> None:
        seen.extend(data.arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "steps_on", stop_there)
    with pytest.raises(KeyboardInterrupt):
        runs.compress(config, tmp_path)
    inputs, targets = seen
    size = len(dataset.train.labels)
    assert len(inputs) == len(targets) == 3 * size
    assert np.array_equal(inputs[:size], dataset.train.inputs)
    labels = np.tile(dataset.train.labels, 3)
    if not distil:
        assert np.array_equal(targets, labels)
        return
    assert targets.shape == (3 * size, 10) and targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(np.argmax(targets, axis=1) == labels) > 0.8
    net, weights = _plain(config, dataset, tmp_path)
    wanted = softmax(np.asarray(net.apply(weights, inputs[700:900])), axis=1)
    np.testing.assert_allclose(targets[700:900], wanted, atol=1e-5)


def _plain(config: Config, dataset: Dataset, workdir: pathlib.Path) -> tuple[Any, Any]:
    """The network and the weights that the run has kept."""
    net = networks.network(config, dataset)
    checkpoints = runs.Checkpoints(workdir / "plain")
    restored = checkpoints.restore(networks.initial_weights(net, dataset, config.seed))
    checkpoints.close()
    assert restored is not None
    return net, jax.tree.map(np.asarray, restored[0])
