"""The objective of Algorithm 2 (MIRACLE): expected loss plus the beta-weighted KL of the blocks
not yet coded.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from mrc_jax.blocks import (
    Partition,
    entry_of_slot,
    slot_of_entry,
    slots_to_blocks,
    to_blocks,
)
from mrc_jax.gaussian import kl_nats
from mrc_jax.posterior import log_prior_scale_of_entries
from mrc_jax.samples import Coded, Parameters
from mrc_jax.sharing import Sharing


def block_kl_nats(
    parameters: Parameters, sharing: Sharing, partition: Partition, order: Any
) -> chex.Array:
    """KL(q || p) of each block, float32[blocks].

    Args:
      parameters: of the posterior.
      sharing: gives each entry its prior scale.
      partition: the blocks.
      order: of `slot_order`.
    """
    log_scale = log_prior_scale_of_entries(parameters, sharing)
    kl = kl_nats(parameters["mean"], parameters["log_variance"], log_scale)
    return jnp.sum(slots_to_blocks(in_slot_order(kl, order), partition), axis=0)


def slot_order(partition: Partition, seed: int) -> dict[str, chex.Array]:
    """The permutation and its inverse as int32[entries] arrays: `entry` of a slot, `slot` of an
    entry.
    """
    numbers = jnp.arange(partition.entries, dtype=jnp.uint32)
    return {
        "entry": entry_of_slot(partition, jnp.uint32(seed), numbers).astype(jnp.int32),
        "slot": slot_of_entry(partition, jnp.uint32(seed), numbers).astype(jnp.int32),
    }


def penalty_nats(betas: chex.Array, kl: chex.Array, coded: chex.Array | None = None) -> chex.Array:
    """sum over blocks not yet coded of betas * KL.

    Args:
      betas, kl: float32[blocks].
      coded: bool[blocks], True where a block is coded.
    """
    weighted = betas * kl
    return jnp.sum(weighted if coded is None else jnp.where(coded, 0, weighted))


def coded_blocks(coded: Coded, partition: Partition, order: Any) -> chex.Array:
    """bool[blocks]: which blocks are coded (lane 0 of every block is in use)."""
    return to_blocks(coded.is_coded, order["entry"], partition)[0]


def in_slot_order(values: chex.Array, order: Any) -> chex.Array:
    """A vector over entries, [entries], by slot; its gradient gathers and does not scatter.

    Args:
      values: by entry.
      order: of `slot_order`.
    """
    return _permuted(values, order["entry"], order["slot"])


def in_entry_order(slots: chex.Array, order: Any) -> chex.Array:
    """The inverse of `in_slot_order`."""
    return _permuted(slots, order["slot"], order["entry"])


@jax.custom_vjp
def _permuted(values: chex.Array, there: chex.Array, back: chex.Array) -> chex.Array:
    return values[there]


def _permuted_forward(values: chex.Array, there: chex.Array, back: chex.Array) -> Any:
    return values[there], back


def _permuted_backward(back: chex.Array, gradient: chex.Array) -> tuple[chex.Array, None, None]:
    return gradient[back], None, None


_permuted.defvjp(_permuted_forward, _permuted_backward)
