"""Indices to bytes and back: `fixed` writes every index with the same number of bits."""

import numpy as np

from mrc_jax.errors import FormatError

FIXED = 0  # the code's number in the file
_CHUNK = 1 << 16  # a multiple of 8, so that chunks end on whole bytes


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
