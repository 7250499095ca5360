"""The fused kernels, interpreted, against the reference; and that they lower for GPUs and TPUs."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.benchmark import precision
from mrc_jax import candidates, kernels, pallas_gpu, pallas_tpu, selection
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
    """The statistic in float64, and of each cut the largest sum |a| z^2 + |c| |z| and the largest
    sum of their squares.
    """
    z, a, c = (np.asarray(x, np.float64) for x in (drawn, a, c))
    z = z * candidates.LARGEST / 17_715
    scores, sums, squares = (
        (x @ z**2 + y @ abs(z) ** power).reshape(len(a), -1, cut)
        for x, y, power in ((a, 0 * c, 1), (abs(a), abs(c), 1), (0 * a, c**2, 2))
    )
    scores = scores + (c @ z).reshape(scores.shape)
    squares = squares + (a**2 @ z**4).reshape(scores.shape)
    top = scores.max(2)
    if statistic == "logsumexp":
        top = top + np.log(np.exp(scores - top[..., None]).sum(2))
    return top, sums.max(2), squares.max(2)


def units(size, kernel):
    """`kernels.rounding_bound`, relative to the sum of the terms' magnitudes."""
    ones = np.ones((1, size), np.float32)
    bound = jax.jit(kernels.rounding_bound, static_argnums=2)(ones, 0 * ones, kernel)
    return float(bound[0]) / (size * candidates.LARGEST**2)


def allowed(kernel, statistic, sums, squares, size, cut):
    """How far a statistic may be off: the rigorous bound, or eight standard deviations of the
    roundings of 11 bits (false alarm below 1e-10 for a candidate).
    """
    most = units(size, "codebook" if kernel == "codebook" else "pallas") * sums
    if (kernel, statistic) == ("pallas", "logsumexp"):
        most = np.minimum(2.0**-10 * sums, 8 * 2.0**-11 * (2 / 3) ** 0.5 * squares**0.5)
    return most + 1e-5 * (1 + cut / 128)


def of_kernel(kernel, drawn, a, c, **options):
    if kernel == "tpu":
        f = partial(pallas_tpu.cut_statistics, interpret=True, **options)
    else:
        f = partial(kernels.cut_statistics, kernel=kernel, **options)
    return np.asarray(jax.jit(f, compiler_options=QUICK)(drawn, a, c))


def check(a, c, cut, cuts, statistic="logsumexp", tested=("codebook", "pallas")):
    """Every kernel is as far from float64 as its bound allows, and from the reference."""
    size = a.shape[1]
    drawn = quantiles()[:size, : cut * cuts]
    options = {"cut": cut, "statistic": statistic}
    truth, sums, squares = exact(drawn, a, c, cut, statistic)
    reference = of_kernel("reference", drawn, a, c, **options)
    for kernel in tested:
        found = of_kernel(kernel, drawn, a, c, **options)
        assert found.shape == truth.shape and found.dtype == np.float32
        most = allowed(kernel, statistic, sums, squares, size, cut)
        assert np.all(abs(found - truth) <= most), kernel
        assert np.all(abs(found - reference) <= most + units(size, "codebook") * sums), kernel


@settings(max_examples=2)
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


@pytest.mark.parametrize("statistic", ["logsumexp", "max"])
@pytest.mark.parametrize(
    "size,blocks,cut,cuts", [(20, 5, 4, 3), pytest.param(45, 3, 256, 2, marks=pytest.mark.slow)]
)
def test_the_kernel_of_tpus_keeps_its_bound(size, blocks, cut, cuts, statistic):
    check(*coefficients(size, blocks), cut, cuts, statistic, tested=("tpu",))


@pytest.mark.parametrize("statistic", ["logsumexp", "max"])
@pytest.mark.parametrize(
    "form",
    [
        {"tile": 64, "run": 128, "runs": 2},
        pytest.param({"magic": False, "tile": 256}, marks=pytest.mark.slow),
    ],
)
def test_every_form_of_the_kernel_of_gpus_makes_the_same(form, statistic, monkeypatch):
    form = pallas_gpu.Form(**form)
    monkeypatch.setitem(pallas_gpu.cut_statistics.__kwdefaults__, "form", form)
    check(*coefficients(45, 20), cut=512, cuts=2, statistic=statistic, tested=("pallas",))


@pytest.mark.parametrize("value", [0.0, candidates._BOUND])
def test_coefficients_of_any_size_make_numbers(value):
    signs = np.random.default_rng(0).choice([-1, 0, 1], size=(2, 3, 5))
    a, c = (value * signs).astype(np.float32)
    check(a, c, cut=8, cuts=4)
    check(a, c, cut=8, cuts=4, statistic="max")


def test_two_parts_are_an_int16_and_nearly_a_float():
    z = jnp.arange(-17_715, 17_716).astype(jnp.float32) / 4096
    for x, close in ((z, 0), (z * z, 2.0**-16), (jnp.exp(z), 2.0**-16)):
        parts = np.asarray(jax.jit(pallas_tpu.two_parts)(x)).astype(np.float64).sum(0)
        assert np.all(abs(parts - np.asarray(x)) <= close * abs(np.asarray(x)))


