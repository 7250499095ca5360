"""Probabilistic Weight Fixing: sigmas, proposals and clustering by hand and by brute force; a
network ends with few values.
"""

import itertools

import digits_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax.centres import mahalanobis, probabilistic_fixing, weight_noise
from mrc_jax.centres.assignment import Assignment
from mrc_jax.centres.layout import layout_of
from mrc_jax.centres.phases import draw
from mrc_jax.errors import NumericsError, UsageError


def random_gaussians(seed, size=80):
    """Means over six octaves, with zeros and powers of two, and sigmas over three."""
    rng = np.random.default_rng(seed)
    mean = np.append(rng.normal(0, 0.2, size) * np.exp2(rng.integers(-4, 2, size)), [0, 0.5, -0.25])
    sigma = 0.01 * np.exp2(rng.uniform(-2, 1, size + 3))
    return mean.astype(np.float32), sigma.astype(np.float32)


def test_initial_sigmas_worked_by_hand():
    # r = 1/3 * 1/3, 0.6 * 0.2, 0 of a power of two and of 0; the 0.75 quantile of the four is
    # 1/9 + (0.12 - 1/9) / 4
    found = weight_noise.initial_sigma(np.float32([0.75, -0.625, 0.5, 0.0]))
    quantile = 1 / 9 + (0.12 - 1 / 9) / 4
    wanted = [0.0025 / 9 / quantile, 0.0025 * 0.12 / quantile, 2.0**-30, 2.0**-30]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_array_equal(
        weight_noise.initial_sigma(np.float32([1.0, -2, 0])), [2**-30] * 3
    )
    # the quantile is some 1e-3, and 1/9 is more than 20 times that
    assert weight_noise.initial_sigma(np.float32([1.001] * 9 + [0.75]))[-1] == np.float32(0.05)


def test_initial_sigmas_are_those_of_the_definition():
    mean = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    exact = mean.astype(np.float64)
    above = np.sign(exact) * 2 ** np.ceil(np.log2(np.abs(exact)))
    below = np.sign(exact) * 2 ** np.floor(np.log2(np.abs(exact)))
    r = np.abs((exact - above) / exact) * np.abs((exact - below) / exact)
    wanted = np.clip(0.0025 * r / np.quantile(r, 0.75), 2**-30, 0.05)
    found = weight_noise.initial_sigma(mean)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-9)


def test_the_push_is_the_gradient_of_a_potential_and_raises_sigma_up_to_its_target():
    sigma, noise = (
        jnp.asarray([2.0**-30, 0.01, 0.049, 0.05, 0.3]),
        jnp.asarray([1, -2, 0.5, 3, 4.0]),
    )
    found = weight_noise.sigma_gradient(sigma, noise, 2.0**-11)

    def potential(sigma):
        return jnp.sum(2.0**-12 * jnp.abs(noise) * jnp.square(jnp.maximum(0.05 - sigma, 0)))

    np.testing.assert_allclose(found, jax.grad(potential)(sigma), rtol=1e-6)
    np.testing.assert_allclose(found[1], -(2.0**-11) * 0.04 * 2, rtol=1e-6)
    assert np.all(found[:3] < 0) and np.all(found[3:] == 0)


@pytest.mark.parametrize("bits,largest", [(3, 1.5), (7, 0.9), (7, 3.9), (2, 0.25), (7, 0.001)])
def test_proposals_are_all_sums_of_so_many_powers(bits, largest):
    powers = [0.0] + [2.0**e for e in range(-bits, int(np.ceil(np.log2(largest))))]
    for count in range(1, 5):
        chosen = itertools.combinations_with_replacement(powers, count)
        sums = np.unique([float(np.float32(sum(c)).astype(jnp.bfloat16)) for c in chosen])
        wanted = np.unique(np.append(sums, -sums))
        np.testing.assert_array_equal(mahalanobis.proposals(bits, largest, count), wanted)
    np.testing.assert_array_equal(mahalanobis.proposals(2, 0.9, 1), [-0.5, -0.25, 0, 0.25, 0.5])
    np.testing.assert_array_equal(mahalanobis.proposals(2, 0.9, 2)[5:], [0.25, 0.5, 0.75, 1])


