"""A second decoder, in plain Python from docs/FORMAT.md; it shares no code with the library."""

import functools
import hashlib
import math
import statistics
import struct
import zlib

M32 = 0xFFFFFFFF
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
ITEM_BYTES = (4, 2, 2, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1)
BFLOAT16 = 1


def threefry(k0: int, k1: int, x0: int, x1: int) -> tuple[int, int]:
    k = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = x0 + k0 & M32, x1 + k1 & M32
    for g in range(5):
        for r in ROTATIONS[g % 2]:
            x0 = x0 + x1 & M32
            x1 = (x1 << r & M32 | x1 >> 32 - r) ^ x0
        x0 = x0 + k[(g + 1) % 3] & M32
        x1 = x1 + k[(g + 2) % 3] + g + 1 & M32
    return x0, x1


@functools.cache
def words(stream: int, seed: int, c0: int, c1: int) -> tuple[int, int]:
    return threefry(0x6D726300 + stream, seed, c0, c1)


@functools.cache
def normal_table() -> list[int]:
    quantile = statistics.NormalDist().inv_cdf
    return [round(4096 * quantile((i + 0.5) / 65536)) for i in range(65536)]


def draw(seed: int, codebook: int, candidate: int, lane: int, block_size: int) -> int:
    w = words(0, seed, candidate, codebook * -(-block_size // 4) + lane // 4)
    return normal_table()[w[lane % 4 // 2] >> 16 * (lane % 2) & 0xFFFF]


def sign_bit(stream: int, seed: int, row: int, n: int) -> int:
    w0, w1 = words(stream, seed, n // 64, row)
    return w0 + (w1 << 32) >> n % 64 & 1


def permute(x: int, size: int, stream: int, seed: int, row: int) -> int:
    bits = max(2, (size - 1).bit_length())
    low = bits // 2
    while True:
        for r in range(8 if size <= 65536 else 4):
            a, b = words(stream, seed, r, row)
            half, width = (x >> low, low) if r % 2 else (x % (1 << low), bits - low)
            m = (half + a) * 0x9E3779B1 & M32
            m = (m ^ m >> 15) * (b | 1) & M32
            m >>= 32 - width
            x ^= m if r % 2 else m << low
        if x < size:
            return x


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def parse_manifest(data: bytes) -> list[tuple[str, int, int, int]]:
    """(path, size, dtype code, factor) of each tensor."""
    count, at = varint(data, 0)
    tensors, path = [], b""
    for _ in range(count):
        shared, at = varint(data, at)
        length, at = varint(data, at)
        path, at = path[:shared] + data[at : at + length], at + length
        kind, at, shape = data[at], at + 1, []
        for _ in range(kind & 15):
            dimension, at = varint(data, at)
            shape.append(dimension)
        factor, at = varint(data, at)
        tensors.append((path.decode(), math.prod(shape), kind >> 4, factor))
    assert at == len(data)
    return tensors


def bucket_frequencies(r: int, s: int, bits: int) -> list[int]:
    weights = [1 << 16]
    for i in range(1, bits + 1):
        d = 128 + s * (bits - i)
        weights.append(weights[-1] * d * (1 if i == 1 else 2) // (d + 2 * r))
    frequencies = [0] * (bits + 1)
    for i in range(bits, 0, -1):
        least = 1 if i == bits else (frequencies[i + 1] + 1) // 2
        frequencies[i] = max(least, weights[i] * 65504 // sum(weights))
    frequencies[0] = 65536 - sum(frequencies)
    return frequencies


def ordered_positions(field: bytes, blocks: int, bits: int) -> list[int]:
    frequencies = bucket_frequencies(field[0], field[1], bits)
    x, at, buckets = int.from_bytes(field[2:6], "big"), 6, []
    for _ in range(blocks):
        slot, i = x % 65536, 0
        while slot >= frequencies[i]:
            slot, i = slot - frequencies[i], i + 1
        x = frequencies[i] * (x >> 16) + slot
        while x < 1 << 24:
            x, at = x << 8 | field[at], at + 1
        buckets.append(i)
    assert x < 1 << 25
    raw, positions = x % (1 << 24) | int.from_bytes(field[at:], "little") << 24, []
    for i in buckets:
        width = max(i - 1, 0)
        positions.append(raw % (1 << width) + (1 << width) if i else 0)
        raw >>= width
    assert raw == 0
    return positions


def value_tables(file: bytes, at: int, coded: int) -> tuple[list, bytes, int]:
    """(frequencies, values as bytes) of each table, each coded tensor's table, and what follows."""
    count, at = varint(file, at)
    which = bytes(coded)
    if count > 1:
        which, at = file[at : at + coded], at + coded
    tables = []
    for _ in range(count):
        k, at = varint(file, at)
        values = [b"\0\0" + file[i : i + 2] for i in range(at, at + 2 * k, 2)]
        weights = [8 + c % 8 << c // 8 for c in file[at + 2 * k : at + 3 * k]]
        frequencies = [max(1, w * (16384 - k) // sum(weights)) for w in weights]
        frequencies[weights.index(max(weights))] += 16384 - sum(frequencies)
        tables.append((frequencies, values))
        at += 3 * k
    return tables, which, at


def decode_values(file: bytes, at: int, tensors: list) -> list[tuple[str, bytes]]:
    """The tensors of a file of version 4."""
    sizes = [size for _, size, _, factor in tensors if factor]
    tables, which, at = value_tables(file, at, len(sizes))
    n, field = sum(sizes), at
    for _, size, dtype, factor in tensors:
        field += 0 if factor else size * ITEM_BYTES[dtype]
    lanes = -(-n // 32768)
    states = list(struct.unpack_from(f"<{lanes}I", file, field))
    field += 4 * lanes
    weights, i = [], 0
    for size, number in zip(sizes, which, strict=True):
        frequencies, values = tables[number]
        own = []
        for _ in range(size):
            x, k = states[i % lanes], 0
            slot = x % 16384
            while slot >= frequencies[k]:
                slot, k = slot - frequencies[k], k + 1
            x = frequencies[k] * (x >> 14) + slot
            if x < 65536:
                x, field = x << 16 | int.from_bytes(file[field : field + 2], "little"), field + 2
            states[i % lanes], i = x, i + 1
            own.append(values[k])
        weights.append(b"".join(own))
    assert field == len(file) - 4 and set(states) == {65536}
    out, coded = [], iter(weights)
    for path, size, dtype, factor in tensors:
        if factor:
            data = next(coded)
        else:
            data, at = stored(file, at, size, dtype)
        out.append((path, data))
    return out


def stored(file: bytes, at: int, size: int, dtype: int) -> tuple[bytes, int]:
    """An uncoded tensor's bytes, bfloat16 as float32, and what follows."""
    data = file[at : at + size * ITEM_BYTES[dtype]]
    at += len(data)
    if dtype == BFLOAT16:
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    return data, at


def decode(file: bytes, manifest: bytes | None = None) -> list[tuple[str, bytes]]:
    """(path, little-endian bytes) of each tensor; valid files only."""
    assert file[:3] == b"MRC" and zlib.crc32(file[:-4]) == int.from_bytes(file[-4:], "little")
    ordered = file[4] >> 1
    assert file[3] in (1 + ordered, 3) or (file[3] == 4 and not ordered)
    if file[4] & 1:
        length, at = varint(file, 5)
        manifest, at = file[at : at + length], at + length
    else:
        assert manifest is not None and hashlib.sha256(manifest).digest()[:8] == file[5:13]
        at = 13
        for _ in range(3):
            _, at = varint(file, at)
    tensors = parse_manifest(manifest)
    if file[3] == 4:
        return decode_values(file, at, tensors)
    seed, bits = struct.unpack_from("<IB", file, at)
    blocks, at = varint(file, at + 5)
    codebook_blocks, at = varint(file, at)
    ranges = 1
    if file[3] == 3:
        ranges, at = varint(file, at)
    entries = [-(-size // factor) for _, size, _, factor in tensors if factor]
    steps = [-(-m // ranges) if m >= 256 * ranges else m for m in entries]
    count = sum(-(-m // step) for m, step in zip(entries, steps, strict=True))
    if file[3] == 3:
        scales, at = [c + 824 << 20 for c in file[at : at + count]], at + count
    else:
        scales = [c << 16 for c in struct.unpack_from(f"<{count}H", file, at)]
        at += 2 * count
    n, field = sum(entries), at
    for _, size, dtype, factor in tensors:
        field += 0 if factor else size * ITEM_BYTES[dtype]
    if ordered:
        positions = ordered_positions(file[field:-4], blocks, bits)
        indices = [(p + words(6, seed, 0, b)[0]) % (1 << bits) for b, p in enumerate(positions)]
    else:
        payload = int.from_bytes(file[field:-4], "little")
        indices = [payload >> b * bits & (1 << bits) - 1 for b in range(blocks)]

    def entry(e: int) -> int:
        lane, b = divmod(permute(e, n, 1, seed, 0), blocks)
        z = draw(seed, b // codebook_blocks, indices[b], lane, -(-n // blocks))
        return -z if codebook_blocks > 1 and sign_bit(4, seed, b, lane) else z

    out, start, coded, group = [], 0, 0, 0
    for t, (path, size, dtype, factor) in enumerate(tensors):
        if factor == 0:
            data, at = stored(file, at, size, dtype)
            out.append((path, data))
            continue
        m, step = entries[coded], steps[coded]
        own = []
        for e in range(m):
            scale = struct.unpack("<f", struct.pack("<I", scales[group + e // step]))[0]
            own.append(entry(start + e) * (scale / 4096))
        if factor > 1:
            places = [permute(i, m * factor, 2, seed, t) % m for i in range(size)]
            own = [-own[p] if sign_bit(3, seed, t, i) else own[p] for i, p in enumerate(places)]
        out.append((path, struct.pack(f"<{size}f", *own)))
        start, coded, group = start + m, coded + 1, group + -(-m // step)
    return out
