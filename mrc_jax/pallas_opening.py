"""Opens cuts on a GPU (Pallas, Triton): a program settles a block's choice from close bounds.

What `opening.best_of_opened` does for all blocks in step, with the exact log-sum-exps of
`selection`: here no block waits for another, and the host is not asked whether to go on.
"""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mrc_jax.shared_random import TABLE_UNIT

_LANES = 16  # loaded at a time
_TILE = 1024  # candidates, or bounds, at a time
_WARPS = 8


def best_of_opened(
    kept: chex.Array,
    a: chex.Array,
    c: chex.Array,
    bound: chex.Array,
    noise: chex.Array,
    within: chex.Array,
    *,
    interpret: bool = False,
) -> chex.Array:
    """The best candidate of the cut whose log-sum-exp and noise add up to most, uint32[blocks].

    Args:
      kept: int16[size, cuts * cut], a codebook.
      a, c: float32[blocks, size]; as in `candidates.log_weights`.
      bound: float32[blocks, cuts], what no cut's sum is above.
      noise: float32[blocks, cuts], of the cuts.
      within: float32[blocks, cut], added to a cut's log-weights before the best is taken.
      interpret: of `pallas_call`.
    """
    blocks, size = a.shape
    a, c = (jnp.pad(x, ((0, 0), (0, -size % _LANES))) for x in (a, c))
    rows = (a, c, bound, noise, within)
    return pl.pallas_call(
        partial(_kernel, size=size),
        out_shape=jax.ShapeDtypeStruct((blocks, 1), jnp.uint32),
        grid=(blocks,),
        in_specs=[pl.BlockSpec((a.shape[1], kept.shape[1]), lambda i: (0, 0))]
        + [pl.BlockSpec((None, x.shape[1]), lambda i: (i, 0)) for x in rows],
        out_specs=pl.BlockSpec((None, 1), lambda i: (i, 0)),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=1),
        name="best_of_opened",
    )(kept, *rows)[:, 0]


class _Refs(NamedTuple):
    """As the arguments of `best_of_opened`, one row of each but `kept`."""

    kept: Any
    a: Any
    c: Any
    bound: Any
    noise: Any
    within: Any


class _Found(NamedTuple):
    bound: chex.Array  # of the cut opened next
    cut: chex.Array
    score: chex.Array  # of the best cut so far
    chosen: chex.Array  # its best candidate


def _kernel(*refs: Any, size: int) -> None:
    rows, out_ref = _Refs(*refs[:-1]), refs[-1]
    least, cut_size = jnp.float32(-np.inf), rows.within.shape[0]

    def step(found: _Found) -> _Found:
        total, place = _opened(rows, found.cut, size)
        score = total + jnp.sum(triton.load(rows.noise.at[pl.ds(found.cut, 1)]))
        better = score > found.score
        chosen = jnp.where(better, found.cut * cut_size + place, found.chosen)
        bound, cut = _next(rows, found.bound, found.cut)
        return _Found(bound, cut, jnp.where(better, score, found.score), chosen)

    first = _next(rows, jnp.float32(np.inf), jnp.int32(-1))
    found = step(_Found(*first, least, jnp.int32(0)))
    found = lax.while_loop(lambda f: f.bound > f.score, step, found)
    out_ref[...] = jnp.broadcast_to(found.chosen.astype(jnp.uint32), (1,))


def _next(rows: _Refs, last: chex.Array, last_cut: chex.Array) -> tuple[chex.Array, chex.Array]:
    """The bound and place that follow a cut's in the order in which cuts are opened: the largest
    first, of equal ones the first; -inf where none is left.
    """
    cuts = rows.bound.shape[0]
    tile = min(_TILE, cuts)

    def step(i: chex.Array, best: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        bound = triton.load(rows.bound.at[pl.ds(i * tile, tile)])
        cut = i * tile + lax.iota(jnp.int32, tile)
        is_after = (bound < last) | ((bound == last) & (cut > last_cut))
        return _better(best, _largest(jnp.where(is_after, bound, -jnp.inf), i * tile))

    nothing = jnp.float32(-np.inf), jnp.int32(0)
    return lax.fori_loop(0, cuts // tile, step, nothing)


def _opened(rows: _Refs, cut: chex.Array, size: int) -> tuple[chex.Array, chex.Array]:
    """The log-sum-exp of a cut's log-weights and the place of its best candidate."""
    cut_size = rows.within.shape[0]
    tile = min(_TILE, cut_size)

    def step(i: chex.Array, carry: tuple[chex.Array, ...]) -> tuple[chex.Array, ...]:
        top, total, *best = carry
        score = _log_weights(rows, cut * cut_size + i * tile, tile, size)
        higher = jnp.maximum(top, jnp.max(score))
        total = total * jnp.exp(top - higher) + jnp.sum(jnp.exp(score - higher))
        noisy = score + triton.load(rows.within.at[pl.ds(i * tile, tile)])
        return (higher, total, *_better((best[0], best[1]), _largest(noisy, i * tile)))

    least = jnp.float32(-np.inf)
    nothing = least, jnp.float32(0), least, jnp.int32(0)
    top, total, _, place = lax.fori_loop(0, cut_size // tile, step, nothing)
    return top + jnp.log(total), place


def _log_weights(rows: _Refs, first: chex.Array, count: int, size: int) -> chex.Array:
    """float32[count]: as `candidates.log_weights`, summed by pieces."""
    out = jnp.zeros(count, jnp.float32)
    for start in range(0, size, _LANES):
        at = rows.kept.at[pl.ds(start, _LANES), pl.ds(first, count)]
        lane = start + lax.broadcasted_iota(jnp.int32, (_LANES, count), 0)
        drawn = triton.load(at, mask=lane < size, other=jnp.int16(0))
        a, c = (triton.load(x.at[pl.ds(start, _LANES)])[:, None] for x in (rows.a, rows.c))
        z = drawn.astype(jnp.int32).astype(jnp.float32) * np.float32(1 / TABLE_UNIT)
        out = out + jnp.sum(z * (a * z + c), axis=0)
    return out


def _largest(values: chex.Array, first: chex.Array) -> tuple[chex.Array, chex.Array]:
    """The largest value and its place, counted from `first`."""
    return jnp.max(values), first + jnp.argmax(values).astype(jnp.int32)


def _better(
    one: tuple[chex.Array, chex.Array], other: tuple[chex.Array, chex.Array]
) -> tuple[chex.Array, chex.Array]:
    """Of two values with their places the larger, the first where they are equal."""
    better = other[0] > one[0]
    return jnp.where(better, other[0], one[0]), jnp.where(better, other[1], one[1])
