"""What is said of a network whose weights are few values."""

import dataclasses
from typing import Any

import numpy as np

from mrc_jax.centres.powers_of_two import is_single_power, to_bfloat16


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of training and fixing.

    Attributes:
      share: of the coded weights that have a centre after it.
      loss_nats: mean of the loss over the round's training steps, without regularisers.
      centres: distinct values given in it.
      powers: the most powers of two that a proposal could be a sum of.
      allowed: the largest distance that was allowed: a mean relative one (WFN) or standard
        deviations (PWFN).
    """

    share: float
    loss_nats: float
    centres: int
    powers: int
    allowed: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Of all coded weights.

    Attributes:
      weights: their number.
      values: the distinct ones, float32, ascending.
      counts: how many weights have each, int64.
      entropy_bits: of one weight: order 0, over the whole network, without the list of values.
      power_share: share of the weights that are 0 or a single signed power of two.
      bfloat16_share: share of the weights that are exactly bfloat16.
    """

    weights: int
    values: np.ndarray
    counts: np.ndarray
    entropy_bits: float
    power_share: float
    bfloat16_share: float

    @property
    def unique_values(self) -> int:
        """How many distinct values there are."""
        return len(self.values)


def summary(weights: np.ndarray) -> Summary:
    """Counts the values of weights, float32[weights], at least one.

    Plus and minus 0 are one value.
    """
    values, counts = np.unique(weights, return_counts=True)
    share = counts / len(weights)
    exact = values.astype(np.float64)
    return Summary(
        weights=len(weights),
        values=values,
        counts=counts,
        entropy_bits=float(-np.sum(share * np.log2(share))),
        power_share=int(np.sum(counts[is_single_power(exact)])) / len(weights),
        bfloat16_share=int(np.sum(counts[to_bfloat16(exact) == exact])) / len(weights),
    )


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A network whose coded weights are few values.

    Attributes:
      weights: the tree; coded leaves are float32.
      summary: of its coded weights.
      rounds: what happened in each.
    """

    weights: Any
    summary: Summary
    rounds: tuple[Round, ...]
