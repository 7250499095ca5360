"""Numbers that encoder and decoder both can make: Threefry-2x32-20 on explicit counters.

Every function takes NumPy or JAX arrays and gives the same integers for both (docs/FORMAT.md,
"Shared randomness"). Threefry is Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011.
"""

import enum
import functools
import hashlib
import importlib.resources
from collections.abc import Callable
from typing import Any

import numpy as np

from mrc_jax.errors import FormatError

Array = Any  # a NumPy or JAX array
TAG = 0x6D726300  # high word of every key; jax.random.key(seed) has 0 there
TABLE_SHA256 = "1ea009ce409dac97"  # how the normal table's SHA-256 begins
TABLE_UNIT = 4096  # the table holds rint(4096 * standard-normal quantile)
CHUNK = 1 << 15  # numbers that NumPy works on at a time: few enough for the cache
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


class Stream(enum.IntEnum):
    """What a family of counters is used for; the low byte of the key's first word."""

    CANDIDATES = 0
    BLOCKS = 1
    SHARING = 2
    SHARING_SIGNS = 3
    CODEBOOK_SIGNS = 4
    BATCHES = 5
    OFFSETS = 6


def namespace(*arrays: Array) -> Any:
    """Returns the array module, numpy or jax.numpy, that the arguments belong to."""
    if all(isinstance(a, np.ndarray | np.generic | int) for a in arrays):
        return np
    import jax.numpy as jnp

    return jnp


def threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds: two uint32 words for each counter.

    Args:
      key: two uint32 scalars or arrays.
      counter: two uint32 arrays; all four broadcast together.
    """
    xp = namespace(*key, *counter)
    k0, k1 = (xp.asarray(k, np.uint32) for k in key)
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    shape = np.broadcast_shapes(k0.shape, k1.shape, counter[0].shape, counter[1].shape)
    with np.errstate(over="ignore"):  # NumPy warns when 0-d integers wrap
        x0, x1 = (xp.broadcast_to(c, shape) + k for c, k in zip(counter, (k0, k1), strict=True))
        for group in range(5):
            for rotation in _ROTATIONS[group % 2]:  # in place where the arrays are NumPy's
                x0 += x1
                overflow = x1 >> np.uint32(32 - rotation)
                x1 <<= np.uint32(rotation)
                x1 |= overflow
                x1 ^= x0
            x0 += schedule[(group + 1) % 3]
            x1 += schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _stored_threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> Any:
    """`threefry` in JAX, its words in memory: or XLA computes a call for each of its four lanes."""
    anything = key[0] ^ key[1] ^ counter[0] ^ counter[1]  # of the words' shape and axes
    return stored(threefry, key[1], (anything, anything), key, counter)


def stored(compute: Callable[..., Any], word: Array, like: Any, *arguments: Any) -> Any:
    """compute(*arguments) in JAX, kept in memory: XLA does not compute it for each reader anew.

    On a CPU no barrier holds inside of loops; a loop of one turn, which XLA cannot foresee, does.

    Args:
      compute: without a gradient.
      word: uint32[...], any that is not known when the program is compiled.
      like: what has the shapes, dtypes and device axes of the result.
      *arguments: pytrees of arrays.
    """
    import jax
    import jax.numpy as jnp

    def once(word: Any, like: Any, *arguments: Any) -> Any:
        turns = jnp.minimum(jnp.max(word | np.uint32(1)), 1).astype(jnp.int32)
        return jax.lax.fori_loop(0, turns, lambda *_: compute(*arguments), like)

    def barrier(word: Any, like: Any, *arguments: Any) -> Any:
        return jax.lax.optimization_barrier(compute(*arguments))

    return jax.lax.platform_dependent(word, like, *arguments, cpu=once, default=barrier)


def stream_key(seed: Array, stream: Stream) -> tuple[Array, Array]:
    """The Threefry key of a stream: (tag + stream, seed)."""
    return np.uint32(TAG + stream), namespace(seed).asarray(seed).astype(np.uint32)


@functools.cache
def normal_table() -> np.ndarray:
    """The int16[65536] table rint(4096 * ndtri((i + 0.5) / 65536)), checked by its hash."""
    data = importlib.resources.files("mrc_jax").joinpath("data/normal_table.bin").read_bytes()
    if not hashlib.sha256(data).hexdigest().startswith(TABLE_SHA256):
        raise FormatError(
            "mrc_jax/data/normal_table.bin: the normal table is damaged; install mrc_jax again"
        )
    table = np.frombuffer(data, "<i2").astype(np.int16)
    table.flags.writeable = False
    return table


def quantiles(seed: Array, codebook: Array, candidate: Array, block_size: int) -> Array:
    """Standard-normal draws in units of 1/4096: int16[block_size, ...].

    Lane l of a candidate takes 16 bits of the counter (candidate, codebook * quads + l // 4), where
    quads = ceil(block_size / 4).

    Args:
      seed: the file's seed, uint32.
      codebook, candidate: uint32 arrays that broadcast to the shape [...].
      block_size: lanes of a candidate.
    """
    xp = namespace(seed, codebook, candidate)
    quads = -(-block_size // 4)
    shape = np.broadcast_shapes(codebook.shape, candidate.shape)
    lead = (quads,) + (1,) * len(shape)
    quad = xp.arange(quads, dtype=np.uint32).reshape(lead)
    row = codebook.astype(np.uint32) * np.uint32(quads) + quad
    key, counter = stream_key(seed, Stream.CANDIDATES), (candidate.astype(np.uint32), row)
    words = threefry(key, counter) if xp is np else _stored_threefry(key, counter)
    low, high = np.uint32(0xFFFF), np.uint32(16)
    fields = [f for w in words for f in (w & low, w >> high)]
    if xp is np:  # a field at a time, so that all stays in the cache
        drawn = np.stack([normal_table().take(f) for f in fields], axis=1)
        return drawn.reshape((4 * quads, *shape))[:block_size]
    lanes = xp.stack(fields, axis=1).reshape((4 * quads, *shape))[:block_size]
    return xp.take(xp.asarray(normal_table()), lanes.astype(np.int32), axis=0)


def sign_bits(seed: Array, stream: Stream, row: Array, count: int, first: Array = 0) -> Array:
    """Random bits, bool[..., count]: bit i of a row is bit i % 64 of the counter (i // 64, row).

    Args:
      seed: the file's seed, uint32.
      stream: SHARING_SIGNS (row: the tensor) or CODEBOOK_SIGNS (row: the block).
      row: uint32[...].
      count: bits of each row.
      first: number of the first bit, uint32, a multiple of 64.
    """
    xp = namespace(seed, row)
    word = xp.arange(-(-count // 64), dtype=np.uint32) + first // np.uint32(64)
    words = threefry(stream_key(seed, stream), (word, row.astype(np.uint32)[..., None]))
    both = xp.stack(words, axis=-1)
    if xp is np:
        octets = both.astype("<u4", copy=False).view(np.uint8).reshape((*row.shape, -1))
        return np.unpackbits(octets, axis=-1, count=count, bitorder="little").view(bool)
    bits = (both[..., None] >> xp.arange(32, dtype=np.uint32)) & np.uint32(1)
    return bits.reshape((*row.shape, -1))[..., :count].astype(bool)


def offsets(seed: Array, block: Array, bits: int) -> Array:
    """The candidate at position 0 of each block under ordered coding, uint32[...]."""
    xp = namespace(seed, block)
    counter = (xp.zeros_like(block), block)
    return threefry(stream_key(seed, Stream.OFFSETS), counter)[0] & np.uint32((1 << bits) - 1)


def permute(index: Array, size: int, seed: Array, stream: Stream, row: int = 0) -> Array:
    """Where a keyed bijection of 0 .. size - 1 sends each index (uint32, any shape)."""
    return _walk(index, size, _feistel_key(size, seed, stream, row), 1)


def unpermute(index: Array, size: int, seed: Array, stream: Stream, row: int = 0) -> Array:
    """The inverse of `permute`."""
    return _walk(index, size, _feistel_key(size, seed, stream, row), -1)


def _feistel_key(size: int, seed: Array, stream: Stream, row: int) -> tuple[Array, Array]:
    """Two words a round: eight rounds up to 16-bit indices (few bits mix slowly), four above."""
    rounds = namespace(seed).arange(8 if size <= 1 << 16 else 4, dtype=np.uint32)
    return threefry(stream_key(seed, stream), (rounds, np.uint32(row)))


def _walk(index: Array, size: int, key: tuple[Array, Array], direction: int) -> Array:
    """Applies the Feistel network until the value is below size (cycle walking)."""
    xp = namespace(index, *key)
    if xp is np:
        x = index.astype(np.uint32).ravel()
        for start in range(0, x.size, CHUNK):
            part = slice(start, start + CHUNK)
            x[part] = _feistel(x[part], size, key, direction)
        (outside,) = np.nonzero(x >= size)
        if outside.size:
            x[outside] = _walk(x[outside], size, key, direction)
        return x.reshape(index.shape)
    import jax

    last = np.uint32(size - 1)
    return jax.lax.while_loop(
        lambda x: xp.any(x > last),
        lambda x: xp.where(x > last, _feistel(x, size, key, direction), x),
        _feistel(index.astype(np.uint32), size, key, direction),
    )


def _feistel(x: Array, size: int, key: tuple[Array, Array], direction: int) -> Array:
    """An unbalanced Feistel network on integers of as many bits as size - 1 has, at least two.

    Even rounds change the high half, odd ones the low half.
    """
    bits = max(2, (size - 1).bit_length())
    low_bits = bits // 2
    low, high = x & np.uint32((1 << low_bits) - 1), x >> np.uint32(low_bits)
    for i in range(key[0].shape[0])[::direction]:
        if i % 2 == 0:
            high ^= _mixed(low, key[0][i], key[1][i], bits - low_bits)
        else:
            low ^= _mixed(high, key[0][i], key[1][i], low_bits)
    high <<= np.uint32(low_bits)
    high |= low
    return high


def _mixed(half: Array, addend: Array, factor: Array, width: int) -> Array:
    """A round's function of one half of the bits: `width` bits to change the other half by."""
    mixed = half + addend
    mixed *= np.uint32(0x9E3779B1)
    mixed ^= mixed >> np.uint32(15)
    mixed *= factor | np.uint32(1)
    mixed >>= np.uint32(32 - width)
    return mixed
