"""Weights that take few values as bytes: each weight's place in its table of values, coded by rANS
with the table's frequencies, in lanes that NumPy takes side by side (docs/FORMAT.md, "Values").
"""

import dataclasses
from typing import Any

import numpy as np

from mrc_jax.errors import FormatError

MAX_VALUES = 4096  # of a table
MAX_STEPS = 1 << 15  # of a lane, so that a large network does not take long
LARGEST_RATE = 127  # the code of the largest frequency that a table can state
_TOTAL_BITS = 14
_TOTAL = 1 << _TOTAL_BITS
_LOWER = 1 << 16  # states are from this to 2^32 - 1 between two weights
_WORD_BITS = 16
_SIDE_BY_SIDE = 24  # lanes from which NumPy's steps are quicker than Python's
_ENDS = "the weights: the file ends inside them"

Slots = tuple[np.ndarray, np.ndarray, np.ndarray]  # of `_by_slot`


@dataclasses.dataclass(frozen=True)
class Table:
    """The values of some weights and how often each occurs.

    Attributes:
      values: float32[count], ascending.
      rates: uint8[count], the codes of their frequencies, 0 to LARGEST_RATE.
    """

    values: np.ndarray
    rates: np.ndarray

    @property
    def frequencies(self) -> np.ndarray:
        """int64[count] with the sum 2**14, none of them 0."""
        weights = _rate(self.rates)
        spread = _TOTAL - len(weights)
        out = np.maximum(1, weights * spread // np.sum(weights))
        out[np.argmax(weights)] += _TOTAL - np.sum(out)
        return out


def _rate(codes: np.ndarray) -> np.ndarray:
    """What the codes say: eight steps to an octave's fourth, from 8 to 15 x 2^15."""
    codes = np.asarray(codes, np.int64)
    return (8 + (codes & 7)) << (codes >> 3)


def table_of(weights: np.ndarray) -> tuple[Table, np.ndarray]:
    """The table of some weights, float32[n], and each one's place in it, int64[n]."""
    values, symbols, counts = np.unique(weights, return_inverse=True, return_counts=True)
    every = _rate(np.arange(LARGEST_RATE + 1))
    wanted = np.log(counts / counts.max() * every[-1])
    nearest = np.abs(wanted[:, None] - np.log(every)).argmin(axis=1)
    return Table(values.astype(np.float32), nearest.astype(np.uint8)), symbols.reshape(-1)


def lanes_of(count: int) -> int:
    """How many lanes so many weights are coded in."""
    return -(-count // MAX_STEPS)


def pack_symbols(symbols: np.ndarray, which: np.ndarray, tables: list[Table]) -> bytes:
    """Places in tables to bytes.

    Args:
      symbols: int[n], the places.
      which: int[n], the number of each one's table.
      tables: the tables.
    """
    frequencies = [table.frequencies for table in tables]
    first = np.cumsum([0, *(len(f) for f in frequencies)])[:-1]
    flat = symbols + first[which]
    frequency = np.concatenate(frequencies).astype(np.uint64)[flat]
    start = np.concatenate([np.cumsum(f) - f for f in frequencies]).astype(np.uint64)[flat]
    lanes = lanes_of(len(flat))
    state = np.full(lanes, _LOWER, np.uint64)
    words: list[np.ndarray] = []
    for begin in range((len(flat) - 1) // lanes * lanes, -1, -lanes):
        f, s = frequency[begin : begin + lanes], start[begin : begin + lanes]
        x = state[: len(f)]  # the last step may have fewer lanes
        full = x >= f << np.uint64(2 * _WORD_BITS - _TOTAL_BITS)
        words.append((x[full] & np.uint64(0xFFFF)).astype("<u2"))
        x = np.where(full, x >> np.uint64(_WORD_BITS), x)
        state[: len(f)] = (x // f << np.uint64(_TOTAL_BITS)) + x % f + s
    return state.astype("<u4").tobytes() + np.concatenate(words[::-1]).tobytes()


def unpack_symbols(data: bytes, which: np.ndarray, tables: list[Table]) -> np.ndarray:
    """The inverse of `pack_symbols`: uint16[n].

    Args:
      data: the bytes.
      which, tables: as there.

    Raises:
      FormatError: the bytes are not what some weights are written as.
    """
    count, lanes = len(which), lanes_of(len(which))
    if len(data) < 4 * lanes or len(data) % 2:
        raise FormatError(f"the weights: {count} of them cannot be {len(data)} bytes")
    state = np.frombuffer(data, "<u4", lanes).astype(np.uint32)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.uint32)
    if np.any(state < _LOWER):
        raise FormatError("the weights: a first state of the coder is below 2^16")
    take = _one_by_one if lanes < _SIDE_BY_SIDE else _side_by_side
    out, state, used = take(state, words, which, _by_slot(tables))
    if used != len(words) or np.any(np.asarray(state) != _LOWER):
        raise FormatError("the weights: bytes are left over, or the coder does not end as it began")
    return out


def _side_by_side(
    state: np.ndarray, words: np.ndarray, which: np.ndarray, slots: Slots
) -> tuple[np.ndarray, Any, int]:
    """Symbols, last states, and words used, a step of all lanes at a time."""
    symbol, frequency, rest = slots
    row = np.asarray(which, np.uint32) << _TOTAL_BITS
    count, lanes = len(which), len(state)
    out, at = np.empty(count, np.uint16), 0
    for begin in range(0, count, lanes):
        part = slice(begin, min(begin + lanes, count))
        x = state[: part.stop - begin]
        slot = row[part] + (x & np.uint32(_TOTAL - 1))
        out[part] = symbol[slot]
        x = frequency[slot] * (x >> np.uint32(_TOTAL_BITS)) + rest[slot]
        (low,) = np.nonzero(x < _LOWER)
        if len(low):
            if at + len(low) > len(words):
                raise FormatError(_ENDS)
            x[low] = x[low] << np.uint32(_WORD_BITS) | words[at : at + len(low)]
            at += len(low)
        state[: len(x)] = x
    return out, state, at


def _one_by_one(
    state: np.ndarray, words: np.ndarray, which: np.ndarray, slots: Slots
) -> tuple[np.ndarray, Any, int]:
    """The same, one weight at a time: quicker where there are few lanes."""
    symbol, frequency, rest = (x.tolist() for x in slots)
    states, left, lanes = state.tolist(), words.tolist(), len(state)
    out, at, lane = [0] * len(which), 0, 0
    try:
        for i, row in enumerate((np.asarray(which, np.int64) << _TOTAL_BITS).tolist()):
            x = states[lane]
            slot = row + (x & _TOTAL - 1)
            out[i] = symbol[slot]
            x = frequency[slot] * (x >> _TOTAL_BITS) + rest[slot]
            if x < _LOWER:
                x = x << _WORD_BITS | left[at]
                at += 1
            states[lane] = x
            lane = lane + 1 if lane + 1 < lanes else 0
    except IndexError:
        raise FormatError(_ENDS) from None
    return np.asarray(out, np.uint16), states, at


def _by_slot(tables: list[Table]) -> Slots:
    """For every slot of every table: the symbol, its frequency, and how far the slot is in it."""
    symbol = np.empty(len(tables) << _TOTAL_BITS, np.uint16)
    frequency, rest = np.empty(symbol.size, np.uint32), np.empty(symbol.size, np.uint32)
    slots = np.arange(_TOTAL, dtype=np.uint32)
    for number, table in enumerate(tables):
        f = table.frequencies
        part = slice(number << _TOTAL_BITS, number + 1 << _TOTAL_BITS)
        symbol[part] = np.repeat(np.arange(len(f), dtype=np.uint16), f)
        frequency[part] = np.repeat(f, f)
        rest[part] = slots - np.repeat(np.cumsum(f) - f, f)
    return symbol, frequency, rest
