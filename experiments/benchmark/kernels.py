"""Candidate-lanes a second of every kernel, of a straightforward encoder and of the limit."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmark.measure import in_fresh_process, seconds, seconds_and_peak
from mrc_jax import kernels
from mrc_jax.selection import Blocks, select

SHAPES = ((32, 16, 64), (45, 20, 1), (45, 20, 64), (64, 24, 1))  # D, log2 K, blocks
SHARED_BY = 100  # blocks of a codebook, over which one block's cold time is spread
KEPT_BYTES = 1 << 29  # Recipe.codebook_bytes
_TIMED_BLOCKS = 2  # of the straightforward encoder; the time of more is scaled
_TIMED_BITS = 20  # log2 of its candidates on a CPU: 16 GiB at 2^24; likewise
_LIMIT_BITS = {"cpu": (12, 13, 14, 15, 16)}  # log2 of a chunk; the fastest is the limit
_LIMIT_BITS_ELSEWHERE = (14, 16, 18, 20)
_OPERAND_BITS = 20  # log2 of the candidates whose operands the limit holds at most


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
    """All measurements, each as soon as it is made; see `row`."""
    accelerated = ["pallas"] * in_fresh_process(_is_accelerator)
    for D, bits, blocks in SHAPES:
        shape = {"D": D, "K": 1 << bits, "blocks": blocks}
        base = in_fresh_process(row, "straightforward", "sample", blocks, D, bits, blocks)
        limit = in_fresh_process(row, "limit", None, None, D, bits, blocks)
        found = [base, limit]
        for kernel, selection, shared_by in _variants(accelerated, D, bits, blocks):
            found.append(in_fresh_process(row, kernel, selection, shared_by, D, bits, blocks))
        for one in found:
            speed = one["candidate_lanes_per_s"]
            one["ratio_to_straightforward"] = speed / base["candidate_lanes_per_s"]
            one["ratio_to_matmul"] = speed / limit["candidate_lanes_per_s"]
            yield {**one, **shape}
    yield from in_fresh_process(matrix_peak)


def _variants(
    accelerated: list[str], D: int, bits: int, blocks: int
) -> Iterator[tuple[str, str, int | None]]:
    """Kernel, selection and shared_by of the rows of `row`."""
    if blocks > 1:  # one block's codebook kernel is the reference
        yield "reference", "sample", blocks
    for kernel in ["codebook", *accelerated]:
        for selection in ("sample", "ordered"):
            yield kernel, selection, blocks
            if 2 * D << bits <= KEPT_BYTES:
                if blocks == 1:
                    yield kernel, selection, SHARED_BY
                yield kernel, selection, None


def _is_accelerator() -> bool:
    return jax.default_backend() in ("gpu", "tpu")


def row(
    kernel: str, selection: str | None, shared_by: int | None, D: int, bits: int, blocks: int
) -> dict[str, Any]:
    """One measurement: its names, candidate_lanes_per_s, seconds (of all blocks) and peak_bytes.

    Args:
      kernel: of `candidates.log_weights`, or 'straightforward' or 'limit'.
      selection: of `selection.select`; None for the limit.
      shared_by: blocks over which the time of making the codebook is spread, those coded together
        or SHARED_BY; None: it is made before, and kept ('warm').
      D, bits, blocks: the shape.
    """
    if shared_by not in (None, blocks):
        return _spread(kernel, selection, shared_by, D, bits)
    scale = 1.0
    if kernel == "straightforward":
        call, scale = _straightforward_call(D, bits, blocks)
    elif kernel == "limit":
        call = _limit_call(D, bits, blocks)
    else:
        call = _select_call(kernel, selection or "sample", shared_by is None, D, bits, blocks)
    time, peak = seconds_and_peak(call)
    return _row(kernel, selection, shared_by, time * scale, (D << bits) * blocks, peak)


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
    make = jax.jit(kernels.make_codebook, static_argnames=("size", "bits"))
    call = partial(make, jnp.uint32(1), jnp.uint32(0), size=D, bits=bits)
    making, peak = seconds_and_peak(call)
    warm = seconds(_select_call(kernel, selection or "sample", True, D, bits, 1))
    out = _row(kernel, selection, shared_by, making / shared_by + warm, D << bits, peak)
    return {**out, "codebook_seconds": making}


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


def _straightforward_call(D: int, bits: int, blocks: int) -> tuple[Callable[[], Any], float]:
    """A call that codes some of the blocks, by some of the candidates, and what its time is to be
    multiplied by.
    """
    timed = min(blocks, _TIMED_BLOCKS)
    fewer = min(bits, _TIMED_BITS) if jax.default_backend() == "cpu" else bits
    arrays = [jnp.asarray(x) for x in _posterior(D, bits, timed)]
    keys = jax.random.split(jax.random.key(0), timed)
    program = jax.jit(jax.vmap(partial(straightforward, K=1 << fewer)))
    return lambda: program(keys, *arrays), blocks / timed * 2 ** (bits - fewer)


def _select_call(
    kernel: str, selection: str, warm: bool, D: int, bits: int, blocks: int
) -> Callable[[], Any]:
    mean, log_variance, scale = _posterior(D, bits, blocks)
    precision = np.exp(-log_variance)
    a, c = 0.5 * (1 - scale**2 * precision), scale * mean * precision
    number = jnp.arange(blocks, dtype=jnp.uint32)
    given = Blocks(jnp.asarray(a), jnp.asarray(c), number, jnp.uint32(1), jnp.uint32(0))
    if warm:
        make = jax.jit(kernels.make_codebook, static_argnames=("size", "bits"))
        given = given._replace(kept=make(given.seed, given.codebook, size=D, bits=bits))
        jax.block_until_ready(given.kept)
    options = {"bits": bits, "selection": selection, "kernel": kernel}
    program = jax.jit(partial(select, **options))
    return lambda: program(jax.random.key(0), given)


def _limit_call(D: int, bits: int, blocks: int) -> Callable[[], Any]:
    """[K, 2D] x [2D, blocks] in float32, reduced to a maximum a block, chunk by chunk."""
    held = min(bits, _OPERAND_BITS)
    random = np.random.default_rng(0)
    operand = jnp.asarray(random.standard_normal((2 * D, 1 << held), np.float32))
    other = jnp.asarray(random.standard_normal((blocks, 2 * D), np.float32))

    def best(operand: jax.Array, other: jax.Array, chunk: int, count: int) -> jax.Array:
        def step(best: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            start = i % ((1 << held) // chunk) * chunk
            part = lax.dynamic_slice(operand, (0, start), (2 * D, chunk))
            scores = jnp.dot(other, part, precision=lax.Precision.HIGHEST)
            return jnp.maximum(best, jnp.max(scores, axis=1)), None

        start = jnp.full(blocks, -jnp.inf)
        return lax.scan(step, start, jnp.arange(count // chunk))[0]

    program = jax.jit(best, static_argnames=("chunk", "count"))
    tried = _LIMIT_BITS.get(jax.default_backend(), _LIMIT_BITS_ELSEWHERE)
    chunks = [1 << b for b in tried if b < bits] or [1 << bits]
    fastest = min(chunks, key=lambda n: seconds(lambda: program(operand, other, n, 1 << held), 3))
    return lambda: program(operand, other, fastest, 1 << bits)


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
