"""The bytes of an .mrc file: made, parsed, checked. Every byte is described in docs/FORMAT.md."""

import dataclasses
import struct
import zlib
from typing import Any

import numpy as np

from mrc_jax import index_codes
from mrc_jax.blocks import Partition
from mrc_jax.errors import FormatError, UsageError
from mrc_jax.files import MAX_FILE_BYTES
from mrc_jax.identity import EMBEDDED, MAGIC, Identity, read_identity, version_of
from mrc_jax.manifest import MAX_ENTRIES, MAX_RANGES, Reader, varint

VERSIONS = {index_codes.FIXED: 1, index_codes.ORDERED: 2}  # by the file's index code
RANGES_VERSION = 3  # of files with more than one range, whatever their index code
MAX_BITS = 30
MIN_SCALE, MAX_SCALE = 2.0**-100, 2.0**20
RANGE_SCALE_BITS = 12  # of a float32, its upper ones, that a scale of version 3 may use
_FIRST_SCALE = 824  # as these bits: 2^-24; a byte counts from it
MIN_RANGE_SCALE, MAX_RANGE_SCALE = 2.0**-24, 240.0


@dataclasses.dataclass(frozen=True)
class Header(Identity):
    """What a file says before its payload.

    Attributes:
      seed: of the shared randomness.
      blocks: number of blocks.
      bits: of an index; a block has 2**bits candidates.
      codebook_blocks: consecutive blocks that share a codebook; 1 means independent candidates.
      index_code: how indices are written, one of index_codes.NAMES.
      ranges: of the entries of a large tensor, each with a prior scale of its own.
    """

    seed: int
    blocks: int
    bits: int
    codebook_blocks: int = 1
    index_code: int = index_codes.FIXED
    ranges: int = 1

    @property
    def partition(self) -> Partition:
        """The partition of the coded vector."""
        return Partition(self.entries, self.blocks)

    @property
    def version(self) -> int:
        """Of the format."""
        return RANGES_VERSION if self.ranges > 1 else VERSIONS[self.index_code]

    @property
    def scale_bytes(self) -> int:
        """Of the prior scales."""
        return self.groups * (1 if self.version == RANGES_VERSION else 2)

    @property
    def data(self) -> bytes:
        """The header's bytes."""
        flags = (EMBEDDED if self.manifest else 0) | self.index_code << 1
        out = MAGIC + bytes([self.version, flags]) + self.identity_bytes
        out += struct.pack("<IB", self.seed, self.bits)
        out += varint(self.blocks) + varint(self.codebook_blocks)
        return out + (varint(self.ranges) if self.version == RANGES_VERSION else b"")


@dataclasses.dataclass(frozen=True)
class Container:
    """A whole file.

    Attributes:
      header: see Header.
      scales: uint16[groups], the prior scales as bfloat16 bit patterns.
      uncoded: bytes of the uncoded tensors, little-endian, in manifest order.
      indices: uint32[blocks], the chosen candidates, whatever the index code.
    """

    header: Header
    scales: np.ndarray
    uncoded: bytes
    indices: np.ndarray


def scales_to_float(scales: np.ndarray) -> np.ndarray:
    """bfloat16 bit patterns (uint16) as float32."""
    return (scales.astype(np.uint32) << 16).view(np.float32)


def _packed_scales(header: Header, scales: np.ndarray) -> bytes:
    if header.version != RANGES_VERSION:
        return scales.astype("<u2").tobytes()
    codes = (scales >> 4).astype(np.int32) - _FIRST_SCALE
    if np.any(scales & 15) or np.any((codes < 0) | (codes > 255)):
        raise UsageError("cannot write the file: a prior scale has more bits than version 3 holds")
    return codes.astype(np.uint8).tobytes()


def _unpacked_scales(header: Header, data: bytes) -> np.ndarray:
    if header.version != RANGES_VERSION:
        return np.frombuffer(data, "<u2").astype(np.uint16)
    return (np.frombuffer(data, np.uint8).astype(np.uint16) + np.uint16(_FIRST_SCALE)) << 4


def little_endian(array: np.ndarray) -> bytes:
    """An array's bytes as the file holds them."""
    values = np.asarray(array)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def parts(header: Header, index_bytes: int | None = None) -> dict[str, int]:
    """Bytes of each part of a file with this header; they add up to its size.

    Args:
      header: the file's.
      index_bytes: of the indices; may be left out with the index code `fixed`.
    """
    if index_bytes is None:
        if header.index_code != index_codes.FIXED:
            raise UsageError("how many bytes the indices take depends on them: give index_bytes")
        index_bytes = index_codes.fixed_bytes(header.blocks, header.bits)
    manifest = len(header.manifest.data) if header.manifest else 0
    return {
        "header": len(header.data) - manifest,
        "manifest": manifest,
        "scales": header.scale_bytes,
        "uncoded": header.uncoded_bytes,
        "indices": index_bytes,
        "checksum": 4,
    }


