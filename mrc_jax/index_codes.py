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
    indices = np.empty(count, np.uint32)
    powers = np.uint32(1) << np.arange(bits, dtype=np.uint32)
    raw = np.frombuffer(data, np.uint8)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        part = raw[start * bits // 8 : -(-(start + size) * bits // 8)]
        flags = np.unpackbits(part, bitorder="little")
        if flags[size * bits :].any():
            raise FormatError("the indices: the spare bits of the last byte are not zero")
        flags = flags[: size * bits].reshape(size, bits)
        indices[start : start + size] = np.where(flags, powers, np.uint32(0)).sum(
            1, dtype=np.uint32
        )
    return indices
