"""The stack gives back what was pushed, and takes back what was popped, to the last byte."""

import math

import numpy as np
import pytest

from mrc_jax.errors import FormatError, UsageError
from mrc_jax.rotation.ans import MAX_TOTAL, Stack

TOTALS = [1, 2, 3, 7, 255, 256, 1000003, 2**31 - 1, 2**31, 2**31 + 1, MAX_TOTAL - 1, MAX_TOTAL]


@pytest.mark.parametrize("total", TOTALS)
def test_numbers_of_one_range_come_back_and_take_their_logarithm(total):
    values = np.random.default_rng(total).integers(total, size=2000).tolist()
    values[:2] = 0, total - 1
    stack = Stack()
    for value in values:
        stack.push(value, total)
    assert stack.bits == pytest.approx(2000 * math.log2(total), abs=1e-6)
    stack = Stack.from_bytes(stack.to_bytes())
    assert [stack.pop(total) for _ in values] == values[::-1]
    assert stack.to_bytes() == Stack().to_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_popping_what_was_never_pushed_is_undone_by_pushing_it(seed):
    random = np.random.default_rng(seed)
    stack = Stack.from_bytes(random.bytes(3000) + b"\1" + bytes(3))
    before, bits, popped = stack.to_bytes(), stack.bits, []
    for _ in range(700):
        total = int(random.choice(TOTALS)) if random.integers(2) else int(random.integers(1, 2**18))
        popped.append((stack.pop(total), total))
    assert bits - stack.bits == pytest.approx(sum(math.log2(n) for _, n in popped), abs=1e-6)
    for value, total in reversed(popped):
        stack.push(value, total)
    assert stack.to_bytes() == before


def test_numbers_of_a_random_stream_are_uniform():
    """A chi-squared test with 12 degrees of freedom: 32.9 is passed by mistake once in 1000."""
    stack = Stack(np.random.default_rng(0).bytes(5000))
    counts = np.bincount([stack.pop(13) for _ in range(10000)], minlength=13)
    assert np.sum((counts - 10000 / 13) ** 2) * 13 / 10000 < 32.9


def test_symbols_and_bytes_come_back_and_take_their_likely_length():
    counts = (1, 3000, 90, 5)
    random = np.random.default_rng(1)
    symbols = [0, 3, *random.choice(4, size=1000, p=np.divide(counts, sum(counts))).tolist()]
    stack = Stack(b"below")
    for symbol in symbols:
        stack.push_symbol(symbol, counts)
    wanted = 40 + sum(math.log2(sum(counts) / counts[s]) for s in symbols)
    assert stack.bits == pytest.approx(wanted, abs=1e-6)
    stack.push_bytes(b"above")
    assert stack.pop_bytes(5) == b"above"
    assert [stack.pop_symbol(counts) for _ in symbols] == symbols[::-1]
    assert stack.to_bytes() == Stack(b"below").to_bytes()


def test_popping_symbols_first_is_undone_too():
    counts, stack = (7, 1, 30), Stack(np.random.default_rng(2).bytes(400))
    before = stack.to_bytes()
    symbols = [stack.pop_symbol(counts) for _ in range(300)]
    assert set(symbols) == {0, 1, 2}
    for symbol in reversed(symbols):
        stack.push_symbol(symbol, counts)
    assert stack.to_bytes() == before


def test_what_cannot_be_is_refused():
    for value, total in ((-1, 2), (2, 2), (0, 0), (0, MAX_TOTAL + 1)):
        with pytest.raises(UsageError):
            Stack().push(value, total)
    for total in (0, MAX_TOTAL + 1):
        with pytest.raises(UsageError):
            Stack().pop(total)
    with pytest.raises(FormatError, match="ends where more was to come"):
        Stack(b"abc").pop(2)
    with pytest.raises(FormatError, match="ends where more was to come"):
        Stack.from_bytes(bytes(11))
    with pytest.raises(FormatError, match="does not end in a state"):
        Stack.from_bytes(bytes(100))
