"""Powers of two, sums of a few of them, and bfloat16: the values that centres may have (NumPy)."""

import numpy as np


def round_to_power(values: np.ndarray) -> np.ndarray:
    """The signed power of two that is nearest in the logarithm; 0 stays 0.

    Args:
      values: float64, any shape, finite.
    """
    size = np.abs(values)
    exponent = np.rint(np.log2(np.where(size > 0, size, 1.0)))
    return np.where(size > 0, np.copysign(np.exp2(exponent), values), 0.0)


def sum_of_powers(values: np.ndarray, delta: float, order: int) -> np.ndarray:
    """Values as sums of at most order + 1 signed powers of two (WFN's additive powers of two).

    A value begins as its own nearest power; each further order adds that of what is left, where
    this is at least delta of the value. The relative error of a sum is at most the larger of delta
    and (sqrt(2) - 1)^(order + 1).

    Args:
      values: float64, any shape, finite.
      delta: relative error that is small enough.
      order: powers of two beyond the first.
    """
    total = round_to_power(values)
    for _ in range(order):
        rest = values - total
        total = total + np.where(np.abs(rest) >= delta * np.abs(values), round_to_power(rest), 0.0)
    return total


def is_single_power(values: np.ndarray) -> np.ndarray:
    """Whether each value is 0 or plus or minus one power of two, bool of the same shape."""
    fraction, _ = np.frexp(np.abs(values))
    return (fraction == 0.5) | (fraction == 0)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest values (ties to even) with eight significant bits, float64.

    They are bfloat16's as long as its exponents reach, from 2^-126 to below 2^127.

    Args:
      values: float64, any shape, finite.
    """
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)
