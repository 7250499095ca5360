"""Mean-KL: the KL is the budget to the digits of float32; gradients are those of 50 digits."""

import decimal
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax import mean_kl
from mrc_jax.blocks import Partition
from mrc_jax.errors import UsageError
from mrc_jax.objective import slot_order
from mrc_jax.posterior import init_variables, log_prior_scale_of_entries
from mrc_jax.sharing import make_sharing

EXACT = decimal.Context(prec=50)
D = decimal.Decimal

# Shares and means with both ends: no KL to speak of, all of it in the mean, none of it there.
KL_NATS = [
    1e-30,
    1e-16,
    1e-12,
    1e-8,
    1e-6,
    1e-4,
    9e-4,
    1.1e-3,
    0.01,
    0.1,
    0.9,
    1,
    1.1,
    4,
    10,
    20,
    60,
]
MEAN_ATANH = [0.0, 1e-30, 1e-8, 1e-3, 0.1, 0.5, 1.0, 2.0, 3.0, 6.0, 9.0, 15.0, 40.0, 100.0, 1e30]
ENDS = np.asarray(
    [(np.log(k), s * x) for k in KL_NATS for x in MEAN_ATANH for s in (1, -1)], np.float32
)


def kl_float64(mean, log_variance):
    """KL from N(0, 1) in float64."""
    mean, log_variance = np.asarray(mean, np.float64), np.asarray(log_variance, np.float64)
    return 0.5 * (mean**2 + np.expm1(log_variance) - log_variance)


def check_shares(found, wanted):
    is_large = wanted >= 1e-3
    assert np.any(is_large) and np.all(np.isfinite(found))
    np.testing.assert_allclose(found[is_large], wanted[is_large], rtol=1e-5)
    np.testing.assert_allclose(found[~is_large], wanted[~is_large], rtol=0, atol=1e-8)


def exact_u(p):
    """The root u >= 0 of u - 1 + exp(-u) = p^2 / 2, by Newton's steps with 60 digits left of what
    cancels where p is small.
    """
    if p == 0:
        return D(0)
    with decimal.localcontext(decimal.Context(prec=60 + 2 * max(0, -p.adjusted()))):
        u = p if p < 2 else p * p / 2 + 1
        for _ in range(100):
            step = (u - 1 + (-u).exp() - p * p / 2) / (1 - (-u).exp())
            u -= step
            if abs(step) < D("1e-50") * u:
                return u
        raise AssertionError(f"no root at p = {p}")


def exact_moments(log_kl, mean_atanh):
    """Mean and log-variance of `in_prior_scales` with 50 digits."""
    with decimal.localcontext(EXACT):
        root, small = (log_kl / 2).exp(), (-abs(mean_atanh)).exp()
        tanh = ((1 - small**2) / (1 + small**2)).copy_sign(mean_atanh)
        return D(2).sqrt() * root * tanh, -exact_u(2 * root * 2 * small / (1 + small**2))


def difference(function, at, step="1e-12"):
    """The derivative of a function of decimals by the central difference of 50 digits."""
    with decimal.localcontext(EXACT):
        h = D(step)
        high, low = function(at + h), function(at - h)
        return [float((a - b) / (2 * h)) for a, b in zip(high, low, strict=True)]


def test_the_log_ratio_solves_its_equation_to_the_last_places():
    p = np.asarray([0, 1e-30, 1e-12, *np.geomspace(1e-8, 16, 300), 1.999999, 2.0, 100], np.float32)
    found = np.asarray(jax.jit(mean_kl.negative_log_ratio)(p), np.float64)
    wanted = np.asarray([float(exact_u(D(float(x)))) for x in p])
    np.testing.assert_allclose(found, wanted, rtol=3e-7)
    slope = jax.vmap(jax.grad(mean_kl.negative_log_ratio))(p)
    wanted = [
        difference(lambda x: [exact_u(x)], D(float(x)), f"{x / 1e10:.3e}")[0] if x else 1.0
        for x in p
    ]
    np.testing.assert_allclose(slope, wanted, rtol=1e-6)


def test_the_series_is_that_of_the_paper_trail():
    assert mean_kl._series(6) == pytest.approx([1, 1 / 6, 1 / 36, 1 / 270, 1 / 4320, -1 / 17010])


