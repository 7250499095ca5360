"""Clustering by relative distance (Weight Fixing Networks, Subia-Waud and Dasmahapatra, ECCV 2022,
arXiv 2210.13554): a whole network's weights are given centres that are sums of few powers of two.

The distance of a weight w to a centre c is |w - c| / |w|, and 0 to the centre 0 where |w| is below
the zero distance. All in NumPy, float64, on the host.
"""

import math

import numpy as np

from mrc_jax.centres.assignment import Assignment, needed
from mrc_jax.centres.powers_of_two import sum_of_powers, to_bfloat16
from mrc_jax.errors import UsageError

MOST_ORDER = 20  # beyond it, the allowed distance doubles until a weight is near enough
_NEAR = 4.0  # times the allowed mean: where to look first for the farthest weight that it allows


def allowed_distances(delta: float, rounds: int) -> np.ndarray:
    """The mean relative distance allowed in each round, float64[rounds]: loose first, delta last.

    delta_t = delta * max(1, rounds - t), t = 0 .. rounds - 1.

    Raises:
      UsageError: a distance is not within (0, 1).
    """
    distances = delta * np.maximum(1, rounds - np.arange(rounds))
    if not (delta > 0 and np.all(distances < 1)):
        raise UsageError(f"delta = {delta}: it and {rounds} times it must be within (0, 1)")
    return distances


def relative_distance(weights: np.ndarray, centre: float, zero_distance: float) -> np.ndarray:
    """|w - c| / |w| of each weight, and 0 where c is 0 and |w| < zero_distance; inf of w = 0 to
    another centre.
    """
    size = np.abs(weights)
    away = np.full(size.shape, np.inf)
    distance = np.divide(np.abs(weights - centre), size, out=away, where=size > 0)
    return np.where(size < zero_distance, 0.0, distance) if centre == 0 else distance


def proposals(zero_distance: float, delta: float, largest: float, order: int) -> np.ndarray:
    """Possible centres, ascending and distinct, float64.

    A geometric grid from zero_distance up to below `largest`, a step of it (1 + delta) /
    (1 - delta), so that each centre covers a relative distance of delta; rounded to sums of
    order + 1 powers of two and then to bfloat16 (which changes nothing where delta is 1/128 or
    more); 0; and all mirrored.

    Args:
      zero_distance: where the grid begins, above 0.
      delta: within (0, 1).
      largest: size of the largest weight.
      order: of `sum_of_powers`.
    """
    step = math.log1p(delta) - math.log1p(-delta)
    count = max(0, math.ceil(math.log(largest / zero_distance) / step)) if largest > 0 else 0
    grid = zero_distance * np.exp(step * np.arange(count))
    grid = to_bfloat16(sum_of_powers(grid[grid < largest], delta, order))
    return np.unique(np.concatenate([-grid, [0.0], grid]))


def nearest_counts(ascending: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """How many weights are nearest to each centre in absolute distance (a tie is the lower's).

    Args:
      ascending: weights in ascending order.
      centres: ascending and distinct.
    """
    middle = (centres[1:] + centres[:-1]) / 2
    edges = np.searchsorted(ascending, middle, side="right")
    return np.diff(edges, prepend=0, append=len(ascending))


def longest_prefix(ascending: np.ndarray, allowed: float) -> int:
    """How many of the smallest distances have a mean of at most `allowed`; those that are 0 do not
    count in the mean.
    """
    counted = np.maximum(1, np.cumsum(ascending > 0))
    return int(np.searchsorted(np.cumsum(ascending) / counted, allowed, side="right"))


def _closest(distance: np.ndarray, size: np.ndarray, allowed: float, most: int) -> np.ndarray:
    """The positions of the longest prefix of the sorted distances, at most `most`, the smaller
    weight of equally near ones first; sorts no more of them than it has to.
    """
    bound = _NEAR * allowed
    while True:
        near = np.flatnonzero(distance <= bound)
        near = near[np.lexsort((size[near], distance[near]))]
        count = longest_prefix(distance[near], allowed)
        if count < len(near) or len(near) in (0, len(distance)) or count >= most:
            return near[: min(count, most)]
        bound *= _NEAR


def assign(weights: np.ndarray, share: float, delta: float, zero_distance: float) -> Assignment:
    """Gives a share of the weights centres, the most popular first.

    Again and again the proposal that is nearest to the most weights left takes the longest run of
    those nearest to it (by relative distance; of those at no distance from 0 the smallest) whose
    mean distance is within delta. Where it can take none the proposals become sums of one more
    power of two and, beyond MOST_ORDER, the allowed distance doubles until one is taken.

    Args:
      weights: float32[weights], of the whole network.
      share: how many are to have a centre, 0 to 1.
      delta: mean relative distance allowed, within (0, 1), also of the grid of proposals.
      zero_distance: weights below it are at no distance from 0.

    Raises:
      UsageError: an argument that is out of its range.
      NumericsError: a weight is not finite.
    """
    if not (0 < delta < 1 and zero_distance > 0):
        raise UsageError(f"delta {delta} must be in (0, 1), zero_distance {zero_distance} above 0")
    left = needed(share, weights)
    places = np.argsort(weights, kind="stable")
    values = weights[places].astype(np.float64)
    group, centres = np.full(len(weights), -1, np.int32), []
    order, allowed, most_allowed = 0, delta, delta
    while left:
        largest = max(-values[0], values[-1])
        possible = proposals(zero_distance, delta, largest, order)
        centre = possible[np.argmax(nearest_counts(values, possible))]
        distance = relative_distance(values, centre, zero_distance)
        taken = _closest(distance, np.abs(values), allowed, left)
        if not len(taken):
            order += 1
            allowed *= 2 if order > MOST_ORDER else 1
            continue
        group[places[taken]] = len(centres)
        centres.append(centre)
        places, values = np.delete(places, taken), np.delete(values, taken)
        left -= len(taken)
        most_allowed, allowed = max(allowed, most_allowed), delta
    return Assignment(group, np.asarray(centres, np.float32), order + 1, most_allowed)
