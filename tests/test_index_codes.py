"""Indices to bytes and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrc_jax import index_codes
from mrc_jax.errors import FormatError


@given(st.data(), st.integers(1, 30), st.integers(1, 300))
def test_what_is_packed_is_unpacked(data, bits, count):
    seed = data.draw(st.integers(0, 2**32 - 1))
    indices = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint32)
    packed = index_codes.pack_fixed(indices, bits)
    assert len(packed) == index_codes.fixed_bytes(count, bits) == -(-count * bits // 8)
    number = sum(int(k) << i * bits for i, k in enumerate(indices))
    assert packed == number.to_bytes(len(packed), "little")
    np.testing.assert_array_equal(index_codes.unpack_fixed(packed, count, bits), indices)


@pytest.mark.parametrize("bits", [1, 7, 13])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_chunks_join_without_a_seam(bits, extra):
    count = 2 * index_codes._CHUNK + extra
    indices = np.random.default_rng(count).integers(0, 1 << bits, count).astype(np.uint32)
    packed = index_codes.pack_fixed(indices, bits)
    assert len(packed) == index_codes.fixed_bytes(count, bits)
    np.testing.assert_array_equal(index_codes.unpack_fixed(packed, count, bits), indices)


@given(st.integers(1, 30), st.integers(1, 40))
def test_any_spare_bit_that_is_set_is_refused(bits, count):
    spare = -count * bits % 8
    packed = index_codes.pack_fixed(np.zeros(count, np.uint32), bits)
    for bit in range(8 - spare, 8):
        damaged = packed[:-1] + bytes([packed[-1] | 1 << bit])
        with pytest.raises(FormatError, match="spare bits"):
            index_codes.unpack_fixed(damaged, count, bits)
