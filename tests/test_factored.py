"""A network made of coded factors is the network: transforms against SciPy, gains by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft

from experiments import data, networks, plain_training
from experiments.settings import Config
from mrc_jax.models.factored import Factored, Factors, cosines
from mrc_jax.models.lenet5 import FACTORS, LeNet5

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)


def made():
    """LeNet-5 in factors, and its variables."""
    net = Factored(LeNet5(), FACTORS)
    return net, net.init(jax.random.key(0), jnp.asarray(IMAGES))


def test_coefficients_are_the_orthonormal_cosine_transform():
    net, variables = made()
    plain, own = net.weights(variables)["params"], variables["params"]["transformed"]
    for factors in FACTORS:
        name = factors.path.split("/")[0]
        kernel, found = (np.asarray(x[name]["kernel"]).reshape(factors.view) for x in (plain, own))
        expected = fft.dctn(kernel, axes=factors.cosine, norm="ortho")
        np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(plain["Dense_1"]["kernel"], own["Dense_1"]["kernel"])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_cosines_are_orthonormal_and_begin_with_a_constant(size):
    rows = cosines(size).astype(np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(size), atol=1e-6)
    np.testing.assert_allclose(rows[0], size**-0.5, rtol=1e-6)


def test_it_says_what_the_network_says_and_starts_as_it_does():
    net, variables = made()
    plain = net.weights(variables)
    expected = net.net.apply(plain, IMAGES)
    np.testing.assert_allclose(net.apply(variables, IMAGES), expected, rtol=1e-5, atol=1e-6)
    again = net.factored(plain)
    np.testing.assert_allclose(net.apply(again, IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(again) == jax.tree.structure(variables)


def test_a_gain_scales_its_channel_or_its_frequency():
    net, variables = made()
    before = net.weights(variables)["params"]["Conv_1"]["kernel"]
    gains = variables["params"]["log_gains"]["Conv_1/kernel"]
    gains["axis_3"] = gains["axis_3"].at[7].set(np.log(3.0))
    gains["axis_2"] = gains["axis_2"].at[2].set(np.log(0.5))
    gains["axis_0_1"] = gains["axis_0_1"].at[0].set(-80.0)  # the constant part of each filter
    after = net.weights(variables)["params"]["Conv_1"]["kernel"]
    expected = np.array(before, np.float64)
    expected -= expected.mean((0, 1))
    expected[:, :, :, 7] *= 3
    expected[:, :, 2] *= 0.5
    np.testing.assert_allclose(after, expected, atol=1e-6)


def test_a_dense_layer_is_seen_as_places_and_channels():
    """Gain (2, 1) of a 2 x 3 view of four rows: a plain product, by hand."""

    def of(kernel, gain):
        factors = Factors("kernel", (2, 2, 3), gains=((0, 2),))
        params = {"transformed": {"kernel": kernel}, "log_gains": {"kernel": {"axis_0_2": gain}}}
        return Factored(LeNet5(), (factors,)).weights({"params": params})["params"]["kernel"]

    kernel = jnp.arange(12.0).reshape(4, 3)
    gain = jnp.log(jnp.arange(1.0, 7.0))
    expected = np.arange(12.0).reshape(4, 3) * np.repeat(np.arange(1.0, 7.0).reshape(2, 3), 2, 0)
    np.testing.assert_allclose(of(kernel, gain), expected, rtol=1e-5)


def test_plain_training_trains_the_network_itself_and_hands_it_over_in_factors(monkeypatch):
    config = Config("x", 1520, "mnist", "lenet5", 2, 2, 0, factored=True, steps_per_call=2)
    split = data.Split(IMAGES, np.arange(3, dtype=np.int32))
    images = data.Dataset("mnist", split, split, split, 10, 255.0)
    net = networks.network(config, images)
    start = networks.initial_weights(networks.plain_network(net), images, 0)
    assert isinstance(networks.plain_network(net), LeNet5)
    state, seen = plain_training.start(start, config), []
    out = plain_training.train(net, state, 0, split, config, lambda s, *_: seen.append(s[0]))
    expected = networks.plain_network(net).apply(seen[-1], IMAGES)
    np.testing.assert_allclose(net.apply(out, IMAGES), expected, rtol=1e-4, atol=1e-5)