def test_a_clustering_worked_by_hand():
    # 0.25 is within one sigma of three weights, 0.5 of two; the quota takes the nearest first.
    mean = np.float32([0.25, 0.26, 0.28, 0.49, 0.52, 0.001, 0.9])
    sigma = np.float32([0.01, 0.02, 0.1, 0.02, 0.04, 2**-30, 0.01])
    free = np.zeros(7, bool)
    found = mahalanobis.assign(mean, sigma, free, 2 / 7)
    assert found.group.tolist() == [0, -1, 0, -1, -1, -1, -1]
    found = mahalanobis.assign(mean, sigma, free, 6 / 7)
    assert found.group.tolist() == [0, 0, 0, 1, 1, 2, -1]
    assert found.centres.tolist() == [0.25, 0.5, 0]
    assert (found.powers, found.allowed) == (1, 1)
    # of two that are fixed already, the quota counts them, and they are left alone
    found = mahalanobis.assign(mean, sigma, np.arange(7) < 2, 4 / 7)
    assert found.group.tolist() == [-1, -1, -1, 0, 0, -1, -1]
    assert found.centres.tolist() == [0.5]
    assert not np.any(mahalanobis.assign(mean, sigma, np.arange(7) < 2, 2 / 7).is_assigned)


def test_a_weight_exactly_at_the_threshold_is_within_it():
    # 0.375 is one sigma of 0.125 from both 0.25 and 0.5
    mean, sigma, free = np.float32([0.375]), np.float32([0.125]), np.zeros(3, bool)
    found = mahalanobis.assign(mean, sigma, free[:1], 1.0, bits=2)
    assert (found.centres.tolist(), found.powers, found.allowed) == ([0.25], 1, 1)
    mean, sigma = np.float32([0.375, 0.5, 0.9]), np.float32([0.125, 0.001, 0.001])
    found = mahalanobis.assign(mean, sigma, free, 2 / 3, bits=2)
    assert (found.group.tolist(), found.centres.tolist()) == ([0, 0, -1], [0.5])


def test_powers_and_threshold_grow_in_turns():
    # of 0.4, with sigma 0.0125, the centre 0.5 is 8 sigma away and 0.25 is 12: sums of two, then
    # threshold 2, three, 4, four, 8. Powers are only as small as 1/4.
    mean, sigma = np.float32([0.4]), np.float32([0.0125])
    found = mahalanobis.assign(mean, sigma, np.zeros(1, bool), 1.0, bits=2)
    assert (found.centres.tolist(), found.powers, found.allowed) == ([0.5], 4, 8)
    found = mahalanobis.assign(mean, 8 * sigma, np.zeros(1, bool), 1.0, bits=2)
    assert (found.centres.tolist(), found.powers, found.allowed) == ([0.5], 2, 1)
    found = mahalanobis.assign(mean, sigma / 100, np.zeros(1, bool), 1.0, bits=2)
    assert (found.powers, found.allowed) == (4, 1024)
    found = mahalanobis.assign(mean, sigma, np.zeros(1, bool), 1.0, bits=2, most_powers=2)
    assert (found.centres.tolist(), found.powers, found.allowed) == ([0.5], 2, 8)


def assign_by_definition(mean, sigma, is_fixed, share, bits, threshold):
    """By the whole matrix of distances, again for each centre."""
    free = [i for i in range(len(mean)) if not is_fixed[i]]
    mu, deviation = mean.astype(np.float64), sigma.astype(np.float64)
    values, powers, refines = mean.copy(), 1, True
    largest = max(abs(mu[i]) for i in free)
    while len(mean) - len(free) < int(share * len(mean)):
        centres = mahalanobis.proposals(bits, largest, powers)
        away = np.abs(centres[:, None] - mu[free]) / deviation[free]
        away[np.ix_(centres == 0, np.abs(mu[free]) < 2.0**-bits)] = 0
        best = int(np.argmax(np.sum(away <= threshold, axis=1)))
        order = sorted(range(len(free)), key=lambda j: (away[best, j], abs(mu[free[j]])))
        order = [j for j in order if away[best, j] <= threshold]
        taken = [free[j] for j in order[: int(share * len(mean)) - (len(mean) - len(free))]]
        for i in taken:
            values[i] = centres[best]
            free.remove(i)
        if not taken:
            if refines and powers < 4:
                powers += 1
            else:
                threshold *= 2
            refines = not refines
    return values


