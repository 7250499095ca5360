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

KERNELS = ("reference", "codebook", "pallas")
LARGEST = 17_715 / TABLE_UNIT  # |z| of the table
_BOUND = 1e30  # of coefficients: sums of them times z^2 stay finite


def coefficients(
    mean: chex.Array, log_variance: chex.Array, prior_scale: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """(a, c) of each lane, float32, for arguments of equal shape."""
    precision = jnp.exp(-jnp.clip(log_variance, -60.0, 60.0))
    a = 0.5 * (1 - jnp.square(prior_scale) * precision)
    c = prior_scale * mean * precision
    return jnp.clip(a, -_BOUND, _BOUND), jnp.clip(c, -_BOUND, _BOUND)


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
    drawn: chex.Array, a: chex.Array, c: chex.Array, kernel: str = "reference"
) -> chex.Array:
    """Log-weights, float32[blocks, candidates], of candidates that the blocks share.

    Args:
      drawn: int16[size, candidates], of `quantiles`.
      a, c: float32[blocks, size], of `coefficients`; c times the blocks' signs; zero in lanes that
        are not in use.
      kernel: 'reference' adds lane by lane, which is the definition; 'codebook' makes one matrix
        product for all blocks; 'pallas' is the same here: it has a kernel of its own only where
        log-weights are reduced at once (`kernels.cut_statistics`).
    """
    if kernel == "pallas" and a.shape[0] == 1:
        z = drawn.astype(jnp.float32) * jnp.float32(1 / TABLE_UNIT)
        return jnp.sum(z * (a[0][:, None] * z + c[0][:, None]), axis=0)[None]
    if kernel == "reference" or a.shape[0] == 1:  # one block is bound by memory: no product helps
        return _lane_by_lane(drawn, a, c)
    z = drawn.astype(jnp.float32) * jnp.float32(1 / TABLE_UNIT)
    is_square = (jnp.arange(2) == 0)[:, None, None]
    both = z * jnp.where(is_square, z, 1)  # 2-fold faster than a concatenation on a CPU
    coefficients = jnp.concatenate([a, c], axis=1)
    both = both.reshape(coefficients.shape[1], -1)
    return jnp.dot(coefficients, both, precision=jax.lax.Precision.HIGHEST)


def _lane_by_lane(drawn: chex.Array, a: chex.Array, c: chex.Array) -> chex.Array:
    def of_lane(drawn: chex.Array, a: chex.Array, c: chex.Array) -> chex.Array:
        z = drawn.astype(jnp.float32) * jnp.float32(1 / TABLE_UNIT)
        return z * (a[:, None] * z + c[:, None])

    def add(scores: chex.Array, lane: tuple[chex.Array, ...]) -> tuple[chex.Array, None]:
        return scores + of_lane(*lane), None

    lanes = (drawn, a.T, c.T)
    first, others = (tuple(x[at] for x in lanes) for at in (0, slice(1, None)))
    return jax.lax.scan(add, of_lane(*first), others)[0]


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


def exponential(key: chex.Array, counter: chex.Array, use: int | chex.Array) -> chex.Array:
    """Private noise, Exp(1) by counter alone, float32[...]: exact far into both tails.

    A uniform of 64 bits, so that the smallest of 2^30 values is drawn from the right law and does
    not tie.

    Args:
      key: uint32[2], private to the encoder.
      counter: uint32[...].
      use: of the noise, so that two uses of a key share none; an integer, or uint32[...].
    """
    words = threefry((key[0], key[1]), (counter, jnp.full_like(counter, use)))
    high, low = (w.astype(jnp.float32) for w in jax.lax.optimization_barrier(words))
    uniform = (high + (low + 0.5) * jnp.float32(2.0**-32)) * jnp.float32(2.0**-32)
    return -jnp.log1p(-jnp.minimum(uniform, jnp.float32(1 - 2.0**-24)))


def gumbel(key: chex.Array, counter: chex.Array, use: int | chex.Array) -> chex.Array:
    """Private noise with the standard Gumbel law; see `exponential`."""
    return -jnp.log(exponential(key, counter, use))
