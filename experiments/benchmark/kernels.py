"""Candidate-lanes a second of every kernel, of a straightforward encoder and of the limit."""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmark.limit import limit_call
from experiments.benchmark.measure import in_fresh_process, seconds, seconds_and_peak
from mrc_jax import kernels
from mrc_jax.selection import Blocks, select

SHAPES = ((32, 16, 64), (45, 20, 1), (45, 20, 64), (64, 24, 1))  # D, log2 K, blocks
SHARED_BY = 100  # blocks of a codebook, over which one block's cold time is spread
KEPT_BYTES = 1 << 29  # Recipe.codebook_bytes
_TIMED_BLOCKS = 2  # of the straightforward encoder; the time of more is scaled
_TIMED_BITS = 20  # log2 of its candidates on a CPU: 16 GiB at 2^24; likewise
_WAVES = 20  # of one program, where they are timed together
_LIMITS = {"pallas": "limit, float16"}  # by its operands' type; of other kernels 'limit': float32


def straightforward(
    key: jax.Array, mean: jax.Array, log_variance: jax.Array, scale: jax.Array, K: int
) -> jax.Array:
    """MIRACLE's Algorithm 1 as one would first write it: the index for one block, lanes [D]."""
    draw_key, noise_key = jax.random.split(key)
    w = scale * jax.random.normal(draw_key, (K, mean.shape[0]))
    log_q = jax.scipy.stats.norm.logpdf(w, mean, jnp.exp(0.5 * log_variance))
    log_p = jax.scipy.stats.norm.logpdf(w, 0, scale)
    return jnp.argmax(jnp.sum(log_q - log_p, axis=1) + jax.random.gumbel(noise_key, (K,)))


def rows() -> Iterator[dict[str, Any]]:
    """All measurements, each as soon as it is made; see `row`.

    On a CPU each is of a fresh process. On an accelerator all are of this one, for starting takes
    longer than measuring, and `ratio_to_bfloat16_peak` is a field of each.
    """
    accelerated = jax.default_backend() in ("gpu", "tpu")
    measured = _here if accelerated else in_fresh_process
    peaks = measured(matrix_peak)
    for D, bits, blocks in SHAPES:
        shape = {"D": D, "K": 1 << bits, "blocks": blocks}
        base = measured(row, "straightforward", "sample", blocks, D, bits, blocks)
        limits = ["limit", *(_LIMITS.values() if accelerated else ())]
        found = [measured(row, limit, None, None, D, bits, blocks) for limit in limits]
        limits = {one["kernel"]: one["candidate_lanes_per_s"] for one in found}
        found = [base, *found]
        for kernel, selection, shared_by, waves in _variants(accelerated, D, bits, blocks):
            found.append(measured(row, kernel, selection, shared_by, D, bits, blocks, waves))
        for one in found:
            speed = one["candidate_lanes_per_s"]
            limit = _LIMITS.get(one["kernel"].split(",")[0]) if accelerated else None
            one["ratio_to_straightforward"] = speed / base["candidate_lanes_per_s"]
            one["ratio_to_matmul"] = speed / limits[limit or "limit"]
            if accelerated:
                one["ratio_to_bfloat16_peak"] = speed / peaks[-1]["candidate_lanes_per_s"]
            yield {**one, **shape}
    yield from peaks


def _here(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _variants(
    accelerated: bool, D: int, bits: int, blocks: int
) -> Iterator[tuple[str, str | None, int | None, int | None]]:
    """Kernel, selection, shared_by and waves of the rows of `row`; on an accelerator, where most of
    the time is compiling, the reference at one shape alone, `ordered` and waves at another.
    """
    wide = accelerated and blocks > 1 and bits == 20
    if blocks > 1 and not wide:  # one block's codebook kernel is the reference
        yield "reference", "sample", blocks, None
    keeps = 2 * D << bits <= KEPT_BYTES
    for kernel in ["codebook", *["pallas"] * accelerated]:
        for selection in ("sample", "ordered") if wide or not accelerated else ("sample",):
            if not accelerated or selection == "sample":
                yield kernel, selection, blocks, None
            if keeps:
                if blocks == 1:
                    yield kernel, selection, SHARED_BY, None
                yield kernel, selection, None, None
                if wide:
                    yield kernel, selection, None, _WAVES
    if wide:
        yield "pallas, statistics of the cuts alone", None, None, _WAVES


def row(
    kernel: str,
    selection: str | None,
    shared_by: int | None,
    D: int,
    bits: int,
    blocks: int,
    waves: int | None = None,
) -> dict[str, Any]:
    """One measurement: its names, candidate_lanes_per_s, seconds (of all blocks) and peak_bytes.

    Args:
      kernel: of `candidates.log_weights`, or another name of a row.
      selection: of `selection.select`; None for the limits.
      shared_by: blocks over which the time of making the codebook is spread, those coded together
        or SHARED_BY; None: it is made before, and kept ('warm').
      D, bits, blocks: the shape.
      waves: how many waves of so many blocks are coded by one program, whose time is divided by
        them: without the time of a call.
    """
    if shared_by not in (None, blocks):
        return _spread(kernel, selection, shared_by, D, bits)
    scale = 1.0
    if kernel == "straightforward":
        call, scale = _straightforward_call(D, bits, blocks)
    elif selection is None and waves is None:
        call = limit_call(D, bits, blocks, jnp.float32 if kernel == "limit" else jnp.float16)
    else:
        call = _select_call(kernel, selection, shared_by is None, D, bits, blocks, waves)
    time, peak = seconds_and_peak(call)
    time = time * scale / (waves or 1)
    out = _row(kernel, selection, shared_by, time, (D << bits) * blocks, peak)
    return out if waves is None else {**out, "waves": waves}


def _row(
    kernel: str,
    selection: str | None,
    shared_by: int | None,
    time: float,
    lanes: int,
    peak: int,
) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "selection": selection,
        "warm": shared_by is None,
        "cold_shared_by": shared_by,
        "seconds": time,
        "candidate_lanes_per_s": lanes / time,
        "peak_bytes": peak,
    }


