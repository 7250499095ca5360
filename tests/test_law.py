"""The law of the coder: a block's index follows softmax(log q - log p) of what the decoder decodes.

Every test here compares draws under fresh private keys with float64 probabilities of the values
that the NumPy decoder makes (coder_law.py). The same checks run against planted faults and reject
each of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coder_law import SEED, Case, law_p_values, select_one
from scipy import special, stats

from mrc_jax import blocks, candidates, encode, kernels
from mrc_jax.shared_random import quantiles

ALARM = 1e-4  # false-alarm rate of every single p-value below


@pytest.mark.parametrize("bits, codebook_blocks", [(3, 1), (5, 2), (8, 3)])
def test_each_index_follows_its_law_and_blocks_are_independent(bits, codebook_blocks):
    """20,000 keys; false alarm 1e-4 for each of three blocks and for the pair."""
    each, pair = law_p_values(Case(bits=bits, codebook_blocks=codebook_blocks))
    assert min(each) > ALARM
    assert pair > ALARM


NARROW = {"entries": 3, "blocks": 3, "bits": 8, "std": 0.02, "scale": 1.0037}  # bfloat16: 1.0


def test_the_law_holds_for_the_rounded_scale_of_a_narrow_posterior():
    """20,000 keys; false alarm 1e-4 for each of three blocks of one entry."""
    assert min(law_p_values(Case(**NARROW))[0]) > ALARM


def lose_the_half(patch):
    def coefficients(mean, log_variance, prior_scale):
        precision = jnp.exp(-log_variance)
        return 1 - 0.5 * prior_scale**2 * precision, prior_scale * mean * precision

    patch.setattr(candidates, "coefficients", coefficients)


def take_the_largest(patch):
    patch.setattr(candidates, "gumbel", lambda key, counter, use: jnp.zeros(counter.shape))


def drop_the_signs(patch):
    patch.setattr(candidates, "signed", lambda seed, block, lanes, codebook_blocks: lanes)


def shift_the_permutation(patch):
    right = encode.entry_of_slot

    def shifted(partition, seed, slot):
        return right(partition, seed, (slot + 1) % np.uint32(partition.entries))

    patch.setattr(encode, "entry_of_slot", shifted)


def round_after_selection(patch):
    patch.setattr(encode, "round_scale", lambda scale: scale)


def forget_the_mean(patch):
    right = candidates.coefficients
    patch.setattr(candidates, "coefficients", lambda m, v, s: right(0 * m, v, s))


def share_the_codebook_wrongly(patch):
    right = kernels.quantiles
    patch.setattr(
        kernels, "quantiles", lambda seed, codebook, *rest: right(seed, 0 * codebook, *rest)
    )


def choose_the_cut_by_its_largest(patch):
    right = kernels.cut_statistics
    patch.setattr(
        kernels, "cut_statistics", lambda *args, **kw: right(*args, **{**kw, "statistic": "max"})
    )


def one_noise_for_cut_and_candidate(patch):
    right = candidates.gumbel
    patch.setattr(candidates, "gumbel", lambda key, counter, use: right(key, counter, 0))


FAULTS = [
    (lose_the_half, {}),
    (take_the_largest, {}),
    (drop_the_signs, {"codebook_blocks": 3}),
    (shift_the_permutation, {}),
    (round_after_selection, NARROW),
    (forget_the_mean, {}),
    (share_the_codebook_wrongly, {}),
    (choose_the_cut_by_its_largest, {"bits": 8}),
    (one_noise_for_cut_and_candidate, {}),
]


@pytest.mark.parametrize("plant, case", FAULTS, ids=[f.__name__ for f, _ in FAULTS])
def test_the_check_rejects_an_index_of_another_law(plant, case, monkeypatch):
    """The power of the tests above: p below 1e-12 for every planted fault."""
    plant(monkeypatch)
    assert min(law_p_values(Case(**case))[0]) < 1e-12


def test_the_check_rejects_blocks_that_share_their_noise(monkeypatch):
    """Each block alone keeps its law, the pair does not: p below 1e-12."""
    monkeypatch.setattr(jax.random, "fold_in", lambda key, data: key)
    each, pair = law_p_values(Case(bits=3))
    assert min(each) > ALARM
    assert pair < 1e-12


@pytest.mark.parametrize("codebook_blocks", [1, 2])
def test_log_weights_are_log_q_minus_log_p_of_the_decoded_values(codebook_blocks):
    """Up to a constant of the block, within 2e-5 of the largest term in float32."""
    case = Case(entries=13, blocks=4, bits=6, codebook_blocks=codebook_blocks)
    partition = blocks.Partition(case.entries, case.blocks)
    seed = jnp.uint32(SEED)
    entry = blocks.entry_of_slot(partition, seed, jnp.arange(case.entries, dtype=jnp.uint32))
    scale = encode.round_scale(case.scale)
    a, c = (
        blocks.to_blocks(x, entry, partition)
        for x in candidates.coefficients(jnp.asarray(case.mean), case.log_variance, scale)
    )
    number = jnp.arange(64, dtype=jnp.uint32)
    for block, expected in enumerate(case.log_weights()):
        signed = candidates.signed(seed, jnp.uint32(block), c[:, block], codebook_blocks)
        drawn = quantiles(seed, jnp.uint32(block // codebook_blocks), number, len(signed))
        found = candidates.log_weights(drawn, a[None, :, block], signed[None])[0]
        difference = np.asarray(found, np.float64) - expected
        bound = 2e-5 * np.abs(expected).max()
        assert np.ptp(difference) < bound
        assert np.ptp(expected) > 1000 * bound  # the comparison says something


MEAN, STD = 1.0, 0.5  # of a posterior 1.1 bits from its prior of scale 1


def drawn_and_exact(bits, seeds):
    """The values drawn, one a shared seed, and their exact means and variances given the seed."""
    a, c = candidates.coefficients(*(jnp.full(1, x) for x in (MEAN, 2 * np.log(STD), 1.0)))

    def one(key, seed):
        return select_one(key, a, c, seed, bits)

    keys = jax.random.split(jax.random.key(bits), seeds)
    index = np.asarray(jax.jit(jax.vmap(one))(keys, jnp.arange(seeds, dtype=jnp.uint32)))
    number = np.arange(1 << bits, dtype=np.uint32)
    zero = np.zeros(1, np.uint32)
    z = np.stack([quantiles(np.uint32(s), zero, number, 1)[0] for s in range(seeds)]) / 4096
    law = special.softmax(stats.norm.logpdf(z, MEAN, STD) - stats.norm.logpdf(z), axis=1)
    mean = (law * z).sum(1)
    return z[np.arange(seeds), index], mean, (law * z**2).sum(1) - mean**2


def test_the_sample_approaches_the_posterior_as_candidates_grow():
    """Draws have the exact mean given their codebooks (|z| < 4: false alarm 6e-5 each of four), and
    over codebooks both moments' errors at least halve from 2 to 5 and from 5 to 8 bits; at 14
    bits they are the posterior's within four standard errors (6e-5 each)."""
    errors = []
    for bits, seeds in ((2, 1024), (5, 1024), (8, 1024), (14, 128)):
        values, mean, variance = drawn_and_exact(bits, seeds)
        assert abs(np.sum(values - mean)) < 4 * np.sqrt(variance.sum())
        second = variance + mean**2
        errors.append((abs(mean.mean() - MEAN), abs(second.mean() - MEAN**2 - STD**2)))
    for of_one_moment in np.transpose(errors):
        assert np.all(of_one_moment[1:3] < 0.5 * of_one_moment[:2])
    assert abs(values.mean() - MEAN) < 4 * STD / np.sqrt(128)
    assert abs(values.var() - STD**2) < 4 * STD**2 * np.sqrt(2 / 128)
