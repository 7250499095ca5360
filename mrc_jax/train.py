"""Training a posterior to its KL budgets: one jitted, scanned program (MIRACLE, Algorithm 2,
variational updates).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mrc_jax import batches, mean_kl
from mrc_jax.blocks import Partition
from mrc_jax.budget import budget_nats, update_betas
from mrc_jax.container import Header
from mrc_jax.objective import block_kl_nats, coded_blocks, penalty_nats, slot_order
from mrc_jax.posterior import Coded, Parameters, Posterior, log_prior_scale_of_entries
from mrc_jax.recipe import Recipe

Loss = Callable[[Any, Any], chex.Array]  # (outputs, targets) -> nats, a mean or one per example
Augment = Callable[[Any, chex.PRNGKey], Any]  # (inputs of a batch, key) -> inputs
Teacher = Callable[[Any, Any], Any]  # (weights, inputs) -> targets
_AUGMENT = 0x41554700  # of a step's key, beside the two that the posterior and dropout have


@chex.dataclass(frozen=True)
class State:
    """All that training and coding change; a pytree.

    Attributes:
      step: int32, training steps done.
      key: raw private key data, uint32[...].
      params: what is trained; `Problem.gaussian` makes the posterior's of them.
      uncoded: the posterior's 'uncoded' collection.
      opt_state: of Adam.
      betas: float32[blocks].
      coded: the entries coded so far.
      indices: uint32[blocks], chosen so far.
    """

    step: chex.Array
    key: chex.Array
    params: Any
    uncoded: Any
    opt_state: Any
    betas: chex.Array
    coded: Coded
    indices: chex.Array


@dataclasses.dataclass(frozen=True)
class Problem:
    """What training does not change.

    Attributes:
      posterior: the module.
      loss: of (outputs, targets).
      header: the plan of the file.
      recipe: the settings.
      file_bytes: the limit of the whole file's size.
      net_kwargs: keyword arguments of the network in training, as a tuple of pairs.
      augment: changes the inputs of each batch at random, by a key of the step's own, so that a
        run that is resumed sees the same; None leaves them as they are.
      mesh: the devices that share the work, see `mesh.axes_of`; None: one.
      teacher: of (arrays["teacher"], inputs of a batch as augment changed them): the targets, in
        place of the batch's own; None: those.
    """

    posterior: Posterior
    loss: Loss
    header: Header
    recipe: Recipe
    file_bytes: int
    net_kwargs: tuple[tuple[str, Any], ...] = ()
    augment: Augment | None = None
    mesh: jax.sharding.Mesh | None = None
    teacher: Teacher | None = None

    @property
    def budget_nats(self) -> float:
        """KL target of a block."""
        return budget_nats(self.header, self.recipe)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam, its rate falling by a cosine until the first block is coded, then constant."""
        recipe = self.recipe
        return _adam(recipe.learning_rate, recipe.final_learning_rate, recipe)

    def gaussian(self, params: Any, arrays: Any) -> Parameters:
        """The posterior's mean, log_variance and log_prior_scale that trained parameters stand for.

        Args:
          params: of `State`.
          arrays: of `index_arrays`.
        """
        if self.recipe.parameterisation == "mean_variance":
            return params
        sharing, partition = self.posterior.sharing, self.header.partition
        return mean_kl.gaussian(params, sharing, partition, arrays["order"], self.budget_nats)

    def index_arrays(self, sharing: Any) -> dict[str, Any]:
        """The constant arrays that the compiled programs take as an argument.

        Args:
          sharing: the posterior's 'sharing' collection.
        """
        order = jax.jit(slot_order, static_argnums=(0, 1))(self.header.partition, self.header.seed)
        return {"sharing": sharing, "order": order}


def _adam(rate: Any, final_rate: Any, recipe: Recipe) -> optax.GradientTransformation:
    cosine = optax.cosine_decay_schedule(rate, recipe.steps, final_rate / rate)
    after = optax.constant_schedule(recipe.refine_learning_rate)
    return optax.adam(optax.join_schedules([cosine, after], [recipe.steps]))