def parts_of_file(header: Header, file_bytes: int) -> dict[str, int]:
    """The parts of a file of so many bytes, whatever its index code."""
    return parts(header, file_bytes - sum(parts(header, 0).values()))


def pack(container: Container) -> bytes:
    """The file's bytes; raises UsageError for values that no file can hold."""
    header = container.header
    scales = np.asarray(container.scales, np.uint16)
    try:
        _check(header, scales)
    except FormatError as error:
        raise UsageError(f"cannot write the file: {error}") from None
    if len(container.indices) != header.blocks or len(container.uncoded) != header.uncoded_bytes:
        raise UsageError("cannot write the file: indices or uncoded bytes do not fit the header")
    if int(np.min(container.indices)) < 0 or int(np.max(container.indices)) >> header.bits:
        raise UsageError(f"cannot write the file: an index has more than {header.bits} bits")
    packed = index_codes.pack(header.index_code, container.indices, header.bits, header.seed)
    if sum(parts(header, len(packed)).values()) > MAX_FILE_BYTES:
        raise UsageError(f"cannot write the file: it would have more than {MAX_FILE_BYTES} bytes")
    body = header.data + _packed_scales(header, scales) + container.uncoded + packed
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes) -> Container:
    """Parses and checks a file of blocks, allocating in proportion to it; raises FormatError."""
    if (version := version_of(data)) > RANGES_VERSION:
        raise FormatError(f"a file of format version {version} holds no blocks")
    reader = Reader(data[:-4], "the file")
    reader.take(4, "the magic")
    header = _header(reader, version)
    scales = _unpacked_scales(header, reader.take(header.scale_bytes, "the scales"))
    _check(header, scales)
    uncoded = reader.take(header.uncoded_bytes, "the uncoded tensors")
    size = len(reader.data) - reader.position
    if header.index_code == index_codes.FIXED:
        size = index_codes.fixed_bytes(header.blocks, header.bits)
    field = reader.take(size, "the indices")
    reader.end()
    indices = index_codes.unpack(header.index_code, field, header.blocks, header.bits, header.seed)
    return Container(header, scales, uncoded, indices)


def _header(reader: Reader, version: int) -> Header:
    flags = reader.take(1, "the flags")[0]
    index_code = flags >> 1
    if index_code not in VERSIONS or version not in (VERSIONS[index_code], RANGES_VERSION):
        raise FormatError(f"unknown flags {flags:#x} in a file of format version {version}")
    own = read_identity(reader, bool(flags & EMBEDDED))
    seed, bits = struct.unpack("<IB", reader.take(5, "the seed"))
    plan: dict[str, Any] = {"seed": seed, "bits": bits, "index_code": index_code}
    plan["blocks"] = reader.varint(MAX_ENTRIES, "number of blocks")
    plan["codebook_blocks"] = reader.varint(MAX_ENTRIES, "codebook sharing")
    if version == RANGES_VERSION:
        plan["ranges"] = reader.varint(MAX_RANGES, "number of ranges")
        if plan["ranges"] < 2:
            raise FormatError(f"{plan['ranges']} ranges in a file of format version {version}")
    if "manifest" in own:
        return Header.of(own["manifest"], True, **plan)
    return Header(manifest=None, **own, **plan)


def _check(header: Header, scales: np.ndarray) -> None:
    if header.index_code not in VERSIONS:
        raise FormatError(f"there is no index code {header.index_code}")
    if not 1 <= header.bits <= MAX_BITS:
        raise FormatError(f"{header.bits} bits an index; 1 to {MAX_BITS} are possible")
    if not 1 <= header.ranges <= MAX_RANGES:
        raise FormatError(f"{header.ranges} ranges; 1 to {MAX_RANGES} are possible")
    if not 1 <= header.groups <= header.entries:
        raise FormatError(f"{header.groups} groups for {header.entries} coded entries")
    if not 1 <= header.blocks <= header.entries:
        raise FormatError(f"{header.blocks} blocks for {header.entries} coded entries")
    if not 1 <= header.codebook_blocks <= header.blocks:
        raise FormatError(f"{header.codebook_blocks} blocks a codebook, of {header.blocks} blocks")
    values = scales_to_float(scales)
    if len(values) != header.groups or not np.all((values >= MIN_SCALE) & (values <= MAX_SCALE)):
        raise FormatError("a prior scale is not between 2^-100 and 2^20")
