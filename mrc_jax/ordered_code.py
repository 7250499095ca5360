"""Positions of ordered random coding to bytes and back: small positions take fewer bits.

Position 0 is bucket 0, and bucket i > 0 holds the positions from 2**(i - 1) to 2**i - 1. A range
coder, rANS (Duda, "Asymmetric numeral systems", 2013), writes the buckets; the bits of a position
below its highest are written as they are (docs/FORMAT.md, "Ordered indices").
"""

import functools

import numpy as np

from mrc_jax.errors import FormatError

MAX_PER_BYTE = 32  # indices in a byte of the field at most: none takes less than a quarter bit
_UNIT = 128  # of the parameters
_TOTAL_BITS = 16  # the buckets' frequencies add up to 2**16
_SPREAD = (1 << _TOTAL_BITS) - 32  # of them in proportion to the weights; the rest is bucket 0's
_LOWER = 1 << 24  # the coder's state is from 2**24 to 2**32 - 1 between two buckets
_CHUNK = 1 << 16


def pack_ordered(positions: np.ndarray, bits: int) -> bytes:
    """The field of uint32[blocks] positions below 2**bits, with the parameters that suit it."""
    positions = np.asarray(positions, np.uint32)
    buckets = np.frexp(positions.astype(np.float64))[1]
    r, s = best_parameters(np.bincount(buckets, minlength=bits + 1), bits)
    raw = _pack_low_bits(positions, buckets)
    raw += bytes(max(0, 3 - len(raw)))
    frequency = frequencies(r, s, bits)
    start = (np.cumsum(frequency) - frequency).tolist()
    frequency = frequency.tolist()
    state, out = _LOWER + int.from_bytes(raw[:3], "little"), bytearray()
    for i in buckets[::-1].tolist():
        f = frequency[i]
        while state >= f << _TOTAL_BITS:
            out.append(state & 0xFF)
            state >>= 8
        state = (state // f << _TOTAL_BITS) + state % f + start[i]
    return bytes([r, s]) + state.to_bytes(4, "big") + out[::-1] + raw[3:]


def unpack_ordered(data: bytes, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack_ordered`: uint32[count].

    Raises FormatError where data is not what some positions and parameters are written as.
    """
    if len(data) < 6 or count > MAX_PER_BYTE * len(data):
        raise FormatError(f"the indices: {count} of them cannot be {len(data)} bytes")
    frequency = frequencies(data[0], data[1], bits)
    state, at = int.from_bytes(data[2:6], "big"), 6
    if state < _LOWER:
        raise FormatError("the indices: the coder's first state is below 2^24")
    start = (np.cumsum(frequency) - frequency).tolist()
    bucket_of = np.repeat(np.arange(bits + 1, dtype=np.uint8), frequency).tobytes()
    frequency = frequency.tolist()
    buckets = bytearray(count)
    try:
        for b in range(count):
            slot = state & 0xFFFF
            buckets[b] = i = bucket_of[slot]
            state = frequency[i] * (state >> _TOTAL_BITS) + slot - start[i]
            while state < _LOWER:
                state = state << 8 | data[at]
                at += 1
    except IndexError:
        raise FormatError("the indices: the file ends inside them") from None
    if state >= 2 * _LOWER:
        raise FormatError("the indices: the coder's last state is not below 2^25")
    raw = (state - _LOWER).to_bytes(3, "little") + data[at:]
    return _unpack_low_bits(raw, np.frombuffer(buckets, np.uint8))


def frequencies(r: np.ndarray | int, s: np.ndarray | int, bits: int) -> np.ndarray:
    """The buckets' frequencies in 2**16, int64[bits + 1, ...]; all are above 0.

    Args:
      r, s: the parameters, integers of one shape [...] from 0 to 255. Bucket i - 1 has
        1/2 + r / (128 + s (bits - i)) times the weight of bucket i, and bucket 0 twice that; (0, 0)
        is the uniform law.
      bits: of an index.
    """
    r, s = np.asarray(r, np.int64), np.asarray(s, np.int64)
    weights = [np.full(r.shape, 1 << 16, np.int64)]
    for i in range(1, bits + 1):
        unit = _UNIT + s * (bits - i)
        weights.append(weights[-1] * unit * (2 if i > 1 else 1) // (unit + 2 * r))
    total, out = sum(weights), []
    least = np.ones_like(total)
    for weight in weights[:0:-1]:  # at least half the bucket above, so that no cost ever falls
        out.append(np.maximum(least, weight * _SPREAD // total))
        least = out[-1] + 1 >> 1
    out.append((1 << _TOTAL_BITS) - sum(out))
    return np.stack(out[::-1])


def bucket_bits(r: np.ndarray | int, s: np.ndarray | int, bits: int) -> np.ndarray:
    """Bits that a position in each bucket takes: float64[bits + 1, ...], never falling."""
    frequency = frequencies(r, s, bits)
    positions = 1 << np.maximum(np.arange(bits + 1) - 1, 0) + _TOTAL_BITS
    return -np.log2(frequency / positions.reshape((-1,) + (1,) * (frequency.ndim - 1)))


def best_parameters(counts: np.ndarray, bits: int) -> tuple[int, int]:
    """The (r, s) with which so many positions in each bucket (any weights) take the fewest bits."""
    costs = np.asarray(counts, np.float64) @ _bits_of_all(bits)
    best = int(np.argmin(np.round(costs, 3)))  # rounded, so that every machine sees the same ties
    return best >> 8, best & 0xFF


@functools.lru_cache(1)
def _bits_of_all(bits: int) -> np.ndarray:
    """`bucket_bits` of every (r, s), float64[bits + 1, 2**16]."""
    every = np.arange(1 << 16)
    return bucket_bits(every >> 8, every & 0xFF, bits)


def _pack_low_bits(positions: np.ndarray, buckets: np.ndarray) -> bytes:
    """Each position's bits below its highest, one after the other, the lowest first."""
    place = np.arange(max(1, int(buckets.max()) - 1), dtype=np.uint32)
    kept = [np.zeros(0, np.uint8)]
    for start in range(0, len(positions), _CHUNK):
        part = slice(start, start + _CHUNK)
        written = (positions[part, None] >> place & 1).astype(np.uint8)
        kept.append(written[place + 1 < buckets[part, None]])
    return np.packbits(np.concatenate(kept), bitorder="little").tobytes()


def _unpack_low_bits(raw: bytes, buckets: np.ndarray) -> np.ndarray:
    """Positions, uint32, from their buckets and the bits that `_pack_low_bits` wrote."""
    widths = np.maximum(buckets, 1).astype(np.int64) - 1
    ends = np.cumsum(widths)
    size = int(ends[-1])
    if len(raw) != max(3, -(-size // 8)) or int.from_bytes(raw[size // 8 :], "little") >> size % 8:
        raise FormatError("the indices: bits are missing, left over, or set where none belong")
    words = np.ndarray((len(raw) + 1,), "<u8", raw + bytes(8), 0, (1,))  # unaligned, at each byte
    starts = ends - widths
    low = words[starts // 8] >> (starts % 8).astype(np.uint64)
    top = np.uint64(1) << widths.astype(np.uint64)
    return np.where(buckets > 0, low & top - np.uint64(1) | top, 0).astype(np.uint32)
