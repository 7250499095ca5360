"""Training: budgets are reached, batches are passes, a step is Adam's, runs repeat to the bit."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax import batches as batches_of_steps
from mrc_jax import train
from mrc_jax.budget import plan
from mrc_jax.errors import UsageError
from mrc_jax.objective import block_kl_nats, slot_order
from mrc_jax.posterior import Posterior, init_variables
from mrc_jax.problem import Problem, init_state
from mrc_jax.recipe import Recipe
from mrc_jax.samples import Coded, mirrored_noise
from mrc_jax.sharing import make_sharing

RANDOM = np.random.default_rng(0)
INPUTS = jnp.asarray(RANDOM.normal(size=(96, 6)), jnp.float32)
TARGETS = INPUTS @ jnp.asarray(RANDOM.normal(size=(6, 4)), jnp.float32)
DATA = (INPUTS, TARGETS)


def network(tree, inputs):
    return inputs @ tree["w"] + tree["b"]


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        return nn.Dense(4)(nn.BatchNorm(not train, momentum=0.5)(inputs))


class Dropped(nn.Module):
    """`network` behind dropout."""

    @nn.compact
    def __call__(self, inputs):
        w = self.param("w", nn.initializers.zeros_init(), (6, 4))
        b = self.param("b", nn.initializers.zeros_init(), (4,))
        return network({"w": w, "b": b}, nn.Dropout(0.5, deterministic=False)(inputs))


def squared(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


def problem(file_bytes=44, net=network, rows=6, **settings):
    settings = {
        "bits": 8, "batch_size": 32, "steps": 600, "learning_rate": 0.02,
        "final_learning_rate": 0.002, "refine_learning_rate": 0.001, "beta_init": 1e-2,
        "beta_step": 0.02, "log_std_init": -3.0, "prior_scale_init": 0.5, **settings,
    }  # fmt: skip
    recipe = Recipe(**settings)
    tree = {"w": jnp.zeros((rows, 4)), "b": jnp.zeros(4)}
    tree = {"params": tree} if isinstance(net, nn.Module) else tree
    sharing = make_sharing(tree, 3)
    header = plan(sharing.manifest, file_bytes, recipe, seed=3)
    made = Problem(Posterior(net, sharing), squared, header, recipe, 1000)
    variables = init_variables(sharing, tree, recipe.log_std_init, recipe.prior_scale_init)
    arrays = made.index_arrays(variables["sharing"])
    return made, arrays, init_state(made, arrays, variables, jax.random.key(0))


def runner(made):
    return jax.jit(partial(train.train_on_arrays, made), static_argnames=("steps", "refining"))


def block_kls(made, arrays, state):
    sharing, partition = made.posterior.sharing, made.header.partition
    params = made.gaussian(state.params, arrays)
    return np.asarray(block_kl_nats(params, sharing, partition, arrays["order"]))


@pytest.mark.parametrize("slack_nats", [0.0, -2.0])
def test_betas_drive_every_block_to_its_budget(slack_nats):
    made, arrays, state = problem(slack_nats=slack_nats, steps=3000)
    run = runner(made)
    after, metrics = run(arrays, state, DATA, steps=3000)
    kl, budget = block_kls(made, arrays, after), 8 * np.log(2) + slack_nats
    assert len(kl) == made.header.blocks > 5
    assert made.budget_nats == pytest.approx(budget)
    np.testing.assert_allclose(kl, budget, rtol=0.1)
    assert int(after.step) == 3000 and np.isfinite(metrics["loss"])
    free, _ = run(arrays, state.replace(betas=0 * state.betas), DATA, steps=3000)
    assert np.mean(block_kls(made, arrays, free)) > 1.5 * budget  # what betas of zero leave


def test_mean_kl_has_every_block_at_its_budget_at_every_step_and_no_betas():
    made, arrays, state = problem(parameterisation="mean_kl", learning_rate=0.1)
    run, first, losses = runner(made), state.params, []
    is_coded = arrays["order"]["slot"] % made.header.blocks < 3
    assert set(first) == {"mean_atanh", "share_logit", "log_prior_scale"}
    for refining in (False, True):
        if refining:
            coded = Coded(is_coded=is_coded, value=jnp.where(is_coded, 0.25, 0.0))
            state = state.replace(coded=coded, opt_state=made.optimizer.init(state.params))
        before = state.params
        for step in range(60):
            state, metrics = run(arrays, state, DATA, steps=1, refining=refining)
            losses.append(float(metrics["loss"]))
            assert metrics["kl_nats"] == pytest.approx(made.budget_nats, rel=1e-5)
            assert abs(metrics["over_budget_nats"]) < 1e-5 * made.budget_nats
            if step in (0, 59):
                kl = block_kls(made, arrays, state)
                np.testing.assert_allclose(kl, made.budget_nats, rtol=1e-5)
        assert np.all(np.asarray(state.betas) == 0)
        for name in ("mean_atanh", "share_logit"):
            moved = np.asarray(state.params[name] != before[name])
            np.testing.assert_array_equal(moved, ~is_coded if refining else True)
    scales = state.params["log_prior_scale"]
    np.testing.assert_array_equal(scales, before["log_prior_scale"])
    assert np.all(scales != first["log_prior_scale"])
    assert np.mean(losses[50:60]) < 0.8 * np.mean(losses[:10])


def test_metrics_are_means_and_excesses_of_the_blocks_not_coded():
    made, arrays, state = problem()
    done = np.arange(made.header.blocks) < 3
    coded = Coded(
        is_coded=jnp.asarray(done)[arrays["order"]["slot"] % made.header.blocks],
        value=jnp.full(made.header.entries, 0.25),
    )
    state = state.replace(coded=coded)
    batch = (INPUTS[:32], TARGETS[:32])
    kl = block_kls(made, arrays, state)
    for refining, live in ((False, np.full(len(kl), True)), (True, ~done)):
        step = jax.jit(partial(train.train_step, made), static_argnums=3)
        _, metrics = step(arrays, state, batch, refining)
        assert metrics["kl_nats"] == pytest.approx(kl[live].mean(), rel=1e-5)
        excess = kl[live].max() - made.budget_nats
        assert metrics["over_budget_nats"] == pytest.approx(excess, abs=1e-4)


def test_refining_leaves_coded_blocks_and_prior_scales_as_they_are():
    made, arrays, state = problem(beta_step=3.0)
    done = jnp.arange(made.header.blocks) < 3
    is_coded = done[arrays["order"]["slot"] % made.header.blocks]
    state = state.replace(coded=Coded(is_coded=is_coded, value=jnp.where(is_coded, 0.25, 0.0)))
    after, _ = runner(made)(arrays, state, DATA, steps=100, refining=True)
    before, later = state.params, after.params
    np.testing.assert_array_equal(before["log_prior_scale"], later["log_prior_scale"])
    for name in ("mean", "log_variance"):
        np.testing.assert_array_equal(before[name] == later[name], is_coded)
    np.testing.assert_array_equal(
        after.betas == state.betas, done
    )  # and so the betas of coded ones
    free, _ = runner(made)(arrays, state, DATA, steps=3)
    assert np.all(free.params["log_prior_scale"] != before["log_prior_scale"])


@pytest.mark.parametrize("examples, batch_size", [(96, 32), (10, 3), (5, 9)])
def test_a_pass_has_each_example_once_and_the_next_another_order(examples, batch_size):
    size, per_pass = min(batch_size, examples), max(examples // batch_size, 1)
    recipe, data = Recipe(batch_size=batch_size), jnp.arange(examples)
    draw = jax.jit(lambda step: batches_of_steps.drawn(recipe, None, data, step, jnp.uint32(7)))
    passes = []
    for p in range(3):
        steps = range(p * per_pass, (p + 1) * per_pass)
        batches = [draw(jnp.int32(s)) for s in steps]
        assert all(b.shape == (size,) for b in batches)
        passes.append(np.concatenate(batches))
        assert len(np.unique(passes[-1])) == size * per_pass
        assert passes[-1].max() < examples
    assert np.any(passes[0] != passes[1]) and np.any(passes[1] != passes[2])


def test_two_runs_are_equal_to_the_bit_and_compile_once():
    made, arrays, state = problem()
    run = runner(made)
    one, _ = run(arrays, state, DATA, steps=50)
    other, _ = run(arrays, state, DATA, steps=50)
    assert run._cache_size() == 1
    halves, _ = run(arrays, state, DATA, steps=25)
    halves, _ = run(arrays, halves, DATA, steps=25)
    assert run._cache_size() == 2  # steps is static; a state that came back compiles nothing
    for x, y, z in zip(*map(jax.tree.leaves, (one, other, halves)), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes() == np.asarray(z).tobytes()
    different, _ = run(arrays, state.replace(key=state.key + 1), DATA, steps=50)
    assert np.any(one.params["mean"] != different.params["mean"])


def test_a_step_is_one_of_adam_on_loss_plus_weighted_kl():
    made, arrays, state = problem()
    batch = (INPUTS[:32], TARGETS[:32])
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), 0)
    noise = jax.random.split(key, 2)[0]
    order, partition = slot_order(made.header.partition, 3), made.header.partition

    def objective(params):
        # the stream's own derivation is Flax's; the sample comes from a network that returns it
        whole = Posterior(lambda tree: tree, made.posterior.sharing)
        tree = whole.apply({"params": params}, rngs={"posterior": noise})
        loss = jnp.mean(squared(network(tree, batch[0]), batch[1]))
        kl = block_kl_nats(params, made.posterior.sharing, partition, order)
        return loss + 1e-2 * jnp.sum(kl), (loss, kl)

    gradient, (loss, kl) = jax.grad(objective, has_aux=True)(state.params)
    after, metrics = train.train_step(made, arrays, state, batch, False)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    for name, before in state.params.items():
        g = np.asarray(gradient[name], np.float64)
        step = 0.02 * g / (np.sqrt(g**2) + 1e-8)  # Adam's first: both moments unbiased are g, g^2
        np.testing.assert_allclose(after.params[name], before - step, rtol=1e-4, atol=1e-6)
    up = np.asarray(kl) > made.budget_nats
    factor = np.where(up, 1.02, 1 / 1.02)
    np.testing.assert_allclose(after.betas, 1e-2 * factor, rtol=1e-5)
    assert int(after.step) == 1


def test_betas_have_a_step_of_their_own_while_refining():
    for own, wanted in ((0.0, 0.02), (0.3, 0.3)):
        made, arrays, state = problem(refine_beta_step=own)
        for refining, step in ((False, 0.02), (True, wanted)):
            after, _ = runner(made)(arrays, state, DATA, steps=1, refining=refining)
            factor = np.asarray(after.betas / state.betas)
            np.testing.assert_allclose(np.abs(np.log(factor)), np.log1p(step), rtol=1e-3)


def test_a_teacher_s_outputs_on_the_inputs_as_they_are_changed_are_the_targets():
    made, arrays, state = problem()
    weights = {"w": jnp.asarray(RANDOM.normal(size=(6, 4)), jnp.float32), "b": jnp.ones(4)}
    taught = dataclasses.replace(made, augment=lambda x, key: 2 * x, teacher=network)
    found, _ = runner(taught)({**arrays, "teacher": weights}, state, DATA, steps=20)
    targets = network(weights, 2 * INPUTS)
    wanted, _ = runner(made)(arrays, state, (2 * INPUTS, targets), steps=20)
    np.testing.assert_allclose(found.params["mean"], wanted.params["mean"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_taught", [False, True])
@pytest.mark.parametrize("refining", [False, True])
def test_a_batch_in_parts_gives_the_steps_of_the_whole(refining, is_taught):
    """Where there is no noise, of which each part has its own."""
    data = jax.tree.map(lambda x: x.reshape(2, 48, -1), DATA)

    def after(parts):
        made, arrays, state = problem(batch_parts=parts, data_shards=2, log_std_init=-16.0)
        if is_taught:
            made = dataclasses.replace(
                made, augment=lambda x, key: x + jax.random.normal(key, x.shape), teacher=network
            )
            arrays = {**arrays, "teacher": {"w": jnp.ones((6, 4)), "b": jnp.ones(4)}}
        if refining:
            is_coded = arrays["order"]["slot"] % made.header.blocks < 3
            coded = Coded(is_coded=is_coded, value=jnp.where(is_coded, 0.25, 0.0))
            state = state.replace(coded=coded)
        return runner(made)(arrays, state, data, steps=20, refining=refining)

    (whole, of_whole), (parts, of_parts) = after(1), after(8)
    for x, y in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-5)
    for name, value in of_whole.items():
        assert of_parts[name] == pytest.approx(float(value), rel=1e-4, abs=1e-5)


def test_one_part_is_the_gradient_of_the_whole_network_s_application():
    """With the streams of noise and dropout as Flax has them."""
    made, arrays, state = problem(net=Dropped())
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), 0)
    streams = dict(zip(("posterior", "dropout"), jax.random.split(key, 2), strict=True))

    def loss(params):
        outputs = made.posterior.apply({"params": params, "uncoded": {}}, INPUTS[:32], rngs=streams)
        return jnp.mean(squared(outputs, TARGETS[:32]))

    wanted, slope = jax.value_and_grad(loss)(state.params)
    still = state.replace(betas=0 * state.betas)
    after, metrics = train.train_step(made, arrays, still, (INPUTS[:32], TARGETS[:32]), False)
    assert metrics["loss"] == pytest.approx(float(wanted), rel=1e-5)
    step = 0.02 * slope["mean"] / (jnp.abs(slope["mean"]) + 1e-8)
    np.testing.assert_allclose(after.params["mean"], state.params["mean"] - step, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("parameterisation", ["mean_variance", "mean_kl"])
def test_parts_have_samples_of_their_own_in_mirrored_pairs(parameterisation, parts):
    """The gradient is the mean of the parts' by their samples, to which the noise is added by
    hand.
    """
    made, arrays, state = problem(batch_parts=parts, parameterisation=parameterisation)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), 0)
    streams = {"posterior": jax.random.split(key, 2)[0]}
    own = made.posterior.apply({}, rngs=streams, method="sample_key")
    noise = [jnp.zeros(made.header.entries)]
    for number in range(parts):
        noise.append(mirrored_noise(own, number, noise[-1]))
    noise = noise[1:]
    assert len(np.unique(np.abs(noise).round(3), axis=0)) == parts // 2
    batch = INPUTS[:32], TARGETS[:32]
    pieces = [np.split(np.asarray(x), parts) for x in batch]

    def loss(params):
        found, params = [], made.gaussian(params, arrays)
        deviation = jnp.exp(0.5 * params["log_variance"])
        for number, (inputs, targets) in enumerate(zip(*pieces, strict=True)):
            own = {"params": {"mean": params["mean"] + deviation * noise[number]}}
            outputs = made.posterior.apply(own, inputs, sample=False)
            found.append(jnp.mean(squared(outputs, targets)))
        return jnp.mean(jnp.stack(found))

    wanted, gradient = jax.value_and_grad(loss)(state.params)
    still = state.replace(betas=0 * state.betas)
    after, metrics = train.train_step(made, arrays, still, batch, False)
    assert metrics["loss"] == pytest.approx(float(wanted), rel=1e-5)
    for name, wanted in gradient.items():
        found = after.opt_state[0].mu[name] / 0.1
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_dropout_draws_for_each_part():
    same = jnp.broadcast_to(INPUTS[:1], (32, 6)), jnp.zeros((32, 4))
    losses = []

    def kept(outputs, targets):
        jax.debug.callback(lambda x: losses.append(np.asarray(x).round(5)), outputs)
        return squared(outputs, targets)

    made, arrays, state = problem(batch_parts=4, net=Dropped())
    made = dataclasses.replace(made, loss=kept)
    jax.block_until_ready(train.train_step(made, arrays, state, same, False))
    jax.effects_barrier()
    assert len({x.tobytes() for x in losses}) == 4 == len(losses)


def test_layers_hold_one_part_of_a_batch():
    matrix = jnp.asarray(RANDOM.normal(size=(4, 4096)), jnp.float32)

    def wide(tree, inputs):
        return jnp.tanh(inputs @ tree["w"] @ matrix) @ matrix.T + tree["b"]

    held = []
    for parts in (1, 8):
        made, arrays, state = problem(batch_parts=parts)
        made = dataclasses.replace(
            made, posterior=Posterior(wide, made.posterior.sharing), teacher=wide
        )
        arrays = {**arrays, "teacher": {"w": jnp.ones((6, 4)), "b": jnp.ones(4)}}
        compiled = runner(made).lower(arrays, state, DATA, steps=2).compile()
        held.append(compiled.memory_analysis().temp_size_in_bytes)
    assert held[0] > 32 * 4096 * 4 and held[1] < held[0] / 4


def test_samples_of_parts_are_held_one_at_a_time():
    """With most of the memory that of 24,004 entries."""

    def many(tree, inputs):
        return network({**tree, "w": jnp.mean(tree["w"].reshape(-1, 6, 4), axis=0)}, inputs)

    held = []
    for parts in (1, 2, 8):
        made, arrays, state = problem(2000, many, rows=6000, batch_parts=parts)
        compiled = runner(made).lower(arrays, state, DATA, steps=2).compile()
        held.append(compiled.memory_analysis().temp_size_in_bytes)
    assert held[0] > 40 * 24_000 and max(held) < 1.1 * held[0]


def test_batch_statistics_are_of_a_part():
    net = Normalised()
    tree = net.init(jax.random.key(0), INPUTS[:2])
    sharing, recipe = make_sharing(tree, 3), Recipe(bits=8, batch_size=32, batch_parts=4)
    header = plan(sharing.manifest, 200, recipe, seed=3)
    made = Problem(
        Posterior(net, sharing), squared, header, recipe, 200, net_kwargs=(("train", True),)
    )
    variables = init_variables(sharing, tree)
    arrays = made.index_arrays(variables["sharing"])
    state = init_state(made, arrays, variables, jax.random.key(0))
    after, _ = train.train_step(made, arrays, state, (INPUTS[:32], TARGETS[:32]), False)
    mean = np.zeros(6)
    for part in np.split(np.asarray(INPUTS[:32], np.float64), 4):
        mean = 0.5 * mean + 0.5 * part.mean(0)
    found = after.uncoded["batch_stats/BatchNorm_0/mean"]
    np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-6)


def test_every_part_has_as_many_examples_of_each_shard():
    found = batches_of_steps.in_parts(jnp.arange(24).reshape(12, 2), parts=3, shards=2)
    np.testing.assert_array_equal(found[:, :, 0] // 2, [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]])
    with pytest.raises(UsageError, match="batch_parts = 5"):
        batches_of_steps.in_parts(jnp.arange(12), parts=5, shards=2)
    with pytest.raises(UsageError, match="batch_parts = 5: must divide the 16 examples"):
        Recipe(batch_size=32, data_shards=2, batch_parts=5)
    made, arrays, state = problem(batch_parts=8)
    with pytest.raises(UsageError, match="a batch of 20 examples"):
        runner(made)(arrays, state, (INPUTS[:20], TARGETS[:20]), steps=1)


def test_the_rate_falls_by_a_cosine_and_stays_constant_while_refining():
    made, _, state = problem(steps=100)
    gradient = jax.tree.map(jnp.ones_like, state.params)
    opt_state, rates = state.opt_state, []
    for _ in range(110):
        updates, opt_state = made.optimizer.update(gradient, opt_state)
        rates.append(-float(updates["mean"][0]))  # Adam's step on a constant gradient is the rate
    t = np.arange(100) / 100
    expected = 0.002 + (0.02 - 0.002) * 0.5 * (1 + np.cos(np.pi * t))
    np.testing.assert_allclose(rates, [*expected, *[0.001] * 10], rtol=2e-4)


def test_batches_given_train_as_the_steps_one_by_one():
    made, arrays, state = problem()
    batches = jax.tree.map(lambda x: x.reshape(3, 32, -1), DATA)
    scanned, metrics = jax.jit(partial(train.train_on_batches, made))(arrays, state, batches)
    step, losses = jax.jit(partial(train.train_step, made), static_argnums=3), []
    for i in range(3):
        batch = jax.tree.map(lambda x, i=i: x[i], batches)
        state, of_step = step(arrays, state, batch, False)
        losses.append(of_step["loss"])
    for x, y in zip(jax.tree.leaves(scanned), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["kl_nats"] == pytest.approx(float(of_step["kl_nats"]), rel=1e-5)


def test_relative_means_move_in_units_of_their_prior_scales():
    """The first step of Adam is the rate for every entry, whatever its gradient's size; while
    refining it is the same for all.
    """
    moved = {}
    for relative in (False, True):
        made, arrays, state = problem(relative_means=relative)
        wide = jnp.log(jnp.asarray([2.0, 0.125]))  # of the groups `b` and `w`
        state = state.replace(params={**state.params, "log_prior_scale": wide})
        batch = jax.tree.map(lambda x: x[:32], DATA)
        after, _ = train.train_step(made, arrays, state, batch, False)
        moved[relative] = {k: np.asarray(after.params[k] - state.params[k]) for k in state.params}
    rate = made.recipe.learning_rate
    np.testing.assert_allclose(np.abs(moved[False]["mean"]), rate, rtol=1e-3)
    np.testing.assert_allclose(np.abs(moved[True]["mean"][:4]), rate * 2 / 0.5, rtol=1e-3)
    np.testing.assert_allclose(np.abs(moved[True]["mean"][4:]), rate * 0.125 / 0.5, rtol=1e-3)
    for name in ("log_variance", "log_prior_scale"):
        np.testing.assert_array_equal(moved[True][name], moved[False][name])
    after, _ = train.train_step(made, arrays, state, batch, True)
    steps = np.abs(np.asarray(after.params["mean"] - state.params["mean"]))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
