"""Weight Fixing Networks: powers, clustering and regulariser by hand and by brute force; a network
ends with few values.
"""

import itertools

import digits_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax.centres import phases, powers_of_two, relative, soft_distance, weight_fixing
from mrc_jax.centres.assignment import check_shares, needed
from mrc_jax.centres.layout import layout_of
from mrc_jax.centres.report import summary
from mrc_jax.errors import NumericsError, UsageError

BFLOAT16 = jnp.bfloat16
ZERO = 2.0**-7


def random_weights(seed, size=70):
    """Float32 weights over five octaves, with exact zeros and powers of two among them."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 0.1, size) * np.exp2(rng.integers(-3, 3, size))
    return np.concatenate([weights, [0, 0, 0.25, -0.5, 0.001]]).astype(np.float32)


def test_a_value_rounds_to_the_power_of_two_nearest_in_the_logarithm():
    values = np.asarray([0, 3, 0.7, 0.71, -0.3, 1.4142, 1.4143])
    wanted = [0, 4, 0.5, 1, -0.25, 1, 2]
    np.testing.assert_array_equal(powers_of_two.round_to_power(values), wanted)


def test_each_order_adds_the_power_of_what_is_left_until_delta_is_met():
    # 0.7 = 0.5 + 0.25 - 0.0625 + 0.015625 - 0.003125, and 0.003125 is below a hundredth of it
    for order, wanted in enumerate([0.5, 0.75, 0.6875, 0.703125, 0.703125, 0.703125]):
        assert powers_of_two.sum_of_powers(np.asarray([-0.7]), 0.01, order) == [-wanted]
    assert powers_of_two.sum_of_powers(np.asarray([0.7]), 0.1, 9) == [0.75]


@pytest.mark.parametrize("delta", [1 / 128, 0.01, 0.1, 0.5])
def test_sums_are_as_near_as_they_say_and_are_bfloat16(delta):
    values = np.exp2(np.random.default_rng(0).uniform(-8, 3, 20_000))
    for order in range(12):
        found = powers_of_two.sum_of_powers(values, delta, order)
        bound = max(delta, (np.sqrt(2) - 1) ** (order + 1))
        assert np.max(np.abs(found / values - 1)) <= bound + 1e-12
        np.testing.assert_array_equal(found.astype(BFLOAT16).astype(np.float64), found)


def test_rounding_to_bfloat16_is_that_of_the_type():
    values = np.random.default_rng(1).normal(size=10_000).astype(np.float32)
    values = np.concatenate([values, np.float32([0, 1 + 1 / 256, 1 + 3 / 256, -2, 511.0])])
    wanted = values.astype(BFLOAT16).astype(np.float64)
    np.testing.assert_array_equal(powers_of_two.to_bfloat16(values.astype(np.float64)), wanted)


def test_single_powers_are_told_from_sums():
    values = np.asarray([0, 1, -0.25, 2.0**-30, 0.75, 3, -0.1])
    assert powers_of_two.is_single_power(values).tolist() == [True] * 4 + [False] * 3


def test_the_allowed_distance_falls_to_delta_in_the_last_round():
    np.testing.assert_allclose(relative.allowed_distances(0.01, 4), [0.04, 0.03, 0.02, 0.01])
    for delta in (0.0, 0.25, -0.1):
        with pytest.raises(UsageError, match="delta"):
            relative.allowed_distances(delta, 4)


def test_proposals_are_a_rounded_mirrored_geometric_grid():
    # ratio 2 at delta = 1/3: 0.25, 0.5, 1; ratio 3 at delta = 1/2: 0.25, 0.75, 2.25
    half = [0.25, 0.5, 1]
    wanted = [-x for x in half[::-1]] + [0] + half
    np.testing.assert_array_equal(relative.proposals(0.25, 1 / 3, 1.5, 0), wanted)
    np.testing.assert_array_equal(relative.proposals(0.25, 1 / 2, 2.3, 0)[4:], [0.25, 1, 2])
    # ratio 5/3 at delta = 1/4: 0.25, 0.41667 = 0.5 - 0.0625 - ..., 0.69444 = 0.5 + 0.25
    np.testing.assert_array_equal(relative.proposals(0.25, 1 / 4, 1.0, 0)[3:], [0.25, 0.5])
    np.testing.assert_array_equal(relative.proposals(0.25, 1 / 4, 1.0, 1)[4:], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(relative.proposals(0.25, 1 / 4, 0.2, 3), [0])
    np.testing.assert_array_equal(relative.proposals(0.25, 1 / 4, 0.0, 3), [0])


@pytest.mark.parametrize("delta", [0.01, 0.05, 0.2])
def test_at_high_order_the_proposals_cover_the_weights(delta):
    centres = relative.proposals(ZERO, delta, 2.0, 20)
    weights = np.linspace(ZERO, 1.9, 5000)
    distance = np.min(np.abs(weights[:, None] - centres) / weights[:, None], axis=1)
    assert np.max(distance) <= 2.1 * delta  # delta of the grid and delta of the rounding


def test_counts_are_those_of_the_nearest_centre_and_a_tie_is_the_lower_ones():
    centres = np.asarray([-1.0, -0.25, 0, 0.25, 0.5, 2])
    weights = np.sort(np.append(np.random.default_rng(2).normal(size=500), [-0.125, 0.375, 1.25]))
    nearest = np.argmin(np.abs(weights[:, None] - centres), axis=1)
    wanted = np.bincount(nearest, minlength=len(centres))
    np.testing.assert_array_equal(relative.nearest_counts(weights, centres), wanted)
    assert relative.nearest_counts(np.asarray([0.375]), centres).tolist() == [0, 0, 0, 1, 0, 0]


def test_the_longest_prefix_is_by_the_mean_of_what_is_not_zero():
    distances = np.asarray([0, 0, 1, 2, 6]) / 8
    allowed_and_count = [(0, 2), (0.5 / 8, 2), (1 / 8, 3), (1.49 / 8, 3), (1.5 / 8, 4), (3 / 8, 5)]
    for allowed, count in allowed_and_count:
        assert relative.longest_prefix(distances, allowed) == count
    assert relative.longest_prefix(np.asarray([0.5]), 0.4) == 0
    assert relative.longest_prefix(np.zeros(0), 0.4) == 0


def test_a_clustering_worked_by_hand():
    # 0.25 is nearest to two weights; of 0.26 it is 0.038 away, of 0.5 a half. Then all have one
    # weight each, and the lowest centre is first: 0.
    weights = np.float32([0.25, 0.26, 0.5, 1.0, 0.001])
    found = relative.assign(weights, 0.6, 0.1, ZERO)
    assert found.group.tolist() == [0, 0, -1, -1, 1]
    assert found.centres.tolist() == [0.25, 0]
    np.testing.assert_array_equal(found.values(weights), np.float32([0.25, 0.25, 0.5, 1, 0]))
    assert (found.powers, found.allowed) == (1, 0.1)
    assert relative.assign(weights, 1.0, 0.1, ZERO).values(weights).tolist() == [
        *(0.25, 0.25, 0.5, 1, 0)
    ]


def test_many_near_weights_let_a_centre_take_some_that_are_far():
    # 20 at a distance of 0.01 and 3 of 0.3: their mean is 0.048, and 0.3 is 6 times what is allowed
    weights = np.float32([0.25 / 0.99] * 20 + [0.25 / 0.7] * 3 + [2.0])
    assert relative.assign(weights, 1.0, 0.05, ZERO).group.tolist() == [0] * 23 + [1]
    assert relative.assign(weights, 1.0, 0.045, ZERO).group[:23].tolist() == [0] * 22 + [1]


def test_where_no_order_helps_the_allowed_distance_doubles():
    # 2^-7 (1 - 1/3) is nearest to 2^-7, half of itself away; 2^-7 is no proposal unless a larger
    # weight is left, and that one is taken last for it is the second of two equally popular.
    weights = np.float32([ZERO * 2 / 3, ZERO * 2 / 3, 1.0])
    found = relative.assign(weights, 0.5, 0.1, ZERO)
    assert found.centres.tolist() == [ZERO]
    assert found.powers == 1 + relative.MOST_ORDER + 3
    assert found.allowed == pytest.approx(0.8)


def distance_by_definition(weight, centre):
    if centre == 0 and abs(weight) < ZERO:
        return 0.0
    return abs(weight - centre) / abs(weight) if weight else np.inf


def assign_by_definition(weights, share, delta):
    """Weight by weight, without sorted arrays, bounds or counts of intervals."""
    free = dict(enumerate(weights.astype(np.float64)))
    values, order, allowed = weights.copy(), 0, delta
    wanted = int(share * len(weights))
    while len(weights) - len(free) < wanted:
        possible = relative.proposals(ZERO, delta, max(abs(w) for w in free.values()), order)
        nearest = [int(np.argmin(np.abs(possible - w))) for w in free.values()]
        centre = possible[np.argmax(np.bincount(nearest, minlength=len(possible)))]
        away = sorted((distance_by_definition(w, centre), abs(w), w, i) for i, w in free.items())
        taken = 0
        for count in range(1, len(away) + 1):
            counted = [d for d, *_ in away[:count] if d > 0]
            if not counted or sum(counted) / len(counted) <= allowed:
                taken = count
        for *_, i in away[: min(taken, wanted - (len(weights) - len(free)))]:
            values[i] = centre
            del free[i]
        order += not taken
        allowed = delta if taken else allowed * (2 if order > relative.MOST_ORDER else 1)
    return values, wanted


@pytest.mark.parametrize("share,delta", list(itertools.product([0.3, 0.8, 1.0], [0.01, 0.05, 0.3])))
def test_a_clustering_is_that_of_the_definition(share, delta):
    for seed in range(3):
        weights = random_weights(seed)
        wanted, count = assign_by_definition(weights, share, delta)
        found = relative.assign(weights, share, delta, ZERO)
        assert np.sum(found.is_assigned) == count
        np.testing.assert_array_equal(found.values(weights), wanted)


def test_a_clustering_refuses_what_it_cannot_do():
    with pytest.raises(NumericsError, match="finite"):
        relative.assign(np.float32([1, np.nan]), 1.0, 0.1, ZERO)
    with pytest.raises(UsageError, match="share"):
        relative.assign(np.float32([1]), 1.1, 0.1, ZERO)
    with pytest.raises(UsageError, match="delta"):
        relative.assign(np.float32([1]), 1.0, 1.0, ZERO)
    for shares in ((), (0.5,), (0.5, 0.5, 1.0), (0.0, 1.0), (0.5, 1.0, 1.1)):
        with pytest.raises(UsageError, match="shares"):
            check_shares(shares)
    check_shares(weight_fixing.SHARES)
    assert needed(0.29, np.zeros(100)) == 29 and needed(0.3, np.zeros(9)) == 2


def soft_distance_by_definition(weights, is_free, centres, temperature):
    total = 0.0
    for weight in weights[is_free]:
        away = np.asarray([distance_by_definition(weight, c) for c in centres])
        share = np.exp(-(away - away.min()) / temperature)
        total += np.sum(share / share.sum() * away)
    return total / max(1, np.sum(is_free))


def test_the_soft_distance_and_its_gradient_are_those_of_the_definition():
    weights = np.float32([*np.random.default_rng(3).normal(0, 0.3, 45), 0.003, -0.0042])
    is_free = np.random.default_rng(4).random(len(weights)) < 0.7
    is_free[-2:] = True
    centres = np.float32([-0.5, -0.25, 0.0078125, 0.25, 0.3, 0.75])
    padded = soft_distance.pad_centres(centres)
    assert len(padded) == 32 and np.sum(np.isfinite(padded)) == 7
    found, gradient = jax.value_and_grad(soft_distance.soft_distance)(
        jnp.asarray(weights), jnp.asarray(is_free), jnp.asarray(padded), ZERO, 0.05
    )
    exact, all_centres = weights.astype(np.float64), np.append(centres, 0)

    def wanted(values):
        return soft_distance_by_definition(values, is_free, all_centres, 0.05)

    np.testing.assert_allclose(found, wanted(exact), rtol=1e-5)
    step = 1e-8
    for i, direction in enumerate(np.eye(len(weights))):
        slope = (wanted(exact + step * direction) - wanted(exact - step * direction)) / (2 * step)
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-3, atol=1e-5)


def test_weights_of_no_size_and_no_free_weight_leave_the_soft_distance_finite():
    weights = jnp.asarray(np.float32([0, 1e-40, -1e-30, 1e-10, 1.0]))
    centres = jnp.asarray(soft_distance.pad_centres(np.float32([0.5, -1])))
    for is_free in (jnp.ones(5, bool), jnp.arange(5) < 4, jnp.zeros(5, bool)):
        value, gradient = jax.value_and_grad(
            lambda w, free=is_free: soft_distance.at_share(
                jnp.sum(w), soft_distance.soft_distance(w, free, centres, ZERO, 0.05), 0.4
            )
        )(weights)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_the_regulariser_is_a_fixed_share_of_the_loss_whose_factor_has_no_gradient():
    # loss 2 x, regulariser x^2 at 3: alpha = 0.4 * 6 / 9, value 8.4, slope 2 + 6 alpha = 3.6
    value, slope = jax.value_and_grad(lambda x: soft_distance.at_share(2 * x, x**2, 0.4))(3.0)
    np.testing.assert_allclose([value, slope], [8.4, 3.6], rtol=1e-6)
    value, slope = jax.value_and_grad(lambda x: soft_distance.at_share(2 * x, 0 * x, 0.4))(3.0)
    assert (value, slope) == (6, 2)


def test_a_summary_worked_by_hand():
    found = summary(np.float32([0, -0.0, 0.5, 0.75]))
    assert (found.weights, found.unique_values, found.entropy_bits) == (4, 3, 1.5)
    assert (found.power_share, found.bfloat16_share) == (0.75, 1)
    assert found.values.tolist() == [0, 0.5, 0.75] and found.counts.tolist() == [2, 1, 1]
    assert summary(np.float32([0.1, 0.1])).bfloat16_share == 0
    assert summary(np.float32([0.1, 0.1])).entropy_bits == 0


def test_coded_leaves_are_one_vector_and_come_back():
    tree = {"a": jnp.ones((2, 3)), "b": {"c": jnp.arange(4.0), "steps": jnp.arange(2)}}
    layout = layout_of(tree, lambda path: path in ("a", "b/c"))
    vector, others = layout.split(tree)
    assert vector.tolist() == [1] * 6 + [0, 1, 2, 3] and len(others) == 1
    back = layout.join(2 * vector, others)
    jax.tree.map(
        np.testing.assert_array_equal,
        back,
        {"a": 2 * jnp.ones((2, 3)), "b": {"c": 2 * jnp.arange(4.0), "steps": jnp.arange(2)}},
    )
    with pytest.raises(UsageError, match="b/steps is int32"):
        layout_of(tree)
    with pytest.raises(UsageError, match="no weight"):
        layout_of(tree, lambda path: False)


def test_the_batches_hold_every_example_once_a_pass_in_another_order_each():
    data, key = (np.zeros((13, 2)), np.zeros(13)), jax.random.key(5)
    batches, keys = phases.draw(key, data, 8, 4)  # three batches a pass, the last pass in part
    batches = np.asarray(batches)
    assert batches.shape == (8, 4) and len(set(map(tuple, jax.random.key_data(keys).tolist()))) == 8
    first, second = batches[:3].ravel(), batches[3:6].ravel()
    for each in (first, second, batches[6:].ravel()):
        assert len(set(each.tolist())) == len(each) and set(each.tolist()) <= set(range(13))
    assert first.tolist() != second.tolist()
    assert phases.draw(key, data, 2, 100)[0].shape == (2, 13)
    assert phases.draw(jax.random.key(6), data, 8, 4)[0].tolist() != batches.tolist()


def test_a_phase_updates_once_on_each_batch_of_the_data():
    def update(state, batch, key):
        return state + batch["x"] * batch["y"], jnp.sum(batch["x"])

    data = {"x": jnp.arange(5.0), "y": jnp.arange(5.0)}
    draws = (jnp.asarray([[4, 0], [1, 2], [4, 3]]), jax.random.split(jax.random.key(0), 3))
    state, mean = phases.scan_steps(update, jnp.zeros(2), data, draws)
    assert state.tolist() == [16 + 1 + 16, 0 + 4 + 9]
    np.testing.assert_allclose(mean, (4 + 3 + 7) / 3, rtol=1e-6)


def test_a_phase_traces_the_loss_a_few_times_for_any_number_of_steps_and_fixed_weights_stay():
    calls = []

    def loss(weights, batch, key):
        calls.append(1)
        return jnp.mean(jnp.square(weights["w"] + weights["bias"] - batch))

    tree = {"w": jnp.asarray([0.5, -0.25, 0.75, 0.1]), "bias": jnp.zeros(())}
    layout = layout_of(tree, lambda path: path == "w")
    coded, others = layout.split(tree)
    is_fixed = jnp.asarray([True, False, True, False])
    settings = weight_fixing.Settings(learning_rate=1e-2)
    after, _ = weight_fixing.train_phase(
        loss,
        layout,
        settings,
        {"coded": coded, "others": others},
        is_fixed,
        jnp.asarray(soft_distance.pad_centres(np.float32([0.5, 0.75]))),
        0.4,
        jnp.ones((4, 1)),
        phases.draw(jax.random.key(0), jnp.ones((4, 1)), 200, 2),
    )
    assert len(calls) <= 4
    moved = np.asarray(after["coded"] != coded)
    assert moved.tolist() == [False, True, False, True]
    assert after["others"][0] != 0


def test_the_regulariser_draws_free_weights_to_the_centres():
    tree = {"w": jnp.asarray(np.random.default_rng(6).uniform(0.3, 0.9, 50), jnp.float32)}
    layout = layout_of(tree)
    centres = np.float32([0.3, 0.6, 0.9])
    settings, data = weight_fixing.Settings(learning_rate=1e-3), jnp.ones((1, 1))
    after, nats = weight_fixing.train_phase(
        lambda weights, batch, key: 1.0 + 0 * jnp.sum(weights["w"]),
        layout,
        settings,
        {"coded": tree["w"], "others": []},
        jnp.zeros(50, bool),
        jnp.asarray(soft_distance.pad_centres(centres)),
        0.4,
        data,
        phases.draw(jax.random.key(0), data, 300, 1),
    )
    before, left = (
        np.min(np.abs(np.asarray(w)[:, None] - centres), axis=1)
        for w in (tree["w"], after["coded"])
    )
    assert nats == 1 and np.mean(left) < 0.3 * np.mean(before)


def test_a_loss_that_is_not_finite_and_data_that_cannot_be_are_refused():
    key, tree = jax.random.key(0), {"w": jnp.ones(3)}
    settings = weight_fixing.Settings(steps=1, batch_size=1)

    def loss(weights, batch, key):
        return jnp.sum(weights["w"]) * jnp.inf

    with pytest.raises(NumericsError, match="round 0"):
        weight_fixing.fix(loss, tree, jnp.ones(2), key, settings)
    with pytest.raises(UsageError, match="number of examples"):
        weight_fixing.fix(loss, tree, (jnp.ones(2), jnp.ones(3)), key, settings)


def test_a_network_ends_with_few_values_and_its_error():
    settings = weight_fixing.Settings(
        shares=(0.3, 0.6, 0.8, 0.9, 0.97, 1.0),
        delta=0.02,
        learning_rate=1e-3,
        steps=60,
        batch_size=64,
    )
    before = digits_network.trained()
    found = weight_fixing.fix(
        digits_network.loss, before, digits_network.TRAIN, jax.random.key(2), settings
    )
    values, counts = np.unique(
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.weights)]), return_counts=True
    )
    share = counts / 2410
    assert len(values) == found.summary.unique_values <= 64
    np.testing.assert_array_equal(values.astype(BFLOAT16).astype(np.float32), values)
    assert found.summary.bfloat16_share == 1 and found.summary.weights == 2410
    np.testing.assert_allclose(found.summary.entropy_bits, -np.sum(share * np.log2(share)))
    assert found.summary.power_share > 0.5
    assert [r.share for r in found.rounds] == list(settings.shares)
    doublings = np.log2([r.allowed for r in found.rounds] / (0.02 * np.arange(6, 0, -1)))
    np.testing.assert_allclose(doublings, np.abs(np.rint(doublings)), atol=1e-9)
    # no statistic: one fixed run; each digit of 360 is 0.0028
    assert digits_network.error(before) < 0.06
    assert digits_network.error(found.weights) <= digits_network.error(before) + 0.02
