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
_LIMIT_BITS = (12, 13, 14, 15, 16)  # log2 of the candidates of a chunk; the fastest is the limit
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
    for D, bits, blocks in SHAPES:
        shape = {"D": D, "K": 1 << bits, "blocks": blocks}
        base = in_fresh_process(row, "straightforward", "sample", False, D, bits, blocks)
        limit = in_fresh_process(row, "limit", None, True, D, bits, blocks)
        found = [base, limit]
        for kernel, selection, warm in _variants(D, bits, blocks):
            found.append(in_fresh_process(row, kernel, selection, warm, D, bits, blocks))
        for one in found:
            speed = one["candidate_lanes_per_s"]
            one["ratio_to_straightforward"] = speed / base["candidate_lanes_per_s"]
            one["ratio_to_matmul"] = speed / limit["candidate_lanes_per_s"]
            yield {**one, **shape}
    yield in_fresh_process(matrix_peak)


def _variants(D: int, bits: int, blocks: int) -> Iterator[tuple[str, str, bool]]:
    yield "reference", "sample", False
    for kernel in ["codebook"] + ["pallas"] * in_fresh_process(_is_accelerator):
        for selection in ("sample", "ordered"):
            yield kernel, selection, False
            if 2 * D << bits <= KEPT_BYTES:
                yield kernel, selection, True


def _is_accelerator() -> bool:
    return jax.default_backend() in ("gpu", "tpu")


def row(
    kernel: str, selection: str | None, warm: bool, D: int, bits: int, blocks: int
) -> dict[str, Any]:
    """One measurement: its names, candidate_lanes_per_s, seconds (of all blocks) and peak_bytes.

    Args:
      kernel: of `candidates.log_weights`, or 'straightforward' or 'limit'.
      selection: of `selection.select`; None for the limit.
      warm: whether the codebook is made before, and kept. Cold time of one block is that of
        making a codebook, spread over the SHARED_BY blocks that share it, and of the block.
      D, bits, blocks: the shape.
    """
    makers = {"straightforward": _straightforward_call, "limit": _limit_call}
    if kernel in makers:
        call, scale = makers[kernel](D, bits, blocks)
    else:
        call, scale = _select_call(kernel, selection or "sample", warm, D, bits, blocks), 1
    if kernel not in makers and not warm and blocks == 1 and 2 * D << bits <= KEPT_BYTES:
        return _spread(kernel, selection, D, bits)
    time, peak = seconds_and_peak(call)
    return _row(kernel, selection, warm, time * scale, D << bits, blocks, peak)


def _row(
    kernel: str, selection: str | None, warm: bool, time: float, lanes: int, blocks: int, peak: int
) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "selection": selection,
        "warm": warm,
        "seconds": time,
        "candidate_lanes_per_s": blocks * lanes / time,
        "peak_bytes": peak,
    }


def _spread(kernel: str, selection: str | None, D: int, bits: int) -> dict[str, Any]:
    """Cold, for one block of the many that share a kept codebook."""
    make = jax.jit(kernels.make_codebook, static_argnames=("size", "bits"))
    call = partial(make, jnp.uint32(1), jnp.uint32(0), size=D, bits=bits)
    making, peak = seconds_and_peak(call)
    warm = seconds(_select_call(kernel, selection or "sample", True, D, bits, 1))
    time = making / SHARED_BY + warm
    out = _row(kernel, selection, False, time, D << bits, 1, peak)
    return {**out, "codebook_seconds": making, "cold_shared_by": SHARED_BY}


def _posterior(D: int, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, log-variances and prior scales, float32[blocks, D]: 0.29 bits a lane."""
    random = np.random.default_rng(0)
    scale = np.full((blocks, D), 0.3, np.float32)
    mean = (0.15 * random.standard_normal((blocks, D))).astype(np.float32)
    return mean, np.full((blocks, D), -3.0, np.float32), scale


def _straightforward_call(D: int, bits: int, blocks: int) -> tuple[Callable[[], Any], float]:
    timed = min(blocks, _TIMED_BLOCKS)
    arrays = [jnp.asarray(x) for x in _posterior(D, timed)]
    keys = jax.random.split(jax.random.key(0), timed)
    program = jax.jit(jax.vmap(partial(straightforward, K=1 << bits)))
    return lambda: program(keys, *arrays), blocks / timed


def _select_call(
    kernel: str, selection: str, warm: bool, D: int, bits: int, blocks: int
) -> Callable[[], Any]:
    mean, log_variance, scale = _posterior(D, blocks)
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


def _limit_call(D: int, bits: int, blocks: int) -> tuple[Callable[[], Any], float]:
    """[K, 2D] x [2D, blocks] in float32, reduced to a maximum a block, chunk by chunk."""
    held = min(bits, _OPERAND_BITS)
    random = np.random.default_rng(0)
    operand = jnp.asarray(random.standard_normal((2 * D, 1 << held), np.float32))
    other = jnp.asarray(random.standard_normal((blocks, 2 * D), np.float32))

    def best(operand: jax.Array, other: jax.Array, chunk: int) -> jax.Array:
        def step(best: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            start = i % ((1 << held) // chunk) * chunk
            part = lax.dynamic_slice(operand, (0, start), (2 * D, chunk))
            scores = jnp.dot(other, part, precision=lax.Precision.HIGHEST)
            return jnp.maximum(best, jnp.max(scores, axis=1)), None

        start = jnp.full(blocks, -jnp.inf)
        return lax.scan(step, start, jnp.arange((1 << bits) // chunk))[0]

    program = jax.jit(best, static_argnames="chunk")
    chunks = [1 << b for b in _LIMIT_BITS if b <= bits]
    fastest = min(chunks, key=lambda n: seconds(lambda: program(operand, other, n), 2))
    return lambda: program(operand, other, fastest), 1


def matrix_peak() -> dict[str, Any]:
    """Floating-point operations a second of one large float32 product, and in bfloat16 too on an
    accelerator.
    """
    size = 2048 if jax.default_backend() == "cpu" else 8192
    types = [jnp.float32] if jax.default_backend() == "cpu" else [jnp.float32, jnp.bfloat16]
    out: dict[str, Any] = {"kernel": "matrix peak"}
    for kind in types:
        x = jnp.ones((size, size), kind)
        out[f"{x.dtype}_flop_per_s"] = 2 * size**3 / seconds(partial(jax.jit(jnp.dot), x, x))
    return out
