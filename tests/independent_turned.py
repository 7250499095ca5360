"""A decoder of version 5 written from docs/rotation.md alone, with the standard library alone."""

import math
import struct

import independent_decoder as version_4

_GRIDS = (4, 1, 1, 1, 1, 1, 1, 2, 3, 4, 8, 32, 160, 32, 4, 1)
_DIFFERENCES = (2500, 720, 720, 66, 66, 6, 6, 2, 2, 8)


class Stack:
    def __init__(self, stream: bytes, state_bytes: int):
        self.below = list(stream[: len(stream) - state_bytes])
        self.x = int.from_bytes(stream[len(stream) - state_bytes :], "little")
        assert 2**64 <= self.x < 2**96 and stream[-1]

    def take(self, count: int) -> bytes:
        assert count <= len(self.below)
        taken = bytes(self.below[len(self.below) - count :])
        del self.below[len(self.below) - count :]
        return taken

    def pop(self, total: int) -> int:
        if self.x < 2**64 * total:
            self.x = 2**32 * self.x + int.from_bytes(self.take(4), "little")
        self.x, value = divmod(self.x, total)
        return value

    def push(self, value: int, total: int):
        assert 0 <= value < total
        self.x = self.x * total + value
        if self.x >= 2**96:
            self.below += (self.x % 2**32).to_bytes(4, "little")
            self.x //= 2**32

    def pop_by(self, counts) -> int:
        slot = self.pop(sum(counts))
        i = 0
        while sum(counts[: i + 1]) <= slot:
            i += 1
        self.push(slot - sum(counts[:i]), counts[i])
        return i


def integers(column: list[float]) -> list[int]:
    units = [int(math.ldexp(x, 24)) for x in column]
    shift = max(0, max(map(abs, units)).bit_length() - 32)
    units = [x >> shift for x in units]
    norm = max(1, math.isqrt(sum(x * x for x in units)))
    return [x * 2**30 // norm for x in units]


def direction(stack: Stack, y: list[int], bits: int):
    """Sign, axis, ratios and M."""
    if bits == 0:
        return 0, 0, [0] * (len(y) - 1), 1
    most = 2**bits - 1
    axis = [abs(e) for e in y].index(max(abs(e) for e in y))
    sign = int(y[axis] < 0)
    if stack.pop_by((255, 1)):
        sign = stack.pop(2)
        axis = stack.pop(len(y))
    m = max(1, abs(y[axis]))
    ratios = []
    for place, entry in enumerate(y):
        if place == axis:
            continue
        guess = min(most, max(-most, (2 * most * entry + m) // (2 * m)))
        k = stack.pop_by(_DIFFERENCES)
        differs = (0, 1, -1, 2, -2, 3, -3, 4, -4)
        ratios.append(guess + differs[k] if k < 9 else stack.pop(2 * most + 1) - most)
        assert -most <= ratios[-1] <= most
    return sign, axis, ratios, most


def reflect(u: list[list[int]], j: int, sign: int, axis: int, ratios: list[int], most: int):
    v = [*ratios[:axis], -most if sign else most, *ratios[axis:]]
    norm = math.isqrt(2**60 * sum(e * e for e in v))
    v = [(e * 2**61 + norm) // (2 * norm) for e in v]
    w = [v[0] - 2**30 if v[0] < 0 else v[0] + 2**30, *v[1:]]
    for column in u[j + 1 :]:
        p = sum(a * b for a, b in zip(w, column[j:], strict=True)) // (2**30 + abs(v[0]))
        column[j:] = [c - (a * p >> 30) for a, c in zip(w, column[j:], strict=True)]


def pair(stack: Stack, d: int, columns: int) -> list[bytes]:
    """The weights in C order, two bytes each."""
    raw = stack.take(2 * d * columns)
    values = struct.unpack(f"<{d * columns}e", raw)
    assert all(map(math.isfinite, values))
    bits = [stack.pop_by(_GRIDS) for _ in range(d - 1)]
    u = [integers([values[row * columns + j] for row in range(d)]) for j in range(d - 1)]
    found = []
    for j in range(d - 1):
        found.append(direction(stack, u[j][j:], bits[j]))
        reflect(u, j, *found[-1])
    for j in reversed(range(d - 1)):
        sign, axis, ratios, most = found[j]
        if bits[j]:
            for ratio in reversed(ratios):
                stack.push(ratio + most, 2 * most + 1)
            stack.push(axis, d - j)
            stack.push(sign, 2)
    return [raw[i : i + 2] for i in range(0, len(raw), 2)]


def place(turn, sizes, group: int, row: int):
    """Tensors and places of a row of a pair, in the order of the columns."""
    groups, d, share, members = turn
    for code in members:
        each = share if code & 1 else 1
        heads = groups * each
        rest = sizes[code // 4] // (heads * d)
        for head in range(group * each, (group + 1) * each):
            for i in range(rest):
                at = (i * heads + head) * d + row if code & 2 else (head * d + row) * rest + i
                yield code // 4, at


def decode(data: bytes) -> list[tuple[str, bytes]]:
    """The tensors of a file that is known to be sound."""
    assert data[:5] == b"MRC\5\1"
    length, at = version_4.varint(data, 5)
    tensors = version_4.parse_manifest(data[at : at + length])
    count, at = version_4.varint(data, at + length)
    turns = []
    for _ in range(count):
        numbers = []
        for _ in range(4):
            number, at = version_4.varint(data, at)
            numbers.append(number)
        codes = []
        for _ in range(numbers.pop()):
            code, at = version_4.varint(data, at)
            codes.append(code)
        turns.append((*numbers, codes))
    sizes = [size for _, size, _, _ in tensors]
    turning = {code // 4 for turn in turns for code in turn[3]}
    out = [bytearray(size * version_4.ITEM_BYTES[dtype]) for _, size, dtype, _ in tensors]
    members = sum(len(out[i]) for i in turning)
    n = max(16, sum(map(len, out)) - members)
    stream = data[at:-4]
    stack = Stack(stream, 9 + (len(stream) - (n - 8) - members - 9) % 4)
    for turn in reversed(turns):
        groups, d, _, codes = turn
        columns = sum(sizes[code // 4] for code in codes) // (groups * d)
        for group in reversed(range(groups)):
            weights = iter(pair(stack, d, columns))
            for row in range(d):
                for tensor, i in place(turn, sizes, group, row):
                    out[tensor][2 * i : 2 * i + 2] = next(weights)
    assert stack.x < 2**65
    below = bytes(stack.below) + (stack.x - 2**64).to_bytes(8, "little")
    assert len(below) == n
    for i, array in enumerate(out):
        if i not in turning:
            array[:], below = below[: len(array)], below[len(array) :]
    assert not any(below)
    for i, (_, size, dtype, _) in enumerate(tensors):
        if dtype == version_4.BFLOAT16:
            out[i] = bytearray(b"".join(b"\0\0" + out[i][2 * k : 2 * k + 2] for k in range(size)))
    return [(path, bytes(array)) for (path, *_), array in zip(tensors, out, strict=True)]
