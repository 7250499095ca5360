"""A phase of training between two roundings of the weights: one scan over its steps."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax.errors import NumericsError, UsageError
from mrc_jax.shared_random import Stream, permute

Loss = Callable[[Any, Any, chex.PRNGKey], chex.Array]  # (weights, batch, key) -> nats, a scalar
Update = Callable[[Any, Any, chex.PRNGKey], tuple[Any, chex.Array]]


def scan_steps(
    update: Update, state: Any, data: Any, key: chex.PRNGKey, steps: int, batch_size: int
) -> tuple[Any, chex.Array]:
    """`steps` updates on batches drawn without replacement, each pass in another order.

    Args:
      update: (state, batch, key) -> (state, loss in nats).
      state: a pytree.
      data: a pytree of arrays [examples, ...].
      key: consumed.
      steps: at least 1.
      batch_size: examples of a step; all of them where there are fewer.

    Returns:
      The state after, and the mean of the losses.
    """
    examples = jax.tree.leaves(data)[0].shape[0]
    batch_size = min(batch_size, examples)
    per_pass = np.uint32(examples // batch_size)
    order_key, noise_key = jax.random.split(key)
    seeds = jax.random.bits(order_key, (-(-steps // int(per_pass)),), jnp.uint32)

    def step(state: Any, number: chex.Array) -> tuple[Any, chex.Array]:
        place = number % per_pass * np.uint32(batch_size)
        place = place + jnp.arange(batch_size, dtype=jnp.uint32)
        which = permute(place, examples, seeds[number // per_pass], Stream.BATCHES)
        batch = jax.tree.map(lambda x: x[which], data)
        return update(state, batch, jax.random.fold_in(noise_key, number))

    state, losses = jax.lax.scan(step, state, jnp.arange(steps, dtype=jnp.uint32))
    return state, jnp.mean(losses)


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
