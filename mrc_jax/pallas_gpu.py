"""The fused kernel of GPUs (Pallas, Triton): log-weights on matrix units, reduced to a number for
each cut in registers.

One program makes some runs of candidates for a tile of blocks: it loads int16 quantiles tile by
tile, makes z and z^2 of them, multiplies with the coefficients, float32 sums, and keeps a running
maximum and sum of exponentials a block.

Operands. For 'logsumexp' one float16 pass: operands of 11 bits, whose error `selection` corrects
(a cut is a proposal until its log-sum-exp is known in float32). For 'max' the three bfloat16 passes
of `pallas_tpu`, whose error is small enough to be a slack.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mrc_jax.pallas_tpu import two_parts
from mrc_jax.shared_random import TABLE_UNIT

_SMALLEST = 16  # side of a matrix
_BLOCKS = 64  # of a tile, at most
_LARGEST = 2.0**14  # a coefficient of float16, at most


class Form(NamedTuple):
    """How a program does its work; what it makes is the same.

    Attributes:
      tile: candidates of a tile of log-weights.
      run: candidates of a number of the kernel's output, at most a cut.
      runs: of a program.
      pieces: lanes of a product, the largest and the smallest power of two.
      warps, stages: of Triton.
      candidates_first: the product is [candidates, blocks].
      magic: int16 to float32 by its bits.
      assembly: exp2 as one instruction.
      given_top: no running maximum, a shift that is given.
    """

    tile: int = 128
    run: int = 1024
    runs: int = 1
    pieces: tuple[int, int] = (32, 16)
    warps: int = 4
    stages: int = 3
    candidates_first: bool = False
    magic: bool = True
    assembly: bool = True
    given_top: bool = False


_FORM = Form()


def cut_statistics(
    drawn: chex.Array,
    a: chex.Array,
    c: chex.Array,
    *,
    cut: int,
    statistic: str,
    form: Form = _FORM,
    interpret: bool = False,
) -> chex.Array:
    """The log-sum-exp or the maximum of the log-weights in each cut, float32[blocks, cuts].

    Args:
      drawn: int16[size, cuts * cut], quantiles of whole cuts.
      a, c: float32[blocks, size]; as in `candidates.log_weights`.
      cut: candidates of a cut, a power of two.
      statistic: 'logsumexp' or 'max'.
      form: how.
      interpret: of `pallas_call`.
    """
    (blocks, size), cuts = a.shape, drawn.shape[1] // cut
    if cut < _SMALLEST:  # each cut is a tile, of which a part is used
        padding = ((0, 0), (0, 0), (0, _SMALLEST - cut))
        drawn = jnp.pad(drawn.reshape(size, -1, cut), padding).reshape(size, -1)
    logsumexp = statistic == "logsumexp"
    unit = jnp.ones((blocks, 1), jnp.float32)
    if logsumexp:
        unit = _unit(a, c)
        coefficients = [(x * (1 / unit)).astype(jnp.float16) for x in (a, c)]
        unit = unit * np.float32(np.log2(np.e))
    else:
        coefficients = [part for x in (a, c) for part in two_parts(x)]
    top = _top_of_some(drawn, a, c) if form.given_top else unit
    out = _call(drawn, unit, top, coefficients, min(cut, form.run), logsumexp, form, interpret)
    out = out[:, :blocks].reshape(cuts, -1, blocks)
    best = jnp.max(out, axis=1)
    if logsumexp and out.shape[1] > 1:
        best = best + jnp.log(jnp.sum(jnp.exp(out - best[:, None]), axis=1))
    return best.T


def _call(
    drawn: chex.Array,
    unit: chex.Array,
    top: chex.Array,
    coefficients: list[chex.Array],
    used: int,
    logsumexp: bool,
    form: Form,
    interpret: bool,
) -> chex.Array:
    """float32[runs, blocks], blocks padded.

    Args:
      drawn: int16[size, runs * run] where run = max(used, _SMALLEST).
      unit: float32[blocks, 1], what products are multiplied by (to log2 of a weight).
      top: float32[blocks, 1], the shift that is given, if it is.
      coefficients: parts of a and c, [blocks, size] each.
      used: candidates of a run in use.
      logsumexp: and not the maximum.
      form, interpret: as in `cut_statistics`.
    """
    (blocks, size), run = coefficients[0].shape, max(used, _SMALLEST)
    columns = max(_SMALLEST, min(_BLOCKS, pl.next_power_of_2(blocks)))
    runs = min(form.runs, drawn.shape[1] // run)
    pieces = _pieces(size, *form.pieces)
    lanes = sum(pieces)
    padding = ((0, -blocks % columns), (0, lanes - size))
    coefficients = [jnp.pad(x, padding) for x in coefficients]
    unit, top = (jnp.pad(x, (padding[0], (0, 0))) for x in (unit, top))
    form = form._replace(tile=min(form.tile, run), assembly=form.assembly and not interpret)
    work = _Work(used, run, size, pieces, logsumexp, form)
    return pl.pallas_call(
        partial(_kernel, work=work),
        out_shape=jax.ShapeDtypeStruct((drawn.shape[1] // run, len(unit)), jnp.float32),
        grid=(drawn.shape[1] // (run * runs), len(unit) // columns),
        in_specs=[pl.BlockSpec((lanes, run * runs), lambda i, j: (0, i))]
        + [pl.BlockSpec((columns, 1), lambda i, j: (j, 0))] * 2
        + [pl.BlockSpec((columns, lanes), lambda i, j: (j, 0))] * len(coefficients),
        out_specs=pl.BlockSpec((runs, columns), lambda i, j: (i, j)),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=form.warps, num_stages=form.stages),
        name="cut_statistics",
    )(drawn, unit, top, *coefficients)


def _top_of_some(drawn: chex.Array, a: chex.Array, c: chex.Array) -> chex.Array:
    z = drawn[:, :1024].astype(jnp.float32) * jnp.float32(1 / TABLE_UNIT)
    product = partial(jnp.dot, precision=lax.Precision.HIGHEST)
    top = jnp.max(product(a, z * z) + product(c, z), axis=1, keepdims=True)
    return top * np.float32(np.log2(np.e)) + 40


def _unit(a: chex.Array, c: chex.Array) -> chex.Array:
    """A power of two of each block, float32[blocks, 1]: over it coefficients fit float16."""
    largest = jnp.max(jnp.maximum(jnp.abs(a), jnp.abs(c)), axis=1, keepdims=True)
    exponent = lax.bitcast_convert_type(largest, jnp.int32) >> 23  # of a float32 >= 0
    exponent = jnp.clip(exponent - 13, 1, 253)
    return lax.bitcast_convert_type(exponent << 23, jnp.float32)


def _pieces(size: int, largest: int, smallest: int) -> tuple[int, ...]:
    """Powers of two whose sum is at least `size`."""
    out = [largest] * (size // largest)
    rest = size % largest
    while rest > 0:
        piece = smallest
        while piece * 2 <= rest:
            piece *= 2
        out.append(piece)
        rest -= piece
    return tuple(out)


class _Work(NamedTuple):
    used: int  # candidates of a run
    run: int
    size: int  # lanes in use
    pieces: tuple[int, ...]
    logsumexp: bool
    form: Form


def _kernel(drawn_ref, unit_ref, top_ref, *refs, work: _Work) -> None:  # pyright: ignore[reportMissingParameterType]
    *coefficient_refs, out_ref = refs
    (columns, _), form = unit_ref.shape, work.form
    axis, shape, wide = 1, (columns, 1), (columns, form.tile)
    if form.candidates_first:
        axis, shape, wide = 0, shape[::-1], wide[::-1]
    unit, shift = (ref[...].reshape(shape) for ref in (unit_ref, top_ref))
    starts = [sum(work.pieces[:i]) for i in range(len(work.pieces))]
    places = list(zip(starts, work.pieces, strict=True))
    coefficients = [[ref[:, pl.ds(*at)] for ref in coefficient_refs] for at in places]
    exp2 = _exp2_assembly if form.assembly else jnp.exp2

    def step(
        i: chex.Array, carry: tuple[chex.Array, chex.Array], first: int | chex.Array
    ) -> tuple[chex.Array, chex.Array]:
        before, total = carry
        start = pl.multiple_of(first + i * form.tile, form.tile)
        loaded = [_load(drawn_ref, *at, start, work) for at in places]
        scores = _scores(loaded, coefficients, form)
        if work.used < form.tile:
            candidate = lax.broadcasted_iota(jnp.int32, scores.shape, axis)
            scores = jnp.where(candidate < work.used, scores, -jnp.inf)
        if form.given_top:
            return before, total + exp2(scores * unit - shift)
        top = jnp.maximum(before, jnp.max(scores, axis=axis, keepdims=True))
        if work.logsumexp:  # differences first: a fused scores * unit - top could be far above 0
            added = jnp.sum(exp2((scores - top) * unit), axis=axis, keepdims=True)
            total = total * exp2((before - top) * unit) + added
        return top, total

    def of_run(j: int | chex.Array, _: int) -> int:
        nothing = jnp.zeros(shape, jnp.float32)
        start = jnp.zeros(wide, jnp.float32) if form.given_top else nothing
        steps = work.run // form.tile
        one = partial(step, first=j * work.run)
        top, total = lax.fori_loop(0, steps, one, (nothing - jnp.inf, start))
        if form.given_top:
            top, total = shift / unit, jnp.sum(total, axis=axis, keepdims=True)
        if work.logsumexp:
            top = (top * unit) * np.float32(np.log(2)) + jnp.log(total)
        out_ref[j, :] = top.reshape(columns)
        return _

    runs = out_ref.shape[0]
    of_run(0, 0) if runs == 1 else lax.fori_loop(0, runs, of_run, 0)


def _load(drawn_ref, start: int, piece: int, place: chex.Array, work: _Work) -> chex.Array:  # pyright: ignore[reportMissingParameterType]
    """int16[piece, tile], zero in lanes not in use."""
    at = drawn_ref.at[pl.ds(start, piece), pl.ds(place, work.form.tile)]
    if start + piece <= work.size:
        return triton.load(at)
    lane = start + lax.broadcasted_iota(jnp.int32, (piece, work.form.tile), 0)
    return triton.load(at, mask=lane < work.size, other=jnp.int16(0))


def _scores(
    loaded: list[chex.Array], coefficients: list[list[chex.Array]], form: Form
) -> chex.Array:
    """Log-weights of a tile over the unit, summed by the matrix unit."""
    products = [
        _product(left, right, form.candidates_first)
        for drawn, own in zip(loaded, coefficients, strict=True)
        for left, right in _operands(drawn, own, form.magic)
    ]
    return sum(products[1:], products[0])


def _operands(
    drawn: chex.Array, coefficients: list[chex.Array], magic: bool
) -> list[tuple[chex.Array, chex.Array]]:
    """The pairs whose products add up to log-weights: small ones first."""
    if magic:
        word = drawn.astype(jnp.int32) + np.int32(0x4B400000)  # 1.5 * 2^23 + drawn
        z = lax.bitcast_convert_type(word, jnp.float32) * np.float32(1 / TABLE_UNIT)
        z = z - np.float32(1.5 * 2**23 / TABLE_UNIT)
    else:
        z = drawn.astype(jnp.int32).astype(jnp.float32) * np.float32(1 / TABLE_UNIT)
    if len(coefficients) == 2:
        a, c = coefficients
        return [((z * z).astype(jnp.float16), a), (z.astype(jnp.float16), c)]
    a, a_rest, c, c_rest = coefficients
    (square, square_rest), (lane, lane_rest) = two_parts(z * z), two_parts(z)
    small = [(square_rest, a), (square, a_rest), (lane_rest, c), (lane, c_rest)]
    return [*small, (square, a), (lane, c)]


def _product(
    candidates: chex.Array, coefficients: chex.Array, candidates_first: bool
) -> chex.Array:
    """[candidates, blocks] or [blocks, candidates], of [lanes, candidates] and [blocks, lanes]."""
    pair, contracted = (coefficients, candidates), ((1,), (0,))
    if candidates_first:
        pair, contracted = (candidates, coefficients), ((0,), (1,))
    return lax.dot_general(*pair, (contracted, ((), ())), preferred_element_type=jnp.float32)


def _exp2_assembly(x: chex.Array) -> chex.Array:
    (out,) = triton.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )
    return out
