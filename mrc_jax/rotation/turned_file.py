"""The file of a float16 network that is turned by bits of its own: version 5 of the format
(docs/rotation.md, "The file").
"""

import dataclasses
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from mrc_jax.errors import FormatError, UsageError
from mrc_jax.identity import EMBEDDED, MAGIC, TURNED_VERSION, Identity, read_identity, version_of
from mrc_jax.manifest import Manifest, Reader, varint
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.heads import PairBits, decode_pair, encode_pair
from mrc_jax.rotation.turns import Turn, check_turns, read_turns
from mrc_jax.value_file import array_of, stored

STEPS_SHARE = 128  # of max_parameters to the steps that turns may take
_LEAST_BELOW = 16  # bytes that lie below the pairs: of the tensors that do not turn, then zeros
_LEAST_STATE, _MOST_STATE = 9, 12  # bytes


@dataclasses.dataclass(frozen=True)
class TurnedFile:
    """A parsed file whose stream is not decoded.

    Attributes:
      header: the network, its manifest in it.
      turns: the tensors that turn.
      field: the stream.
    """

    header: Identity
    turns: tuple[Turn, ...]
    field: memoryview

    @property
    def parts_bytes(self) -> dict[str, int]:
        """Bytes of each part of the file; they add up to its size."""
        manifest = len(_manifest(self).data)
        return {
            "header": 5 + len(self.header.identity_bytes) - manifest,
            "manifest": manifest,
            "turns": len(_turns_bytes(self.turns)),
            "stream": len(self.field),
            "checksum": 4,
        }

    def tensor_bytes(self, max_parameters: int) -> list[bytes | memoryview]:
        """Each tensor's bytes, little-endian, in the order of the manifest.

        Args:
          max_parameters: turns that take more than a 128th as many steps are refused before any.

        Raises:
          FormatError: if the stream is damaged, or that.
        """
        steps = sum(turn.steps for turn in self.turns)
        if steps > max_parameters // STEPS_SHARE:
            raise FormatError(
                f"the file's rotations take {steps} steps, more than max_parameters / "
                f"{STEPS_SHARE} = {max_parameters // STEPS_SHARE}; raise it (--max_parameters) if "
                "you trust the file"
            )
        tensors = _manifest(self).tensors
        below, turned = _sizes(_manifest(self), self.turns)
        stack = _stack(self.field, max(below, _LEAST_BELOW) - 8 + turned)
        found: dict[int, bytes | memoryview] = {}
        for turn in reversed(self.turns):
            shape = (turn.dimensions, turn.columns(tensors))
            pairs = [decode_pair(stack, *shape) for _ in range(turn.groups)]
            for number, array in turn.arrays(np.stack(pairs[::-1]), tensors):
                found[number] = array.astype("<f2", copy=False).tobytes()
        content, start = memoryview(stack.content()), 0
        if len(content) != max(below, _LEAST_BELOW) or any(content[below:]):
            raise FormatError("the stream holds more or less than the tensors that do not turn")
        for number, tensor in enumerate(tensors):
            if number not in found:
                found[number] = content[start : start + tensor.uncoded_bytes]
                start += tensor.uncoded_bytes
        return [found[number] for number in range(len(tensors))]


def pack_turned(
    weights: Mapping[str, np.ndarray], manifest: Manifest, turns: Sequence[Turn]
) -> tuple[bytes, list[list[PairBits]]]:
    """The file of an equal network.

    Args:
      weights: arrays by path. Those of tensors that turn are any floats, which are rounded to
        float16 after their turn; the others are stored as they are, in the manifest's dtype.
      manifest: of the network, all tensors uncoded.
      turns: the tensors that turn. The first ones find only those that do not below them.

    Returns:
      The file, and where the bits of each pair of each turn went.

    Raises:
      UsageError: if a tensor is missing or of another shape, cannot turn so, or is too large for
        float16.
    """
    try:
        check_turns(turns, manifest)
    except FormatError as error:
        raise UsageError(str(error)) from None
    tensors = manifest.tensors
    numbers = [member.tensor for turn in turns for member in turn.members]
    apart = (tensor for number, tensor in enumerate(tensors) if number not in set(numbers))
    below = b"".join(stored(weights, tensor) for tensor in apart)
    stack = Stack.holding(below.ljust(_LEAST_BELOW, b"\0"))
    turning = {number: array_of(weights, tensors[number]) for number in numbers}
    bits = []
    for turn in turns:
        bits.append([encode_pair(stack, pair).bits for pair in turn.pairs(turning)])
    data = stack.to_bytes()
    spare = _MOST_STATE - _LEAST_STATE
    field = data[:-spare] + data[-spare:].rstrip(b"\0")
    header = Identity.of(manifest, True)
    body = MAGIC + bytes([TURNED_VERSION, EMBEDDED]) + header.identity_bytes
    body += _turns_bytes(turns) + field
    return body + struct.pack("<I", zlib.crc32(body)), bits


def unpack_turned(data: bytes) -> TurnedFile:
    """Parses and checks a file of turned tensors but for its stream; raises FormatError."""
    if (version := version_of(data)) != TURNED_VERSION:
        raise FormatError(f"a file of format version {version} holds no turned tensors")
    reader = Reader(data, "the file")
    flags = reader.take(5, "the flags")[4]
    if flags != EMBEDDED:
        raise FormatError(f"unknown flags {flags:#x} in a file of format version {TURNED_VERSION}")
    manifest = read_identity(reader, True)["manifest"]
    turns = read_turns(reader, manifest)
    field = memoryview(data)[reader.position : -4]
    if reader.position + 4 > len(data) or len(field) < _least_field(manifest, turns):
        raise FormatError(f"the file ends inside its stream of {len(field)} bytes")
    return TurnedFile(Identity.of(manifest, True), turns, field)


def _turns_bytes(turns: Sequence[Turn]) -> bytes:
    return varint(len(turns)) + b"".join(turn.data for turn in turns)


def _manifest(file: TurnedFile) -> Manifest:
    assert file.header.manifest is not None
    return file.header.manifest


def _sizes(manifest: Manifest, turns: Sequence[Turn]) -> tuple[int, int]:
    """Bytes of the tensors that do not turn, and of those that do."""
    members = (member for turn in turns for member in turn.members)
    turned = sum(manifest.tensors[member.tensor].uncoded_bytes for member in members)
    return manifest.uncoded_bytes - turned, turned


def _least_field(manifest: Manifest, turns: Sequence[Turn]) -> int:
    """Bytes that a stream has at least: the last pair, which nothing takes bits from, and a state;
    all tensors where none turns.
    """
    below, _ = _sizes(manifest, turns)
    if not turns:
        return max(below, _LEAST_BELOW) - 8 + _LEAST_STATE
    return 2 * turns[-1].dimensions * turns[-1].columns(manifest.tensors) + _LEAST_STATE


def _stack(field: memoryview, words_and: int) -> Stack:
    """The stack of a stream: its state has as few bytes as can be, which the stream's length tells,
    as all else is words and as many bytes as given.
    """
    count = _LEAST_STATE + (len(field) - words_and - _LEAST_STATE) % 4
    if not field[-1]:
        raise FormatError("the stream does not end in a state of the fewest bytes")
    return Stack.from_bytes(b"".join([field, bytes(_MOST_STATE - count)]))
