"""Plain training: its optimizers, its batch and its labels."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import smoke
from experiments import networks, plain_training
from experiments.data import Dataset, Split, load
from experiments.settings import Config

SMOKE = Config.from_config_dict(smoke.get_config())
SGD = dataclasses.replace(
    SMOKE, plain_optimizer="sgd", plain_weight_decay=0.1, plain_learning_rate=0.5, plain_steps=40
)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", "")


def after(config: Config, digits: Dataset, steps: int) -> tuple[Any, Any, np.ndarray]:
    """The weights before and after some steps, and the losses."""
    net = networks.network(config, digits)
    start = networks.initial_weights(net, digits, 0)
    run, data = plain_training.program(net, digits.train, config)
    (weights, _), losses = run(plain_training.start(start, config), data, jnp.arange(steps))
    return start, weights, np.asarray(losses)


def test_sgd_is_nesterov_s_momentum_with_decay_and_a_rate_that_warms_up_and_falls(
    digits: Dataset,
) -> None:
    """By hand, with the whole training set's gradient replaced by none: labels and weights that
    give no gradient are not to be had, so the decay alone moves a weight that no pixel reaches.
    """
    start, weights, _ = after(SGD, digits, 8)
    begin, end = (
        np.asarray(x["params"]["Dense_0"]["kernel"], np.float64) for x in (start, weights)
    )
    dark = np.flatnonzero(digits.train.inputs.reshape(len(digits.train.labels), -1).max(0) == 0)
    assert len(dark)
    value, trace = begin[dark], np.zeros_like(begin[dark])
    for number in range(8):
        rate = 0.5 * number / 2
        if number >= 2:
            rate = 0.5 * (1 + np.cos(np.pi * (number - 2) / 38)) / 2
        gradient = 0.1 * value
        trace = 0.9 * trace + gradient
        value = value - rate * (gradient + 0.9 * trace)
    np.testing.assert_allclose(end[dark], value, rtol=1e-5)


def test_sgd_learns_the_digits(digits: Dataset) -> None:
    config = dataclasses.replace(SGD, plain_weight_decay=1e-4, plain_learning_rate=0.1)
    _, _, losses = after(config, digits, 40)
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_muon_moves_a_convolution_s_kernel_by_a_matrix_near_to_orthogonal() -> None:
    """Of the first steps, by a rate that is 0 and half of the peak, the second alone moves. The
    polynomial that makes a matrix orthogonal brings singular values to between 0.6 and 1.3.
    """
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (16, 32, 32, 3), np.uint8), np.arange(16, dtype=np.int32))
    images = Dataset("cifar10", split, split, split, 16, 255.0)
    config = dataclasses.replace(
        SMOKE,
        model="vgg8",
        hidden=(),
        width=2,
        plain_optimizer="muon",
        plain_learning_rate=0.06,
        plain_steps=40,
    )
    net = networks.network(config, images)
    start = networks.initial_weights(networks.plain_network(net), images, 0)
    run, data = plain_training.program(net, images.train, config)
    (weights, _), _ = run(plain_training.start(start, config), data, jnp.arange(2))
    moved: Any = jax.tree.map(lambda x, y: np.asarray(y - x), start["params"], weights["params"])
    for number in range(7):
        kernel = moved[f"Conv_{number}"]["kernel"]
        values = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
        assert np.all((values > 0.6 * 0.03) & (values < 1.3 * 0.03)), number
    # Adam with Nesterov, at a third of the rate.
    for others in (moved["Dense_0"]["kernel"], moved["Conv_1"]["BatchNorm_0"]["scale"]):
        assert 0.005 < np.max(np.abs(others)) < 0.015


def test_plain_training_may_change_images_in_a_way_of_its_own(digits: Dataset) -> None:
    losses = [
        after(dataclasses.replace(SMOKE, augment=name, plain_augment=own), digits, 5)[2]
        for name, own in (("none", ""), ("crop_flip", "none"), ("crop_flip", ""))
    ]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.allclose(losses[1], losses[2], rtol=1e-3)


def test_the_batch_of_plain_training_is_its_own(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    loss = networks.loss
    monkeypatch.setattr(networks, "loss", lambda o, t: (seen.append(t.shape), loss(o, t))[1])
    after(dataclasses.replace(SMOKE, plain_batch_size=24), digits, 1)
    after(SMOKE, digits, 1)
    assert set(seen) == {(24,), (SMOKE.batch_size,)}


def test_smoothed_labels_are_spread_over_the_classes(digits: Dataset) -> None:
    """One loss of two, by hand: a tenth of a label is that of all classes alike."""
    smooth = dataclasses.replace(SMOKE, plain_label_smoothing=0.1)
    start, _, plain = after(SMOKE, digits, 1)
    _, _, found = after(smooth, digits, 1)
    net = networks.network(SMOKE, digits)
    rows = jax.random.randint(
        jax.random.fold_in(jax.random.key(SMOKE.seed + 1), 0),
        (1, SMOKE.batch_size), 0, len(digits.train.labels),
    )[0]  # fmt: skip
    outputs = networks.logits(net, start, jnp.asarray(digits.train.inputs)[rows])
    spread = -jnp.mean(jax.nn.log_softmax(outputs))
    np.testing.assert_allclose(found[0], 0.9 * plain[0] + 0.1 * spread, rtol=1e-5)
