"""The posterior module: any network, the law of its samples, its streams and its state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mrc_jax import sharing as sharing_lib
from mrc_jax.errors import UsageError
from mrc_jax.gaussian import kl_nats
from mrc_jax.posterior import (
    Posterior,
    init_variables,
    log_prior_scale_of_entries,
    prior_scale,
    round_scale,
)
from mrc_jax.samples import (
    Coded,
    mirrored_noise,
    moments,
    sample_entries,
    sample_of_noise,
    stored_noise,
)
from mrc_jax.sharing import make_sharing

INPUTS = jnp.asarray(np.random.default_rng(0).normal(1, 2, (16, 3)), jnp.float32)


class Net(nn.Module):
    """Dense, batch norm, dropout, dense."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def made():
    tree = jax.eval_shape(Net().init, jax.random.key(0), INPUTS)
    sharing = make_sharing(tree, 1, [("params/Dense_0/kernel", 2)], uncoded=["batch_stats/*"])
    posterior = Posterior(Net(), sharing, log_std_init=-2.0, prior_scale_init=0.3)
    streams = {"params": jax.random.key(1), "posterior": jax.random.key(2)}
    return posterior, posterior.init(streams, INPUTS)


POSTERIOR, VARIABLES = made()


def apply(key=3, dropout=4, variables=VARIABLES, **options):
    rngs = {"posterior": jax.random.key(key), "dropout": jax.random.key(dropout)}
    return POSTERIOR.apply(variables, INPUTS, rngs=rngs, **options)


def tree_of(entries):
    uncoded = [
        VARIABLES["uncoded"][t.path] for t in POSTERIOR.sharing.manifest.tensors if not t.factor
    ]
    return sharing_lib.expand(POSTERIOR.sharing, VARIABLES["sharing"], entries, uncoded)


def test_init_holds_the_network_s_own_start_and_the_given_scales():
    params = VARIABLES["params"]
    entries = 6 + 4 + 4 + 4 + 8 + 2
    assert {k: v.shape for k, v in params.items()} == {
        "mean": (entries,), "log_variance": (entries,), "log_prior_scale": (6,),
    }  # fmt: skip
    np.testing.assert_array_equal(params["log_variance"], np.float32(-4))
    np.testing.assert_allclose(np.exp(params["log_prior_scale"]), 0.3, rtol=1e-6)
    key = jax.random.key(7)
    again = init_variables(POSTERIOR.sharing, Net().init(key, INPUTS), -2.0, 0.3)
    assert jax.tree.structure(again) == jax.tree.structure(VARIABLES)
    bias = tree_of(params["mean"])["params"]["BatchNorm_0"]
    np.testing.assert_array_equal(bias["scale"], 1)
    np.testing.assert_array_equal(bias["bias"], 0)


def test_init_in_training_mode_leaves_batch_statistics_at_their_start():
    streams = {n: jax.random.key(i) for i, n in enumerate(("params", "posterior", "dropout"))}
    variables = POSTERIOR.init(streams, INPUTS, train=True)
    np.testing.assert_array_equal(variables["uncoded"]["batch_stats/BatchNorm_0/mean"], 0)
    np.testing.assert_array_equal(variables["uncoded"]["batch_stats/BatchNorm_0/var"], 1)


def test_the_mean_alone_is_the_network_at_the_expanded_mean():
    out = POSTERIOR.apply(VARIABLES, INPUTS, sample=False)
    np.testing.assert_array_equal(out, Net().apply(tree_of(VARIABLES["params"]["mean"]), INPUTS))


def test_streams_go_on_to_the_network_and_the_posterior_s_own_does_not():
    base = apply(train=True, mutable=["uncoded"])[0]
    np.testing.assert_array_equal(base, apply(train=True, mutable=["uncoded"])[0])
    assert np.any(base != apply(dropout=5, train=True, mutable=["uncoded"])[0])
    assert np.any(base != apply(key=5, train=True, mutable=["uncoded"])[0])
    np.testing.assert_array_equal(
        apply(), apply(dropout=5)
    )  # without dropout only the sample moves
    still = {**VARIABLES, "params": {**VARIABLES["params"]}}
    still["params"]["log_variance"] = jnp.full_like(still["params"]["log_variance"], -200.0)
    one, other = (apply(d, variables=still, train=True, mutable=["uncoded"])[0] for d in (3, 9))
    np.testing.assert_array_equal(one, other)  # the same dropout whatever the sample