def test_kl_is_the_share_on_a_grid_with_its_ends():
    log_kl, mean_atanh = ENDS.T
    mean, log_variance = jax.jit(mean_kl.in_prior_scales)(mean_atanh, log_kl)
    check_shares(kl_float64(mean, log_variance), np.exp(log_kl.astype(np.float64)))
    assert np.all(np.asarray(log_variance) <= 0)  # never broader than the prior
    assert np.all(mean * mean_atanh >= 0)


def test_gradients_are_finite_and_those_of_50_digits_on_the_grid():
    """Relative 1e-5, or absolute 1e-6 of the largest that the moment has at that KL."""
    log_kl, mean_atanh = ENDS.T
    both = jax.vmap(jax.jacrev(mean_kl.in_prior_scales, argnums=(0, 1)))
    found = np.asarray(both(mean_atanh, log_kl), np.float64)  # [moment, argument, case]
    assert np.all(np.isfinite(found))
    for i, (kl, x) in enumerate(ENDS.tolist()):
        if abs(x) > 100:
            np.testing.assert_allclose(found[:, 0, i], 0)
            continue
        wanted = np.transpose([
            difference(lambda t, kl=kl: exact_moments(D(kl), t), D(x)),
            difference(lambda t, x=x: exact_moments(t, D(x)), D(kl)),
        ])  # fmt: skip
        least = 1e-6 * np.exp(kl / 2)
        np.testing.assert_allclose(
            found[:, :, i], wanted, rtol=1e-5, atol=least, err_msg=str(ENDS[i])
        )


# Two groups and a partition whose blocks differ in length.
SHARING = make_sharing({"a": jnp.ones((4, 5)), "b": jnp.ones(17), "c": jnp.ones(1)}, 11)
ENTRIES = 38
PARTITION = Partition(ENTRIES, 5)
ORDER = slot_order(PARTITION, 11)
BLOCK = np.asarray(ORDER["slot"]) % PARTITION.blocks


def free(spread, scales=(-2.0, -3.5, 0.75), mean_spread=1.5):
    random = np.random.default_rng(int(spread))
    return {
        "mean_atanh": jnp.asarray(random.normal(0, mean_spread, ENTRIES), jnp.float32),
        "share_logit": jnp.asarray(random.normal(0, spread, ENTRIES), jnp.float32),
        "log_prior_scale": jnp.asarray(scales, jnp.float32),
    }


def gaussian(params, budget_nats):
    return mean_kl.gaussian(params, SHARING, PARTITION, ORDER, budget_nats)


def entry_kl_float64(params, budget_nats):
    found = jax.jit(gaussian, static_argnums=1)(params, budget_nats)
    log_scale = np.asarray(log_prior_scale_of_entries(params, SHARING), np.float64)
    mean = np.asarray(found["mean"], np.float64) * np.exp(-log_scale)
    return kl_float64(mean, np.asarray(found["log_variance"], np.float64) - 2 * log_scale)


def shares_float64(params, budget_nats):
    """Each entry's share of its block's budget, by a loop over the blocks."""
    logits, wanted = np.asarray(params["share_logit"], np.float64), np.zeros(ENTRIES)
    for block in range(PARTITION.blocks):
        weights = np.exp(logits[block == BLOCK] - logits[block == BLOCK].max())
        wanted[block == BLOCK] = budget_nats * weights / weights.sum()
    return wanted


@pytest.mark.parametrize("budget_nats", [0.7, 9.7, 20.8])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("mean_spread", [0.0, 1.5, 100.0])
def test_every_block_has_its_budget_and_every_entry_its_share(spread, mean_spread, budget_nats):
    params = free(spread, mean_spread=mean_spread)
    kl = entry_kl_float64(params, budget_nats)
    np.testing.assert_allclose(np.bincount(BLOCK, kl), budget_nats, rtol=1e-5)
    check_shares(kl, shares_float64(params, budget_nats))


@pytest.mark.parametrize("scales", [(-30.0, -60.0, 10.0), (5.0, 13.8, -69.0)])
def test_blocks_keep_their_budget_under_any_prior_scale_of_the_file(scales):
    """A share cannot: float32 holds a log-variance of -60 to 2e-6 nats, those of its last place."""
    kl = entry_kl_float64(free(1.0, scales), 13.9)
    np.testing.assert_allclose(np.bincount(BLOCK, kl), 13.9, rtol=1e-5)


