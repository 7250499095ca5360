"""What narrow operands of the product of log-weights would do to the law of the coder.

The Pallas kernels (`mrc_jax.pallas_gpu`, `pallas_tpu`) multiply on matrix units, whose operands
have fewer bits than float32. Here their rounding is emulated, and the law softmax(log-weights) that
follows is compared with the law of the reference kernel. On a GPU one pass of float16, as narrow as
TF32, only proposes: cuts that may still win are opened (`selection`), so its error leaves the law
alone where it is below `kernels.likely_rounding`; `unseen_law` is the law's part in other cuts.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np

from mrc_jax import candidates, kernels
from mrc_jax.shared_random import TABLE_UNIT

KL_BITS = (10, 14, 20)
SIZES = (32, 45)
BFLOAT16, TF32 = 8, 11  # bits of the significand

# (bits, parts of the candidates' operands, parts of the coefficients, passes) of each way: the
# products of parts i and j with i + j < max(parts) are made, each a pass of the matrix unit.
OPERANDS = {
    "bfloat16": (BFLOAT16, 1, 1, 1),
    "bfloat16, coefficients in 2 parts": (BFLOAT16, 1, 2, 2),
    "bfloat16, candidates in 2 parts": (BFLOAT16, 2, 1, 2),
    "bfloat16, both in 2 parts": (BFLOAT16, 2, 2, 3),
    "bfloat16, both in 3 parts": (BFLOAT16, 3, 3, 6),
    "tf32": (TF32, 1, 1, 1),
    "float32": (24, 1, 1, 1),
}


def rows(bits: int = 16, blocks: int = 16) -> list[dict[str, Any]]:
    """A row for each KL, size and way: kl_bits, D, operands, passes, and of the worst block
    total_variation (between the laws) and max_error_nats (of one log-weight).

    Args:
      bits: log2 of the number of candidates.
      blocks: with Gaussian posteriors, half of each weight's KL in its mean.
    """
    rows = []
    for kl_bits, size in product(KL_BITS, SIZES):
        zero = jnp.uint32(0)
        drawn = kernels.draw(zero, zero, zero, 1 << bits, size)
        a, c = posteriors(kl_bits, size, blocks)
        exact = np.asarray(candidates.log_weights(drawn, jnp.asarray(a), jnp.asarray(c)))
        likely = kernels.likely_rounding(jnp.asarray(a), jnp.asarray(c))
        z = np.asarray(drawn) * np.float32(1 / TABLE_UNIT)
        for operands, (digits, of_candidates, of_coefficients, passes) in OPERANDS.items():
            parts = (digits, of_coefficients, of_candidates)
            pairs = (*products(a, z * z, *parts), *products(c, z, *parts))
            found = sum((left @ right for left, right in pairs), np.zeros_like(exact))
            row = {"kl_bits": kl_bits, "D": size, "operands": operands, "passes": passes}
            row["total_variation"] = float(np.abs(_law(exact) - _law(found)).sum(axis=1).max() / 2)
            row["max_error_nats"] = float(np.abs(exact - found).max())
            if operands == "tf32":
                row["unseen_law"] = _unseen(exact, found, np.asarray(likely))
            rows.append(row)
    return rows


def _unseen(exact: np.ndarray, found: np.ndarray, margin: np.ndarray) -> float:
    """The largest part of a block's law in cuts whose log-sum-exp lacks more than the margin."""
    cut = 1 << kernels.cut_bits(exact.shape[1].bit_length() - 1)
    exact, found = (np.exp(x - exact.max(axis=1, keepdims=True)) for x in (exact, found))
    exact, found = (
        x.reshape(len(x), -1, cut).sum(axis=2, dtype=np.float64) for x in (exact, found)
    )
    beyond = exact > found * np.exp(margin.astype(np.float64))[:, None]
    return float((np.where(beyond, exact, 0).sum(axis=1) / exact.sum(axis=1)).max())


def _law(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True), dtype=np.float64)
    return weights / weights.sum(axis=1, keepdims=True)


def posteriors(kl_bits: float, size: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, c) as in `candidates.coefficients`, float32[blocks, size]; the KL of each block is
    kl_bits, spread unevenly over its weights.
    """
    random = np.random.default_rng(0)
    share = random.exponential(size=(blocks, size))
    kl = kl_bits * np.log(2) * share / share.sum(axis=1, keepdims=True)
    mean = np.sqrt(kl) * random.choice([-1, 1], size=kl.shape)  # mean^2 / 2 = kl / 2
    low, high = -kl - 1, np.zeros_like(kl)  # of ln v, where (v - 1 - ln v) / 2 = kl / 2
    for _ in range(60):
        middle = (low + high) / 2
        below = np.expm1(middle) - middle > kl
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    precision = np.exp(-low)
    return ((1 - precision) / 2).astype(np.float32), (mean * precision).astype(np.float32)


def products(
    x: np.ndarray, y: np.ndarray, digits: int, of_x: int, of_y: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs of rounded parts whose products add up to about x times y."""
    for (i, left), (j, right) in product(_parts(x, digits, of_x), _parts(y, digits, of_y)):
        if i + j < max(of_x, of_y):
            yield left, right


def _parts(x: np.ndarray, digits: int, parts: int) -> list[tuple[int, np.ndarray]]:
    out = []
    for i in range(parts):
        significand, exponent = np.frexp(x)
        rounded = np.ldexp(np.rint(np.ldexp(significand, digits)), exponent - digits)
        out.append((i, rounded.astype(np.float32)))
        x = x - out[-1][1]
    return out
