"""A phase of training between two roundings of the weights: one scan over its steps."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mrc_jax.errors import NumericsError, UsageError

Loss = Callable[[Any, Any, chex.PRNGKey], chex.Array]  # (weights, batch, key) -> nats, a scalar
Objective = Callable[[Any, Any, chex.PRNGKey], tuple[chex.Array, chex.Array]]
Update = Callable[[Any, Any, chex.PRNGKey], tuple[Any, chex.Array]]


def draw(
    key: chex.PRNGKey, data: Any, steps: int, batch_size: int
) -> tuple[chex.Array, chex.PRNGKey]:
    """The random numbers of a phase, made outside its program.

    Args:
      key: consumed.
      data: a pytree of arrays [examples, ...].
      steps: at least 1.
      batch_size: examples of a step; all of them where there are fewer.

    Returns:
      The examples of each step, int32[steps, batch], drawn without replacement, each pass over the
      data in another order; and a key for each step.
    """
    examples = jax.tree.leaves(data)[0].shape[0]
    batch_size = min(batch_size, examples)
    per_pass = examples // batch_size
    order_key, steps_key = jax.random.split(key)
    order = np.random.default_rng(np.asarray(jax.random.key_data(order_key)))
    passes = [
        order.permutation(examples)[: per_pass * batch_size] for _ in range(0, steps, per_pass)
    ]
    batches = np.concatenate(passes).reshape(-1, batch_size)[:steps]
    return jnp.asarray(batches, jnp.int32), jax.random.split(steps_key, steps)


def numbers_of(settings: Any, names: tuple[str, ...]) -> dict[str, chex.Array]:
    """Fields of settings as float32 scalars, so that one compiled program serves them all."""
    return {name: jnp.float32(getattr(settings, name)) for name in names}


def scan_steps(update: Update, state: Any, data: Any, draws: Any) -> tuple[Any, chex.Array]:
    """One update on each batch, in one scan.

    Args:
      update: (state, batch, key) -> (state, loss in nats).
      state: a pytree.
      data: a pytree of arrays [examples, ...].
      draws: of `draw`.

    Returns:
      The state after, and the mean of the losses.
    """

    def step(state: Any, drawn: tuple[chex.Array, chex.PRNGKey]) -> tuple[Any, chex.Array]:
        which, key = drawn
        return update(state, jax.tree.map(lambda x: x[which], data), key)

    state, losses = jax.lax.scan(step, state, draws)
    return state, jnp.mean(losses)


def descend(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    still: Callable[[Any], Any],
    params: Any,
    data: Any,
    draws: Any,
) -> tuple[Any, chex.Array]:
    """A new optimizer's steps, in one scan.

    Args:
      objective: (params, batch, key) -> (what falls, the loss in nats).
      optimizer: whose steps are 0 where gradients always were.
      still: gradient -> gradient with 0 where parameters do not move.
      params, data, draws: as in `scan_steps`, where params are the state.

    Returns:
      The parameters after, and the mean loss in nats.
    """

    def update(state: Any, batch: Any, key: chex.PRNGKey) -> Any:
        params, opt_state = state
        gradient, nats = jax.grad(objective, has_aux=True)(params, batch, key)
        updates, opt_state = optimizer.update(still(gradient), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), nats

    state, nats = scan_steps(update, (params, optimizer.init(params)), data, draws)
    return state[0], nats


def check_loss(loss_nats: float, round_number: int) -> None:
    """Raises NumericsError where a round's mean loss is not finite."""
    if not np.isfinite(loss_nats):
        raise NumericsError(
            f"the loss is not finite in round {round_number}: lower the learning rate"
        )


def check_data(data: Any, batch_size: int, *steps: int) -> None:
    """Raises UsageError where there is nothing to train on."""
    sizes = {np.shape(x)[0] for x in jax.tree.leaves(data)}
    if len(sizes) != 1 or 0 in sizes:
        raise UsageError(f"data must be arrays of one number of examples, not {sorted(sizes)}")
    if min(batch_size, *steps) < 1:
        raise UsageError("batch_size and steps must be at least 1")