def test_the_gradient_of_the_whole_map_is_that_of_50_digits():
    params, budget_nats = free(1.0), 9.7
    random = np.random.default_rng(0)
    of_mean, of_log_variance = random.normal(size=(2, ENTRIES))

    def total(params):
        found = gaussian(params, budget_nats)
        return jnp.sum(of_mean * found["mean"] + of_log_variance * found["log_variance"])

    found = jax.grad(total)(params)
    exact = {name: [D(float(x)) for x in values] for name, values in params.items()}

    def exact_total(name, i, value):
        values = {**exact, name: [*exact[name][:i], value, *exact[name][i + 1 :]]}
        weights = [x.exp() for x in values["share_logit"]]
        out = D(0)
        for e in range(ENTRIES):
            block = sum(w for w, b in zip(weights, BLOCK, strict=True) if b == BLOCK[e])
            log_kl = (D(budget_nats) * weights[e] / block).ln()
            mean, log_variance = exact_moments(log_kl, values["mean_atanh"][e])
            log_scale = values["log_prior_scale"][0 if e < 20 else 1 if e < 37 else 2]
            out += D(of_mean[e]) * mean * log_scale.exp()
            out += D(of_log_variance[e]) * (log_variance + 2 * log_scale)
        return [out]

    for name, i in itertools.product(("mean_atanh", "share_logit", "log_prior_scale"), (0, 1, 2)):
        wanted = difference(lambda x, n=name, i=i: exact_total(n, i, x), exact[name][i])[0]
        assert found[name][i] == pytest.approx(wanted, rel=2e-5, abs=1e-6), (name, i)


@pytest.mark.parametrize("spread", [0.0, 30.0, 1e4])
def test_gradients_of_the_whole_map_are_finite_at_any_parameters(spread):
    params = free(spread, mean_spread=spread)
    for name in ("mean", "log_variance"):
        gradient = jax.grad(lambda p, n=name: jnp.sum(gaussian(p, 9.7)[n]))(params)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


def test_the_gradient_gathers_and_does_not_scatter():
    gradient = jax.grad(lambda p: jnp.sum(gaussian(p, 9.7)["mean"]))
    assert "scatter" not in str(jax.make_jaxpr(gradient)(free(1.0)))


def test_the_start_is_the_gaussian_s_as_far_as_the_budget_allows():
    tree = {
        "a": jnp.full((4, 5), 0.03),
        "b": jnp.linspace(-9, 9, 17),
        "c": jnp.zeros(1),
    }
    params = init_variables(SHARING, tree, -3.0, 0.2)["params"]
    begun = mean_kl.start(params, SHARING, PARTITION, ORDER, 9.7)
    found = gaussian(begun, 9.7)
    np.testing.assert_allclose(np.bincount(BLOCK, entry_kl_float64(begun, 9.7)), 9.7, rtol=1e-5)
    np.testing.assert_array_equal(np.sign(found["mean"]), np.sign(params["mean"]))
    assert np.all(np.abs(found["mean"]) <= np.abs(params["mean"]) + 1e-6)
    alone = init_variables(SHARING, jax.tree.map(jnp.zeros_like, tree), -3.0, 0.2)["params"]
    equal = mean_kl.start(alone, SHARING, PARTITION, ORDER, 9.7)
    np.testing.assert_array_equal(equal["mean_atanh"], 0)
    np.testing.assert_allclose(equal["share_logit"], equal["share_logit"][0])
    exact = init_variables(SHARING, jax.tree.map(lambda x: 0.01 * x, tree), -3.0, 0.2)["params"]
    kept = gaussian(mean_kl.start(exact, SHARING, PARTITION, ORDER, 9.7), 9.7)
    np.testing.assert_allclose(kept["mean"], exact["mean"], rtol=1e-5, atol=1e-9)
    with pytest.raises(UsageError, match=r"slack_nats leaves a block -0\.3 nats"):
        mean_kl.start(params, SHARING, PARTITION, ORDER, -0.3)
