"""The batch of a step, drawn without replacement from examples on the devices."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import mesh
from mrc_jax.errors import UsageError
from mrc_jax.recipe import Recipe
from mrc_jax.shared_random import Stream, permute


def drawn(
    recipe: Recipe,
    devices: jax.sharding.Mesh | None,
    data: Any,
    step: chex.Array,
    seed: chex.Array,
) -> Any:
    """The batch of a step: of each shard of the data as many examples.

    Args:
      recipe: batch_size and data_shards.
      devices: that share the batch.
      data: pytree of arrays [examples, ...]; or [shards, rows, ...] where there are several.
      step: int32 scalar.
      seed: uint32 scalar.
    """
    size, shards = recipe.batch_size, recipe.data_shards
    first = jax.tree.leaves(data)[0].shape
    if shards == 1:
        chosen = _rows(size, first[0], step, seed)
        return jax.tree.map(lambda x: x[chosen], data)
    numbers = jnp.arange(shards, dtype=jnp.uint32)
    own = seed ^ numbers * np.uint32(0x85EBCA6B)
    rows = jax.vmap(lambda seed: _rows(size // shards, first[1], step, seed))(own)
    batch = mesh.picked(data, rows)
    if devices is None:
        return batch
    return jax.lax.with_sharding_constraint(batch, mesh.spread(devices, mesh.axes_but(devices)))


def in_parts(examples: chex.Array, parts: int, shards: int) -> chex.Array:
    """A batch [batch, ...] in equal parts [parts, batch / parts, ...], each with as many examples
    of every shard, so that the devices which share the batch share every part.

    Raises:
      UsageError: the batch cannot be divided so.
    """
    size, *rest = examples.shape
    if size % (shards * parts):
        raise UsageError(
            f"batch_parts = {parts}: a batch of {size} examples cannot be divided into {parts} "
            f"parts x {shards} shards of the data; lower it, or give batch_size examples or more"
        )
    by_shard = examples.reshape(shards, parts, -1, *rest)
    return jnp.moveaxis(by_shard, 1, 0).reshape(parts, -1, *rest)


def _rows(batch_size: int, examples: int, step: chex.Array, seed: chex.Array) -> chex.Array:
    """The examples of a step: each pass over the data is another keyed permutation."""
    batch_size = min(batch_size, examples)
    per_pass = examples // batch_size
    step = step.astype(jnp.uint32)
    place = (step % np.uint32(per_pass)) * np.uint32(batch_size)
    place = place + jnp.arange(batch_size, dtype=jnp.uint32)
    seed = seed ^ (step // np.uint32(per_pass)) * np.uint32(0x9E3779B9)
    return permute(place, examples, seed, Stream.BATCHES).astype(jnp.int32)
