"""Chooses an index for each block from its candidates' log-weights: exact sampling in two levels.

First one number for each cut (`kernels`), then the candidates of one cut, or a few: so the
private noise is a handful of numbers a block, and nothing of size K is kept. `key` is always the
encoder's own; the noise of a block is that of fold_in(key, block).
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mrc_jax import candidates, kernels, pallas_opening
from mrc_jax.errors import UsageError
from mrc_jax.opening import best_of_opened
from mrc_jax.ordered_noise import Noise, log_times_in, noise_of
from mrc_jax.recipe import SELECTIONS
from mrc_jax.shared_random import offsets

_OPENED = 3  # cuts of a block at a time: it is seldom that more are needed, and asking takes time


class Blocks(NamedTuple):
    """Blocks that share a codebook.

    Attributes:
      a, c: float32[blocks, size], of `candidates.coefficients`, zero in lanes not in use; c times
        the blocks' signs.
      number: uint32[blocks].
      seed, codebook: uint32 scalars.
      kept: int16[size, 2**bits], the codebook, or None: it is made piece by piece.
    """

    a: chex.Array
    c: chex.Array
    number: chex.Array
    seed: chex.Array
    codebook: chex.Array
    kept: chex.Array | None = None


def select(
    key: chex.PRNGKey,
    blocks: Blocks,
    *,
    bits: int,
    selection: str,
    kernel: str = "codebook",
    axis: str | None = None,
    reach: chex.Array | None = None,
) -> chex.Array:
    """The chosen candidates, uint32[blocks].

    Args:
      key: the encoder's own.
      blocks: what to code.
      bits: log2 of the number of candidates.
      selection: 'sample': candidate k with probability softmax(log_weights)[k] (MIRACLE, Algorithm
        1). 'ordered': ordered random coding (Theis and Yosri 2022): the same law of the sample over
        the shared randomness, by a position that is likelier small. 'argmax': the largest
        log-weight, which is biased.
      kernel: of `candidates.log_weights`.
      axis: the mesh axis, if any, over whose devices the candidates are divided.
      reach: int32 scalar; 'ordered' chooses among the positions below 2**reach, all where None.

    Raises:
      UsageError: no such selection or kernel.
    """
    for name, value, known in (
        ("selection", selection, SELECTIONS),
        ("kernel", kernel, candidates.KERNELS),
    ):
        if value not in known:
            raise UsageError(f"{name} = {value!r}: must be one of {', '.join(known)}")
    keys = jax.vmap(lambda n: _words(jax.random.fold_in(key, n)))(blocks.number)
    if selection == "ordered":
        return _ordered(keys, blocks, bits, kernel, axis, reach)
    statistic = "logsumexp" if selection == "sample" else "max"
    scores = _statistics(blocks, bits, statistic, kernel, axis)
    if selection == "sample" and kernel == "pallas":
        return _sample_by_bounds(keys, blocks, bits, scores)
    if selection == "sample":
        cuts = jnp.arange(scores.shape[1], dtype=jnp.uint32)
        scores = scores + jax.vmap(lambda k: candidates.gumbel(k, cuts, 1))(keys)
    cut = jnp.argmax(scores, axis=1).astype(jnp.uint32)
    inside = _log_weights_in(blocks, cut[:, None], bits, _summed())[:, 0]
    if selection == "sample":
        candidate = jnp.arange(inside.shape[1], dtype=jnp.uint32)
        inside = inside + jax.vmap(lambda k: candidates.gumbel(k, candidate, 0))(keys)
    place = jnp.argmax(inside, axis=1).astype(jnp.uint32)
    return (cut << kernels.cut_bits(bits)) + place


def _words(key: chex.PRNGKey) -> chex.Array:
    """uint32[4]: a key for `exponential` and one for jax.random."""
    return jax.random.bits(key, (4,), jnp.uint32)


def _drawn(blocks: Blocks, first: chex.Array, count: int) -> chex.Array:
    """Quantiles of candidates first, first + 1, ..: int16[size, count]."""
    size = blocks.a.shape[1]
    if blocks.kept is not None and blocks.kept.shape[1] == count:
        return blocks.kept
    if blocks.kept is not None:
        return lax.dynamic_slice(blocks.kept, (0, first.astype(jnp.int32)), (size, count))
    return kernels.draw(blocks.seed, blocks.codebook, first, count, size)


def _statistics(
    blocks: Blocks,
    bits: int,
    statistic: str,
    kernel: str,
    axis: str | None = None,
    noise: Noise | None = None,
) -> chex.Array:
    """The statistic of every cut, float32[blocks, cuts], chunk by chunk.

    With the ordered noise given, chunks whose every candidate must lose to one already seen are
    left out (-inf): the exact early stop.
    """
    count, size = blocks.a.shape
    devices = lax.axis_size(axis) if axis else 1
    cut, chunk_bits = 1 << kernels.cut_bits(bits), kernels.chunk_bits(bits, size, count, devices)
    if kernel == "pallas" and blocks.kept is not None and not axis:
        chunk_bits = bits  # nothing else of that size is made, and a chunk would be a copy
    chunks, per = (1 << bits - chunk_bits) // devices, (1 << chunk_bits) // cut
    first = lax.axis_index(axis) * chunks if axis else 0
    noise = None if chunks == 1 else noise
    own = 0 if noise is None else noise.start[0] // per % chunks

    def of_chunk(i: chex.Array) -> chex.Array:
        drawn = _drawn(blocks, i.astype(jnp.uint32) << chunk_bits, 1 << chunk_bits)
        return kernels.cut_statistics(
            drawn, blocks.a, blocks.c, cut=cut, statistic=statistic, kernel=kernel
        )

    def step(floor: chex.Array, i: chex.Array) -> tuple[chex.Array, chex.Array]:
        if noise is None:
            return floor, of_chunk(i)
        low, high = (
            lax.dynamic_slice_in_dim(x, i * per, per, axis=1) for x in (noise.low, noise.high)
        )
        can_win = jnp.any(noise.peak[:, None] - low > floor[:, None])
        out = lax.cond(can_win, of_chunk, lambda _: jnp.full_like(low, -jnp.inf), i)
        return jnp.maximum(floor, jnp.max(out - noise.slack[:, None] - high, axis=1)), out

    floor = jnp.minimum(blocks.a[:, 0], -jnp.inf)  # from an argument: see shard_map's types
    order = (jnp.arange(chunks) + own) % chunks
    _, out = lax.scan(step, floor, first + order)
    out = jnp.roll(out, own, axis=0).swapaxes(0, 1).reshape(count, -1)
    return lax.all_gather(out, axis, axis=1, tiled=True) if axis else out


def _sample_by_bounds(
    keys: chex.Array, blocks: Blocks, bits: int, scores: chex.Array
) -> chex.Array:
    """The choice by exact log-sum-exps, from close ones: cuts are opened while one that is not may
    still win.

    Args:
      keys: uint32[blocks, 4], private.
      blocks: what to code.
      bits: log2 of the number of candidates.
      scores: float32[blocks, cuts], the cuts' log-sum-exps but for `kernels.likely_rounding`.
    """
    cut_bits, cuts = kernels.cut_bits(bits), scores.shape[1]
    number = jnp.arange(cuts + (1 << cut_bits), dtype=jnp.uint32)
    is_cut = number < cuts
    counter = jnp.where(is_cut, number, number - np.uint32(cuts))  # both kinds of noise at once
    gumbels = jax.vmap(lambda key: candidates.gumbel(key, counter, is_cut.astype(jnp.uint32)))(keys)
    noise, within = gumbels[:, :cuts], gumbels[:, cuts:]
    bound = scores + noise + kernels.likely_rounding(blocks.a, blocks.c)[:, None]
    if blocks.kept is None:
        return _in_step(blocks, bits, bound, noise, within)
    return lax.platform_dependent(
        *(blocks, bound, noise, within),
        cuda=lambda blocks, *rows: pallas_opening.best_of_opened(
            blocks.kept, blocks.a, blocks.c, *rows
        ),
        default=lambda blocks, *rows: _in_step(blocks, bits, *rows),
    )


def _in_step(
    blocks: Blocks, bits: int, bound: chex.Array, noise: chex.Array, within: chex.Array
) -> chex.Array:
    """As `pallas_opening.best_of_opened`, all blocks in step, from any codebook."""
    cut_bits, within = kernels.cut_bits(bits), within[:, None]

    def opened(cut: chex.Array) -> tuple[chex.Array, chex.Array]:
        inside = _log_weights_in(blocks, cut, bits, "pallas")
        score = jax.nn.logsumexp(inside, axis=2) + jnp.take_along_axis(noise, cut, axis=1)
        place = jnp.argmax(inside + within, axis=2).astype(jnp.uint32)
        return score, (cut << cut_bits) + place

    return best_of_opened(bound, opened, _OPENED)


def _log_weights_in(blocks: Blocks, cut: chex.Array, bits: int, kernel: str) -> chex.Array:
    """Log-weights, float32[blocks, cuts, 2**cut_bits], of some cuts of each block, uint32[blocks,
    cuts].
    """
    cut_bits = kernels.cut_bits(bits)

    def one(a: chex.Array, c: chex.Array, cut: chex.Array) -> chex.Array:
        drawn = _drawn(blocks, cut << cut_bits, 1 << cut_bits)
        return candidates.log_weights(drawn, a[None], c[None], kernel)[0]

    return jax.vmap(jax.vmap(one, (None, None, 0)))(blocks.a, blocks.c, cut)


def _summed() -> str:
    """The kernel for a few candidates: no loop over lanes where each step is a launch."""
    return "reference" if jax.default_backend() == "cpu" else "pallas"


def _ordered(
    keys: chex.Array,
    blocks: Blocks,
    bits: int,
    kernel: str,
    axis: str | None,
    reach: chex.Array | None,
) -> chex.Array:
    """Ordered random coding: cuts are opened while one may still hold a better candidate."""
    cut_bits, by = kernels.cut_bits(bits), "pallas" if kernel == "pallas" else _summed()
    cuts, cut_size = 1 << bits - cut_bits, 1 << cut_bits
    offset = offsets(blocks.seed, blocks.number, bits).astype(jnp.int32)
    reach = jnp.full_like(offset, bits if reach is None else reach)
    noise = noise_of(keys, offset, blocks.a, blocks.c, bits, reach, kernel)
    top = _statistics(blocks, bits, "max", kernel, axis, noise)
    bound = top + noise.slack[:, None] - noise.low

    times_in = jax.vmap(jax.vmap(log_times_in, (None, None, 0, None, None)), (0, 0, 0, None, None))

    def opened(cut: chex.Array) -> tuple[chex.Array, chex.Array]:
        times = times_in(keys, noise, cut, cuts, cut_size)
        scores = _log_weights_in(blocks, cut, bits, by) - times
        place = jnp.argmax(scores, axis=2).astype(jnp.uint32)
        return jnp.max(scores, axis=2), (cut << cut_bits) + place

    return best_of_opened(bound, opened, 1 if by == "reference" else _OPENED)
