"""Weights as k values, at the least cost of their changes (Gao, Liu, Wang and Oh 2019, arXiv
1810.06401, section 4): weighted k-means, in NumPy with float64.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from mrc_jax.errors import UsageError

_HALVINGS = 60  # of a group's range: beyond float64's digits


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
    order = np.argsort(w, kind="stable")
    # All weights of a centroid are neighbours in this order, and what their cost needs are sums.
    ascending, terms = w[order], _terms(w[order], s[order], q[order])
    centroids, edges = np.quantile(w, (np.arange(k) + 0.5) / k), np.zeros(k - 1, np.int64)
    for number in range(rounds):
        centroids = np.sort(centroids)
        middle = (centroids[1:] + centroids[:-1]) / 2
        found = np.searchsorted(ascending, middle, side="right")
        if number and np.array_equal(found, edges):
            break
        edges = found
        starts, ends = np.concatenate([[0], found]), np.concatenate([found, [w.size]])
        (used,) = np.nonzero(ends > starts)
        sums = np.add.reduceat(terms, starts[used], axis=1)
        centroids[used] = _least(sums, ascending[starts[used]], ascending[ends[used] - 1])
    nearest = np.empty(w.size, np.int64)
    nearest[order] = np.searchsorted(edges, np.arange(w.size), side="right")
    return centroids, nearest


def best_centroid(weights: np.ndarray, square: np.ndarray, quartic: np.ndarray) -> float:
    """The c with the least sum of square (c - w)^2 + quartic (c - w)^4, float64[members] each; the
    plain mean where nothing costs anything.
    """
    sums = _terms(weights, square, quartic).sum(axis=1, keepdims=True)
    return float(_least(sums, np.min(weights, keepdims=True), np.max(weights, keepdims=True))[0])


def _terms(w: np.ndarray, s: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What `_least` needs the sums of, float64[8, weights]."""
    return np.stack([np.ones_like(w), w, s, s * w, q, q * w, q * w**2, q * w**3])


def _least(sums: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The best centroids of groups, float64[groups], by their sums of `_terms`, float64[8, groups],
    and their least and largest weight.
    """
    count, w, s, sw, q, qw, qww, qwww = sums
    is_quartic, costs = q > 0, s > 0
    mean = np.where(costs, sw / np.where(costs, s, 1), w / count)
    if not np.any(is_quartic):
        return mean
    for _ in range(_HALVINGS):  # the slope rises, so its root is found by halving
        c = (low + high) / 2
        slope = s * c - sw + 2 * (q * c**3 - 3 * qw * c**2 + 3 * qww * c - qwww)
        low, high = np.where(slope > 0, low, c), np.where(slope > 0, c, high)
    return np.where(is_quartic, (low + high) / 2, mean)


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
