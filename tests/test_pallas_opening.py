"""The GPU's program that opens cuts, interpreted, against the best over all cuts in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax import pallas_opening
from mrc_jax.selection import Blocks, select
from mrc_jax.shared_random import TABLE_UNIT

best_of_opened = partial(pallas_opening.best_of_opened, interpret=True)


def made(size, cuts, cut, blocks, seed=0):
    """A codebook, coefficients and noises; the cuts' sums with theirs, and the best candidates."""
    rng = np.random.default_rng(seed)
    kept = rng.integers(-12000, 12000, (size, cuts * cut)).astype(np.int16)
    a = rng.uniform(-0.8, 0.3, (blocks, size)).astype(np.float32)
    c = rng.normal(size=(blocks, size)).astype(np.float32)
    noise = rng.gumbel(size=(blocks, cuts)).astype(np.float32)
    within = rng.gumbel(size=(blocks, cut)).astype(np.float32)
    z = kept.astype(np.float64) / TABLE_UNIT
    scores = (a.astype(np.float64) @ z**2 + c.astype(np.float64) @ z).reshape(blocks, cuts, cut)
    sums = np.logaddexp.reduce(scores, axis=2) + noise
    place = np.argmax(scores + within[:, None], axis=2)
    chosen = np.arange(cuts) * cut + place
    best = chosen[np.arange(blocks), np.argmax(sums, axis=1)]
    return [jnp.asarray(x) for x in (kept, a, c)], sums, [noise, within], best


@pytest.mark.parametrize(
    "size,cuts,cut,blocks,margin",
    [
        (1, 2, 2, 3, 0.0),
        (20, 16, 8, 5, 30.0),
        (45, 32, 32, 7, 0.5),
        (33, 8, 2048, 2, 0.5),
        (5, 2048, 2, 2, 0.0),
        pytest.param(45, 32, 32, 7, 30.0, marks=pytest.mark.slow),
        pytest.param(5, 2048, 2, 2, 30.0, marks=pytest.mark.slow),
    ],
)
def test_it_opens_until_no_other_cut_can_win(size, cuts, cut, blocks, margin):
    """However loose the bounds are: at a margin of 30 nearly every cut is opened."""
    arrays, sums, noises, expected = made(size, cuts, cut, blocks)
    bound = sums + np.random.default_rng(1).uniform(0, margin, sums.shape) + 1e-3
    found = best_of_opened(*arrays, jnp.asarray(bound, jnp.float32), *noises)
    np.testing.assert_array_equal(found, expected)


def test_a_bound_that_is_no_bound_is_believed():
    """The planted fault: with the winner's bound too low another cut is taken."""
    arrays, sums, noises, expected = made(20, 16, 8, 6)
    bound = sums + 1e-3
    bound[np.arange(6), np.argmax(sums, axis=1)] = -100
    found = np.asarray(best_of_opened(*arrays, jnp.asarray(bound, jnp.float32), *noises))
    assert np.all(found != expected)
    second = np.argsort(sums, axis=1)[:, -2]
    np.testing.assert_array_equal(found // 8, second)


def test_equal_bounds_are_opened_one_after_the_other():
    arrays, sums, noises, expected = made(20, 16, 8, 6, seed=3)
    bound = np.broadcast_to(sums.max(axis=1, keepdims=True) + 1, sums.shape)
    found = best_of_opened(*arrays, jnp.asarray(bound, jnp.float32), *noises)
    np.testing.assert_array_equal(found, expected)


def test_blocks_without_information_and_cuts_without_hope_are_settled():
    """Coefficients of zero: every log-weight is zero, and the noise alone decides."""
    arrays, _, (noise, within), _ = made(20, 16, 8, 4)
    zeros = jnp.zeros_like(arrays[1])
    bound = np.where(np.arange(16) < 9, noise + np.log(8) + 1e-3, -np.inf)
    found = best_of_opened(arrays[0], zeros, zeros, jnp.asarray(bound), noise, within)
    expected = np.argmax(noise[:, :9], axis=1) * 8 + np.argmax(within, axis=1)
    np.testing.assert_array_equal(found, expected)


def test_selection_calls_it_where_a_codebook_is_kept_and_the_device_is_a_gpu():
    """Once in the program of CUDA, and no loop that the host is asked about; elsewhere not."""

    def text(kept, platform):
        lanes, word = jax.ShapeDtypeStruct((4, 20), jnp.float32), jax.ShapeDtypeStruct((), "uint32")
        numbers = jax.ShapeDtypeStruct((4,), jnp.uint32)
        blocks = Blocks(lanes, lanes, numbers, word, word, kept)
        f = jax.jit(partial(select, bits=12, selection="sample", kernel="pallas"))
        return f.trace(jax.random.key(0), blocks).lower(lowering_platforms=(platform,)).as_text()

    kept = jax.ShapeDtypeStruct((20, 1 << 12), jnp.int16)
    assert "best_of_opened" in text(kept, "cuda")
    assert "best_of_opened" not in text(None, "cuda")
    assert "best_of_opened" not in text(kept, "cpu")