def test_batch_statistics_move_only_where_uncoded_is_mutable():
    _, updated = apply(train=True, mutable=["uncoded"])
    assert list(updated) == ["uncoded"]
    moved, start = updated["uncoded"], VARIABLES["uncoded"]
    assert moved.keys() == start.keys() and len(start) == 2
    assert all(np.any(moved[k] != start[k]) for k in start)
    _, at_rest = apply(train=False, mutable=["uncoded"])
    for k in start:
        np.testing.assert_array_equal(at_rest["uncoded"][k], start[k])
    with pytest.raises(Exception, match="batch_stats"):
        apply(train=True)


def test_samples_have_the_posterior_s_mean_and_variance():
    """20,000 samples of each entry, Kolmogorov-Smirnov, false alarm 1e-4; 8 % too wide is
    rejected. Correlations stay within four standard errors (6e-5 each)."""
    params = {"mean": jnp.asarray([0.0, -2.0, 5.0]), "log_variance": jnp.asarray([0.0, -6.0, 2.0])}
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(lambda k: sample_entries(params, k))(keys)
    z = (np.asarray(drawn) - params["mean"]) / np.exp(0.5 * params["log_variance"])
    for column in np.asarray(z, np.float64).T:
        assert stats.kstest(column, "norm").pvalue > 1e-4
        assert stats.kstest(column * 1.08, "norm").pvalue < 1e-4
    assert np.abs(np.corrcoef(z.T) - np.eye(3)).max() < 4 / np.sqrt(20_000)


def test_each_second_sample_is_the_one_before_it_mirrored_in_the_mean():
    """Every sample alone has the posterior's law (Kolmogorov-Smirnov over 20,000 entries, false
    alarm 1e-4 a sample); pairs are independent (four standard errors, 6e-5).
    """
    params = {"mean": jnp.full(20_000, -2.0), "log_variance": jnp.full(20_000, 2 * np.log(3.0))}
    noise, drawn = jnp.zeros(20_000), []
    for number in range(5):
        noise = mirrored_noise(jax.random.key(0), number, noise)
        drawn.append(sample_of_noise(moments(params), noise))
    z = (np.asarray(drawn, np.float64) + 2) / 3
    for sample in z:
        assert stats.kstest(sample, "norm").pvalue > 1e-4
    np.testing.assert_allclose(z[1], -z[0], atol=1e-6)
    np.testing.assert_allclose(z[3], -z[2], atol=1e-6)
    assert np.abs(np.corrcoef(z[::2]) - np.eye(3)).max() < 4 / np.sqrt(20_000)
    one = sample_of_noise(moments(params), stored_noise(jax.random.key(0), 20_000))
    np.testing.assert_array_equal(one, sample_entries(params, jax.random.key(0)))
    coded = Coded(is_coded=jnp.arange(20_000) < 9, value=jnp.full(20_000, 7.0))
    kept = sample_of_noise(moments(params), noise, coded)
    np.testing.assert_array_equal(kept == 7, coded.is_coded)


def test_coded_entries_keep_their_value_and_have_no_gradient():
    entries = VARIABLES["params"]["mean"].shape[0]
    coded = Coded(is_coded=jnp.arange(entries) % 3 == 0, value=jnp.full(entries, 7.0))
    drawn = sample_entries(VARIABLES["params"], jax.random.key(0), coded)
    np.testing.assert_array_equal(drawn == 7, coded.is_coded)
    out = apply(coded=coded)
    np.testing.assert_array_equal(
        out, Net().apply(tree_of(jnp.where(coded.is_coded, 7.0, sampled_entries(3))), INPUTS)
    )

    def loss(params):
        return jnp.sum(apply(variables={**VARIABLES, "params": params}, coded=coded) ** 2)

    gradient = jax.grad(loss)(VARIABLES["params"])
    for name in ("mean", "log_variance"):
        assert np.all(gradient[name][::3] == 0)
        assert np.all(np.delete(gradient[name], np.s_[::3]) != 0)


def sampled_entries(key):
    """The module's sample under a stream key, read through a network that returns its weights."""
    whole = Posterior(lambda tree: tree, POSTERIOR.sharing)
    tree = whole.apply(VARIABLES, rngs={"posterior": jax.random.key(key)})
    return sharing_lib.collapse(POSTERIOR.sharing, VARIABLES["sharing"], tree) / roots()


def roots():
    own = jnp.ones(VARIABLES["params"]["mean"].shape)
    back = sharing_lib.collapse(POSTERIOR.sharing, VARIABLES["sharing"], tree_of(own))
    return jnp.round(back**2) ** 0.5


def test_a_pure_apply_function_is_a_network_too():
    tree = {"w": jnp.ones((3, 2)), "steps": jnp.arange(2)}
    sharing = make_sharing(tree, 1)
    posterior = Posterior(lambda tree, x, power=1: (x @ tree["w"]) ** power, sharing)
    variables = init_variables(sharing, tree, -3.0)
    out = posterior.apply(variables, INPUTS, power=2, sample=False)
    np.testing.assert_allclose(out, (INPUTS @ tree["w"]) ** 2, rtol=1e-6)
    with pytest.raises(UsageError, match="init_variables"):
        posterior.init(jax.random.key(0), INPUTS)


