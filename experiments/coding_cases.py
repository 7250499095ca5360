"""The numbers behind the pictures of docs/how_it_works.md, all of the library's own functions.

Priors are N(0, 1) where weights are made up; a weight of k bits has half of its divergence from the
prior in its mean and half in its variance.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mrc_jax
from mrc_jax import blocks, candidates, gaussian, index_codes, mean_kl, ordered_code, selection
from mrc_jax.shared_random import TABLE_UNIT, quantiles

SEED = np.uint32(7)  # shared with the decoder
KEY = jax.random.key(1)  # the encoder's own
HALF = math.atanh(math.sqrt(0.5))  # `mean_atanh` of a weight with half its divergence in its mean


class Weight(NamedTuple):
    """A posterior N(mean, deviation^2) of `kl_bits` from the prior N(0, 1)."""

    mean: float
    deviation: float
    kl_bits: float


class Case(NamedTuple):
    """Blocks of equal weights: what one weight has, and how many a block has."""

    kl_bits: float
    size: int

    @property
    def block_bits(self) -> float:
        """Divergence of a block."""
        return self.kl_bits * self.size

    @property
    def label(self) -> str:
        """In words."""
        plural = "s" * (self.size > 1)
        return f"{self.size} weight{plural} of {self.kl_bits:g} bit{'s' * (self.kl_bits != 1)}"


ALONE, SMALL, LARGE = Case(4, 1), Case(1, 4), Case(1, 8)
EXTRA_BITS = (0, 2, 4)  # of an index, over the divergence


def weight(kl_bits: float) -> Weight:
    """The weight of so many bits."""
    log_kl = jnp.log(jnp.float32(kl_bits * math.log(2)))
    mean, log_variance = mean_kl.in_prior_scales(jnp.float32(HALF), log_kl)
    return Weight(float(mean), math.exp(float(log_variance) / 2), kl_bits)


def log2_weights(values: np.ndarray, one: Weight) -> np.ndarray:
    """log2 q / p of blocks of equal weights, float64[...], of values [size, ...]."""
    log_variance = jnp.float32(2 * math.log(one.deviation))
    ratio = gaussian.log_density(jnp.asarray(values), jnp.float32(one.mean), log_variance)
    ratio -= gaussian.log_density(jnp.asarray(values), jnp.float32(0), jnp.float32(0))
    return np.asarray(ratio, np.float64).sum(axis=0) / math.log(2)


class Draw(NamedTuple):
    """One block of one weight, coded.

    Attributes:
      values: float64[K], the candidates.
      shares: float64[K], the probability that each is chosen.
      chosen: the index.
    """

    values: np.ndarray
    shares: np.ndarray
    chosen: int


def draw_one(one: Weight, bits: int) -> Draw:
    """Block 0 of the seed: candidates, softmax of log-weights, and the choice."""
    number = jnp.zeros(1, jnp.uint32)
    drawn = quantiles(jnp.asarray(SEED), number[0], jnp.arange(1 << bits, dtype=jnp.uint32), 1)
    mean, log_variance = (jnp.full((1, 1), x) for x in (one.mean, 2 * math.log(one.deviation)))
    a, c = candidates.coefficients(mean, log_variance, jnp.ones((1, 1)))
    log_weights = np.asarray(candidates.log_weights(drawn, a, c)[0], np.float64)
    shares = np.exp(log_weights - log_weights.max())
    block = selection.Blocks(a, c, number, jnp.asarray(SEED), number[0])
    index = selection.select(KEY, block, bits=bits, selection="sample")
    values = np.asarray(drawn[0], np.float64) / TABLE_UNIT
    return Draw(values, shares / shares.sum(), int(index[0]))


def many_log2_weights(case: Case, bits: int) -> np.ndarray:
    """log2 q / p of 2**bits draws of a block from the prior."""
    numbers = np.arange(1 << bits, dtype=np.uint32)
    drawn = quantiles(SEED, np.uint32(0), numbers, case.size)
    return log2_weights(drawn.astype(np.float32) / TABLE_UNIT, weight(case.kl_bits))


def code(
    case: Case, bits: int, count: int, how: str = "sample"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes `count` blocks with candidates of their own.

    Returns:
      Decoded weights by block, float32[size, count]; the same in units of the posterior's standard
      deviation from its mean; the indices, uint32[count].
    """
    one, entries = weight(case.kl_bits), case.size * count
    mean = jnp.full(entries, one.mean)
    log_variance = jnp.full(entries, 2 * math.log(one.deviation))
    options = {"bits": bits, "block_size": case.size, "selection": how}
    encode = jax.jit(mrc_jax.encode_blocks, static_argnames=tuple(options))
    indices = encode(KEY, mean, log_variance, jnp.float32(1), SEED, **options)
    values = np.asarray(mrc_jax.decode_blocks(indices, jnp.float32(1), SEED, entries=entries))
    partition = blocks.Partition(entries, count)
    entry = blocks.entry_of_slot(partition, SEED, np.arange(entries, dtype=np.uint32))
    values = blocks.to_blocks(values, entry, partition)
    return values, (values - one.mean) / one.deviation, np.asarray(indices)


