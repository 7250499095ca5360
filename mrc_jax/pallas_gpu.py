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

from mrc_jax.pallas_operands import operands
from mrc_jax.pallas_tpu import two_parts
from mrc_jax.shared_random import TABLE_UNIT

_SMALLEST = 16  # side of a matrix
_BLOCKS = 64  # of a tile, at most
_LARGEST_PIECE = 32  # lanes of a product


class Form(NamedTuple):
    """How a program does its work.

    Attributes:
      tile: candidates of a tile of log-weights.
      run: candidates of a number of the kernel's output, at most a cut.
      runs: of a program.
      warps, stages: of Triton.
      magic: int16 to float32 by its bits.
      exp2: 'assembly', a fused multiply-add and one instruction, or 'library'.
    """

    tile: int = 128
    run: int = 1024
    runs: int = 2
    warps: int = 4
    stages: int = 3
    magic: bool = True
    exp2: str = "assembly"


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
    pieces = _pieces(size)
    rows = blocks + -blocks % _columns(blocks)
    unit, coefficients = operands(a, c, rows, pieces, logsumexp=logsumexp, interpret=interpret)
    if interpret and form.exp2 == "assembly":
        form = form._replace(exp2="library")
    used = min(cut, form.run)
    run = max(used, _SMALLEST)
    form = form._replace(tile=min(form.tile, run), runs=min(form.runs, drawn.shape[1] // run))
    work = _Work(used, run, size, pieces, logsumexp, form)
    out = _call(drawn, unit, coefficients, work, interpret)
    out = out[:blocks].reshape(blocks, cuts, -1)
    best = jnp.max(out, axis=2)
    if logsumexp and out.shape[2] > 1:
        best = best + jnp.log(jnp.sum(jnp.exp(out - best[..., None]), axis=2))
    return best


class _Work(NamedTuple):
    used: int  # candidates of a run
    run: int
    size: int  # lanes in use
    pieces: tuple[int, ...]  # lanes of each product
    logsumexp: bool
    form: Form


def _columns(blocks: int) -> int:
    """Blocks of a tile."""
    return max(_SMALLEST, min(_BLOCKS, pl.next_power_of_2(blocks)))


def _pieces(size: int) -> tuple[int, ...]:
    """Lanes of each product, powers of two; their sum is at least `size`."""
    whole, rest = divmod(size, _LARGEST_PIECE)
    return (_LARGEST_PIECE,) * whole + (_SMALLEST,) * -(-rest // _SMALLEST)


def _call(
    drawn: chex.Array,
    unit: chex.Array,
    coefficients: list[chex.Array],
    work: _Work,
    interpret: bool,
) -> chex.Array:
    """float32[blocks, runs], blocks padded, of int16[size, runs * run] and `operands`."""
    (_, lanes), columns = coefficients[0].shape, _columns(len(unit))
    wide = work.run * work.form.runs
    return pl.pallas_call(
        partial(_kernel, work=work),
        out_shape=jax.ShapeDtypeStruct((len(unit), drawn.shape[1] // work.run), jnp.float32),
        grid=(drawn.shape[1] // wide, len(unit) // columns),
        in_specs=[
            pl.BlockSpec((lanes, wide), lambda i, j: (0, i)),
            pl.BlockSpec((columns, 1), lambda i, j: (j, 0)),
        ]
        + [pl.BlockSpec((columns, lanes), lambda i, j: (j, 0))] * len(coefficients),
        out_specs=pl.BlockSpec((columns, work.form.runs), lambda i, j: (j, i)),
        interpret=interpret,
        compiler_params=triton.CompilerParams(
            num_warps=work.form.warps, num_stages=work.form.stages
        ),
        name="cut_statistics",
    )(drawn, unit, *coefficients)


def _kernel(drawn_ref, unit_ref, *refs, work: _Work) -> None:  # pyright: ignore[reportMissingParameterType]
    *coefficient_refs, out_ref = refs
    form, unit = work.form, unit_ref[...]
    starts = [sum(work.pieces[:i]) for i in range(len(work.pieces))]
    places = list(zip(starts, work.pieces, strict=True))
    coefficients = [[ref[:, pl.ds(*at)] for ref in coefficient_refs] for at in places]
    exp2 = _EXP2[form.exp2]
    nothing = jnp.zeros(unit.shape, jnp.float32)

    def step(
        i: chex.Array, carry: tuple[chex.Array, chex.Array], first: int | chex.Array
    ) -> tuple[chex.Array, chex.Array]:
        before, total = carry
        start = pl.multiple_of(first + i * form.tile, form.tile)
        loaded = [_load(drawn_ref, *at, start, work) for at in places]
        scores = _scores(loaded, coefficients, form.magic)
        if work.used < form.tile:
            candidate = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            scores = jnp.where(candidate < work.used, scores, -jnp.inf)
        top = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        if work.logsumexp:
            added = jnp.sum(exp2(scores, unit, top * unit), axis=1, keepdims=True)
            total = total * exp2(before - top, unit, nothing) + added
        return top, total

    def of_run(j: int | chex.Array, _: int) -> int:
        steps = work.run // form.tile
        one = partial(step, first=j * work.run)
        top, total = lax.fori_loop(0, steps, one, (nothing - jnp.inf, nothing))
        if work.logsumexp:
            top = (top * unit) * np.float32(np.log(2)) + jnp.log(total)
        out_ref[:, pl.ds(j, 1)] = top
        return _

    runs = out_ref.shape[1]
    of_run(0, 0) if runs == 1 else lax.fori_loop(0, runs, of_run, 0)


def _load(drawn_ref, start: int, piece: int, place: chex.Array, work: _Work) -> chex.Array:  # pyright: ignore[reportMissingParameterType]
    """int16[piece, tile], zero in lanes not in use."""
    at = drawn_ref.at[pl.ds(start, piece), pl.ds(place, work.form.tile)]
    if start + piece <= work.size:
        return triton.load(at)
    lane = start + lax.broadcasted_iota(jnp.int32, (piece, work.form.tile), 0)
    return triton.load(at, mask=lane < work.size, other=jnp.int16(0))


def _scores(
    loaded: list[chex.Array], coefficients: list[list[chex.Array]], magic: bool
) -> chex.Array:
    """Log-weights of a tile over the unit, [blocks, candidates], summed by the matrix unit."""
    product = partial(
        lax.dot_general,
        dimension_numbers=(((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    products = [
        product(right, left)
        for drawn, own in zip(loaded, coefficients, strict=True)
        for left, right in _operands(drawn, own, magic)
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


def _exp2_library(x: chex.Array, unit: chex.Array, shift: chex.Array) -> chex.Array:
    """2^(x unit - shift): the product is exact, for the unit is a power of two."""
    return jnp.exp2(x * unit - shift)


def _exp2_assembly(x: chex.Array, unit: chex.Array, shift: chex.Array) -> chex.Array:
    (out,) = triton.elementwise_inline_asm(
        "{ .reg .f32 t; fma.rn.f32 t, $1, $2, $3; ex2.approx.ftz.f32 $0, t; }",
        args=[x, *(jnp.broadcast_to(y, x.shape) for y in (unit, -shift))],
        constraints="=f,f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )
    return out


_EXP2 = {"assembly": _exp2_assembly, "library": _exp2_library}
