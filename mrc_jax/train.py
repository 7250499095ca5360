"""Training a posterior to its KL budgets: one scanned program (MIRACLE, Algorithm 2,
variational updates).
"""

import dataclasses
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mrc_jax import batches, samples
from mrc_jax.blocks import Partition
from mrc_jax.budget import update_betas
from mrc_jax.objective import block_kl_nats, coded_blocks, penalty_nats
from mrc_jax.posterior import log_prior_scale_of_entries
from mrc_jax.problem import Problem, State, adam, private_key
from mrc_jax.samples import Moments

_AUGMENT = 0x41554700  # of a step's key, beside the two that the posterior and dropout have


def train_step(
    problem: Problem, arrays: Any, state: State, batch: Any, refining: bool
) -> tuple[State, dict[str, chex.Array]]:
    """One step on one batch.

    Args:
      problem, arrays: what is constant; where `arrays` has a member's own `rates` or `blocks` they
        stand for the problem's (`vmap_members`).
      state: before the step.
      batch: (inputs, targets).
      refining: whether blocks are being coded: prior scales then stay as they are.

    Returns:
      The state after it, and the metrics loss (nats an example), kl_nats (mean over blocks not
      coded) and over_budget_nats (the largest excess of such a block, before the step).
    """
    header = problem.header
    key = jax.random.fold_in(private_key(state), state.step)
    coded = state.coded if refining else None
    done = coded_blocks(state.coded, header.partition, arrays["order"]) if refining else None

    def of_parameters(params: Any) -> tuple[tuple[Moments, chex.Array], chex.Array]:
        gaussian = problem.gaussian(params, arrays)
        kl = _kl_of_blocks(problem, gaussian, arrays, len(state.betas))
        return (samples.moments(gaussian), penalty_nats(state.betas, kl, done)), kl

    (moments, penalty), pull, kl = jax.vjp(of_parameters, state.params, has_aux=True)
    loss, slope, uncoded = _loss_of_batch(problem, arrays, state, moments, coded, batch, key)
    gradient = pull((slope, jnp.ones_like(penalty)))[0]
    params, opt_state = _moved(problem, arrays, state, gradient, refining)
    live = jnp.arange(len(state.betas)) < arrays.get("blocks", header.blocks)
    live = live if done is None else ~done
    beta_step = (refining and problem.recipe.refine_beta_step) or problem.recipe.beta_step
    betas = update_betas(state.betas, kl, problem.budget_nats, beta_step)
    after = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        uncoded=uncoded,
        opt_state=opt_state,
        betas=jnp.where(live, betas, state.betas),
    )
    excess = jnp.max(jnp.where(live, kl, -jnp.inf)) - problem.budget_nats
    mean = jnp.sum(jnp.where(live, kl, 0)) / jnp.maximum(jnp.sum(live), 1)
    return after, {"loss": loss, "kl_nats": mean, "over_budget_nats": excess}


def _loss_of_batch(
    problem: Problem, arrays: Any, state: State, moments: Moments, coded: Any, batch: Any, key: Any
) -> tuple[chex.Array, Moments, Any]:
    """The mean loss of `recipe.batch_parts` parts of the batch, one after another, each with a
    sample of its own of the posterior with the given moments; its gradient by the moments, and the
    'uncoded' after it.
    """
    if problem.augment is not None:
        moved = problem.augment(batch[0], jax.random.fold_in(key, _AUGMENT))
        batch = (moved, batch[1])
    parts, (own, dropout) = problem.recipe.batch_parts, jax.random.split(key, 2)
    sample_key: Any = problem.posterior.apply({}, rngs={"posterior": own}, method="sample_key")

    def of_part(moments: Moments, noise: Any, uncoded: Any, part: Any, key: Any) -> Any:
        inputs, targets = part
        entries = samples.sample_of_noise(moments, noise, coded)
        if problem.teacher is not None:
            targets = problem.teacher(arrays["teacher"], inputs)
        outputs, uncoded = problem.outputs(arrays, uncoded, entries, inputs, key)
        return jnp.mean(problem.loss(outputs, targets)), uncoded

    slope_of_part = jax.value_and_grad(of_part, has_aux=True)
    if parts == 1:
        noise = samples.stored_noise(sample_key, problem.header.entries)
        (loss, uncoded), slope = slope_of_part(moments, noise, state.uncoded, batch, dropout)
        return loss, slope, uncoded

    def one(carried: Any, number_and_part: Any) -> tuple[Any, None]:
        (noise, uncoded, *sums), (number, *part) = carried, number_and_part
        noise = samples.mirrored_noise(sample_key, number, noise)
        (loss, uncoded), slope = slope_of_part(moments, noise, uncoded, *part)
        return (noise, uncoded, *jax.tree.map(jnp.add, sums, [loss, slope])), None

    each = jax.tree.map(lambda x: batches.in_parts(x, parts, problem.recipe.data_shards), batch)
    numbers, keys = jnp.arange(parts, dtype=jnp.int32), jax.random.split(dropout, parts)
    nothing = jnp.zeros_like(moments[0])
    start = nothing, state.uncoded, jnp.float32(0), (nothing, nothing)
    (_, uncoded, *sums), _ = jax.lax.scan(one, start, (numbers, each, keys))
    loss, slope = jax.tree.map(lambda x: x / np.float32(parts), sums)
    return loss, slope, uncoded


