"""Which tensors of a network turn together, as arrays, and as bytes of a file.

Tensors that turn together have d rows for each of some groups of heads: axes of theirs, in C order,
are heads and d, either first ([heads, d, ..], as kernels that are applied from the left, and
biases) or last ([.., heads, d]). Heads are one a group, or `share` consecutive ones a group, as
where several heads of queries share their keys. All columns of a group side by side are a pair (see
`heads`).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mrc_jax.errors import FormatError, UsageError
from mrc_jax.manifest import MAX_PARAMETERS, UNCODED, Manifest, Reader, Tensor, varint
from mrc_jax.rotation.orthogonal import MAX_DIMENSIONS

_COLUMN_STEPS = 50  # what a column takes, in directions' coordinates
_SHARED, _LAST, _FLAG_BITS = 1, 2, 2


@dataclasses.dataclass(frozen=True)
class Member:
    """A tensor that turns.

    Attributes:
      tensor: its number in the manifest.
      is_shared: whether it has `share` heads for each group.
      is_last: whether heads and d are its last axes, not its first.
    """

    tensor: int
    is_shared: bool = False
    is_last: bool = False

    def columns_of(self, array: np.ndarray, turn: "Turn") -> np.ndarray:
        """The tensor's columns, [groups, d, columns], share by share of a group."""
        share = turn.share if self.is_shared else 1
        if self.is_last:
            parts = array.reshape(-1, turn.groups, share, turn.dimensions).transpose(1, 3, 2, 0)
        else:
            parts = array.reshape(turn.groups, share, turn.dimensions, -1).transpose(0, 2, 1, 3)
        return parts.reshape(turn.groups, turn.dimensions, -1)

    def array_of(self, columns: np.ndarray, turn: "Turn") -> np.ndarray:
        """Undoes columns_of, but for the shape: the tensor's elements in C order."""
        share = turn.share if self.is_shared else 1
        parts = columns.reshape(turn.groups, turn.dimensions, share, -1)
        return parts.transpose((3, 0, 2, 1) if self.is_last else (0, 2, 1, 3)).ravel()


@dataclasses.dataclass(frozen=True)
class Turn:
    """Tensors that turn together, groups of heads by rotations of their own.

    Attributes:
      groups: of heads.
      dimensions: d of a head.
      share: heads in a group, of the members that have several.
      members: the tensors; the first d - 1 columns of all tell the rotation.
    """

    groups: int
    dimensions: int
    share: int
    members: tuple[Member, ...]

    @property
    def data(self) -> bytes:
        """As the file has it."""
        numbers = [self.groups, self.dimensions, self.share, len(self.members)]
        for member in self.members:
            flags = _SHARED * member.is_shared | _LAST * member.is_last
            numbers.append(member.tensor << _FLAG_BITS | flags)
        return b"".join(map(varint, numbers))

    @property
    def steps(self) -> int:
        """What it takes to find its rotations: coordinates of directions, and 50 a column."""
        return self.groups * (self.dimensions - 1) * (self.dimensions + _COLUMN_STEPS) // 2

    def columns(self, tensors: Sequence[Tensor]) -> int:
        """Columns of a pair."""
        sizes = sum(tensors[member.tensor].size for member in self.members)
        return sizes // (self.groups * self.dimensions)

    def pairs(self, weights: Mapping[int, np.ndarray]) -> np.ndarray:
        """The pairs, [groups, d, columns], of the tensors by their numbers."""
        parts = [m.columns_of(weights[m.tensor], self) for m in self.members]
        return np.concatenate(parts, axis=2)

    def arrays(
        self, pairs: np.ndarray, tensors: Sequence[Tensor]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Undoes pairs: numbers of tensors and their elements in C order."""
        start = 0
        for member in self.members:
            count = tensors[member.tensor].size // (self.groups * self.dimensions)
            yield member.tensor, member.array_of(pairs[:, :, start : start + count], self)
            start += count


def turn_of(
    manifest: Manifest,
    members: Sequence[tuple[str, int, bool]],
    dimensions: int,
) -> Turn:
    """The turn of an attention layer's tensors.

    Args:
      manifest: of the network.
      members: path, heads, and whether heads and d are its last axes, of each tensor. The smallest
        number of heads is that of the groups.
      dimensions: d of a head.

    Raises:
      UsageError: if there is no such tensor, or heads are neither one a group nor as many as all
        others that are several.
    """
    numbers = {tensor.path: i for i, tensor in enumerate(manifest.tensors)}
    for path, _, _ in members:
        if path not in numbers:
            raise UsageError(f"{path}: the manifest has no such tensor")
    counts = sorted({heads for _, heads, _ in members})
    groups, most = counts[0], counts[-1]
    if len(counts) > 2 or groups < 1 or most % groups:
        raise UsageError(f"tensors of {counts} heads cannot turn together")
    made = (Member(numbers[path], heads > groups, last) for path, heads, last in members)
    return Turn(groups, dimensions, most // groups, tuple(made))


def read_turns(reader: Reader, manifest: Manifest) -> tuple[Turn, ...]:
    """The turns of a file, checked against its manifest; raises FormatError."""
    count = reader.varint(len(manifest.tensors), "number of turns")
    turns = tuple(_read_turn(reader, len(manifest.tensors)) for _ in range(count))
    check_turns(turns, manifest)
    return turns


def _read_turn(reader: Reader, tensors: int) -> Turn:
    groups, dimensions, share = (
        reader.varint(most, field)
        for most, field in (
            (MAX_PARAMETERS, "number of groups"),
            (MAX_DIMENSIONS, "dimensions of a head"),
            (MAX_PARAMETERS, "heads of a group"),
        )
    )
    codes = [
        reader.varint((tensors << _FLAG_BITS) - 1, "a tensor that turns")
        for _ in range(reader.varint(tensors, "number of tensors that turn"))
    ]
    made = (Member(c >> _FLAG_BITS, bool(c & _SHARED), bool(c & _LAST)) for c in codes)
    return Turn(groups, dimensions, share, tuple(made))


def check_turns(turns: Sequence[Turn], manifest: Manifest) -> None:
    """Raises FormatError where turns are not of a manifest's tensors."""
    if any(tensor.factor != UNCODED for tensor in manifest.tensors):
        raise FormatError("a tensor is coded, which none is in a file of turned tensors")
    used: set[int] = set()
    for turn in turns:
        if turn.groups < 1 or turn.share < 1 or not turn.members:
            raise FormatError("a turn has no groups, no heads or no tensors")
        for member in turn.members:
            tensor = manifest.tensors[member.tensor]
            if member.tensor in used:
                raise FormatError(f"{tensor.path}: turns twice")
            used.add(member.tensor)
            rows = turn.groups * turn.dimensions * (turn.share if member.is_shared else 1)
            if tensor.dtype != "float16" or not tensor.size or not rows or tensor.size % rows:
                raise FormatError(f"{tensor.path}: is no float16 tensor that has heads of {rows}")
        columns = turn.columns(manifest.tensors)
        if not 2 <= turn.dimensions <= columns + 1:
            raise FormatError(f"heads of {turn.dimensions} have {columns} columns, too few to turn")
