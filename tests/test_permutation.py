"""The keyed permutation: a bijection at every size, the same in NumPy and JAX, and uniform."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from mrc_jax import shared_random
from mrc_jax.shared_random import Stream, permute, unpermute

ONES = 0xFFFFFFFF
SEEDS = (0, 1, ONES)
SIZES_LARGE = (65_535, 65_536, 65_537, 26_580, 15_000_000, (1 << 31) + 11, ONES - 1, ONES)


def walked(function, index, size, seed, stream=Stream.BLOCKS, row=0):
    return np.asarray(function(index, size, seed, stream, row))


@pytest.mark.parametrize("seed", SEEDS)
def test_permute_is_a_bijection_and_unpermute_its_inverse_for_all_small_sizes(seed):
    for size in range(1, 41):
        index = np.arange(size, dtype=np.uint32)
        place = walked(permute, index, size, np.uint32(seed))
        assert sorted(place) == list(range(size))
        np.testing.assert_array_equal(walked(unpermute, place, size, np.uint32(seed)), index)


def test_numpy_and_jax_permutations_are_the_same_for_small_sizes():
    for size in (1, 2, 3, 9, 32, 33):
        index = np.arange(size, dtype=np.uint32)
        for function in (permute, unpermute):
            on_jax = walked(function, jnp.asarray(index), size, jnp.uint32(9))
            np.testing.assert_array_equal(walked(function, index, size, np.uint32(9)), on_jax)


@pytest.mark.parametrize("size", SIZES_LARGE)
def test_permute_at_large_sizes_stays_inside_and_is_undone_in_numpy_and_jax(size):
    index = np.random.default_rng(0).integers(0, size, 2000, dtype=np.uint64)
    index = np.unique(np.append(index, [0, 1, size - 1])).astype(np.uint32)
    place = walked(permute, index, size, np.uint32(ONES))
    assert place.max() < size and len(np.unique(place)) == len(index)
    np.testing.assert_array_equal(walked(unpermute, place, size, np.uint32(ONES)), index)
    for function, argument in ((permute, index), (unpermute, place)):
        on_jax = walked(function, jnp.asarray(argument), size, jnp.uint32(ONES))
        np.testing.assert_array_equal(walked(function, argument, size, np.uint32(ONES)), on_jax)


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_permute_is_a_whole_bijection_where_the_number_of_rounds_changes(size):
    place = walked(permute, np.arange(size, dtype=np.uint32), size, np.uint32(3))
    np.testing.assert_array_equal(np.sort(place), np.arange(size))


def test_more_indices_than_numpy_works_on_at_a_time_go_where_jax_sends_them():
    size = 2 * shared_random.CHUNK + 3
    index = np.arange(size, dtype=np.uint32)
    for function in (permute, unpermute):
        on_jax = walked(function, jnp.asarray(index), size, jnp.uint32(9))
        np.testing.assert_array_equal(walked(function, index, size, np.uint32(9)), on_jax)


def test_rows_and_streams_and_seeds_give_different_permutations():
    index = np.arange(1000, dtype=np.uint32)
    places = [
        walked(permute, index, 1000, np.uint32(seed), stream, row)
        for seed in (1, 2)
        for stream in (Stream.BLOCKS, Stream.SHARING)
        for row in (0, 1)
    ]
    for i, one in enumerate(places):
        for other in places[:i]:
            assert np.mean(one == other) < 0.02  # a random pair agrees in 1 place of 1000


def order_p_value(size, seeds=3000):
    """Chi-square of all size! permutations over the seeds."""
    orders = places_over_seeds(size, range(size), seeds) @ size ** np.arange(size)
    _, counts = np.unique(orders, return_counts=True)
    total = int(special.factorial(size))
    counts = np.append(counts, np.zeros(total - len(counts)))
    return stats.chisquare(counts).pvalue


def neighbours_p_value(size, seeds=4000):
    """Chi-square of the places of two neighbours over the seeds, in a grid of 8 x 8."""
    bins = places_over_seeds(size, [size // 2, size // 2 + 1], seeds) * 8 // size
    width = np.bincount(np.arange(size) * 8 // size, minlength=8)
    expected = (np.outer(width, width) - np.diag(width)).ravel()  # never twice in one place
    counts = np.bincount(bins[:, 0] * 8 + bins[:, 1], minlength=64)
    possible = expected > 0
    assert not counts[~possible].any()
    return stats.chisquare(counts[possible], expected[possible] * (seeds / expected.sum())).pvalue


def places_over_seeds(size, index, seeds):
    index = np.asarray(index, np.uint32)
    return np.stack([walked(permute, index, size, np.uint32(s)) for s in range(seeds)]).astype(int)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_permutations_of_few_indices_are_equally_likely(size):
    """False alarm 1e-4. (Of the 120 permutations of 5, on three bits, some are favoured by a few
    tenths: too few indices for sharing or blocks to notice. From 8 on pairs are even, below.)
    """
    assert order_p_value(size) > 1e-4


@pytest.mark.parametrize("size", [8, 33, 1000, 100_000])
def test_where_neighbours_go_is_uniform_over_seeds(size):
    """False alarm 1e-4."""
    assert neighbours_p_value(size) > 1e-4


def test_a_permutation_of_too_few_rounds_is_rejected(monkeypatch):
    """The power of the two tests above: with one round in place of eight both p-values vanish."""
    whole_key = shared_random._feistel_key
    monkeypatch.setattr(
        shared_random, "_feistel_key", lambda *args: tuple(k[:1] for k in whole_key(*args))
    )
    assert order_p_value(4) < 1e-6
    assert neighbours_p_value(1000) < 1e-6