def _spread(
    kernel: str, selection: str | None, shared_by: int, D: int, bits: int
) -> dict[str, Any]:
    """Cold, for one block of the many that share a kept codebook."""
    making, peak = _making(D, bits)
    warm = seconds(_select_call(kernel, selection or "sample", True, D, bits, 1))
    out = _row(kernel, selection, shared_by, making / shared_by + warm, D << bits, peak)
    return {**out, "codebook_seconds": making}


@functools.lru_cache(1)
def _making(D: int, bits: int) -> tuple[float, int]:
    """Seconds and bytes that a codebook takes."""
    make = jax.jit(partial(kernels.make_codebook, size=D, bits=bits))
    return seconds_and_peak(partial(make, jnp.uint32(1), jnp.uint32(0)))


@functools.lru_cache(1)
def _kept(D: int, bits: int) -> jax.Array:
    make = jax.jit(partial(kernels.make_codebook, size=D, bits=bits))
    return jax.block_until_ready(make(jnp.uint32(1), jnp.uint32(0)))


def _posterior(D: int, bits: int, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, log-variances and prior scales, float32[blocks, D], of blocks whose KL is `bits` bits
    on average, half of it in the means: what training leaves, and ordered selection feels.
    """
    half = bits * np.log(2) / (2 * D)
    low, high = 1e-6, 1.0  # of q's standard deviation over p's
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _kl_of_width(middle) > half else (low, middle)
    scale = np.full((blocks, D), 0.3, np.float32)
    noise = np.random.default_rng(0).standard_normal((blocks, D))
    mean = (scale * np.sqrt(2 * half) * noise).astype(np.float32)
    return mean, np.full((blocks, D), 2 * np.log(0.3 * low), np.float32), scale


def _kl_of_width(width: float) -> float:
    """Nats between Gaussians of one mean whose standard deviations have this ratio."""
    return -np.log(width) + (width**2 - 1) / 2


def _straightforward_call(D: int, bits: int, blocks: int) -> tuple[partial[Any], float]:
    """A call that codes some of the blocks, by some of the candidates, and what its time is to be
    multiplied by.
    """
    timed = min(blocks, _TIMED_BLOCKS)
    fewer = min(bits, _TIMED_BITS) if jax.default_backend() == "cpu" else bits
    arrays = [jnp.asarray(x) for x in _posterior(D, bits, timed)]
    keys = jax.random.split(jax.random.key(0), timed)
    program = jax.jit(jax.vmap(partial(straightforward, K=1 << fewer)))
    return partial(program, keys, *arrays), blocks / timed * 2 ** (bits - fewer)


def _select_call(
    kernel: str,
    selection: str | None,
    warm: bool,
    D: int,
    bits: int,
    blocks: int,
    waves: int | None = None,
) -> partial[Any]:
    mean, log_variance, scale = _posterior(D, bits, blocks)
    precision = np.exp(-log_variance)
    a, c = 0.5 * (1 - scale**2 * precision), scale * mean * precision
    number = jnp.arange(blocks, dtype=jnp.uint32)
    given = Blocks(jnp.asarray(a), jnp.asarray(c), number, jnp.uint32(1), jnp.uint32(0))
    if warm:
        given = given._replace(kept=_kept(D, bits))
    if selection is None:
        one = partial(_statistics_alone, bits=bits)
    else:
        one = partial(select, bits=bits, selection=selection, kernel=kernel)
    program = one if waves is None else partial(_in_waves, one, waves)
    return partial(jax.jit(program), jax.random.key(0), given)


def _statistics_alone(_: jax.Array, given: Blocks, bits: int) -> jax.Array:
    options = {"statistic": "logsumexp", "kernel": "pallas"}
    cut = 1 << kernels.cut_bits(bits)
    assert given.kept is not None
    return kernels.cut_statistics(given.kept, given.a, given.c, cut=cut, **options)


def _in_waves(
    one: Callable[..., jax.Array], waves: int, key: jax.Array, given: Blocks
) -> jax.Array:
    """The sum of what waves give, each of which has to wait for the one before."""

    def step(before: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        nothing = jnp.minimum(jnp.abs(before), 0)
        number = given.number + i * np.uint32(len(given.number))
        out = one(key, given._replace(a=given.a + nothing, number=number))
        return jnp.sum(out.astype(jnp.float32)), None

    return lax.scan(step, jnp.float32(0), jnp.arange(waves, dtype=jnp.uint32))[0]


def matrix_peak() -> list[dict[str, Any]]:
    """Rows of one large square product: in float32, the kernels' type, and in bfloat16 too on an
    accelerator. A candidate-lane is two multiplications and two additions of it.
    """
    size = 2048 if jax.default_backend() == "cpu" else 8192
    types = [jnp.float32] if jax.default_backend() == "cpu" else [jnp.float32, jnp.bfloat16]
    program, out = jax.jit(partial(jnp.dot, precision=lax.Precision.HIGHEST)), []
    for kind in types:
        x = jnp.ones((size, size), kind)
        time, peak = seconds_and_peak(partial(program, x, x))
        lanes = size**3 // 2
        row = _row(f"matrix peak, {x.dtype}", None, None, time, lanes, peak)
        nothing = dict.fromkeys(("D", "K", "blocks", "ratio_to_straightforward", "ratio_to_matmul"))
        out.append({**row, **nothing, "flop_per_s": 2 * size**3 / time})
    return out
