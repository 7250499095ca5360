"""The law of the coder at 2^24 candidates, and its private noise far into the tails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coder_law import select_one
from scipy import stats

from mrc_jax import candidates
from mrc_jax.shared_random import TABLE_UNIT, quantiles, threefry

SEED = 77
ALARM = 1e-4


def drawn(a, c, bits, draws, first_key=0):
    """uint32[draws]: indices of a block of one entry with these coefficients, under fresh keys."""
    a, c = jnp.full(1, a, jnp.float32), jnp.full(1, c, jnp.float32)
    one = jax.jit(lambda k: select_one(k, a, c, SEED, bits))
    keys = range(first_key, first_key + draws)
    return np.asarray([int(one(jax.random.key(k))) for k in keys])


def position_p_value(indices, bits):
    """Of the indices' uniformity over all candidates (Kolmogorov-Smirnov)."""
    return stats.kstest((indices + 0.5) / 2.0**bits, "uniform").pvalue


@functools.cache
def counts_of_values():
    """How many of the 2^24 candidates have each value of the table: values in order, and counts."""
    counts = np.zeros(2 * 17_715 + 1, np.int64)
    for start in range(0, 1 << 24, 1 << 20):
        number = np.arange(start, start + (1 << 20), dtype=np.uint32)
        drawn = quantiles(np.uint32(SEED), np.zeros(1, np.uint32), number, 1)[0]
        counts += np.bincount(drawn.astype(np.int64) + 17_715, minlength=len(counts))
    return np.arange(-17_715, 17_716) / TABLE_UNIT, counts


def tail_chances(c, edges):
    """Exact chances of the bins of z that `edges` make, for log-weights c * z, in float64."""
    values, counts = counts_of_values()
    mass = np.bincount(np.searchsorted(edges, values), counts * np.exp(c * (values - 4.4)))
    return mass / mass.sum()


def z_of(indices):
    number = indices.astype(np.uint32)
    return quantiles(np.uint32(SEED), np.zeros(1, np.uint32), number, 1)[0] / TABLE_UNIT


def poor_gumbel(uniform_bits):
    def gumbel(key, counter, use):
        word = threefry((key[0], key[1]), (counter, jnp.full_like(counter, use)))[0]
        uniform = (word >> np.uint32(32 - uniform_bits)).astype(jnp.float32) + 0.5
        return -jnp.log(-jnp.log(uniform * jnp.float32(2.0**-uniform_bits)))

    return gumbel


def test_flat_weights_choose_every_region_of_16_million_candidates_alike():
    """16 draws, Kolmogorov-Smirnov, false alarm 1e-4."""
    assert position_p_value(drawn(0, 0, 24, 16), 24) > ALARM


@pytest.mark.slow
def test_flat_weights_at_16_million_candidates_with_more_draws():
    """200 draws, false alarm 1e-4."""
    assert position_p_value(drawn(0, 0, 24, 200), 24) > ALARM


# The 256 or so candidates of the table's largest value, 4.325, together have half of the mass.
HALF = 5.5


def top_chance(c):
    return tail_chances(c, [17_714.5 / TABLE_UNIT])[1]


def p_of_top(c, draws):
    """Two-sided binomial p-value of how often the draws take a candidate of the largest value."""
    hits = int(np.sum(z_of(drawn(0, c, 24, draws)) > 17_714.5 / TABLE_UNIT))
    return stats.binomtest(hits, draws, top_chance(c)).pvalue


def test_a_few_dominant_candidates_of_16_million_get_their_share_of_draws():
    """16 draws against the exact chance, which is near one half: false alarm 1e-4."""
    assert 0.35 < top_chance(HALF) < 0.65
    assert p_of_top(HALF, 16) > ALARM


@pytest.mark.slow
def test_argmax_in_place_of_sampling_is_rejected_at_16_million_candidates(monkeypatch):
    """The power of the test above: every draw then is a dominant one."""
    monkeypatch.setattr(candidates, "gumbel", lambda key, i, use: jnp.zeros(i.shape))
    assert p_of_top(HALF, 16) < ALARM


@pytest.mark.slow
def test_a_wide_law_at_16_million_candidates():
    """200 draws in 8 even bins, chi-square, false alarm 1e-4; a tilt 20 % off is rejected."""
    c = 3.0
    grid = np.linspace(0, 4.32, 400)
    chance = np.cumsum(tail_chances(c, grid))[:-1]
    edges = np.unique(grid[np.searchsorted(chance, np.arange(1, 8) / 8)])
    counts = np.bincount(np.searchsorted(edges, z_of(drawn(0, c, 24, 200))), minlength=8)
    assert stats.chisquare(counts, 200 * tail_chances(c, edges)).pvalue > ALARM
    assert stats.chisquare(counts, 200 * tail_chances(0.8 * c, edges)).pvalue < ALARM


def tail_p_value(gumbel):
    """Of the largest 2000 of 2^22 values: exponential beyond a threshold, and none twice."""
    noise = gumbel(jnp.asarray([3, 9], jnp.uint32), jnp.arange(1 << 22, dtype=jnp.uint32), 0)
    tail = np.sort(np.asarray(noise, np.float64))[-2000:]
    if len(np.unique(tail)) < 1990:
        return 0.0
    return stats.kstest(tail[1:] - tail[0], "expon").pvalue


def test_the_private_noise_is_gumbel_far_into_the_tail():
    """Kolmogorov-Smirnov on 2^18 values and on the tail, each with false alarm 1e-4; a noise 2 %
    too large and one made of 23 random bits are rejected."""
    key = jnp.asarray([4, 9], jnp.uint32)
    noise = np.asarray(candidates.gumbel(key, jnp.arange(1 << 18, dtype=jnp.uint32), 0), np.float64)
    assert stats.kstest(noise, "gumbel_r").pvalue > ALARM
    assert stats.kstest(noise * 1.02, "gumbel_r").pvalue < ALARM
    assert tail_p_value(candidates.gumbel) > ALARM
    assert tail_p_value(poor_gumbel(23)) < ALARM


def test_the_private_noise_is_exact_for_the_smallest_and_largest_uniforms(monkeypatch):
    """All 64 random bits count: within 2e-6 of float64 from 2^-65 up, and finite at the end."""
    high = np.asarray([0, 0, 0, 1, 255, 1 << 20, 1 << 31, 0xFFFFFF00, 0xFFFFFFFF], np.uint32)
    low = np.asarray([0, 1, 1 << 31, 7, 9, 0, 0xFFFFFFFF, 0, 0xFFFFFFFF], np.uint32)
    monkeypatch.setattr(candidates, "threefry", lambda *_: (jnp.asarray(high), jnp.asarray(low)))
    noise = candidates.gumbel(jnp.zeros(2, jnp.uint32), jnp.zeros(9, jnp.uint32), 0)
    uniform = (high.astype(np.float64) + (low + 0.5) * 2.0**-32) * 2.0**-32
    exact = -np.log(-np.log1p(-np.minimum(uniform, 1 - 2.0**-24)))
    np.testing.assert_allclose(noise, exact, rtol=2e-6)
    assert noise[0] > 45 and noise[-1] < -2.8
