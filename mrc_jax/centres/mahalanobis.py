"""Clustering by Mahalanobis distance (Probabilistic Weight Fixing, Subia-Waud and Dasmahapatra,
NeurIPS 2023, arXiv 2309.13575): a weight whose standard deviation is large may move far.

The distance of a weight N(mean, sigma^2) to a centre c is |c - mean| / sigma. All in NumPy, with
float64, on the host.
"""

import math

import numpy as np

from mrc_jax.centres.assignment import Assignment, needed
from mrc_jax.centres.powers_of_two import to_bfloat16
from mrc_jax.errors import UsageError

_GROWTH = 2.0  # of the threshold


def proposals(bits: int, largest: float, powers: int) -> np.ndarray:
    """Possible centres, ascending and distinct, float64: sums of at most `powers` of the powers of
    two from 2^-bits to the largest below `largest`, repeats allowed, rounded to bfloat16, and
    mirrored; 0 among them.

    Args:
      bits: the smallest power is 2^-bits.
      largest: size of the largest weight.
      powers: of two in a sum.
    """
    top = math.ceil(math.log2(largest)) if largest > 0 else -bits
    terms = np.concatenate([[0.0], np.exp2(np.arange(-bits, top, dtype=np.float64))])
    sums = np.zeros(1)
    for _ in range(powers):
        sums = np.unique(sums[:, None] + terms)
    sums = to_bfloat16(sums)
    return np.unique(np.concatenate([-sums, sums]))


class _Left:
    """The weights that have no centre yet, and the interval of centres that each may go to."""

    def __init__(
        self, mean: np.ndarray, sigma: np.ndarray, places: np.ndarray, tiny: float
    ) -> None:
        self.places, self.tiny = places, tiny
        self.mean, self.sigma = (x[places].astype(np.float64) for x in (mean, sigma))
        self.largest = float(np.max(np.abs(self.mean), initial=0))
        self.aim(np.zeros(1), 1.0)

    def aim(self, centres: np.ndarray, threshold: float) -> None:
        """Offers centres, ascending and with 0, to weights within so many deviations of them."""
        is_zero, zero = np.abs(self.mean) < self.tiny, int(np.searchsorted(centres, 0.0))
        first = np.searchsorted(centres, self.mean - threshold * self.sigma, side="left")
        after = np.searchsorted(centres, self.mean + threshold * self.sigma, side="right")
        # A weight that counts as zero has no centre between it and 0, so the interval has no gap.
        self.first = np.where(is_zero, np.minimum(first, zero), first)
        self.after = np.where(is_zero, np.maximum(after, zero + 1), after)
        self.centres = centres
        self.counts = self._counts(self.first, self.after)

    def _counts(self, first: np.ndarray, after: np.ndarray) -> np.ndarray:
        """int64[centres]: how many of the intervals [first, after) hold each."""
        size = len(self.centres) + 1
        change = np.bincount(first, minlength=size) - np.bincount(after, minlength=size)
        return np.cumsum(change)[:-1]

    def take(self, most: int) -> tuple[float, np.ndarray]:
        """The most popular centre and the places of at most so many weights, the nearest to it (of
        those that count as zero the smallest), which are taken; none where no weight may go to any.
        """
        best = int(np.argmax(self.counts))
        centre = float(self.centres[best])
        members = np.flatnonzero((self.first <= best) & (best < self.after))
        distance = np.abs(centre - self.mean[members]) / self.sigma[members]
        if centre == 0:
            distance[np.abs(self.mean[members]) < self.tiny] = 0
        order = np.lexsort((np.abs(self.mean[members]), distance))
        taken = members[order[:most]]
        self.counts = self.counts - self._counts(self.first[taken], self.after[taken])
        places = self.places[taken]
        for name in ("places", "mean", "sigma", "first", "after"):
            setattr(self, name, np.delete(getattr(self, name), taken))
        return centre, places


def assign(
    mean: np.ndarray,
    sigma: np.ndarray,
    is_fixed: np.ndarray,
    share: float,
    bits: int = 7,
    threshold: float = 1.0,
    most_powers: int = 4,
) -> Assignment:
    """Gives centres to so many weights that a share of all have one, the most popular first.

    Again and again the proposal with the most weights within the threshold takes them, the nearest
    first. Where no weight is within it of any, the proposals become sums of one more power of two
    (up to most_powers) and the threshold doubles, in turns.

    Args:
      mean, sigma: float32[weights], sigma above 0.
      is_fixed: bool[weights], those that have a centre already.
      share: of all weights, 0 to 1.
      bits: the smallest power of two is 2^-bits; means below it are at no distance from 0.
      threshold: standard deviations that a weight may move at first.
      most_powers: of two, in a sum, at least 1.

    Raises:
      UsageError: an argument that is out of its range.
      NumericsError: a mean is not finite.
    """
    if not (np.all(sigma > 0) and threshold > 0):
        raise UsageError("sigma and threshold must be above 0")
    missing = needed(share, mean) - int(np.sum(is_fixed))
    left = _Left(mean, sigma, np.flatnonzero(~is_fixed), 2.0**-bits)
    largest, powers, refines = left.largest, 1, True
    left.aim(proposals(bits, largest, powers), threshold)
    group, centres = np.full(len(mean), -1, np.int32), []
    while missing > 0:
        centre, taken = left.take(missing)
        if len(taken):
            group[taken] = len(centres)
            centres.append(centre)
            missing -= len(taken)
            continue
        if refines and powers < most_powers:
            powers += 1
        else:
            threshold *= _GROWTH
        refines = not refines
        left.aim(proposals(bits, largest, powers), threshold)
    return Assignment(group, np.asarray(centres, np.float32), powers, threshold)


def deviations(assignment: Assignment, mean: np.ndarray) -> np.ndarray:
    """The standard deviation of the means that were assigned together, float64[groups].

    Args:
      assignment: of the means.
      mean: float32[weights], before they were moved to their centres.
    """
    is_in, size = assignment.is_assigned, len(assignment.centres)
    group, values = assignment.group[is_in], mean[is_in].astype(np.float64)
    count = np.maximum(1, np.bincount(group, minlength=size))
    average = np.bincount(group, values, size) / count
    return np.sqrt(np.bincount(group, np.square(values - average[group]), size) / count)
