"""Weights as k values, at the least cost of their changes (Gao, Liu, Wang and Oh 2019, arXiv
1810.06401, section 4): weighted k-means, in NumPy with float64.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from mrc_jax.errors import UsageError


def k_centroids(
    weights: ArrayLike, square: ArrayLike, quartic: ArrayLike, k: int, rounds: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids float64[k], ascending, and each weight's, int64[weights], by alternation.

    Moving weight i by d costs square[i] d^2 + quartic[i] d^4, so every weight goes to the nearest
    centroid, whatever it is worth, and a centroid to the minimum of its weights' cost: their
    weighted mean, or the root of a cubic where quartic is not 0. It starts from the weights'
    quantiles and stops where no weight moves; the cost never rises. A centroid that no weight is
    nearest to stays where it is.

    Args:
      weights, square, quartic: [weights], finite, the latter two 0 or more.
      k: 1 to the number of weights.
      rounds: at most.

    Raises:
      UsageError: no such k, or shapes differ.
    """
    w, s, q = (np.asarray(x, np.float64).ravel() for x in (weights, square, quartic))
    if not w.shape == s.shape == q.shape:
        raise UsageError(f"{w.size} weights, but {s.size} and {q.size} importances")
    if not 1 <= k <= w.size:
        raise UsageError(f"k = {k}: {w.size} weights have from 1 to {w.size} centroids")
    centroids = np.quantile(w, (np.arange(k) + 0.5) / k)
    nearest = np.full(w.size, -1)
    for _ in range(rounds):
        centroids = np.sort(centroids)
        found = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, w)
        if np.array_equal(found, nearest):
            break
        nearest = found
        for j in np.unique(nearest):
            own = nearest == j
            centroids[j] = best_centroid(w[own], s[own], q[own])
    return centroids, nearest


def best_centroid(weights: np.ndarray, square: np.ndarray, quartic: np.ndarray) -> float:
    """The c with the least sum of square (c - w)^2 + quartic (c - w)^4, float64[members] each; the
    plain mean where nothing costs anything.
    """
    if not np.any(square) and not np.any(quartic):
        return float(np.mean(weights))
    if not np.any(quartic):
        return float(np.sum(square * weights) / np.sum(square))
    low, high = float(np.min(weights)), float(np.max(weights))
    for _ in range(200):  # the slope rises, so its root is found by halving
        middle = (low + high) / 2
        d = middle - weights
        slope = np.sum(square * d + 2 * quartic * d**3)
        low, high = (low, middle) if slope > 0 else (middle, high)
        if not low < (low + high) / 2 < high:
            break
    return (low + high) / 2


def quantised_bits(counts: ArrayLike, bits: int = 32) -> int:
    """Bits of weights that are k values, as the paper counts: ceil(log2(m / m_j)) for each of the
    m_j of m weights that have value j, and `bits` for each value. The table of the code's lengths
    is not counted.

    Args:
      counts: [k], the m_j; values that no weight has take no room.
      bits: of a value.
    """
    counts = [int(c) for c in np.asarray(counts).ravel() if c > 0]
    total = sum(counts)
    return sum(c * math.ceil(math.log2(total / c)) for c in counts) + len(counts) * bits
