"""A network's weights turned by rotations that hold bits of the stream already written.

Where a network uses two matrices A and B of d rows by A^T B alone, R A and R B are the same
network for every orthogonal R. So are, in an attention head without rotary embedding,
- queries A x + a and keys B y + b: a score is (A x + a)^T (B y + b), so (A, a) and (B, b) turn
  together, as they do where several heads of queries share the keys;
- values A y + a and the output's C = B^T: the head adds C (sum of shares (A y + a)), so (A, a) and
  B turn together, and the output's bias does not.
A pair is all those columns side by side, [d, columns] (`turns` makes it of tensors).

The sender turns a pair by Q^T, where Q T = its first d - 1 columns (QR), takes a rotation R off the
stream, and sends float16(R Q^T pair) with corrections. The receiver keeps those weights, finds R by
them and the corrections, and pushes it back, which is the stream from before (He, Flamich and
Hernandez-Lobato 2024, arXiv 2410.01309, with QR in place of eigenvectors, whose noise grows as
eigenvalues come together). d (d - 1) / 2 weights of 16 bits would be free; a rotation that float16
shows to about 12 bits a dimension returns some 73 % of that. (To send T without its zeros returns
all of it, without a stream below; the weights of bits back keep the look of any orientation.)
"""

import dataclasses
import math

import numpy as np

from mrc_jax.errors import FormatError, UsageError
from mrc_jax.rotation import orthogonal
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.corrections import pop_directions, push_corrections

# How likely 0..15 grid bits are: float16 asks for 12 where columns are far from each other's span.
_GRID_COUNTS = (4, 1, 1, 1, 1, 1, 1, 2, 3, 4, 8, 32, 160, 32, 4, 1)
_LARGEST = 65504.0
# Mean squares of float16's rounding error: of a number over its square, and of a tiny number.
_RELATIVE_NOISE, _TINY_NOISE = 2.0**-24.7, 2.0**-48 / 12
_LEAST_NOISE = 0.35  # of a ratio seen, in units of its grid
# Left in a stream: three bytes are no word, and a symbol's slot is popped before it is pushed.
_SPARE_BITS = 40
_WORST_GRID_BITS = 2  # below, corrections cost more than a ratio returns


@dataclasses.dataclass(frozen=True)
class PairBits:
    """Where the bits of a pair went.

    Attributes:
      weight_bits: its weights, 16 each.
      ideal_bits: 16 d (d - 1) / 2, those of the weights that a rotation could set to zero.
      rotation_bits: taken off the stream, and given back by the receiver.
      correction_bits: corrections.
      grid_bits: the grids of the columns.
    """

    weight_bits: int
    ideal_bits: int
    rotation_bits: float
    correction_bits: float
    grid_bits: float

    @property
    def net_bits(self) -> float:
        """What the pair's rotation saves."""
        return self.rotation_bits - self.correction_bits - self.grid_bits


@dataclasses.dataclass(frozen=True)
class Turned:
    """A pair as it was sent.

    Attributes:
      weights: those of the equal network that the receiver decodes, float16[d, columns].
      turn: the orthogonal matrix that they were turned by, float64[d, d].
      bits: where the bits went.
    """

    weights: np.ndarray
    turn: np.ndarray
    bits: PairBits


