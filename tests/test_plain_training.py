"""Plain training: its optimizers, its batch and its labels."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import smoke
from experiments import networks, plain_training
from experiments.data import Dataset, load
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


@pytest.mark.parametrize("restart", [0, 4])
def test_sgd_is_nesterov_s_momentum_with_decay_and_a_rate_that_warms_up_and_falls(
    digits: Dataset, restart: int
) -> None:
    """And starts again at half, after 4 of 40 steps. By hand, with the whole training set's
    gradient replaced by none: labels and weights that give no gradient are not to be had, so the
    decay alone moves a weight that no pixel reaches.
    """
    start, weights, _ = after(dataclasses.replace(SGD, plain_restart=restart), digits, 8)
    begin, end = (
        np.asarray(x["params"]["Dense_0"]["kernel"], np.float64) for x in (start, weights)
    )
    dark = np.flatnonzero(digits.train.inputs.reshape(len(digits.train.labels), -1).max(0) == 0)
    assert len(dark)
    value, trace = begin[dark], np.zeros_like(begin[dark])
    rates = [*_rates(0.5, 2, 40)]
    if restart:
        rates = [*_rates(0.5, 1, 4), *_rates(0.25, 2, 36)]
    for rate in rates[:8]:
        gradient = 0.1 * value
        trace = 0.9 * trace + gradient
        value = value - rate * (gradient + 0.9 * trace)
    np.testing.assert_allclose(end[dark], value, rtol=1e-5)


def _rates(top: float, warm_up: int, steps: int) -> Iterator[float]:
    for number in range(steps):
        falling = (1 + np.cos(np.pi * (number - warm_up) / (steps - warm_up))) / 2
        yield top * (number / warm_up if number < warm_up else falling)


def test_sgd_learns_the_digits(digits: Dataset) -> None:
    config = dataclasses.replace(SGD, plain_weight_decay=1e-4, plain_learning_rate=0.1)
    _, _, losses = after(config, digits, 40)
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


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
