"""An asymmetric numeral system: a stack of numbers of any range, and of bytes, in a stream.

The state is an integer s in [L, B L) with L = 2**64 and B = 2**32, above bytes already settled.
Pushing x < n makes s n + x, which lies in [n L, n B L), and settles its low word where that is
B L or more; so a state is below n L just where a word was settled, and popping undoes pushing
exactly for every n up to B, whether or not n divides L. (Duda 2013, arXiv 1311.2540, with bits back
as in Townsend, Bird and Barber 2019, arXiv 1901.04866.)
"""

import math

from mrc_jax.errors import FormatError, UsageError

_LEAST = 1 << 64
_WORD_BYTES = 4
_WORD = 1 << 8 * _WORD_BYTES
_STATE_BYTES = 12
_HELD_BYTES = 8  # of a state that is the least but for them
MAX_TOTAL = _WORD


class Stack:
    """What is pushed last is popped first; popping what was never pushed is allowed (bits back)."""

    def __init__(self, written: bytes | bytearray = b"") -> None:
        """Args: written: bytes of a stream that lie below all that is pushed."""
        self._settled = bytearray(written)
        self._state = _LEAST

    @property
    def bits(self) -> float:
        """How many bits the stack holds: the bytes below, and log2 of the state over its least."""
        return 8 * len(self._settled) + math.log2(self._state) - 64

    def push(self, value: int, total: int) -> None:
        """Pushes a number that is any of 0..total - 1 alike: log2(total) bits.

        Raises:
          UsageError: if 0 <= value < total <= 2**32 does not hold.
        """
        if not 0 <= value < total <= MAX_TOTAL:
            raise UsageError(f"{value} is no number below {total}, or {total} is beyond 2**32")
        state = self._state * total + value
        if state >= _LEAST * _WORD:
            self._settled += (state % _WORD).to_bytes(_WORD_BYTES, "little")
            state //= _WORD
        self._state = state

    def pop(self, total: int) -> int:
        """Undoes push.

        Raises:
          FormatError: if the stream ends.
        """
        if not 0 < total <= MAX_TOTAL:
            raise UsageError(f"a number is below 1 to 2**32, not below {total}")
        state = self._state
        if state < _LEAST * total:
            state = state * _WORD + int.from_bytes(self.pop_bytes(_WORD_BYTES), "little")
        self._state, value = divmod(state, total)
        return value

    def push_symbol(self, symbol: int, counts: tuple[int, ...]) -> None:
        """Pushes a symbol that is likely as its count: log2(sum(counts) / counts[symbol]) bits."""
        slot = self.pop(counts[symbol])
        self.push(sum(counts[:symbol]) + slot, sum(counts))

    def pop_symbol(self, counts: tuple[int, ...]) -> int:
        """Undoes push_symbol."""
        slot = self.pop(sum(counts))
        symbol = 0
        while slot >= counts[symbol]:
            slot -= counts[symbol]
            symbol += 1
        self.push(slot, counts[symbol])
        return symbol

    def push_bytes(self, data: bytes) -> None:
        """Settles bytes as they are, below the state."""
        self._settled += data

    def pop_bytes(self, count: int) -> bytes:
        """Undoes push_bytes.

        Raises:
          FormatError: if the stream ends.
        """
        if count > len(self._settled):
            raise FormatError("the stream ends where more was to come")
        cut = len(self._settled) - count
        data = bytes(self._settled[cut:])
        del self._settled[cut:]
        return data

    @classmethod
    def holding(cls, content: bytes) -> "Stack":
        """A stack that holds bytes and nothing else, the last eight of them in its state."""
        stack = cls(content[:-_HELD_BYTES])
        stack._state = _LEAST + int.from_bytes(content[-_HELD_BYTES:], "little")
        return stack

    def content(self) -> bytearray:
        """Undoes holding, of eight bytes at least; the stack is of no use after.

        Raises:
          FormatError: if its state holds something else.
        """
        if self._state >= 2 * _LEAST:
            raise FormatError("the stream holds more than it should")
        self._settled += (self._state - _LEAST).to_bytes(_HELD_BYTES, "little")
        return self._settled

    def to_bytes(self) -> bytes:
        """The stream: the bytes below, then the state in 12 bytes."""
        return bytes(self._settled) + self._state.to_bytes(_STATE_BYTES, "little")

    @classmethod
    def from_bytes(cls, data: bytes | bytearray) -> "Stack":
        """Undoes to_bytes.

        Raises:
          FormatError: if the last 12 bytes are no state.
        """
        stack = cls(data)
        stack._state = int.from_bytes(stack.pop_bytes(_STATE_BYTES), "little")
        if stack._state < _LEAST:
            raise FormatError("the stream does not end in a state")
        return stack
