"""Indices to weights on the device: jitted, and equal to `decode` to the last bit."""

from collections.abc import Sequence
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from mrc_jax import sharing as sharing_lib
from mrc_jax.blocks import Partition, slot_of_entry
from mrc_jax.candidates import signed
from mrc_jax.posterior import round_scale
from mrc_jax.shared_random import TABLE_UNIT, quantiles
from mrc_jax.sharing import Sharing


def decode_blocks(
    indices: chex.Array,
    prior_scale: chex.Array,
    seed: chex.Array,
    *,
    entries: int,
    codebook_blocks: int = 1,
) -> chex.Array:
    """The coded vector, float32[entries], of the indices that `encode_blocks` chose.

    Args:
      indices: uint32[blocks].
      prior_scale: scalar or float32[entries]; rounded to bfloat16.
      seed: uint32, as in encoding.
      entries: length of the coded vector.
      codebook_blocks: as in encoding.
    """
    partition = Partition(entries, indices.shape[0])
    seed = jnp.asarray(seed, jnp.uint32)
    block = jnp.arange(partition.blocks, dtype=jnp.uint32)
    drawn = quantiles(seed, block // np.uint32(codebook_blocks), indices, partition.block_size)
    lanes = signed(seed, block, drawn, codebook_blocks).astype(jnp.float32)
    slot = slot_of_entry(partition, seed, jnp.arange(entries, dtype=jnp.uint32))
    units = round_scale(prior_scale) * jnp.float32(1 / TABLE_UNIT)
    return jnp.take(lanes.ravel(), slot.astype(jnp.int32), axis=0) * units


def decode_tree(
    indices: chex.Array,
    prior_scale: chex.Array,
    uncoded: Sequence[chex.Array],
    sharing: Sharing,
    *,
    codebook_blocks: int = 1,
) -> Any:
    """The parameter tree of a file, float32 where coded, for use under the caller's jit.

    Args:
      indices: uint32[blocks].
      prior_scale: float32[groups].
      uncoded: the uncoded leaves in manifest order.
      sharing: with the file's seed and ranges and the tree's structure (static).
      codebook_blocks: of the file's header.
    """
    manifest = sharing.manifest
    sizes = sharing.group_sizes
    scale = jnp.concatenate([jnp.broadcast_to(prior_scale[g], (n,)) for g, n in enumerate(sizes)])
    seed = jnp.uint32(sharing.seed)
    coded = decode_blocks(
        indices, scale, seed, entries=manifest.entries, codebook_blocks=codebook_blocks
    )
    rest = iter(uncoded)
    slices = {index: where for index, _, where in sharing_lib.coded_tensors(manifest)}
    leaves = [
        sharing_lib.expand_group(coded[slices[i]], tensor, i, seed, jnp)
        if tensor.factor
        else next(rest)
        for i, tensor in enumerate(manifest.tensors)
    ]
    return sharing.treedef.unflatten(leaves)
