"""Files made to harm a reader, and the bounds that a reader has to keep with any of them."""

import contextlib
import re
import resource
import struct
import time
import zlib
from collections.abc import Iterator

from mrc_jax.container import Header
from mrc_jax.decode import MAX_PARAMETERS, decode
from mrc_jax.errors import FormatError
from mrc_jax.manifest import Manifest

MEMORY_BYTES = 512 << 20  # beyond the process's own
SECONDS = 2.0


def sealed(body: bytes) -> bytes:
    """A body with the checksum that fits it."""
    return body + struct.pack("<I", zlib.crc32(body))


def header_alone(manifest: Manifest, embed: bool, **fields: int) -> bytes:
    """A file with a true header and next to nothing after it."""
    header = Header.of(manifest, embed, **{"seed": 1, "bits": 8, "blocks": 1, **fields})
    return sealed(header.data + b"\x80\x3e" * header.groups + bytes(6 if header.index_code else 1))


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Lets the process map MEMORY_BYTES more than it has; what asks for more gets a MemoryError."""
    with open("/proc/self/status") as status:
        mapped = int(re.findall(r"VmSize:\s*(\d+) kB", status.read())[0]) << 10
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Fails where the thread computes for SECONDS; the clock of a busy machine does not count."""
    start = time.thread_time()
    yield
    assert time.thread_time() - start < SECONDS


def survives(data: bytes, manifest: bytes | None = None, limit: int = MAX_PARAMETERS) -> bool:
    """Whether a file is decoded; anything but a one-line FormatError in time is a failure."""
    with limited_time():
        try:
            weights = decode(data, manifest, limit)
        except FormatError as error:
            assert "\n" not in str(error)
            return False
    assert sum(array.size for array in weights.values()) <= limit
    return True
