"""Mutants of the golden files that know a file's fields: mutant i is the same for ever."""

import dataclasses
import functools
import hashlib
import random

from golden_files import FILES, TURNED, golden
from hostile_files import sealed

from mrc_jax.container import RANGES_VERSION, Container, Header, parts
from mrc_jax.decode import find_manifest, parsed
from mrc_jax.errors import FormatError
from mrc_jax.identity import VALUES_VERSION
from mrc_jax.manifest import ITEM_BYTES, MAX_RANGES, Manifest, parse, varint
from mrc_jax.value_file import ValueFile

SEED = 20261124
NAMES = [  # of versions 1 to 4
    name for name, facts in FILES.items() if facts["file_bytes"] <= 400 and name not in TURNED
]
ORDERED_FLAG = 2


@dataclasses.dataclass(frozen=True)
class Field:
    """A field: bytes, or an integer of `width` bytes (a varint where that is 0)."""

    name: str
    value: int | bytes
    width: int = 0

    @property
    def data(self) -> bytes:
        """Its bytes; of an integer that is too large for its width the low ones."""
        if isinstance(self.value, bytes):
            return self.value
        if self.width:
            return (self.value % (1 << 8 * self.width)).to_bytes(self.width, "little")
        return varint(self.value % (1 << 64))


Fields = list[Field]


def joined(fields: Fields) -> bytes:
    """The fields' bytes, one after the other."""
    return b"".join(field.data for field in fields)


def manifest_fields(network: Manifest) -> Fields:
    """The fields of a manifest."""
    out, previous = [Field("tensors", len(network.tensors))], b""
    for tensor in network.tensors:
        path = tensor.path.encode()
        shared = 0
        while shared < min(len(path), len(previous)) and path[shared] == previous[shared]:
            shared += 1
        kind = list(ITEM_BYTES).index(tensor.dtype) << 4 | len(tensor.shape)
        out += [Field("shared", shared), Field("length", len(path) - shared)]
        out += [Field("path", path[shared:]), Field("kind", kind, 1)]
        out += [Field("dimension", size) for size in tensor.shape]
        out.append(Field("factor", tensor.factor))
        previous = path
    return out


def header_fields(header: Header) -> tuple[Fields, Fields]:
    """The fields before a manifest, or what stands for it, and those after."""
    embedded = header.manifest is not None
    flags = embedded | ORDERED_FLAG * header.index_code
    before = [Field("magic", b"MRC"), Field("version", header.version, 1), Field("flags", flags, 1)]
    after = [Field("seed", header.seed, 4), Field("bits", header.bits, 1)]
    after += [Field("blocks", header.blocks), Field("codebook_blocks", header.codebook_blocks)]
    if header.version == RANGES_VERSION:
        after.append(Field("ranges", header.ranges))
    return before, after


@functools.cache
def fields_of(name: str) -> tuple[Fields, Fields, Fields, Fields]:
    """A golden file as fields: before the manifest, the manifest, the counts, and after them."""
    data, supplied = golden(name)
    file = parsed(data)
    header, network = file.header, find_manifest(file.header, supplied)
    counts = [Field("entries", header.entries), Field("groups", header.groups)]
    counts.append(Field("uncoded_bytes", header.uncoded_bytes))
    if isinstance(file, ValueFile):
        before = [Field("magic", b"MRC"), Field("version", VALUES_VERSION, 1)]
        before.append(Field("flags", int(supplied is None), 1))
        return before, manifest_fields(network), counts, value_fields(file)
    assert isinstance(file, Container)
    before, after = header_fields(file.header)
    after += payload_fields(file, data)
    return before, manifest_fields(network), counts, after


def payload_fields(file: Container, data: bytes) -> Fields:
    """The fields of a file of blocks after its header."""
    if file.header.version == RANGES_VERSION:
        out = [Field("scale", (int(scale) >> 4) - 824, 1) for scale in file.scales]
    else:
        out = [Field("scale", int(scale), 2) for scale in file.scales]
    used = sum(size for part, size in parts(file.header, 0).items() if part != "checksum")
    return [*out, Field("uncoded", file.uncoded), Field("indices", data[used:-4])]


def value_fields(file: ValueFile) -> Fields:
    """The fields of a file of values after its network."""
    out = [Field("tables", len(file.tables))]
    if len(file.tables) > 1:
        out.append(Field("which", file.which))
    for table in file.tables:
        out.append(Field("values", len(table.values)))
        out += [Field("value", int(v) >> 16, 2) for v in table.values.view("<u4")]
        out += [Field("rate", int(rate), 1) for rate in table.rates]
    return [*out, Field("uncoded", file.uncoded), Field("weights", file.field)]


