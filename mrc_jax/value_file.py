"""The file of a network whose weights take few values: version 4 of the format (docs/FORMAT.md,
"Values").
"""

import dataclasses
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from mrc_jax.container import little_endian
from mrc_jax.errors import FormatError, UsageError
from mrc_jax.identity import EMBEDDED, MAGIC, VALUES_VERSION, Identity, read_identity, version_of
from mrc_jax.manifest import Manifest, Reader, Tensor, varint
from mrc_jax.value_code import (
    LARGEST_RATE,
    MAX_VALUES,
    Table,
    lanes_of,
    pack_symbols,
    table_of,
    unpack_symbols,
)

MAX_TABLES = 256


@dataclasses.dataclass(frozen=True)
class ValueFile:
    """A parsed file whose weights are not expanded.

    Attributes:
      header: the network.
      tables: of values.
      which: the number of each coded tensor's table, as many as header.groups.
      uncoded: bytes of the uncoded tensors, little-endian, in manifest order.
      field: the coded weights' bytes.
    """

    header: Identity
    tables: list[Table]
    which: bytes
    uncoded: bytes
    field: bytes

    def coded_vector(self, manifest: Manifest) -> np.ndarray:
        """The coded tensors' weights, one after the other: float32[entries].

        Raises FormatError where the field is damaged or a coded tensor is shared.
        """
        _check_factors(manifest)
        sizes = [tensor.entries for tensor in manifest.coded]
        which = np.repeat(np.frombuffer(self.which, np.uint8), sizes)
        symbols = unpack_symbols(self.field, which, self.tables)
        first = np.cumsum([0, *(len(table.values) for table in self.tables)])[:-1]
        values = np.concatenate([table.values for table in self.tables])
        return values[symbols + first.astype(np.uint32)[which]]

    @property
    def parts_bytes(self) -> dict[str, int]:
        """Bytes of each part of the file; they add up to its size."""
        manifest = len(self.header.manifest.data) if self.header.manifest else 0
        tables = sum(map(len, _tables_bytes(self.tables, self.which)))
        return {
            "header": 5 + len(self.header.identity_bytes) - manifest,
            "manifest": manifest,
            "tables": tables,
            "uncoded": len(self.uncoded),
            "weights": len(self.field),
            "checksum": 4,
        }


def pack_values(weights: Mapping[str, np.ndarray], manifest: Manifest, embed: bool = True) -> bytes:
    """The file of a network whose coded tensors take few values.

    There is one table for the whole network or one for each tensor, whichever makes the file
    smaller.

    Args:
      weights: arrays by path. Those of coded tensors have the values of few bfloat16 numbers; the
        others are stored as they are, in the manifest's dtype (of bfloat16 its bits may be given,
        as uint16).
      manifest: of the network, without sharing.
      embed: whether the file holds the manifest.

    Raises:
      UsageError: a tensor is missing, of another shape, or has values that no file can hold.
    """
    try:
        _check_factors(manifest)
    except FormatError as error:
        raise UsageError(str(error)) from None
    coded = [_coded(weights, tensor) for tensor in manifest.coded]
    uncoded = b"".join(stored(weights, t) for t in manifest.tensors if not t.factor)
    header = Identity.of(manifest, embed)
    files = []
    if len(coded) <= MAX_TABLES:
        files.append(_file(header, [[array] for array in coded], bytes(range(len(coded))), uncoded))
    if len(np.unique(np.concatenate([np.unique(array) for array in coded]))) <= MAX_VALUES:
        files.append(_file(header, [coded], bytes(len(coded)), uncoded))
    if not files:
        raise UsageError(
            f"more than {MAX_TABLES} tensors cannot have tables of their own, and all weights have "
            f"more than the {MAX_VALUES} values of one table"
        )
    return min(files, key=len)


def _file(header: Identity, groups: list[list[np.ndarray]], which: bytes, uncoded: bytes) -> bytes:
    """The file with a table for each group of tensors."""
    made = [table_of(np.concatenate(group)) for group in groups]
    tables = [table for table, _ in made]
    numbers = np.repeat(np.arange(len(made)), [len(symbols) for _, symbols in made])
    field = pack_symbols(np.concatenate([symbols for _, symbols in made]), numbers, tables)
    flags = EMBEDDED if header.manifest else 0
    body = MAGIC + bytes([VALUES_VERSION, flags]) + header.identity_bytes
    body += b"".join(_tables_bytes(tables, which)) + uncoded + field
    return body + struct.pack("<I", zlib.crc32(body))


