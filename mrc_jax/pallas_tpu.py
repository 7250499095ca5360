"""The fused kernel of TPUs (Pallas, Mosaic): log-weights on matrix units, reduced to a number for
each cut where they are made, so that nothing of size blocks x candidates is ever in memory.

The private noise is not in it, for it need not be: a cut is drawn by its log-sum-exp and one Gumbel
variable, and only then a candidate inside (`selection`), so the noise is a few numbers a block.

Operands. z, z^2 and the coefficients are each the sum of two bfloat16 numbers, and of the four
products of parts that of the two small ones is left out: three bfloat16 passes, added in float32.
It is the cheapest way whose law is within 1e-3 of the reference's in total variation (2.3e-4 at
most; experiments/benchmark/precision.py): two passes are up to 1e-2 away.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

from mrc_jax.shared_random import TABLE_UNIT

_CANDIDATES = 128  # of a tile of log-weights: lanes of a TPU's register
_BLOCKS = 128  # of a tile, at most: lanes again
_SMALLEST = 16  # side of a matrix

# Relative to |a z^2| or |c z|: 2^-16 for what the parts of each operand leave of it, 2^-16 for the
# product of the small parts (2^-8 of the operands at most), and as much for six sums, not one.
ROUNDING = 2.0**-14


def cut_statistics(
    drawn: chex.Array,
    a: chex.Array,
    c: chex.Array,
    *,
    cut: int,
    statistic: str,
    interpret: bool = False,
) -> chex.Array:
    """The log-sum-exp or the maximum of the log-weights in each cut, float32[blocks, cuts].

    Args:
      drawn: int16[size, cuts * cut], quantiles of whole cuts.
      a, c: float32[blocks, size]; as in `candidates.log_weights`.
      cut: candidates of a cut, a power of two.
      statistic: 'logsumexp' or 'max'.
      interpret: of `pallas_call`.
    """
    blocks, size = a.shape
    rows = max(_SMALLEST, pl.next_power_of_2(size))
    columns = max(_SMALLEST, min(_BLOCKS, pl.next_power_of_2(blocks)))
    if cut < _CANDIDATES:  # each cut is a tile, of which a part is used
        padding = ((0, 0), (0, 0), (0, _CANDIDATES - cut))
        drawn = jnp.pad(drawn.reshape(size, -1, cut), padding).reshape(size, -1)
    drawn = jnp.pad(drawn, ((0, rows - size), (0, 0)))
    operands = [
        jnp.pad(part, ((0, rows - size), (0, -blocks % columns)))
        for coefficient in (a, c)
        for part in two_parts(coefficient.T)
    ]
    out = _call(
        drawn,
        *operands,
        cut=cut,
        logsumexp=statistic == "logsumexp",
        columns=columns,
        interpret=interpret,
    )
    return out[:, 0, :blocks].T


def _call(
    drawn: chex.Array,
    *coefficients: chex.Array,
    cut: int,
    logsumexp: bool,
    columns: int,
    interpret: bool,
) -> chex.Array:
    """float32[cuts, 1, blocks], blocks padded; a program of the grid makes one cut of it for a tile
    of blocks, and reads the cut's candidates once.

    Args:
      drawn: int16[size, cuts * width] where width = max(cut, _CANDIDATES).
      *coefficients: parts of a and c, bfloat16[size, blocks] each.
      cut: candidates of a cut in use.
      logsumexp: and not the maximum.
      columns: blocks of a tile.
      interpret: of `pallas_call`.
    """
    (size, candidates), blocks = drawn.shape, coefficients[0].shape[1]
    width = max(cut, _CANDIDATES)
    return pl.pallas_call(
        partial(_kernel, cut=cut, logsumexp=logsumexp),
        out_shape=jax.ShapeDtypeStruct((candidates // width, 1, blocks), jnp.float32),
        grid=(candidates // width, blocks // columns),
        in_specs=[pl.BlockSpec((size, width), lambda i, j: (0, i))]
        + [pl.BlockSpec((size, columns), lambda i, j: (0, j))] * len(coefficients),
        out_specs=pl.BlockSpec((None, 1, columns), lambda i, j: (i, 0, j)),
        interpret=interpret,
        compiler_params=tpu.CompilerParams(),
        name="cut_statistics",
    )(drawn, *coefficients)


def _kernel(drawn_ref, *refs, cut: int, logsumexp: bool) -> None:  # pyright: ignore[reportMissingParameterType]
    *coefficient_refs, out_ref = refs
    a_and_c = [ref[...] for ref in coefficient_refs]

    def step(i: chex.Array, carry: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        start = pl.multiple_of(i * _CANDIDATES, _CANDIDATES)
        scores = _scores(drawn_ref[:, pl.ds(start, _CANDIDATES)], *a_and_c)
        if cut < _CANDIDATES:
            candidate = lax.broadcasted_iota(jnp.int32, scores.shape, 0)
            scores = jnp.where(candidate < cut, scores, -jnp.inf)
        before, total = carry
        top = jnp.maximum(before, jnp.max(scores, axis=0, keepdims=True))
        if logsumexp:
            added = jnp.sum(jnp.exp(scores - top), axis=0, keepdims=True)
            total = total * jnp.exp(before - top) + added
        return top, total

    nothing = jnp.zeros(out_ref.shape, jnp.float32)
    steps = max(1, cut // _CANDIDATES)
    top, total = lax.fori_loop(0, steps, step, (nothing - jnp.inf, nothing))
    out_ref[...] = top + jnp.log(total) if logsumexp else top


def _scores(
    drawn: chex.Array, a: chex.Array, a_rest: chex.Array, c: chex.Array, c_rest: chex.Array
) -> chex.Array:
    """Log-weights of a tile, float32[candidates, blocks], from quantiles, int16[size, candidates],
    and the parts of the coefficients, bfloat16[size, blocks].
    """
    z = drawn.astype(jnp.int32).astype(jnp.float32) * jnp.float32(1 / TABLE_UNIT)
    both = ((two_parts(z * z), a, a_rest), (two_parts(z), c, c_rest))
    product = partial(
        lax.dot_general,
        dimension_numbers=(((0,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    small = [
        product(part, other)
        for (lane, rest), coefficient, remainder in both
        for part, other in ((rest, coefficient), (lane, remainder))
    ]
    large = [product(lane, coefficient) for (lane, _), coefficient, _ in both]
    return sum(small[1:], small[0]) + (large[0] + large[1])


def two_parts(x: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Two bfloat16 numbers whose sum is x, to 2^-16 of it; exactly x for int16 over a power of two.

    Rounded as integers: a compiler may leave out a conversion to bfloat16 and back.
    """
    word = lax.bitcast_convert_type(x, jnp.int32) + jnp.int32(1 << 15)
    large = lax.bitcast_convert_type(word & jnp.int32(-(1 << 16)), jnp.float32)
    return large.astype(jnp.bfloat16), (x - large).astype(jnp.bfloat16)
