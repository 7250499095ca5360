"""Rotations that are numbers of a stream, and the rotation that a matrix was turned by.

A rotation of d dimensions is a product of reflections: its column j is H_0 .. H_{j-1} (0, v_j),
where H_j is the Householder reflection that takes e_j to v_j or -v_j, and v_j is a direction in
n = d - j dimensions. A direction is a point of the cube's surface: the axis of its largest
coordinate (1 of n) and its sign, and the ratios of the others to it, integers in -M..M over M with
M = 2**grid_bits - 1. Bits are spread over these evenly: 0.25 bits a ratio less than by the Haar
measure, without a cosine.

If R T has been sent, where T has zeros below its diagonal, which is positive, then H_{j-1} .. H_0
takes column j to (.., t_jj v_j): that is the QR decomposition, and finds the directions one after
the other, each after those before it are corrected. All that sender and receiver both compute is
in integers (2**30 for one), so it is the same on every machine; no sum or product leaves 64 bits:
vectors that are multiplied are at most 2**30 (1 + 2**-10) and 2**31 (1 + 2**-10) long, so that
their product, and each of its partial sums, is below 2**61 (1 + 2**-8) by Cauchy's inequality.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from mrc_jax.errors import FormatError
from mrc_jax.rotation.ans import Stack

FRACTION_BITS = 30
ONE = 1 << FRACTION_BITS
MAX_GRID_BITS = 15
MAX_DIMENSIONS = 4096


@dataclasses.dataclass(frozen=True)
class Direction:
    """A direction in n dimensions.

    Attributes:
      axis: of the largest coordinate, 0..n - 1.
      is_negative: whether that coordinate is.
      ratios: the n - 1 others over its magnitude, in units of 1 / M, each in -M..M.
    """

    axis: int
    is_negative: bool
    ratios: tuple[int, ...]


def half_width(grid_bits: int) -> int:
    """M, the largest ratio."""
    return (1 << grid_bits) - 1


def direction_bits(n: int, grid_bits: int) -> float:
    """Bits that a direction in n dimensions holds; grid_bits = 0 is the first axis itself."""
    if not grid_bits:
        return 0.0
    return math.log2(2 * n) + (n - 1) * math.log2(2 * half_width(grid_bits) + 1)


def pop_direction(stack: Stack, n: int, grid_bits: int) -> Direction:
    """Takes a direction in n dimensions off a stream."""
    if not grid_bits:
        return Direction(0, False, (0,) * (n - 1))
    is_negative = bool(stack.pop(2))
    axis = stack.pop(n)
    width = half_width(grid_bits)
    ratios = tuple(stack.pop(2 * width + 1) - width for _ in range(n - 1))
    return Direction(axis, is_negative, ratios)


def push_direction(stack: Stack, direction: Direction, grid_bits: int) -> None:
    """Undoes pop_direction."""
    if not grid_bits:
        return
    width = half_width(grid_bits)
    for ratio in reversed(direction.ratios):
        stack.push(ratio + width, 2 * width + 1)
    stack.push(direction.axis, len(direction.ratios) + 1)
    stack.push(direction.is_negative, 2)


def pop_rotation(stack: Stack, dimensions: int, grid_bits: Sequence[int]) -> list[Direction]:
    """Takes the directions of a rotation off a stream, one for each of grid_bits."""
    return [pop_direction(stack, dimensions - j, bits) for j, bits in enumerate(grid_bits)]


def push_rotation(stack: Stack, directions: list[Direction], grid_bits: Sequence[int]) -> None:
    """Undoes pop_rotation."""
    for direction, bits in zip(reversed(directions), reversed(grid_bits), strict=True):
        push_direction(stack, direction, bits)


def unit_vector(direction: Direction, grid_bits: int) -> np.ndarray:
    """The direction as a vector of length one, int64[n], in units of 2**-30."""
    width = half_width(grid_bits) or 1
    entries = list(direction.ratios)
    entries.insert(direction.axis, -width if direction.is_negative else width)
    norm = math.isqrt(sum(x * x for x in entries) << 2 * FRACTION_BITS)
    scaled = [((x << 2 * FRACTION_BITS + 1) + norm) // (2 * norm) for x in entries]
    return np.asarray(scaled, np.int64)


def reflect(vector: np.ndarray, columns: np.ndarray) -> None:
    """Reflects columns in place so that the first axis goes to a unit vector or its negative.

    Args:
      vector: int64[n], of length one.
      columns: int64[n, any], each of length one at most.
    """
    normal = vector.copy()
    normal[0] += ONE if vector[0] >= 0 else -ONE
    parts = (normal @ columns) // (ONE + abs(int(vector[0])))
    columns -= (normal[:, None] * parts) >> FRACTION_BITS


def matrix(dimensions: int, directions: list[Direction], grid_bits: Sequence[int]) -> np.ndarray:
    """The rotation, int64[d, d], in units of 2**-30.

    Args:
      dimensions: d.
      directions, grid_bits: of the first columns, d - 1 at most; the others follow from these.
    """
    rotation = np.eye(dimensions, dtype=np.int64) * ONE
    for j in reversed(range(len(directions))):
        vector = unit_vector(directions[j], grid_bits[j])
        reflect(vector, rotation[j:, j + 1 :])
        rotation[j:, j] = vector
    return rotation


def unit_columns(values: np.ndarray) -> np.ndarray:
    """Columns of float16 at length one, int64[d, columns], in units of 2**-30; zero stays zero.

    Args:
      values: float16[d, columns].

    Raises:
      FormatError: if a value is not finite.
    """
    bits = values.astype(np.float16).view(np.uint16).astype(np.int64)
    exponent, fraction = bits >> 10 & 31, bits & 1023
    if np.any(exponent == 31):
        raise FormatError("a weight is not finite")
    magnitude = np.where(exponent > 0, fraction | 1024, fraction) << np.maximum(exponent - 1, 0)
    out = np.where(bits >> 15 > 0, -magnitude, magnitude)  # in units of 2**-24
    for column in out.T:
        column >>= max(0, int(np.max(np.abs(column))).bit_length() - 32)
        norm = math.isqrt(sum(int(x) ** 2 for x in column))
        column[:] = column * ONE // max(1, norm)
    return out


def find_directions(
    columns: np.ndarray,
    grid_bits: Sequence[int],
    correct: Callable[[int, np.ndarray], Direction],
) -> list[Direction]:
    """The directions of the rotation that triangular columns were turned by.

    Args:
      columns: int64[d, columns], of `unit_columns`; column j has entries in the first j + 1 places
        only before it is turned.
      grid_bits: of each column.
      correct: from j and what is seen of a direction, int64[d - j], to the direction itself; for
        columns that have one (grid_bits above 0).
    """
    columns = columns.copy()
    directions = []
    for j, bits in enumerate(grid_bits):
        seen = columns[j:, j]
        direction = correct(j, seen) if bits else Direction(0, False, (0,) * (len(seen) - 1))
        reflect(unit_vector(direction, bits), columns[j:, j + 1 :])
        directions.append(direction)
    return directions


def likely_axis(seen: np.ndarray) -> int:
    """The first of the largest coordinates."""
    return int(np.argmax(np.abs(seen)))


def likely_ratios(seen: np.ndarray, axis: int, grid_bits: int) -> list[int]:
    """The ratios nearest to those of a vector, given its axis.

    Args:
      seen: int64[n], below 2**31.
      axis: of the direction's largest coordinate.
      grid_bits: of the direction.
    """
    width = half_width(grid_bits)
    largest = max(1, abs(int(seen[axis])))
    ratios = (2 * width * np.delete(seen, axis) + largest) // (2 * largest)
    return np.clip(ratios, -width, width).tolist()