def init_state(problem: Problem, arrays: Any, variables: Any, key: chex.PRNGKey) -> State:
    """The state before the first step, from the posterior's variables."""
    header, params, beta = problem.header, variables["params"], problem.recipe.beta_init
    if problem.recipe.parameterisation == "mean_kl":
        sharing, order = problem.posterior.sharing, arrays["order"]
        params = mean_kl.start(params, sharing, header.partition, order, problem.budget_nats)
        beta = 0.0  # the KL is the budget without
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.bits(key, (2,), jnp.uint32),
        params=params,
        uncoded=variables.get("uncoded", {}),
        opt_state=problem.optimizer.init(params),
        betas=jnp.full(header.blocks, beta, jnp.float32),
        coded=Coded.none(header.entries),
        indices=jnp.zeros(header.blocks, jnp.uint32),
    )


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
    key, (inputs, targets) = jax.random.fold_in(private_key(state), state.step), batch
    streams = jax.random.split(key, 2)
    if problem.augment is not None:
        inputs = problem.augment(inputs, jax.random.fold_in(key, _AUGMENT))
    if problem.teacher is not None:
        targets = problem.teacher(arrays["teacher"], inputs)
    coded = state.coded if refining else None
    done = coded_blocks(state.coded, header.partition, arrays["order"]) if refining else None

    def objective(params: Any) -> tuple[chex.Array, Any]:
        gaussian = problem.gaussian(params, arrays)
        variables = {"params": gaussian, "sharing": arrays["sharing"], "uncoded": state.uncoded}
        outputs, updated = problem.posterior.apply(
            variables,
            inputs,
            coded=coded,
            rngs={"posterior": streams[0], "dropout": streams[1]},
            mutable=["uncoded"],
            **dict(problem.net_kwargs),
        )
        loss = jnp.mean(problem.loss(outputs, targets))
        kl = _kl_of_blocks(problem, gaussian, arrays, len(state.betas))
        return loss + penalty_nats(state.betas, kl, done), (loss, kl, updated)

    gradient, (loss, kl, updated) = jax.grad(objective, has_aux=True)(state.params)
    params, opt_state = _moved(problem, arrays, state, gradient, refining)
    live = jnp.arange(len(state.betas)) < arrays.get("blocks", header.blocks)
    live = live if done is None else ~done
    beta_step = (refining and problem.recipe.refine_beta_step) or problem.recipe.beta_step
    betas = update_betas(state.betas, kl, problem.budget_nats, beta_step)
    after = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        uncoded=updated.get("uncoded", state.uncoded),
        opt_state=opt_state,
        betas=jnp.where(live, betas, state.betas),
    )
    excess = jnp.max(jnp.where(live, kl, -jnp.inf)) - problem.budget_nats
    mean = jnp.sum(jnp.where(live, kl, 0)) / jnp.maximum(jnp.sum(live), 1)
    return after, {"loss": loss, "kl_nats": mean, "over_budget_nats": excess}


def _moved(
    problem: Problem, arrays: Any, state: State, gradient: Any, refining: bool
) -> tuple[Any, Any]:
    """The parameters and Adam's state after a step along a gradient."""
    recipe, own = problem.recipe, arrays.get("rates")
    optimizer = problem.optimizer if own is None else _adam(own[0], own[1], recipe)
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
      The state after, and the means of the metrics over the steps.
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


def private_key(state: State) -> chex.PRNGKey:
    """The key of all that the decoder never sees."""
    return jax.random.wrap_key_data(state.key, impl="threefry2x32")


def _summary(metrics: dict[str, chex.Array]) -> dict[str, chex.Array]:
    """Means over the steps, and the last step's KL."""
    last = {k: v[-1] for k, v in metrics.items() if k != "loss"}
    return {"loss": jnp.mean(metrics["loss"]), **last}