def test_samples_under_jit_and_vmap_are_those_without():
    keys = jax.random.split(jax.random.key(5), 3)
    plain = [POSTERIOR.apply(VARIABLES, INPUTS, rngs={"posterior": k}) for k in keys]
    many = jax.jit(
        jax.vmap(lambda v, k: POSTERIOR.apply(v, INPUTS, rngs={"posterior": k}), (None, 0))
    )(VARIABLES, keys)
    np.testing.assert_allclose(many, np.stack(plain), rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.asarray(many)[:, 0, 0])) == 3


def test_the_gradient_of_kl_is_that_of_its_formula():
    params = VARIABLES["params"]

    def total(params):
        scale = log_prior_scale_of_entries(params, POSTERIOR.sharing)
        return jnp.sum(kl_nats(params["mean"], params["log_variance"], scale))

    gradient = jax.grad(total)(params)
    variance = np.exp(np.asarray(params["log_variance"], np.float64))
    squared = np.exp(2 * np.asarray(params["log_prior_scale"], np.float64))
    group = sharing_lib.group_of_entry(POSTERIOR.sharing.manifest)
    mean = np.asarray(params["mean"], np.float64)
    np.testing.assert_allclose(gradient["mean"], mean / squared[group], rtol=1e-5)
    np.testing.assert_allclose(
        gradient["log_variance"], 0.5 * (variance / squared[group] - 1), rtol=1e-5
    )
    per_entry = 1 - (variance + mean**2) / squared[group]
    np.testing.assert_allclose(
        gradient["log_prior_scale"], np.bincount(group, per_entry), rtol=1e-4, atol=1e-4
    )


def test_scales_round_to_the_nearest_bfloat16_and_stay_within_the_file_s_bounds():
    values = np.exp(np.random.default_rng(0).uniform(-60, 13, 5000)).astype(np.float32)
    values = np.append(values, np.float32([1 + 2**-8, 1 + 3 * 2**-8, 1.0]))  # ties go to even
    expected = jnp.asarray(values, jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(round_scale(jnp.asarray(values)), expected)
    np.testing.assert_array_equal(jax.jit(round_scale)(values), expected)
    logs = jnp.asarray([-1000.0, 1000.0, 0.0])
    clipped = prior_scale({"log_prior_scale": logs}, POSTERIOR.sharing)
    np.testing.assert_array_equal(clipped, np.float32([2.0**-100, 2.0**20, 1]))


def test_scales_of_ranges_round_to_four_bits_and_stay_within_the_bounds_of_a_byte():
    made = make_sharing({"w": jnp.ones(1024)}, 1, ranges=4)
    exponent, digits = np.divmod(np.arange(256), 8)
    possible = (8 + digits) * 2.0 ** (exponent - 27)
    values = np.exp(np.random.default_rng(0).uniform(-20, 7, 5000))
    found = prior_scale({"log_prior_scale": jnp.asarray(np.log(values), jnp.float32)}, made)
    distance = np.abs(possible - np.clip(values, possible[0], possible[-1])[:, None])
    assert np.isin(np.asarray(found, np.float64), possible).all()
    best = np.min(distance, axis=1)
    np.testing.assert_allclose(
        np.abs(found - values)[values < 240], best[values < 240], rtol=1e-3, atol=1e-7 * 240
    )
    ends = prior_scale({"log_prior_scale": jnp.asarray([-1000.0, 1000.0])}, made)
    np.testing.assert_array_equal(ends, np.float32([2.0**-24, 240]))


def test_a_tensor_in_ranges_starts_with_scales_from_twice_to_an_eighth():
    tree = {"a": jnp.ones(1024), "b": jnp.ones(1023), "c": jnp.ones((3, 700))}
    made = make_sharing(tree, 1, [("c", 2)], ranges=4)
    assert made.group_sizes == [256] * 4 + [1023] + [263] * 3 + [261]
    params = init_variables(made, tree, -3.0, 0.5)["params"]
    spread = 2.0 ** np.linspace(1, -3, 4)
    wanted = 0.5 * np.concatenate([spread, [1], spread])
    np.testing.assert_allclose(np.exp(params["log_prior_scale"]), wanted, rtol=1e-5)
    group = sharing_lib.group_of_entry(made.manifest, 4)
    np.testing.assert_array_equal(
        log_prior_scale_of_entries(params, made), params["log_prior_scale"][group]
    )
    assert len(group) == made.manifest.entries