@pytest.mark.parametrize("share,threshold", list(itertools.product([0.4, 0.8, 1.0], [0.5, 1, 3])))
def test_a_clustering_is_that_of_the_definition(share, threshold):
    for seed in range(3):
        mean, sigma = random_gaussians(seed)
        is_fixed = np.random.default_rng(seed + 10).random(len(mean)) < 0.2
        wanted = assign_by_definition(mean, sigma, is_fixed, share, 6, threshold)
        found = mahalanobis.assign(mean, sigma, is_fixed, share, 6, threshold)
        np.testing.assert_array_equal(found.values(mean), wanted)
        assert not np.any(found.is_assigned & is_fixed)
        assert np.sum(found.is_assigned | is_fixed) == int(share * len(mean))


def test_a_clustering_refuses_what_it_cannot_do():
    one, free = np.ones(1, np.float32), np.zeros(1, bool)
    with pytest.raises(UsageError, match="sigma"):
        mahalanobis.assign(one, 0 * one, free, 1.0)
    with pytest.raises(UsageError, match="threshold"):
        mahalanobis.assign(one, one, free, 1.0, threshold=0)
    with pytest.raises(NumericsError, match="finite"):
        mahalanobis.assign(one * np.inf, one, free, 1.0)


def test_deviations_are_those_of_the_means_of_a_group():
    group = np.asarray([0, 0, 1, -1, 0], np.int32)
    found = mahalanobis.deviations(
        Assignment(group, np.zeros(2, np.float32), 1, 1.0), np.float32([1, 2, 7, 100, 6])
    )
    np.testing.assert_allclose(found, [np.sqrt((4 + 1 + 9) / 3), 0], atol=1e-12)


def test_what_is_fixed_has_its_centre_for_a_mean_and_its_group_for_a_sigma():
    mean, sigma = jnp.asarray([0.24, 0.9, 0.26, 0.5]), jnp.full(4, 0.02)
    params = {"mean": mean, "sigma": sigma, "others": []}
    settings, is_fixed = probabilistic_fixing.Settings(), np.arange(4) == 3
    found = probabilistic_fixing.fix_share(settings, params, is_fixed, 0.75)
    assert found.is_assigned.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(params["mean"], np.float32([0.25, 0.9, 0.25, 0.5]))
    np.testing.assert_allclose(params["sigma"], [0.01, 0.02, 0.01, 0.02], rtol=1e-5)
    # a weight that is fixed alone has the least sigma; what was fixed before stays as it is
    found = probabilistic_fixing.fix_share(settings, params, is_fixed | found.is_assigned, 1.0)
    assert found.is_assigned.tolist() == [False, True, False, False]
    assert params["sigma"][1] == 2.0**-30 and params["mean"][0] == 0.25


def phase(loss, tree, is_fixed, sigma, steps, **settings):
    """A phase whose coded leaf is w, with one sigma at the start."""
    layout = layout_of(tree, lambda path: path == "w")
    mean, others = layout.split(tree)
    params = {"mean": mean, "sigma": jnp.full(len(mean), sigma), "others": others}
    settings, data = probabilistic_fixing.Settings(**settings), jnp.ones((4, 1))
    draws = draw(jax.random.key(0), data, steps, 1)
    is_fixed = jnp.asarray(is_fixed)
    return probabilistic_fixing.train_phase(loss, layout, settings, params, is_fixed, data, draws)