def changed_number(value: int, width: int, rng: random.Random) -> int:
    """Another number in a field: its bounds, a neighbour, its negative, one bit, a power of two."""
    bits = 8 * width or rng.choice((7, 14, 21, 28, 32, 34, 35, 42, 64))
    return rng.choice(
        (0, 1, (1 << bits) - 1, 1 << bits - 1, (1 << bits) - max(value, 1), value + 1,
         max(value - 1, 0), 2 * value, value ^ 1 << rng.randrange(bits), rng.getrandbits(bits),
         rng.randrange(40), 1 << rng.randrange(36))
    )  # fmt: skip


def changed(field: Field, rng: random.Random) -> Field:
    """A field with another number, a number in a longer form, or bytes cut, grown or damaged."""
    if isinstance(field.value, int):
        if not field.width and rng.random() < 0.05:  # not in the shortest form, or without an end
            longer = field.data[:-1] + bytes([field.data[-1] | 0x80])
            return Field(field.name, longer + rng.choice((b"\0", b"\x80\0", b"\xff" * 9, b"")))
        return dataclasses.replace(field, value=changed_number(field.value, field.width, rng))
    data, at = field.value, rng.randrange(len(field.value) + 1)
    more = rng.choice(
        (bytes(3), b"\xff" * 3, b"/../", b"\0", b"\n", rng.randbytes(rng.randrange(9)))
    )
    forms = (data[:at], data[at:], data + more, data[:at] + more + data[at:], b"",
             data[:at] + more + data[at + len(more) :], rng.randbytes(len(data)))  # fmt: skip
    return Field(field.name, rng.choice(forms))


def mutate(fields: Fields, rng: random.Random) -> None:
    """Changes one field in place, or leaves one out, repeats one or exchanges two."""
    at, other = rng.randrange(len(fields)), rng.randrange(len(fields))
    how = rng.random()
    if how < 0.85:
        fields[at] = changed(fields[at], rng)
    elif how < 0.9:
        fields.insert(at, fields[other])
    elif how < 0.95:
        fields[at], fields[other] = fields[other], fields[at]
    elif len(fields) > 1:
        del fields[at]


def fitted(
    counts: Fields, after: Fields, manifest: bytes, rng: random.Random
) -> tuple[Fields, Fields]:
    """Counts, scales and uncoded bytes that fit the manifest, so that a reader gets further."""
    named = [field.value for field in after if field.name == "ranges"]
    ranges = named[0] if named else 1
    if not isinstance(ranges, int) or not 1 <= ranges <= MAX_RANGES:
        return counts, after
    try:
        network = parse(manifest)
    except FormatError:
        return counts, after
    groups = len(network.group_sizes(ranges))
    if network.uncoded_bytes > 1 << 12 or groups > 1 << 8:
        return counts, after
    right = (network.entries, groups, network.uncoded_bytes)
    counts = [Field("count", count) for count in right]
    uncoded = Field("uncoded", bytes(rng.getrandbits(1) for _ in range(network.uncoded_bytes)))
    if any(field.name == "weights" for field in after):
        which = Field("which", bytes(rng.randrange(3) for _ in range(groups)))
        own = {"uncoded": uncoded, "which": which}
        return counts, [own.get(field.name, field) for field in after]
    width, first, end = (1, 0, 256) if named else (2, 0x0D80, 0x4981)
    scales = [Field("scale", rng.randrange(first, end), width) for _ in range(groups)]
    kept = [field for field in after if field.name not in ("scale", "uncoded")]
    return counts, [*kept[:-1], *scales, uncoded, *kept[-1:]]


def mutant(number: int) -> tuple[bytes, bytes | None]:
    """A hostile file and the manifest to give with it, where it is not inside."""
    rng = random.Random(SEED << 32 | number)
    name = rng.choice(NAMES)
    before, network, counts, after = (list(fields) for fields in fields_of(name))
    embedded = FILES[name]["embedded_manifest"]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        sections = (before, network, after, after) if embedded else (before, network, counts, after)
        mutate(rng.choices(sections, (1, 4, 3, 4))[0], rng)
    manifest = joined(network)
    if rng.random() < 0.5:
        counts, after = fitted(counts, after, manifest, rng)
    if embedded:
        length = Field("length", len(manifest))
        middle = joined([changed(length, rng) if rng.random() < 0.05 else length]) + manifest
    else:
        fingerprint = hashlib.sha256(manifest).digest()[:8]
        middle = (bytes(8) if rng.random() < 0.02 else fingerprint) + joined(counts)
    body = joined(before) + middle + joined(after)
    if rng.random() < 0.05:
        body = body[: rng.randrange(len(body) + 1)] + rng.randbytes(rng.randrange(4))
    data = sealed(body) if rng.random() < 0.98 else body + rng.randbytes(4)
    return data, None if embedded else manifest
