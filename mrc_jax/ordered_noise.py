"""The private noise of ordered random coding, in two levels: sums over cuts, then inside one cut.

Theis and Yosri, "Algorithms for the communication of samples", ICML 2022.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import candidates, kernels
from mrc_jax.candidates import LARGEST


class Noise(NamedTuple):
    """The ordered noise at the ends of the cuts, and what it is compared with.

    Position n of a block has the n-th smallest of K exponentials T; U = 1 - exp(-T) is then the
    n-th of K sorted uniforms, a sum of n of K + 1 exponentials over the sum of all, so the sums
    over cuts are Gamma variables. A block's positions start inside a cut, whose two ends are the
    first and the last positions.

    Attributes:
      sums: float32[blocks, cuts + 1], of the exponentials of each run of positions, in order.
      before, after: float32[blocks, cuts + 1], sums before each run and after it.
      start: int32[blocks], the cut of position 0.
      inside: int32[blocks], its place in that cut.
      low, high: float32[blocks, cuts], ln T at the ends of each cut (in the candidates' order).
      peak: float32[blocks], no log-weight is larger.
      slack: float32[blocks], of rounding.
      reach: int32[blocks]; only positions below 2**reach may be chosen.
    """

    sums: chex.Array
    before: chex.Array
    after: chex.Array
    start: chex.Array
    inside: chex.Array
    low: chex.Array
    high: chex.Array
    peak: chex.Array
    slack: chex.Array
    reach: chex.Array


def noise_of(
    keys: chex.Array,
    offset: chex.Array,
    a: chex.Array,
    c: chex.Array,
    bits: int,
    reach: chex.Array,
    kernel: str = "codebook",
) -> Noise:
    """The noise of blocks.

    Args:
      keys: uint32[blocks, 4], private: two words for `candidates.exponential`, two for jax.random.
      offset: int32[blocks], the candidate at position 0.
      a, c: float32[blocks, size], of `candidates.coefficients`.
      bits: log2 of the number of candidates.
      reach: int32[blocks], at most `bits`: only positions below 2**reach may be chosen.
      kernel: of `candidates.log_weights`; how far it may round.
    """
    cut_bits = kernels.cut_bits(bits)
    cuts, cut = 1 << bits - cut_bits, 1 << cut_bits
    start, inside = offset >> cut_bits, offset & (cut - 1)
    run = jnp.arange(cuts + 1)

    def of_block(key: chex.Array, inside: chex.Array) -> tuple[chex.Array, ...]:
        shape = jnp.where(run == 0, cut - inside, jnp.where(run == cuts, inside, cut))
        private = jax.random.wrap_key_data(key[2:], impl="threefry2x32")
        shapes = jnp.maximum(shape, 1).astype(jnp.float32)
        gamma = jax.random.gamma(private, shapes, dtype=jnp.float32)
        sums = jnp.where(shape > 0, gamma, 0)
        last = candidates.exponential(key, jnp.zeros(1, jnp.uint32), 2)
        before = jnp.concatenate([jnp.zeros(1, jnp.float32), jnp.cumsum(sums)[:-1]])
        after = jnp.cumsum(jnp.concatenate([last, sums[:0:-1]]))[::-1]
        return sums, before, after

    sums, before, after = jax.vmap(of_block)(keys, inside)
    ends = _log_time(before[:, 1:], sums[:, 1:] + after[:, 1:])  # ln T at the end of runs 0, 1, ..
    first = jnp.full_like(ends[:, :1], -jnp.inf)
    low = jnp.concatenate([first, ends[:, :-1]], axis=1)
    final = _log_time(before[:, -1:] + sums[:, -1:], after[:, -1:])
    high = jnp.concatenate([final, ends[:, 1:]], axis=1)  # the first cut ends with the last run
    roll = jax.vmap(jnp.roll)
    before_run = jnp.maximum(run[:cuts] * cut - inside[:, None], 0)  # the first of its positions
    within = (run[:cuts] + 1) * cut - inside[:, None] <= 1 << reach[:, None]
    within &= (run[:cuts] > 0) | (reach[:, None] == bits)  # the last positions are in the first cut
    low = jnp.where(before_run < 1 << reach[:, None], low, jnp.inf)
    high = jnp.where(within, high, jnp.inf)
    low, high = roll(low, start), roll(high, start)
    peak = _peak(a, c)
    slack = kernels.rounding_bound(a, c, kernel) + jnp.float32(1e-5)
    return Noise(sums, before, after, start, inside, low, high, peak + slack, slack, reach)


def _peak(a: chex.Array, c: chex.Array) -> chex.Array:
    """The largest log-weight that any candidate could have, float32[blocks]."""
    vertex = jnp.clip(-c / jnp.where(a < 0, 2 * a, -1), -LARGEST, LARGEST)
    ends = jnp.full_like(vertex, LARGEST)
    places = jnp.stack([vertex, ends, -ends])
    return jnp.sum(jnp.max(places * (a * places + c), axis=0), axis=1)


def _log_time(before: chex.Array, after: chex.Array) -> chex.Array:
    """ln T where U = before / (before + after), exact at both ends of it."""
    total = before + after
    early = -jnp.log1p(-before / total)
    late = -jnp.log(after / total)
    return jnp.log(jnp.where(before < after, early, late))


def log_times_in(
    key: chex.Array, noise: Noise, cut: chex.Array, cuts: int, size: int
) -> chex.Array:
    """ln T of every candidate of a cut of one block, float32[size]; infinite beyond the reach.

    Args:
      key: uint32[4], the block's.
      noise: the block's.
      cut: uint32 scalar.
      cuts, size: how many cuts there are, and candidates in each.
    """
    run = (cut.astype(jnp.int32) - noise.start) % cuts
    candidate = jnp.arange(size, dtype=jnp.uint32)
    spacing = candidates.exponential(key, (cut << np.uint32(size.bit_length() - 1)) + candidate, 3)
    in_first = (run > 0) | (candidate >= noise.inside.astype(jnp.uint32))

    def times(mask: chex.Array, run: chex.Array) -> chex.Array:
        steps = jnp.where(mask, spacing, 0)
        partial = jnp.cumsum(steps)
        share = partial / jnp.maximum(partial[-1], jnp.float32(1e-30)) * noise.sums[run]
        rest = jnp.maximum(noise.sums[run] - share, 0) + noise.after[run]
        return _log_time(noise.before[run] + share, rest)

    log_times = jnp.where(in_first, times(in_first, run), times(~in_first, jnp.asarray(cuts)))
    position = (run * size - noise.inside + candidate.astype(jnp.int32)) % (cuts * size)
    return jnp.where(position < 1 << noise.reach, log_times, jnp.inf)
