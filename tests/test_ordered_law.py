"""Ordered random coding: the law of the sample is that of importance sampling, small positions are
likelier, and blocks that share a codebook choose independently.

Given the set of a block's candidates the chosen one follows softmax(log_weights), the order of the
candidates being random. So with a fresh shared seed for every draw, the randomised distribution
function of the chosen candidate among all, sorted by log-weight, is uniform on (0, 1).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coder_law import chi_square_p_value
from scipy import special, stats

from mrc_jax import candidates, encode, ordered_noise, selection
from mrc_jax.shared_random import Stream, offsets, quantiles, sign_bits

ALARM = 1e-4  # false-alarm rate of every single p-value below
DRAWS, SIZE, BITS = 4000, 3, 8
A, C = -0.8, 1.6  # coefficients of each lane: 2.6 nats from the prior


def pairs():
    """uint32[DRAWS, 2]: indices of blocks 0 and 1, which share a codebook, under fresh seeds."""
    a = jnp.full((2, SIZE), A, jnp.float32)

    def one(key, seed):
        number = jnp.arange(2, dtype=jnp.uint32)
        c = candidates.signed(seed, number, jnp.full((SIZE, 2), C, jnp.float32), 2).T
        blocks = selection.Blocks(a, c, number, seed, jnp.uint32(0))
        return encode.select(key, blocks, bits=BITS, selection="ordered", kernel="codebook")

    keys = jax.random.split(jax.random.key(0), DRAWS)
    seeds = jnp.arange(DRAWS, dtype=jnp.uint32)
    program = jax.jit(lambda *x: jax.lax.map(lambda y: one(*y), x, batch_size=1000))
    return np.asarray(program(keys, seeds))


@functools.cache
def log_weights():
    """float64[DRAWS, 2, K]: of the candidates of both blocks, from their definition."""
    number = np.arange(1 << BITS, dtype=np.uint32)
    out = np.empty((DRAWS, 2, 1 << BITS))
    for seed in range(DRAWS):
        z = quantiles(np.uint32(seed), np.zeros(1, np.uint32), number, SIZE) / 4096.0
        negative = sign_bits(
            np.uint32(seed), Stream.CODEBOOK_SIGNS, np.arange(2, dtype=np.uint32), SIZE
        )
        for block in range(2):
            signed = np.where(negative[block][:, None], -z, z)
            out[seed, block] = (A * signed**2 + C * signed).sum(0)
    return out


def uniforms(drawn):
    """float64[DRAWS, 2]: randomised distribution functions of the chosen candidates."""
    weights, random = log_weights(), np.random.default_rng(5)
    law = special.softmax(weights, axis=2)
    chosen = np.take_along_axis(weights, drawn[..., None].astype(np.int64), axis=2)
    below = (law * (weights < chosen)).sum(2)
    return below + random.random(below.shape) * (law * (weights == chosen)).sum(2)


def positions(drawn):
    """int64[DRAWS, 2]: positions, each counted from its block's offset."""
    blocks = np.arange(2, dtype=np.uint32)
    start = np.stack([offsets(np.uint32(seed), blocks, BITS) for seed in range(DRAWS)])
    return (drawn.astype(np.int64) - start) % (1 << BITS)


def simulated_positions():
    """int64[DRAWS]: of ordered random coding as it is defined, all noise drawn and sorted."""
    random, out = np.random.default_rng(6), []
    for weights in log_weights()[:, 0]:
        noise = np.sort(random.exponential(size=1 << BITS))
        out.append(np.argmax(random.permutation(weights) - np.log(noise)))
    return np.asarray(out)


def p_values(drawn):
    """Of each block's law, of the two blocks' independence, and of the positions' law."""
    u = uniforms(drawn)
    each = [stats.kstest(u[:, block], "uniform").pvalue for block in range(2)]
    cell = np.minimum((u * 4).astype(np.int64), 3)
    pair = np.bincount(cell[:, 0] * 4 + cell[:, 1], minlength=16)
    joint = chi_square_p_value(pair, np.full(16, 1 / 16))
    found, expected = positions(drawn)[:, 0], simulated_positions()
    return min(each), joint, stats.ks_2samp(found, expected).pvalue


def test_ordered_coding_keeps_the_law_of_the_sample_and_skews_the_position():
    """4,000 draws; false alarm 1e-4 for each of: two blocks' laws, the pair, the position."""
    drawn = pairs()
    assert min(p_values(drawn)) > ALARM
    uniform = np.arange(1 << BITS) + 0.5
    assert stats.ks_2samp(positions(drawn)[:, 0], uniform).pvalue < 1e-12


def unsorted_noise(patch):
    """The sample keeps its law; the position loses its own."""

    def log_times_in(key, noise, cut, cuts, size):
        number = cut * np.uint32(size) + jnp.arange(size, dtype=jnp.uint32)
        return jnp.log(candidates.exponential(key, number, 3))

    def noise_of(*args):
        noise = ordered_noise.noise_of(*args)
        return noise._replace(low=jnp.full_like(noise.low, -jnp.inf))

    patch.setattr(selection, "log_times_in", log_times_in)
    patch.setattr(selection, "noise_of", noise_of)


def largest_weight(patch):
    patch.setattr(selection, "log_times_in", lambda key, noise, cut, cuts, size: jnp.zeros(size))


def forgotten_sums(patch):
    """Every run begins again at zero."""
    right = ordered_noise.noise_of

    def noise_of(*args):
        noise = right(*args)
        return noise._replace(before=0 * noise.before, after=noise.after + noise.before)

    patch.setattr(selection, "noise_of", noise_of)


def one_noise(patch):
    """Both blocks count from one offset and have one noise."""
    patch.setattr(selection, "offsets", lambda seed, block, bits: offsets(seed, 0 * block, bits))
    patch.setattr(jax.random, "fold_in", lambda key, data: key)


FAULTS = [(unsorted_noise, 2), (largest_weight, 0), (forgotten_sums, 2), (one_noise, 1)]


@pytest.mark.parametrize("plant, which", FAULTS, ids=[f.__name__ for f, _ in FAULTS])
def test_planted_faults_are_rejected(plant, which, monkeypatch):
    """The power of the test above: p below 1e-9 for the property that each fault breaks."""
    plant(monkeypatch)
    assert p_values(pairs())[which] < 1e-9
