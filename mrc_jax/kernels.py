"""The heavy part of coding: log-weights of all candidates, reduced to one number for each cut.

The K = 2**bits candidates are cut at fixed places into 2**(bits - cut_bits) runs of 2**cut_bits
neighbours.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mrc_jax import candidates, pallas_gpu, pallas_tpu
from mrc_jax.errors import UsageError
from mrc_jax.shared_random import quantiles

_NUMBERS = {"cpu": 5 << 19}  # worked on at a time: about as many as the last cache holds
_NUMBERS_ELSEWHERE = 1 << 27


def cut_bits(bits: int) -> int:
    """log2 of the candidates of a cut: a function of K alone, for the law depends on it."""
    return bits // 2


def chunk_bits(bits: int, size: int, blocks: int, devices: int = 1) -> int:
    """log2 of the candidates worked on at a time, whole cuts; memory is bounded, whatever K is.

    Raises:
      UsageError: so many devices cannot divide the cuts among them.
    """
    shared = devices.bit_length() - 1
    if devices != 1 << shared or bits - shared < cut_bits(bits):
        raise UsageError(
            f"{devices} devices cannot share 2**{bits} candidates: take a power of two, at most "
            f"{1 << bits - cut_bits(bits)}"
        )
    backend = jax.default_backend()
    numbers = _NUMBERS.get(backend, _NUMBERS_ELSEWHERE)
    fitting = (numbers // (2 * size + blocks)).bit_length() - 1
    return min(bits - shared, max(cut_bits(bits), fitting))


def make_codebook(seed: chex.Array, codebook: chex.Array, size: int, bits: int) -> chex.Array:
    """The quantiles of all candidates of a codebook, int16[size, 2**bits], to be kept.

    Args:
      seed, codebook: uint32 scalars.
      size: lanes.
      bits: log2 of the number of candidates.
    """
    step = 1 << chunk_bits(bits, size, 1)

    def fill(i: chex.Array, out: chex.Array) -> chex.Array:
        drawn = draw(seed, codebook, i.astype(jnp.uint32) * np.uint32(step), step, size)
        return lax.dynamic_update_slice(out, drawn, (0, i * step))

    return lax.fori_loop(0, (1 << bits) // step, fill, jnp.zeros((size, 1 << bits), jnp.int16))


def draw(
    seed: chex.Array, codebook: chex.Array, first: chex.Array, count: int, size: int
) -> chex.Array:
    """Quantiles of candidates first, first + 1, ..: int16[size, count], stored, so drawn once."""
    candidate = first + jnp.arange(count, dtype=jnp.uint32)
    seed = lax.optimization_barrier(seed)  # a constant makes XLA draw eight times as slowly on CPUs
    return lax.optimization_barrier(quantiles(seed, codebook, candidate, size))


def cut_statistics(
    drawn: chex.Array, a: chex.Array, c: chex.Array, *, cut: int, statistic: str, kernel: str
) -> chex.Array:
    """The log-sum-exp or the maximum of the log-weights in each cut, float32[blocks, cuts].

    Args:
      drawn: int16[size, cuts * cut], quantiles of whole cuts.
      a, c: float32[blocks, size]; as in `candidates.log_weights`.
      cut: candidates of a cut.
      statistic: 'logsumexp' or 'max'.
      kernel: as in `candidates.log_weights`.
    """
    if kernel == "pallas":
        of_gpu, of_tpu = (
            partial(module.cut_statistics, cut=cut, statistic=statistic)
            for module in (pallas_gpu, pallas_tpu)
        )
        elsewhere = partial(of_gpu, interpret=True)  # for tests alone
        return lax.platform_dependent(drawn, a, c, cuda=of_gpu, tpu=of_tpu, default=elsewhere)
    scores = candidates.log_weights(drawn, a, c, kernel)
    scores = scores.reshape(a.shape[0], -1, cut)
    top = jnp.max(scores, axis=2)
    if statistic == "max":
        return top
    return top + jnp.log(jnp.sum(jnp.exp(scores - top[..., None]), axis=2))


def rounding_bound(a: chex.Array, c: chex.Array, kernel: str = "codebook") -> chex.Array:
    """How far a kernel's log-weight of a candidate may lie from the reference's, float32[blocks].

    Each is within (size + 3) eps sum(|a| z^2 + |c| |z|) of the exact sum (Higham, "Accuracy and
    stability of numerical algorithms", section 3.1), for the largest |z| of the table; 'pallas'
    rounds its operands too.
    """
    largest = candidates.LARGEST
    terms = jnp.abs(a) * largest**2 + jnp.abs(c) * largest
    units = 2 * (a.shape[1] + 3) * np.finfo(np.float32).eps
    units += pallas_tpu.ROUNDING if kernel == "pallas" else 0
    return jnp.float32(units) * jnp.sum(terms, axis=1)


def likely_rounding(a: chex.Array, c: chex.Array) -> chex.Array:
    """How far the log-sum-exp of a cut by 'pallas' may lie below the exact one, float32[blocks],
    where the cut has a part in the law.

    Operands of 11 bits: each factor of a z^2 and c z is rounded by at most 2^-11 of it, near
    independently over lanes. Candidates that matter have z from the posterior q, whose precision is
    1 - 2 a and whose mean c / (1 - 2 a); eight standard deviations of the sum of the roundings.
    """
    variance = 1 / jnp.maximum(1 - 2 * a, jnp.float32(1e-6))
    second = jnp.minimum(jnp.square(c * variance) + variance, candidates.LARGEST**2)  # of z
    fourth = jnp.minimum(3 * jnp.square(second), candidates.LARGEST**4)
    spread = jnp.sum(jnp.square(a) * fourth + jnp.square(c) * second, axis=1)
    return jnp.float32(8 * 2.0**-11 * (2 / 3) ** 0.5) * jnp.sqrt(spread) + jnp.float32(1e-5)