def _coded(weights: Mapping[str, np.ndarray], tensor: Tensor) -> np.ndarray:
    """A coded tensor's weights, float32[size], with no negative zero."""
    array = np.asarray(array_of(weights, tensor), np.float32).reshape(-1) + np.float32(0)
    if np.any(array.view(np.uint32) & 0xFFFF) or not np.all(np.isfinite(array)):
        raise UsageError(f"{tensor.path}: has values that bfloat16 does not; round them before")
    if (count := len(np.unique(array))) > MAX_VALUES:
        raise UsageError(f"{tensor.path}: has {count} values; {MAX_VALUES} are possible")
    return array


def stored(weights: Mapping[str, np.ndarray], tensor: Tensor) -> bytes:
    """An uncoded tensor's bytes as a file has them; raises UsageError as `pack_values`."""
    array = array_of(weights, tensor)
    as_bits = tensor.dtype == "bfloat16" and array.dtype == np.uint16
    if array.dtype.name != tensor.dtype and not as_bits:
        raise UsageError(f"{tensor.path}: is {array.dtype.name}, the manifest says {tensor.dtype}")
    return little_endian(array)


def array_of(weights: Mapping[str, np.ndarray], tensor: Tensor) -> np.ndarray:
    """A tensor of the weights, of the manifest's shape; raises UsageError where there is none."""
    if tensor.path not in weights or np.shape(weights[tensor.path]) != tensor.shape:
        raise UsageError(f"{tensor.path}: the weights have no such tensor of shape {tensor.shape}")
    return np.asarray(weights[tensor.path])


def _tables_bytes(tables: list[Table], which: bytes) -> list[bytes]:
    """As the file has them: their number, each coded tensor's (if they differ), and each table."""
    out = [varint(len(tables)), which if len(tables) > 1 else b""]
    for table in tables:
        halves = (table.values.view(np.uint32) >> 16).astype("<u2")
        out += [varint(len(halves)), halves.tobytes(), table.rates.tobytes()]
    return out


def unpack_values(data: bytes) -> ValueFile:
    """Parses and checks a file of values, allocating in proportion to it; raises FormatError."""
    if (version := version_of(data)) != VALUES_VERSION:
        raise FormatError(f"a file of format version {version} holds no values")
    reader = Reader(data[:-4], "the file")
    flags = reader.take(5, "the flags")[4]
    if flags > EMBEDDED:
        raise FormatError(f"unknown flags {flags:#x} in a file of format version {VALUES_VERSION}")
    own = read_identity(reader, bool(flags))
    if flags:
        _check_factors(own["manifest"])
    header = Identity.of(own["manifest"], True) if flags else Identity(manifest=None, **own)
    if not 1 <= header.groups <= header.entries:
        raise FormatError(f"{header.groups} coded tensors with {header.entries} weights")
    count = reader.varint(MAX_TABLES, "number of tables")
    if not 1 <= count <= header.groups:
        raise FormatError(f"{count} tables for {header.groups} coded tensors")
    which = reader.take(header.groups, "the tables' numbers") if count > 1 else bytes(header.groups)
    if max(which) >= count:
        raise FormatError("a tensor has a table that there is not")
    tables = [_table(reader) for _ in range(count)]
    uncoded = reader.take(header.uncoded_bytes, "the uncoded tensors")
    field = reader.take(len(reader.data) - reader.position, "the weights")
    if len(field) < 4 * lanes_of(header.entries):
        raise FormatError(f"{header.entries} weights cannot be {len(field)} bytes")
    return ValueFile(header, tables, which, uncoded, field)


def _table(reader: Reader) -> Table:
    count = reader.varint(MAX_VALUES, "number of values")
    halves = np.frombuffer(reader.take(2 * count, "the values"), "<u2").astype(np.uint32)
    rates = np.frombuffer(reader.take(count, "the frequencies"), np.uint8)
    values = (halves << 16).view(np.float32)
    if count == 0 or not np.all(np.isfinite(values)) or np.any(values[1:] <= values[:-1]):
        raise FormatError("a table's values are not finite and ascending")
    if np.any(halves == 0x8000) or np.any(rates > LARGEST_RATE):
        raise FormatError("a table has a negative zero, or a frequency that there is not")
    return Table(values, rates)


def _check_factors(manifest: Manifest) -> None:
    for tensor in manifest.coded:
        if tensor.factor != 1:
            raise FormatError(f"{tensor.path}: shares weights, which a file of values cannot")
    if not manifest.coded:
        raise FormatError("no tensor of the network is coded")