class Law(NamedTuple):
    """What weights coded with few or many candidates look like.

    Attributes:
      bits: of an index.
      standard: coded weights less the posterior's mean, over its deviation: N(0, 1) if unbiased.
      log2_weight: mean log2 q / p of the coded blocks; the block's divergence if unbiased.
    """

    bits: int
    standard: np.ndarray
    log2_weight: float

    @property
    def error(self) -> float:
        """Mean squared distance from the posterior's mean, over the variance: 1 if unbiased."""
        return float(np.mean(np.square(self.standard)))


def law(case: Case, bits: int, count: int) -> Law:
    """The measured law of `count` blocks coded with indices of `bits` bits."""
    values, standard, _ = code(case, bits, count)
    mean = float(np.mean(log2_weights(values, weight(case.kl_bits))))
    return Law(bits, standard.ravel(), mean)


def errors_by_bits(case: Case, most_bits: int, count: int) -> np.ndarray:
    """`Law.error` for indices of 0 to most_bits bits, float64[most_bits + 1], the mean over
    `count` blocks' candidates; exact over the choice among them.
    """
    one = weight(case.kl_bits)
    shape = (1, case.size)
    mean, log_variance = (jnp.full(shape, x) for x in (one.mean, 2 * math.log(one.deviation)))
    a, c = candidates.coefficients(mean, log_variance, jnp.ones(shape))
    numbers = jnp.arange(1 << most_bits, dtype=jnp.uint32)

    def of_block(block: jax.Array) -> jax.Array:
        drawn = quantiles(jnp.asarray(SEED), block, numbers, case.size)
        log_weights = candidates.log_weights(drawn, a, c)[0]
        standard = (drawn / jnp.float32(TABLE_UNIT) - one.mean) / one.deviation
        square = jnp.mean(jnp.square(standard), axis=0)
        first = [slice(1 << bits) for bits in range(most_bits + 1)]
        return jnp.stack([jax.nn.softmax(log_weights[k]) @ square[k] for k in first])

    every = jax.jit(lambda numbers: jax.lax.map(of_block, numbers))
    return np.asarray(every(jnp.arange(count, dtype=jnp.uint32)), np.float64).mean(axis=0)


class Ordered(NamedTuple):
    """How often each bucket of positions was chosen, and what it costs.

    Attributes:
      fixed, ordered: shares of buckets 0 to bits, of the two selections.
      cost_bits: of a position in each bucket.
      field_bits: bits an index of the field that a file would hold.
    """

    fixed: np.ndarray
    ordered: np.ndarray
    cost_bits: np.ndarray
    field_bits: float


def ordered_positions(case: Case, bits: int, count: int) -> Ordered:
    """Measures ordered indices of `count` blocks, and those of plain sampling beside them."""
    shares = {}
    field = b""
    for how in ("sample", "ordered"):
        indices = code(case, bits, count, how)[2]
        buckets = np.frexp(index_codes.positions(indices, bits, int(SEED)).astype(float))[1]
        shares[how] = np.bincount(buckets, minlength=bits + 1) / count
        field = index_codes.pack(index_codes.ORDERED, indices, bits, int(SEED))
    best = ordered_code.best_parameters(shares["ordered"] * count, bits)
    cost = ordered_code.bucket_bits(*best, bits)
    return Ordered(shares["sample"], shares["ordered"], cost, 8 * len(field) / count)
