"""The fused kernel, interpreted, against the reference; and that it lowers for GPUs and TPUs."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.benchmark import precision
from mrc_jax import candidates, kernels, pallas_kernel
from mrc_jax.selection import Blocks, select

SEED = 7
QUICK = {"xla_backend_optimization_level": 0}  # halves the time of compiling


@functools.cache
def quantiles():
    zero = jnp.uint32(0)
    return np.asarray(kernels.draw(jnp.uint32(SEED), zero, zero, 1 << 12, 70))


def coefficients(size, blocks, kl_bits=12.0):
    return precision.posteriors(kl_bits, size, blocks)


def exact(drawn, a, c, cut, statistic):
    """The statistic in float64, and the largest sum |a| z^2 + |c| |z| of each cut."""
    z, a, c = (np.asarray(x, np.float64) for x in (drawn, a, c))
    z = z * candidates.LARGEST / 17_715
    scores = (a @ z**2 + c @ z).reshape(len(a), -1, cut)
    sums = (abs(a) @ z**2 + abs(c) @ abs(z)).reshape(len(a), -1, cut).max(2)
    top = scores.max(2)
    if statistic == "logsumexp":
        top = top + np.log(np.exp(scores - top[..., None]).sum(2))
    return top, sums


def units(size, kernel):
    """`kernels.rounding_bound`, relative to the sum of the terms' magnitudes."""
    ones = np.ones((1, size), np.float32)
    bound = jax.jit(kernels.rounding_bound, static_argnums=2)(ones, 0 * ones, kernel)
    return float(bound[0]) / (size * candidates.LARGEST**2)


def check(a, c, cut, cuts, statistic="logsumexp", tested=("codebook", "pallas")):
    """Every kernel is as far from float64 and from the reference as its bound allows."""
    size = a.shape[1]
    drawn = quantiles()[:size, : cut * cuts]
    found = {}
    for kernel in ("reference", *tested):
        f = partial(kernels.cut_statistics, cut=cut, statistic=statistic, kernel=kernel)
        found[kernel] = np.asarray(jax.jit(f, compiler_options=QUICK)(drawn, a, c))
    truth, sums = exact(drawn, a, c, cut, statistic)
    for kernel in tested:
        assert found[kernel].shape == truth.shape and found[kernel].dtype == np.float32
        allowed = units(size, kernel) * sums + 1e-5 * (1 + cut / 128)
        assert np.all(abs(found[kernel] - truth) <= allowed), kernel
        assert np.all(abs(found[kernel] - found["reference"]) <= allowed), kernel


@settings(max_examples=5)
@example(size=70, blocks=70, bits=18, statistic="logsumexp", cuts=2)  # a cut of four tiles
@given(
    size=st.integers(1, 70),
    blocks=st.integers(1, 70),
    bits=st.integers(2, 12),
    statistic=st.sampled_from(["logsumexp", "max"]),
    cuts=st.none(),
)
def test_kernels_agree_within_their_bounds(size, blocks, bits, statistic, cuts):
    cut = 1 << kernels.cut_bits(bits)
    check(*coefficients(size, blocks), cut, cuts or (1 << bits) // cut, statistic)


@pytest.mark.parametrize("value", [0.0, candidates._BOUND])
def test_coefficients_of_any_size_make_numbers(value):
    signs = np.random.default_rng(0).choice([-1, 0, 1], size=(2, 3, 5))
    a, c = (value * signs).astype(np.float32)
    check(a, c, cut=8, cuts=4)
    check(a, c, cut=8, cuts=4, statistic="max")


def test_two_parts_are_an_int16_and_nearly_a_float():
    z = jnp.arange(-17_715, 17_716).astype(jnp.float32) / 4096
    for x, close in ((z, 0), (z * z, 2.0**-16), (jnp.exp(z), 2.0**-16)):
        parts = np.asarray(jax.jit(pallas_kernel._parts)(x)).astype(np.float64).sum(0)
        assert np.all(abs(parts - np.asarray(x)) <= close * abs(np.asarray(x)))


def drop_a_lane(drawn, *parts, scores):
    lane = jax.lax.broadcasted_iota(jnp.int32, drawn.shape, 0)
    return scores(jnp.where(lane == 3, 0, drawn), *parts)


def drop_small_parts(drawn, a, a_rest, c, c_rest, *, scores):
    return scores(drawn, a, 0 * a_rest, c, 0 * c_rest)


def swap_coefficients(drawn, a, a_rest, c, c_rest, *, scores):
    return scores(drawn, c, c_rest, a, a_rest)


@pytest.mark.parametrize("fault", [drop_a_lane, drop_small_parts, swap_coefficients])
def test_the_check_sees_a_planted_fault(fault, monkeypatch):
    wrong = partial(fault, scores=pallas_kernel._scores)
    monkeypatch.setattr(pallas_kernel, "_scores", wrong)
    with pytest.raises(AssertionError, match="pallas"):
        check(*coefficients(20, 5), cut=64, cuts=4, tested=("pallas",))


@pytest.mark.parametrize("selection", ["sample", "ordered", "argmax"])
def test_every_kernel_chooses_the_index_of_the_reference(selection):
    count, bits, size = 700, 12, 20
    a, c = coefficients(size, count)
    number = jnp.arange(count, dtype=jnp.uint32)
    blocks = Blocks(jnp.asarray(a), jnp.asarray(c), number, jnp.uint32(SEED), jnp.uint32(0))

    def chosen(kernel):
        f = partial(select, bits=bits, selection=selection, kernel=kernel)
        return np.asarray(jax.jit(f, compiler_options=QUICK)(jax.random.key(1), blocks))

    expected = chosen("reference")
    assert len(np.unique(expected)) > count / 2
    for kernel in ("codebook", "pallas"):
        differ = int((chosen(kernel) != expected).sum())
        # A choice changes where its score leads by less than b, of probability about b; twice, for
        # the cut and for the candidate.
        mean = float(2 * jnp.sum(jnp.minimum(kernels.rounding_bound(a, c, kernel), 0.5)))
        assert differ <= mean + 4 * mean**0.5


@pytest.mark.parametrize("size,bits,blocks", [(32, 16, 64), (45, 20, 64), (45, 20, 1), (64, 24, 1)])
@pytest.mark.parametrize("platform,call", [("cuda", "triton"), ("tpu", "tpu_custom_call")])
def test_selection_lowers_for_accelerators(platform, call, size, bits, blocks, monkeypatch):
    monkeypatch.setattr(kernels, "_NUMBERS", {})  # chunks of an accelerator
    lanes = jax.ShapeDtypeStruct((blocks, size), jnp.float32)
    word = jax.ShapeDtypeStruct((), jnp.uint32)
    numbers = jax.ShapeDtypeStruct((blocks,), jnp.uint32)
    f = jax.jit(partial(select, bits=bits, selection="sample", kernel="pallas"))
    traced = f.trace(jax.random.key(0), Blocks(lanes, lanes, numbers, word, word))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert call in text
    chunk = 1 << kernels.chunk_bits(bits, size, blocks)
    assert f"{size}x{chunk}xi16" in text and f"{blocks}x{chunk}xf32" not in text
