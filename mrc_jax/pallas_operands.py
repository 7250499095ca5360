"""The operands of `pallas_gpu`'s products, made in one launch of a GPU (Pallas, Triton): small
kernels of a compiler would take a tenth of the product's time.
"""

from functools import partial, reduce
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mrc_jax.pallas_tpu import two_parts

_ROWS = 16  # blocks of a program


def operands(
    a: chex.Array,
    c: chex.Array,
    rows: int,
    pieces: tuple[int, ...],
    *,
    logsumexp: bool,
    interpret: bool = False,
) -> tuple[chex.Array, list[chex.Array]]:
    """The unit of log-weights, a power of two, float32[rows, 1], and a and c in it.

    Args:
      a, c: float32[blocks, size]; as in `candidates.log_weights`.
      rows: at least `blocks`, a multiple of 16; the rest is zero.
      pieces: lanes, powers of two whose sum is at least `size`; the rest is zero.
      logsumexp: float16[rows, lanes] for a and for c, to the base 2; else bfloat16, `two_parts` of
        a and of c, of unit 1.
      interpret: of `pallas_call`.
    """
    lanes, dtype = sum(pieces), jnp.float16 if logsumexp else jnp.bfloat16
    shapes = [((rows, 1), jnp.float32)] + [((rows, lanes), dtype)] * (2 if logsumexp else 4)
    spec = [pl.BlockSpec((_ROWS, shape[1]), lambda i: (i, 0)) for shape, _ in shapes]
    unit, *parts = pl.pallas_call(
        partial(_kernel, shape=a.shape, pieces=pieces, logsumexp=logsumexp),
        out_shape=[jax.ShapeDtypeStruct(*shape) for shape in shapes],
        grid=(rows // _ROWS,),
        in_specs=[spec[1], spec[1]],
        out_specs=spec,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        name="operands",
    )(a, c)
    return unit, parts


def _kernel(
    *refs: jax.Ref, shape: tuple[int, ...], pieces: tuple[int, ...], logsumexp: bool
) -> None:
    a_ref, c_ref, unit_ref, *part_refs = refs
    row = pl.program_id(0) * _ROWS + lax.broadcasted_iota(jnp.int32, (_ROWS, 1), 0)
    places = [pl.ds(sum(pieces[:i]), piece) for i, piece in enumerate(pieces)]

    def load(ref: jax.Ref, at: Any) -> chex.Array:
        lane = at.start + lax.broadcasted_iota(jnp.int32, (_ROWS, at.size), 1)
        there = (row < shape[0]) & (lane < shape[1])
        return triton.load(ref.at[:, at], mask=there, other=jnp.float32(0))

    raw = [[load(ref, at) for ref in (a_ref, c_ref)] for at in places]
    unit = jnp.ones((_ROWS, 1), jnp.float32)
    if logsumexp:
        tops = [jnp.max(jnp.abs(x), axis=1, keepdims=True) for pair in raw for x in pair]
        exponent = lax.bitcast_convert_type(reduce(jnp.maximum, tops), jnp.int32) >> 23
        exponent = jnp.clip(exponent - 13, 1, 253)  # the largest is in [2^13, 2^14) units then
        unit = lax.bitcast_convert_type(exponent << 23, jnp.float32)
    unit_ref[...] = unit
    for at, pair in zip(places, raw, strict=True):
        if logsumexp:
            by = np.float32(np.log2(np.e)) / unit  # the logarithm's base is 2
            parts = [(x * by).astype(jnp.float16) for x in pair]
        else:
            parts = [part for x in pair for part in two_parts(x)]
        for ref, part in zip(part_refs, parts, strict=True):
            ref[:, at] = part
