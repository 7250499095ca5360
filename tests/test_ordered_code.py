"""Ordered indices: round trips, sizes near the ideal, frequencies, hostile fields."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrc_jax.errors import FormatError
from mrc_jax.ordered_code import (
    MAX_PER_BYTE,
    best_parameters,
    bucket_bits,
    frequencies,
    pack_ordered,
    unpack_ordered,
)

EVERY = np.arange(1 << 16)  # every pair of parameters
SIMULATED = (
    (325, 183, 266, 371, 448, 565, 734, 850, 859, 858, 541),
    (74, 40, 54, 84, 119, 154, 200, 249, 318, 370, 455, 523, 542, 491, 327),
)


def draw(rng: np.random.Generator, count: int, bits: int, skew: float) -> np.ndarray:
    """uint32[count] positions: uniform with skew 1, smaller with more."""
    return (rng.random(count) ** skew * (1 << bits)).astype(np.uint32)


def check(positions: np.ndarray, bits: int) -> None:
    """The round trip, and a field of 2 bytes and the parameters beyond the ideal at most.

    The state holds 24 raw bits, whether there are so many or not, and the coder's whole numbers
    cost up to 1/1000 bit an index.
    """
    field = pack_ordered(positions, bits)
    again = unpack_ordered(field, len(positions), bits)
    assert again.dtype == np.uint32
    np.testing.assert_array_equal(again, positions)
    buckets = np.asarray([int(p).bit_length() for p in positions])
    ideal = bucket_bits(field[0], field[1], bits)[buckets].sum()
    unused = max(0, 24 - int(np.maximum(buckets - 1, 0).sum()))
    assert len(field) <= ideal / 8 + 2 + 2 + unused / 8 + len(positions) / 8000
    parameters = best_parameters(np.bincount(buckets, minlength=bits + 1), bits)
    assert parameters == (field[0], field[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 3000), st.integers(0, 2**32 - 1), st.data())
def test_what_is_packed_is_unpacked_and_near_the_ideal_size(bits, count, seed, data):
    skew = data.draw(st.sampled_from([1, 1.3, 2, 4, 12]))
    check(draw(np.random.default_rng(seed), count, bits, skew), bits)


@pytest.mark.parametrize("bits", [1, 2, 12, 30])
@pytest.mark.parametrize("count", [1, 2, 5000])
def test_the_extremes_are_packed_and_unpacked(bits, count):
    for position in (0, 1, (1 << bits) - 1):
        check(np.full(count, position, np.uint32), bits)


def test_many_chunks_join_without_a_seam():
    check(draw(np.random.default_rng(1), (1 << 17) + 5, 11, 3), 11)


@pytest.mark.parametrize("bits", range(1, 31))
def test_all_parameters_give_frequencies_that_a_decoder_can_use(bits):
    frequency = frequencies(EVERY >> 8, EVERY & 0xFF, bits)
    assert frequency.shape == (bits + 1, 1 << 16) and frequency.min() >= 1
    assert np.all(frequency.sum(0) == 1 << 16)
    cost = bucket_bits(EVERY >> 8, EVERY & 0xFF, bits)
    assert np.all(np.diff(cost, axis=0) >= 0)
    assert cost.min() > 8 / MAX_PER_BYTE
    uniform = 0.5 ** (bits + 1 - np.arange(1, bits + 1))
    assert np.all(np.abs(frequency[1:, 0] / 2**16 - uniform) < 1e-3)


def test_the_parameters_fit_what_ordered_coding_chooses():
    """Buckets of 6,000 simulated blocks of 8 bits of KL among 2**10 candidates, 4,000 of 12/2**14.

    Blocks of 30 Gaussian lanes of equal KL, half of it in the mean.
    """
    for counts in SIMULATED:
        bits, share = len(counts) - 1, np.asarray(counts) / sum(counts)
        entropy = (-share * np.log2(share)).sum() + share @ np.maximum(np.arange(bits + 1) - 1, 0)
        spent = share @ bucket_bits(*best_parameters(np.asarray(counts), bits), bits)
        assert entropy < spent < entropy + 0.005 and spent < 0.9 * bits


def test_damaged_fields_are_refused_or_decoded():
    rng = np.random.default_rng(0)
    for bits, count in ((1, 40), (9, 30), (30, 12)):
        field = pack_ordered(draw(rng, count, bits, 2), bits)
        for size in range(len(field)):
            with pytest.raises(FormatError):
                unpack_ordered(field[:size], count, bits)
        for more in (b"\0", b"\1", bytes(9)):
            with pytest.raises(FormatError):
                unpack_ordered(field + more, count, bits)
        for bit in range(8 * len(field)):
            damaged = bytearray(field)
            damaged[bit // 8] ^= 1 << bit % 8
            survives(bytes(damaged), count, bits)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 2**32 - 1) | st.integers(1, 90), st.integers(1, 30))
def test_any_bytes_are_refused_or_decoded(data, count, bits):
    survives(data, count, bits)


def survives(data: bytes, count: int, bits: int) -> None:
    try:
        positions = unpack_ordered(data, count, bits)
    except FormatError as error:
        assert "\n" not in str(error)
    else:
        assert positions.shape == (count,) and int(positions.max()) >> bits == 0


def test_each_impossible_field_is_refused_by_name():
    field = pack_ordered(np.full(9, 21, np.uint32), 6)  # 36 raw bits: 24 in the state, 12 after it
    for wrong, message in (
        (field[:5], "cannot be 5 bytes"),
        (field[:2] + b"\0" + field[3:], "first state"),
        (field[:-2] + bytes([field[-2], field[-1] | 0x80]), "set where none belong"),
        (field[:-1], "missing"),
        (field + b"\0", "left over"),
    ):
        with pytest.raises(FormatError, match=message):
            unpack_ordered(wrong, 9, 6)
    with pytest.raises(FormatError, match="cannot be"):
        unpack_ordered(field, 1 + MAX_PER_BYTE * len(field), 6)
    with pytest.raises(FormatError, match="ends inside"):
        unpack_ordered(field[:2] + b"\1\0\0\0", 9, 6)
    with pytest.raises(FormatError, match="last state"):
        unpack_ordered(field[:2] + b"\xff" * 4, 1, 6)
