"""Indices to bytes and back.

`fixed` writes every index with the same number of bits; `ordered` counts each block's candidates
from an offset of its own and writes small positions with fewer bits.
"""

import numpy as np

from mrc_jax import ordered_code
from mrc_jax.errors import FormatError
from mrc_jax.shared_random import offsets

FIXED, ORDERED = 0, 1  # the codes' numbers in the file
NAMES = {FIXED: "fixed", ORDERED: "ordered"}
_CHUNK = 1 << 16  # a multiple of 8, so that chunks end on whole bytes


def pack(code: int, indices: np.ndarray, bits: int, seed: int) -> bytes:
    """The field of a file that holds uint32[blocks] indices below 2**bits."""
    indices = np.asarray(indices, np.uint32)
    if code == FIXED:
        return pack_fixed(indices, bits)
    return ordered_code.pack_ordered(positions(indices, bits, seed), bits)


def positions(indices: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """Where indices, uint32[blocks], stand counted from their blocks' offsets: uint32[blocks]."""
    return indices - _offsets(len(indices), bits, seed) & np.uint32((1 << bits) - 1)


def unpack(code: int, data: bytes, count: int, bits: int, seed: int) -> np.ndarray:
    """The inverse of `pack`: uint32[count]; raises FormatError for bytes that it does not write."""
    if code == FIXED:
        return unpack_fixed(data, count, bits)
    found = ordered_code.unpack_ordered(data, count, bits)
    return found + _offsets(count, bits, seed) & np.uint32((1 << bits) - 1)


def _offsets(count: int, bits: int, seed: int) -> np.ndarray:
    return offsets(np.uint32(seed), np.arange(count, dtype=np.uint32), bits)


def fixed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` indices of `bits` bits take."""
    return -(-count * bits // 8)


def pack_fixed(indices: np.ndarray, bits: int) -> bytes:
    """Writes uint32 indices below 2**bits one after the other, least significant bit first."""
    out = []
    shifts = np.arange(bits, dtype=np.uint32)
    for start in range(0, len(indices), _CHUNK):
        chunk = np.asarray(indices[start : start + _CHUNK], np.uint32)[:, None]
        out.append(np.packbits((chunk >> shifts & 1).astype(np.uint8), bitorder="little").tobytes())
    return b"".join(out)


def unpack_fixed(data: bytes, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack_fixed`: uint32[count]; raises FormatError where spare bits are set."""
    if data[-1] >> ((count * bits - 1) % 8 + 1):
        raise FormatError("the indices: the spare bits of the last byte are not zero")
    indices = np.empty(count, np.uint32)
    padded = data + bytes(8)
    for i in range(min(8, count)):  # eight indices take `bits` whole bytes
        size, start = -(-(count - i) // 8), i * bits
        words = np.ndarray((size,), "<u8", padded, start // 8, (bits,))  # unaligned
        indices[i::8] = words >> np.uint64(start % 8) & np.uint64((1 << bits) - 1)
    return indices