def _moved(
    problem: Problem, arrays: Any, state: State, gradient: Any, refining: bool
) -> tuple[Any, Any]:
    """The parameters and Adam's state after a step along a gradient."""
    recipe, own = problem.recipe, arrays.get("rates")
    optimizer = problem.optimizer if own is None else adam(own[0], own[1], recipe)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    if recipe.relative_means and not refining:
        log_scale = log_prior_scale_of_entries(state.params, problem.posterior.sharing)
        unit = jnp.exp(log_scale) / np.float32(recipe.prior_scale_init)
        updates = {**cast(dict, updates), "mean": cast(dict, updates)["mean"] * unit}
    params: dict[str, Any] = {**cast(dict, optax.apply_updates(state.params, updates))}
    if refining:
        params["log_prior_scale"] = state.params["log_prior_scale"]
    return params, opt_state


def _kl_of_blocks(problem: Problem, params: Any, arrays: Any, size: int) -> chex.Array:
    """KL of each block, float32[size]; zero from the number of blocks on."""
    sharing, partition = problem.posterior.sharing, problem.header.partition
    if "blocks" not in arrays:
        return block_kl_nats(params, sharing, partition, arrays["order"])
    alone = Partition(partition.entries, partition.entries)
    kl = block_kl_nats(params, sharing, alone, arrays["order"])
    block = jnp.arange(partition.entries, dtype=jnp.int32) % arrays["blocks"]
    return jnp.zeros(size, kl.dtype).at[block].add(kl)


def train_on_arrays(
    problem: Problem, arrays: Any, state: State, data: Any, steps: int, refining: bool = False
) -> tuple[State, dict[str, chex.Array]]:
    """`steps` steps in one scan, on batches drawn without replacement from arrays on the device.

    Args:
      problem, arrays: what is constant.
      state: before.
      data: (inputs, targets), pytrees of arrays [examples, ...]; or [shards, rows, ...] where
        `recipe.data_shards` is above 1.
      steps: static.
      refining: static, see `train_step`.

    Returns:
      The state after, the mean of the loss over the steps, and the other metrics of the last.
    """

    def step(state: State, _: None) -> tuple[State, dict[str, chex.Array]]:
        return train_step(problem, arrays, state, _batch(problem, data, state), refining)

    state, metrics = jax.lax.scan(step, state, None, length=steps)
    return state, _summary(metrics)


def train_on_batches(
    problem: Problem, arrays: Any, state: State, batches: Any, refining: bool = False
) -> tuple[State, dict[str, chex.Array]]:
    """As `train_on_arrays`, one step on each of the stacked batches [steps, batch, ...]."""
    state, metrics = jax.lax.scan(
        lambda s, b: train_step(problem, arrays, s, b, refining), state, batches
    )
    return state, _summary(metrics)


def _batch(problem: Problem, data: Any, state: State) -> Any:
    return batches.drawn(problem.recipe, problem.mesh, data, state.step, state.key[0])


def _summary(metrics: dict[str, chex.Array]) -> dict[str, chex.Array]:
    """Means over the steps, and the last step's KL."""
    last = {k: v[-1] for k, v in metrics.items() if k != "loss"}
    return {"loss": jnp.mean(metrics["loss"]), **last}