def encode_pair(stack: Stack, weights: np.ndarray) -> Turned:
    """Pushes a pair, turned by a rotation that is popped before.

    Args:
      stack: of a stream with more bits than 16 d (d - 1) / 2; where it holds fewer than the whole
        rotation, the last columns' directions are their first axes. It holds eight bytes at least.
      weights: float[d, columns], d - 1 columns at least.

    Raises:
      UsageError: if the weights are not such a matrix, or a column is longer than float16 goes.
    """
    weights = _checked(weights)
    dimensions, columns = weights.shape
    canonical = _canonical(weights)
    triangle = canonical @ weights
    grid_bits = _affordable(_grids(triangle), dimensions, stack.bits - _SPARE_BITS)
    held = [stack.bits]
    directions = orthogonal.pop_rotation(stack, dimensions, grid_bits)
    held.append(stack.bits)
    turn = orthogonal.matrix(dimensions, directions, grid_bits) / orthogonal.ONE @ canonical
    turned = (turn @ weights).astype("<f2")
    seen = orthogonal.unit_columns(turned[:, : dimensions - 1])
    push_corrections(stack, seen, directions, grid_bits)
    held.append(stack.bits)
    for bits in reversed(grid_bits):
        stack.push_symbol(bits, _GRID_COUNTS)
    held.append(stack.bits)
    stack.push_bytes(turned.tobytes())
    bits = PairBits(
        weight_bits=16 * dimensions * columns,
        ideal_bits=8 * dimensions * (dimensions - 1),
        rotation_bits=held[0] - held[1],
        correction_bits=held[2] - held[1],
        grid_bits=held[3] - held[2],
    )
    return Turned(turned, turn, bits)


def decode_pair(stack: Stack, dimensions: int, columns: int) -> np.ndarray:
    """Pops a pair, float16[d, columns], and pushes its rotation back: undoes encode_pair.

    Args:
      stack: of the stream.
      dimensions, columns: of the pair.

    Raises:
      FormatError: if the stream ends, or a weight is not finite.
      UsageError: if no pair has such a shape.
    """
    _check_shape((dimensions, columns))
    data = stack.pop_bytes(2 * dimensions * columns)
    turned = np.frombuffer(data, "<f2").reshape(dimensions, columns).copy()
    grid_bits = [stack.pop_symbol(_GRID_COUNTS) for _ in range(dimensions - 1)]
    if not np.all(np.isfinite(turned)):
        raise FormatError("a weight is not finite")
    seen = orthogonal.unit_columns(turned[:, : dimensions - 1])
    directions = pop_directions(stack, seen, grid_bits)
    orthogonal.push_rotation(stack, directions, grid_bits)
    return turned


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not 2 <= shape[0] <= min(orthogonal.MAX_DIMENSIONS, shape[1] + 1):
        raise UsageError(f"a pair has 2 to 4096 rows, and columns for all but one, not {shape}")


def _checked(weights: np.ndarray) -> np.ndarray:
    _check_shape(weights.shape)
    weights = weights.astype(np.float64)
    if not np.all(np.linalg.norm(weights, axis=0) <= _LARGEST):
        raise UsageError("a column is longer than float16 goes, or not finite")
    return weights


def _canonical(weights: np.ndarray) -> np.ndarray:
    """The orthogonal matrix that makes a pair's first d - 1 columns a triangle, with no negative
    number on its diagonal.
    """
    basis, triangle = np.linalg.qr(weights[:, : len(weights) - 1], mode="complete")
    signs = np.where(np.diag(triangle) < 0, -1.0, 1.0)
    basis[:, :-1] *= signs
    return basis.T


def _grids(triangle: np.ndarray) -> list[int]:
    """Grid bits for each of the first d - 1 columns: the least that leave _LEAST_NOISE."""
    dimensions = len(triangle)
    columns = triangle[:, : dimensions - 1]
    mean_square = np.sum(columns**2, axis=0) / dimensions
    noise = np.sqrt(_RELATIVE_NOISE * mean_square + _TINY_NOISE)
    length = np.sqrt(1 + (np.arange(dimensions, 1, -1) - 1) / 3)  # of a point of the cube
    out = []
    for part, ratio_noise in zip(np.diag(columns), noise * length, strict=True):
        bits = math.ceil(math.log2(_LEAST_NOISE * max(part, 1e-300) / ratio_noise))
        out.append(min(bits, orthogonal.MAX_GRID_BITS) if bits >= _WORST_GRID_BITS else 0)
    return out


def _affordable(grid_bits: list[int], dimensions: int, bits: float) -> list[int]:
    """The same grids, but zero for the columns after those whose directions take all the bits."""
    out = []
    for j, wanted in enumerate(grid_bits):
        bits -= orthogonal.direction_bits(dimensions - j, wanted)
        out.append(wanted if bits >= 0 else 0)
    return out
