"""Candidates and their log-weights, log q(w_k) - log p(w_k) up to a constant of the block
(MIRACLE, Algorithm 1).

With w = scale * z the log-weight of one lane is z * (a z + c) + constant, where
a = (1 - scale^2 / s_q^2) / 2 and c = scale * mean / s_q^2.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax.shared_random import TABLE_UNIT, Stream, quantiles, sign_bits, threefry

_BOUND = 1e30  # of coefficients: sums of them times z^2 stay finite


def coefficients(
    mean: chex.Array, log_variance: chex.Array, prior_scale: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """(a, c) of each lane, float32, for arguments of equal shape."""
    precision = jnp.exp(-jnp.clip(log_variance, -60.0, 60.0))
    a = 0.5 * (1 - jnp.square(prior_scale) * precision)
    c = prior_scale * mean * precision
    return jnp.clip(a, -_BOUND, _BOUND), jnp.clip(c, -_BOUND, _BOUND)


def normals(seed: chex.Array, codebook: chex.Array, candidate: chex.Array, size: int) -> chex.Array:
    """The codebook's standard normals z, float32[size, ...], for candidates [...]."""
    drawn = quantiles(jnp.asarray(seed), codebook, candidate, size)
    return drawn.astype(jnp.float32) * jnp.float32(1 / TABLE_UNIT)


def signed(
    seed: chex.Array, block: chex.Array, lanes: chex.Array, codebook_blocks: int
) -> chex.Array:
    """`lanes` [size, ...] of blocks [...] times the blocks' signs (none for independent
    candidates).
    """
    if codebook_blocks == 1:
        return lanes
    negative = sign_bits(jnp.asarray(seed), Stream.CODEBOOK_SIGNS, block, lanes.shape[0])
    return jnp.where(jnp.moveaxis(negative, -1, 0), -lanes, lanes)


def log_weights(
    seed: chex.Array,
    codebook: chex.Array,
    candidate: chex.Array,
    a: chex.Array,
    c: chex.Array,
) -> chex.Array:
    """Log-weights of one block's candidates, float32[candidates]: the definition, lane by lane.

    Args:
      seed, codebook: uint32 scalars.
      candidate: uint32[candidates], indices below 2**bits.
      a, c: float32[block_size], of `coefficients`; c times the block's signs; zero in lanes that
        are not in use.
    """
    z = normals(seed, codebook, candidate, a.shape[0])
    return jnp.sum(z * (a[:, None] * z + c[:, None]), axis=0)


def chosen_values(
    seed: chex.Array,
    block: chex.Array,
    index: chex.Array,
    prior_scale: chex.Array,
    codebook_blocks: int,
) -> chex.Array:
    """The weights of chosen candidates, float32[block_size, ...], to the last bit those of the
    decoder.

    Args:
      seed: uint32 scalar.
      block, index: uint32[...].
      prior_scale: float32[block_size, ...], bfloat16 values.
      codebook_blocks: blocks that share a codebook.
    """
    size = prior_scale.shape[0]
    drawn = quantiles(jnp.asarray(seed), block // np.uint32(codebook_blocks), index, size)
    units = prior_scale * jnp.float32(1 / TABLE_UNIT)
    return signed(seed, block, drawn, codebook_blocks).astype(jnp.float32) * units


def gumbel(key: chex.Array, candidate: chex.Array) -> chex.Array:
    """The private noise of each candidate, float32[...], by its index alone: exact far into the
    tail.

    A uniform of 64 bits, so that the largest of 2^30 values is drawn from the right law and does
    not tie.

    Args:
      key: uint32[2], private to the encoder.
      candidate: uint32[...].
    """
    words = threefry((key[0], key[1]), (candidate, jnp.zeros_like(candidate)))
    high, low = (w.astype(jnp.float32) for w in jax.lax.optimization_barrier(words))
    uniform = (high + (low + 0.5) * jnp.float32(2.0**-32)) * jnp.float32(2.0**-32)
    exponential = -jnp.log1p(-jnp.minimum(uniform, jnp.float32(1 - 2.0**-24)))
    return -jnp.log(exponential)
