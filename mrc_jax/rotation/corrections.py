"""What tells the directions of a rotation from those that rounded weights show.

A direction's axis is the largest coordinate seen, or it is sent. Its ratios are sent as their
differences from those seen, by a fixed code for about half a unit of noise: that of float16 on the
grids that `heads` chooses.
"""

from collections.abc import Sequence

import numpy as np

from mrc_jax.errors import FormatError
from mrc_jax.rotation import orthogonal
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.orthogonal import Direction

_AXIS_COUNTS = (255, 1)  # as seen, sent
# Differences 0, 1, -1, 2, -2, ..; last that the ratio itself is sent.
_COUNTS = (2500, 720, 720, 66, 66, 6, 6, 2, 2, 8)
_SENT = len(_COUNTS) - 1


def push_corrections(
    stack: Stack, columns: np.ndarray, directions: list[Direction], grid_bits: Sequence[int]
) -> None:
    """Pushes what `pop_directions` needs to find the directions.

    Args:
      stack: of the stream.
      columns: int64[d, columns], see `orthogonal.find_directions`.
      directions, grid_bits: of each column.
    """
    all_seen: dict[int, np.ndarray] = {}

    def keep(j: int, seen: np.ndarray) -> Direction:
        all_seen[j] = seen
        return directions[j]

    orthogonal.find_directions(columns, grid_bits, keep)
    for j, seen in reversed(all_seen.items()):
        _push(stack, directions[j], seen, grid_bits[j])


def pop_directions(stack: Stack, columns: np.ndarray, grid_bits: Sequence[int]) -> list[Direction]:
    """The directions, by the columns and the corrections that are popped.

    Args:
      stack, columns, grid_bits: as of `push_corrections`.

    Raises:
      FormatError: if the stream ends, or a correction is of no direction.
    """
    return orthogonal.find_directions(
        columns, grid_bits, lambda j, seen: _pop(stack, seen, grid_bits[j])
    )


def _push(stack: Stack, direction: Direction, seen: np.ndarray, grid_bits: int) -> None:
    axis, is_negative = orthogonal.likely_axis(seen), direction.is_negative
    guesses = orthogonal.likely_ratios(seen, direction.axis, grid_bits)
    width = orthogonal.half_width(grid_bits)
    for ratio, guess in zip(reversed(direction.ratios), reversed(guesses), strict=True):
        difference = ratio - guess
        symbol = min(2 * abs(difference) - (difference > 0), _SENT) if difference else 0
        if symbol == _SENT:
            stack.push(ratio + width, 2 * width + 1)
        stack.push_symbol(symbol, _COUNTS)
    is_sent = (axis, bool(seen[axis] < 0)) != (direction.axis, is_negative)
    if is_sent:
        stack.push(direction.axis, len(seen))
        stack.push(is_negative, 2)
    stack.push_symbol(is_sent, _AXIS_COUNTS)


def _pop(stack: Stack, seen: np.ndarray, grid_bits: int) -> Direction:
    axis = orthogonal.likely_axis(seen)
    is_negative = bool(seen[axis] < 0)
    if stack.pop_symbol(_AXIS_COUNTS):
        is_negative = bool(stack.pop(2))
        axis = stack.pop(len(seen))
    width = orthogonal.half_width(grid_bits)
    ratios = []
    for guess in orthogonal.likely_ratios(seen, axis, grid_bits):
        symbol = stack.pop_symbol(_COUNTS)
        if symbol == _SENT:
            ratios.append(stack.pop(2 * width + 1) - width)
        else:
            ratios.append(guess + ((symbol + 1) // 2 if symbol % 2 else -symbol // 2))
            if abs(ratios[-1]) > width:
                raise FormatError("a correction leads beyond all directions")
    return Direction(axis, is_negative, tuple(ratios))
