"""A start of the posterior at its KL budgets, from means that are trained already.

Around such means the loss is about quadratic, its curvature the Fisher information (Laplace's
approximation, MacKay 1992). With a diagonal h of it, the objective of Algorithm 2 (MIRACLE) of a
block with KL multiplier beta and prior scale p is least, entry by entry, at
variance = p^2 / (1 + r), mean = trained mean * r / (1 + r), with r = h p^2 / beta; beta is what
brings the block to its budget. Weights that the loss needs so begin exact and all others noisy.
"""

import dataclasses
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import batches, samples
from mrc_jax.blocks import slots_to_blocks
from mrc_jax.objective import in_slot_order
from mrc_jax.posterior import log_prior_scale_of_entries, scaled_start
from mrc_jax.problem import Problem, State, private_key

_KEY = 0x4C41504C  # of the draws of the Fisher information
_BETAS = (1e-15, 1e6)  # between which a block's lies
_HALVINGS = 50
EXAMPLES = 10_000  # of which the curvature is taken
NOISE = 0.1  # under which it is, in units of the means


def budget_start(
    problem: Problem, arrays: Any, state: State, inputs: Any, noise: float = NOISE
) -> State:
    """The state with prior scales of `scaled_start`, each block at its budget, and betas to match,
    whatever `recipe.beta_init` is.

    Args:
      problem: whose network gives logits, parameterised by mean and variance.
      arrays: what is constant.
      state: with means as trained.
      inputs: of the data that the posterior will be trained on, as `train.train_on_arrays` has it.
      noise: of `scaled_start`, under which the curvature is taken.
    """
    params = scaled_start(state.params, problem.posterior.sharing, noise)
    state = dataclasses.replace(state, params=params)
    steps = -(-EXAMPLES // problem.recipe.batch_size)
    fisher = fisher_diagonal(problem, arrays, state, inputs, steps)
    log_scale = log_prior_scale_of_entries(state.params, problem.posterior.sharing)
    precision = fisher * jnp.exp(2 * log_scale)
    relative = jnp.square(state.params["mean"] * jnp.exp(-log_scale))
    partition, order = problem.header.partition, arrays["order"]
    block = order["slot"] % np.int32(partition.blocks)

    def at(log_betas: chex.Array) -> tuple[chex.Array, chex.Array]:
        ratio = precision * jnp.exp(-log_betas)[block]
        kept = ratio / (1 + ratio)
        return ratio, 0.5 * (jnp.log1p(ratio) + relative * jnp.square(kept) - kept)

    def halve(_: Any, bounds: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        kl = slots_to_blocks(in_slot_order(at(middle)[1], order), partition).sum(axis=0)
        is_over = kl > problem.budget_nats
        return jnp.where(is_over, middle, low), jnp.where(is_over, high, middle)

    bounds = tuple(jnp.full_like(state.betas, np.log(x)) for x in _BETAS)
    log_betas = jax.lax.fori_loop(0, _HALVINGS, halve, bounds)[1]
    ratio = at(log_betas)[0]
    params = {
        **state.params,
        "mean": state.params["mean"] * ratio / (1 + ratio),
        "log_variance": 2 * log_scale - jnp.log1p(ratio),
    }
    return dataclasses.replace(state, params=params, betas=jnp.exp(log_betas))


def fisher_diagonal(
    problem: Problem, arrays: Any, state: State, inputs: Any, steps: int
) -> chex.Array:
    """An estimate without bias of the diagonal of the Fisher information of one example, its mean
    under the posterior, float32[entries] in nats.

    The square of the gradient of a batch's summed loss, the classes drawn from what the network
    says: an example's gradient is then zero on average, so the squares alone are left of the sum.

    Args:
      problem, arrays, inputs: as of `budget_start`.
      state: of the posterior.
      steps: batches; static.
    """
    recipe, moments = problem.recipe, samples.moments(problem.gaussian(state.params, arrays))
    parts = recipe.batch_parts

    def of_part(key: chex.PRNGKey, carried: Any, own: Any) -> tuple[Any, None]:
        (noise, total), (number, part) = carried, own
        noise = samples.mirrored_noise(key, number, noise)
        dropout, drawn = jax.random.split(jax.random.fold_in(key, parts + number))
        entries = samples.sample_of_noise(moments, noise)

        def loss(entries: chex.Array) -> chex.Array:
            logits, _ = problem.outputs(arrays, state.uncoded, entries, part, dropout)
            classes = jax.random.categorical(drawn, jax.lax.stop_gradient(logits))
            return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], 1))

        return (noise, total + jnp.square(jax.grad(loss)(entries))), None

    def of_step(total: chex.Array, number: chex.Array) -> tuple[chex.Array, None]:
        key = jax.random.fold_in(jax.random.fold_in(private_key(state), _KEY), number)
        own, moved = jax.random.split(key)
        batch = batches.drawn(recipe, problem.mesh, inputs, number, state.key[0])
        batch = problem.augment(batch, moved) if problem.augment is not None else batch
        split = partial(batches.in_parts, parts=parts, shards=recipe.data_shards)
        each = jnp.arange(parts, dtype=jnp.int32), jax.tree.map(split, batch)
        (_, total), _ = jax.lax.scan(partial(of_part, own), (nothing, total), each)
        return total, None

    nothing = jnp.zeros_like(state.params["mean"])
    total, _ = jax.lax.scan(of_step, nothing, jnp.arange(steps, dtype=jnp.int32))
    return total / np.float32(steps * recipe.batch_size)
