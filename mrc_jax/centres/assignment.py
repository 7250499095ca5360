"""Which weights were given which centre in one round of clustering."""

import dataclasses

import numpy as np

from mrc_jax.errors import NumericsError, UsageError


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The result of a clustering.

    Attributes:
      group: int32[weights], the number of the group that a weight was assigned in, -1 for none.
      centres: float32[groups], the centre of each group, in the order of assignment; two groups
        may have the same.
      powers: the most powers of two that a proposal could be a sum of, at the end.
      allowed: the largest distance that was allowed, in the units of the clustering.
    """

    group: np.ndarray
    centres: np.ndarray
    powers: int
    allowed: float

    @property
    def is_assigned(self) -> np.ndarray:
        """bool[weights]."""
        return self.group >= 0

    def values(self, weights: np.ndarray) -> np.ndarray:
        """float32[weights]: each weight's centre, or itself where it has none."""
        return self.spread(self.centres, weights)

    def spread(self, of_groups: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """Each weight's entry of an array [groups], or of one [weights] where it has no group."""
        result = otherwise.copy()
        result[self.is_assigned] = of_groups[self.group[self.is_assigned]]
        return result


def needed(share: float, weights: np.ndarray) -> int:
    """How many weights a share of them is.

    Raises:
      UsageError: the share is not in [0, 1].
      NumericsError: a weight is not finite.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"a share of the weights must be from 0 to 1, not {share}")
    if not np.all(np.isfinite(weights)):
        raise NumericsError("a weight is not finite, so it has no centre: lower the learning rate")
    return int(share * len(weights) + 1e-9)  # 0.29 of 100 is 29


def check_shares(shares: tuple[float, ...]) -> None:
    """Raises UsageError unless shares ascend, from above 0 to 1."""
    steps = np.diff([0.0, *shares])
    if not len(shares) or np.any(steps <= 0) or shares[-1] != 1:
        raise UsageError(f"shares must ascend and end with 1, not {shares}")
