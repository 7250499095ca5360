"""The manifest: names, shapes, dtypes, sharing factors of a network's tensors, as bytes and back.

Its bytes are specified in docs/FORMAT.md ("Manifest"); their SHA-256 begins with the fingerprint.
"""

import dataclasses
import functools
import hashlib
import math

from mrc_jax.errors import FormatError, UsageError

MAX_TENSORS = 4096
MAX_BYTES = 1 << 20
MAX_PATH_BYTES = 1024
MAX_ENTRIES = (1 << 32) - 1
MAX_PARAMETERS = (1 << 34) - 1
MAX_RANGES = 64
MIN_RANGE_ENTRIES = 256  # of a tensor that is cut, on average
MAX_SHARED_PLACES = 1 << 32  # of one tensor: what a permutation of 32-bit indices covers
UNCODED = 0  # the factor of a tensor whose bytes are stored as they are
ITEM_BYTES = {  # in the order of their codes in the file
    "float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int8": 1, "int16": 2, "int32": 4,
    "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
}  # fmt: skip
CODABLE = ("float32", "bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the network.

    Attributes:
      path: its place in the parameter tree, keys joined by '/'.
      shape: its dimensions.
      dtype: its dtype in the network (coded tensors decode to float32 whatever it is).
      factor: parameters that share one coded entry, or UNCODED.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    factor: int

    @property
    def size(self) -> int:
        """Parameters of the tensor."""
        return math.prod(self.shape)

    @property
    def entries(self) -> int:
        """Coded entries of the tensor."""
        return 0 if self.factor == UNCODED else -(-self.size // self.factor)

    def group_sizes(self, ranges: int = 1) -> list[int]:
        """Entries of each of the tensor's groups, which have prior scales of their own: a coded
        tensor is one, or as many ranges as asked for if they have MIN_RANGE_ENTRIES entries or
        more; the last may be shorter.
        """
        if self.factor == UNCODED:
            return []
        cut = self.entries >= MIN_RANGE_ENTRIES * ranges
        step = -(-self.entries // ranges) if cut else self.entries
        whole, rest = divmod(self.entries, step)
        return [step] * whole + [rest] * (rest > 0)

    @property
    def uncoded_bytes(self) -> int:
        """Bytes that the tensor takes in the file as it is."""
        return self.size * ITEM_BYTES[self.dtype] if self.factor == UNCODED else 0


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All tensors of a network, in the order of its flattened parameter tree."""

    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        _check(self)

    @functools.cached_property
    def coded(self) -> tuple[Tensor, ...]:
        """The coded tensors."""
        return tuple(t for t in self.tensors if t.factor != UNCODED)

    def group_sizes(self, ranges: int = 1) -> list[int]:
        """Entries of each group of entries under one prior scale, see `Tensor.group_sizes`."""
        return [size for tensor in self.coded for size in tensor.group_sizes(ranges)]

    @functools.cached_property
    def entries(self) -> int:
        """Length of the coded vector."""
        return sum(t.entries for t in self.tensors)

    @functools.cached_property
    def parameters(self) -> int:
        """Scalars of the network."""
        return sum(t.size for t in self.tensors)

    @functools.cached_property
    def uncoded_bytes(self) -> int:
        """Bytes of all uncoded tensors."""
        return sum(t.uncoded_bytes for t in self.tensors)

    @functools.cached_property
    def data(self) -> bytes:
        """The manifest's bytes."""
        out = bytearray(varint(len(self.tensors)))
        previous = b""
        for tensor in self.tensors:
            path = tensor.path.encode()
            shared = _common_prefix(previous, path)
            out += varint(shared) + varint(len(path) - shared) + path[shared:]
            out.append(list(ITEM_BYTES).index(tensor.dtype) << 4 | len(tensor.shape))
            for dimension in tensor.shape:
                out += varint(dimension)
            out += varint(tensor.factor)
            previous = path
        return bytes(out)

    @property
    def fingerprint(self) -> bytes:
        """The first 8 bytes of the SHA-256 of the manifest's bytes."""
        return hashlib.sha256(self.data).digest()[:8]


def parse(data: bytes) -> Manifest:
    """Reads a manifest; raises FormatError for what `Manifest.data` cannot have written."""
    if len(data) > MAX_BYTES:
        raise FormatError(f"the manifest has {len(data)} bytes; the limit is {MAX_BYTES}")
    reader = Reader(data, "the manifest")
    count = reader.varint(MAX_TENSORS, "number of tensors")
    tensors, previous = [], b""
    for _ in range(count):
        shared = reader.varint(len(previous), "shared length of a path")
        length = reader.varint(MAX_PATH_BYTES - shared, "length of a path")
        suffix = reader.take(length, "a path")
        path = previous[:shared] + suffix
        if shared != _common_prefix(previous, path):
            raise FormatError("the manifest: a path is not written in its shortest form")
        kind = reader.take(1, "a dtype")[0]
        if kind >> 4 >= len(ITEM_BYTES):
            raise FormatError(f"the manifest: unknown dtype code {kind >> 4}")
        shape = tuple(reader.varint(MAX_PARAMETERS, "a dimension") for _ in range(kind & 15))
        factor = reader.varint(MAX_PARAMETERS, "a sharing factor")
        try:
            text = path.decode()
        except UnicodeDecodeError:
            raise FormatError("the manifest: a path is not UTF-8") from None
        tensors.append(Tensor(text, shape, list(ITEM_BYTES)[kind >> 4], factor))
        previous = path
    reader.end()
    try:
        return Manifest(tuple(tensors))
    except UsageError as error:
        raise FormatError(str(error)) from None


def _check(manifest: Manifest) -> None:
    if not 1 <= len(manifest.tensors) <= MAX_TENSORS:
        raise UsageError(f"a network has 1 to {MAX_TENSORS} tensors, not {len(manifest.tensors)}")
    seen = set()
    for tensor in manifest.tensors:
        keys = tensor.path.split("/")
        if any(k in ("", ".", "..") for k in keys) or not tensor.path.isprintable():
            raise UsageError(
                f"tensor path {tensor.path!r}: keys must be printable, not empty, . or .."
            )
        if "\\" in tensor.path or tensor.path in seen:
            raise UsageError(f"tensor path {tensor.path!r}: has a backslash or appears twice")
        if len(tensor.path.encode()) > MAX_PATH_BYTES:
            raise UsageError(f"tensor path {tensor.path[:40]!r}...: over {MAX_PATH_BYTES} bytes")
        seen.add(tensor.path)
        if len(tensor.shape) > 15 or tensor.dtype not in ITEM_BYTES:
            raise UsageError(f"{tensor.path}: {len(tensor.shape)} dimensions of {tensor.dtype}")
        if tensor.factor != UNCODED and (tensor.dtype not in CODABLE or tensor.size == 0):
            raise UsageError(f"{tensor.path}: an empty or {tensor.dtype} tensor cannot be coded")
        if tensor.factor > max(tensor.size, 1):
            raise UsageError(f"{tensor.path}: factor {tensor.factor} is larger than the tensor")
        if math.prod(d for d in tensor.shape if d) > MAX_PARAMETERS:  # where another one is zero
            raise UsageError(f"{tensor.path}: a tensor has less than 2^34 elements")
        if tensor.factor > 1 and tensor.entries * tensor.factor > MAX_SHARED_PLACES:
            raise UsageError(f"{tensor.path}: more than 2^32 parameters cannot share entries")
    if manifest.parameters > MAX_PARAMETERS or manifest.entries > MAX_ENTRIES:
        raise UsageError("the network has 2^34 parameters or 2^32 coded entries, or more")
    if len(manifest.data) > MAX_BYTES:
        raise UsageError(f"the manifest has {len(manifest.data)} bytes; the limit is {MAX_BYTES}")


def _common_prefix(a: bytes, b: bytes) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def varint(value: int) -> bytes:
    """An unsigned integer as little-endian groups of 7 bits, high bit set on all but the last."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Reads fields from bytes, in order, never past the end; errors say where."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.position = data, what, 0

    def take(self, count: int, field: str) -> bytes:
        """The next `count` bytes."""
        if count > len(self.data) - self.position:
            raise FormatError(f"{self.what} ends inside {field}, at byte {len(self.data)}")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self, maximum: int, field: str) -> int:
        """The next unsigned integer, in its shortest form and at most `maximum`."""
        value = shift = 0
        while True:
            byte = self.take(1, field)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= 35:
                raise FormatError(f"{self.what}: {field} is too long")
        if (byte == 0 and shift > 7) or value > maximum:
            raise FormatError(f"{self.what}: {field} is {value} or not in its shortest form")
        return value

    def end(self) -> None:
        """Checks that nothing is left."""
        if self.position != len(self.data):
            raise FormatError(f"{self.what} has {len(self.data) - self.position} bytes too many")