def test_the_loss_sees_weights_of_their_mean_and_sigma():
    """Null hypothesis: 10^6 squares have the mean 0.3^2 + 0.05^2. Their mean's deviation is
    3.0e-5 and the bound 6 of it: false alarms 2e-9.
    """
    calls = []

    def loss(weights, batch, key):
        calls.append(1)
        return jnp.mean(jnp.square(weights["w"]))

    tree = {"w": jnp.full(10_000, 0.3)}
    after, nats = phase(loss, tree, np.zeros(10_000, bool), 0.05, steps=100, learning_rate=0.0)
    assert abs(nats - (0.3**2 + 0.05**2)) < 6 * np.sqrt((4 * 0.09 * 0.0025 + 2 * 0.0025**2) / 1e6)
    assert len(calls) <= 4  # one trace, not one for each step
    np.testing.assert_array_equal(after["mean"], tree["w"])


def test_fixed_weights_keep_mean_and_sigma_and_the_others_move():
    def loss(weights, batch, key):
        return jnp.mean(jnp.square(weights["w"] + weights["bias"] - 2 * batch))

    tree, is_fixed = {"w": jnp.arange(6.0) / 8, "bias": jnp.zeros(())}, np.arange(6) < 3
    after, _ = phase(loss, tree, is_fixed, 0.01, steps=50, learning_rate=1e-2)
    for name, before in (("mean", tree["w"]), ("sigma", jnp.full(6, 0.01))):
        assert np.asarray(after[name] == before).tolist() == is_fixed.tolist()
    assert after["others"][0] > 0


def test_sigmas_rise_to_their_target_where_the_loss_does_not_care_and_never_fall_below_the_least():
    tree, free = {"w": jnp.ones(20)}, np.zeros(20, bool)

    def nothing(weights, batch, key):
        return 0.0 * jnp.sum(weights["w"])

    def noise(weights, batch, key):
        return jnp.sum(jnp.square(weights["w"] - 1))

    plain = {"weight_decay": 0.0, "clip_norm": 1e9, "momentum": 0.0}
    after, _ = phase(nothing, tree, free, 0.01, steps=400, learning_rate=20.0, **plain)
    assert np.all(after["sigma"] > 0.045) and np.all(after["sigma"] <= 0.05)
    np.testing.assert_array_equal(after["mean"], tree["w"])
    after, _ = phase(noise, tree, free, 0.01, steps=100, learning_rate=0.4, strength=0.0, **plain)
    assert np.all(after["sigma"] >= 2.0**-30) and np.any(after["sigma"] == 2.0**-30)


def test_a_loss_that_is_not_finite_is_refused():
    settings = probabilistic_fixing.Settings(steps=1, batch_size=1, first_steps=1)

    def loss(weights, batch, key):
        return jnp.sum(weights["w"]) * jnp.inf

    with pytest.raises(NumericsError, match="round 0"):
        probabilistic_fixing.fix(loss, {"w": jnp.ones(3)}, jnp.ones(2), jax.random.key(0), settings)


def test_a_network_ends_with_few_values_and_its_error():
    settings = probabilistic_fixing.Settings(
        shares=(0.2, 0.5, 0.8, 0.95, 1.0),
        bits=6,
        threshold=8.0,
        most_powers=2,
        learning_rate=1e-2,
        steps=60,
        first_steps=60,
        batch_size=64,
    )
    before = digits_network.trained()
    found = probabilistic_fixing.fix(
        digits_network.loss, before, digits_network.TRAIN, jax.random.key(2), settings
    )
    values = np.unique(np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.weights)]))
    assert len(values) == found.summary.unique_values <= 64
    np.testing.assert_array_equal(values.astype(jnp.bfloat16).astype(np.float32), values)
    assert found.summary.bfloat16_share == 1 and found.summary.weights == 2410
    assert found.summary.entropy_bits <= np.log2(64)
    assert [r.share for r in found.rounds] == list(settings.shares)
    # no statistic: one fixed run; each digit of 360 is 0.0028
    assert digits_network.error(before) < 0.06
    assert digits_network.error(found.weights) <= digits_network.error(before) + 0.02