def drop_a_lane(drawn, parts, magic, *, right):
    lane = jax.lax.broadcasted_iota(jnp.int32, drawn.shape, 0)
    return right(jnp.where(lane == 3, 0, drawn), parts, magic)


def drop_small_parts(drawn, parts, magic, *, right):
    a, a_rest, c, c_rest = parts
    return right(drawn, (a, 0 * a_rest, c, 0 * c_rest), magic)


def swap_coefficients(drawn, parts, magic, *, right):
    half = len(parts) // 2
    return right(drawn, (*parts[half:], *parts[:half]), magic)


def lose_three_bits(drawn, parts, magic, *, right):
    pairs = right(drawn, parts, magic)
    return [tuple(x.astype(jnp.bfloat16).astype(x.dtype) for x in pair) for pair in pairs]


@pytest.mark.parametrize(
    "fault,statistic",
    [
        (drop_a_lane, "logsumexp"),
        (drop_small_parts, "max"),
        (lose_three_bits, "logsumexp"),
        pytest.param(drop_a_lane, "max", marks=pytest.mark.slow),
        pytest.param(swap_coefficients, "logsumexp", marks=pytest.mark.slow),
        pytest.param(swap_coefficients, "max", marks=pytest.mark.slow),
    ],
)
def test_the_check_sees_a_planted_fault(fault, statistic, monkeypatch):
    wrong = partial(fault, right=pallas_gpu._operands)
    monkeypatch.setattr(pallas_gpu, "_operands", wrong)
    with pytest.raises(AssertionError, match="pallas"):
        check(*coefficients(20, 20), 64, 16, statistic, tested=("pallas",))


def chosen(selection, kernel, a, c, bits):
    number = jnp.arange(len(a), dtype=jnp.uint32)
    blocks = Blocks(jnp.asarray(a), jnp.asarray(c), number, jnp.uint32(SEED), jnp.uint32(0))
    f = partial(select, bits=bits, selection=selection, kernel=kernel)
    return np.asarray(jax.jit(f, compiler_options=QUICK)(jax.random.key(1), blocks))


@pytest.mark.parametrize("selection", ["sample", "ordered", "argmax"])
def test_every_kernel_chooses_the_index_of_the_reference(selection):
    a, c = coefficients(20, 300)
    expected = chosen(selection, "reference", a, c, 12)
    assert len(np.unique(expected)) > 300 / 2
    for kernel in ("codebook", "pallas"):
        differ = int((chosen(selection, kernel, a, c, 12) != expected).sum())
        # A choice changes where its score leads by less than b, of probability about b; twice, for
        # the cut and for the candidate. Sampling by 'pallas' compares float32 scores in the end.
        of = "codebook" if selection == "sample" else kernel
        mean = float(2 * jnp.sum(jnp.minimum(kernels.rounding_bound(a, c, of), 0.5)))
        assert differ <= mean + 4 * mean**0.5


def test_cuts_are_opened_until_none_may_win(monkeypatch):
    """However many are opened at a time; and a kernel that trusts its narrow sums chooses another
    index for some of the blocks.
    """
    a, c = coefficients(20, 300, kl_bits=20)
    expected = chosen("sample", "reference", a, c, 12)
    monkeypatch.setattr(selection, "_OPENED", 1)
    assert (chosen("sample", "pallas", a, c, 12) != expected).sum() <= 2
    monkeypatch.setattr(kernels, "likely_rounding", lambda a, c: -jnp.inf * jnp.ones(len(a)))
    assert (chosen("sample", "pallas", a, c, 12) != expected).sum() > 5


@pytest.mark.parametrize(
    "kl_bits,size",
    [
        (20, 45),
        (4, 1),
        *(
            pytest.param(kl_bits, size, marks=pytest.mark.slow)
            for kl_bits, size in ((12, 1), (20, 1), (4, 5), (12, 5), (20, 5), (4, 45), (12, 45))
        ),
    ],
)
def test_what_may_be_missing_of_a_log_sum_exp_is_more_than_is(kl_bits, size):
    """For every cut with a part in the law; and it is not so much that most cuts are opened."""
    drawn = quantiles()[:size]
    a, c = coefficients(size, 16, kl_bits)
    options = {"cut": 64, "statistic": "logsumexp"}
    truth = exact(drawn, a, c, 64, "logsumexp")[0]
    missing = truth - of_kernel("pallas", drawn, a, c, **options)
    margin = np.asarray(kernels.likely_rounding(jnp.asarray(a), jnp.asarray(c)))[:, None]
    matters = truth - truth.max(1, keepdims=True) > np.log(1e-6)
    assert np.all(missing[matters] < 0.6 * np.broadcast_to(margin, missing.shape)[matters])
    assert size < 45 or margin.max() < 0.4


@pytest.mark.parametrize(
    "size,bits,blocks",
    [
        (45, 20, 64),
        (64, 24, 1),
        *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((32, 16, 64), (45, 20, 1))),
    ],
)
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
