"""Which network a file is of: its manifest, or the manifest's fingerprint and counts
(docs/FORMAT.md, "The file").
"""

import dataclasses
import struct
import zlib
from typing import Any, Self

from mrc_jax.errors import FormatError
from mrc_jax.files import MAX_FILE_BYTES
from mrc_jax.manifest import (
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_RANGES,
    MAX_TENSORS,
    Manifest,
    Reader,
    parse,
    varint,
)

MAGIC = b"MRC"
VALUES_VERSION = 4  # the older ones are of files of blocks
TURNED_VERSION = 5  # the newest version
EMBEDDED = 1  # the flag that says that the manifest is in the file


@dataclasses.dataclass(frozen=True)
class Identity:
    """The network of a file.

    Attributes:
      manifest: the embedded manifest, or None where the user has to supply it.
      fingerprint: of the manifest.
      entries, groups, uncoded_bytes: as the manifest and the file's ranges have them.
    """

    manifest: Manifest | None
    fingerprint: bytes
    entries: int
    groups: int
    uncoded_bytes: int

    @classmethod
    def of(cls, manifest: Manifest, embed: bool, **fields: Any) -> Self:
        """That of a manifest, embedded or not; `fields` are those that a subclass has more."""
        return cls(
            manifest=manifest if embed else None,
            fingerprint=manifest.fingerprint,
            entries=manifest.entries,
            groups=len(manifest.group_sizes(fields.get("ranges", 1))),
            uncoded_bytes=manifest.uncoded_bytes,
            **fields,
        )

    @property
    def identity_bytes(self) -> bytes:
        """As the file has it after its flags."""
        if self.manifest:
            return varint(len(self.manifest.data)) + self.manifest.data
        counts = (self.entries, self.groups, self.uncoded_bytes)
        return self.fingerprint + b"".join(map(varint, counts))


def read_identity(reader: Reader, embedded: bool) -> dict[str, Any]:
    """The inverse of `identity_bytes`: {'manifest': it} where embedded, else the other fields.

    Raises FormatError.
    """
    if embedded:
        size = reader.varint(MAX_BYTES, "manifest length")
        return {"manifest": parse(reader.take(size, "the manifest"))}
    return {
        "fingerprint": reader.take(8, "the fingerprint"),
        "entries": reader.varint(MAX_ENTRIES, "number of entries"),
        "groups": reader.varint(MAX_TENSORS * MAX_RANGES, "number of groups"),
        "uncoded_bytes": reader.varint(MAX_FILE_BYTES, "uncoded bytes"),
    }


def version_of(data: bytes) -> int:
    """The format version of a file whose magic, version and checksum it checks.

    Raises FormatError.
    """
    if len(data) < 9 or data[:3] != MAGIC:
        raise FormatError("not an .mrc file: it does not begin with 'MRC'")
    if not 1 <= data[3] <= TURNED_VERSION:
        raise FormatError(
            f"the file has format version {data[3]}; this reader knows 1 to {TURNED_VERSION}"
        )
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError("the file is damaged: its checksum does not match")
    return data[3]
