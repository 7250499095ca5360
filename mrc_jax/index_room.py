"""The room that a file has for ordered indices: planned before training, kept to while coding.

Ordered indices differ in length, so a plan counts on their mean. While blocks are coded, those that
are left look less far, among the positions below 2**reach, as soon as the room would not do for
them: a block then has fewer candidates, not another law of choosing among them.
"""

import functools

import numpy as np

from mrc_jax import codelength, index_codes
from mrc_jax.container import Header, parts
from mrc_jax.ordered_code import best_parameters, bucket_bits

_OVERHEAD_BITS = 32  # parameters, the coder's last state, whole bytes: at most
_FIRST_BITS = 24  # of the low bits go into the coder's first state; room for them is taken anyway
_CODER_BITS = 0.0057  # an index: log2(1 + 2**-8), the range coder's loss at most


@functools.lru_cache(1024)
def _shares(kl_nats: float, variance_nats2: float, reach: int) -> np.ndarray:
    """How likely each bucket is for a position chosen among 2**reach, float64[reach + 1]."""
    kl_nats = min(max(kl_nats, 0.01), 150.0)
    return codelength.ordered_bucket_probabilities(kl_nats, reach, variance_nats2)


@functools.lru_cache(1024)
def _costs(kl_nats: float, variance_nats2: float, bits: int, room_bits: float) -> np.ndarray:
    """Bits of an index in each bucket, float64[bits + 1], in the code that suits the reach whose
    mean is `room_bits`, or all of `bits` where that is less.
    """
    shares, mean = np.eye(1, bits + 1)[0], 0.0
    for reach in range(max(1, int(room_bits) - 2), bits + 1):
        wider = np.pad(_shares(kl_nats, variance_nats2, reach), (0, bits - reach))
        more = float(wider @ _fitted(wider, bits))
        if more > room_bits:  # as often as fits beside the reach before
            t = (room_bits - mean) / (more - mean)
            shares = (1 - t) * shares + t * wider
            break
        shares, mean = wider, more
    return _fitted(shares, bits) + _CODER_BITS


def _fitted(shares: np.ndarray, bits: int) -> np.ndarray:
    """Bits of an index in each bucket in the code that suits them."""
    return bucket_bits(*best_parameters(shares, bits), bits)


@functools.lru_cache(256)
def _planned_bits(kl_nats: float, size: int, bits: int) -> float:
    """Mean bits of an index by the guess that plans have of the log-weight's variance."""
    shares = _shares(kl_nats, codelength.likely_variance_nats2(kl_nats, size), bits)
    return float(shares @ (_fitted(shares, bits) + _CODER_BITS))


def planned_index_bytes(header: Header, kl_nats: float) -> int:
    """Bytes that a file's ordered indices are expected to take, at most those of fixed ones.

    Args:
      header: the file's.
      kl_nats: divergence that a block will have.
    """
    fixed = index_codes.fixed_bytes(header.blocks, header.bits)
    mean = _planned_bits(kl_nats, header.partition.block_size, header.bits)
    return min(fixed, int(np.ceil((_OVERHEAD_BITS + header.blocks * mean) / 8)))


class IndexRoom:
    """Keeps the ordered indices of a file within its limit."""

    def __init__(self, header: Header, file_bytes: int) -> None:
        """Args: the file's plan, its limit."""
        self._header = header
        index_bytes = file_bytes - sum(parts(header, 0).values())
        self._bits = 8 * index_bytes - _OVERHEAD_BITS
        self.is_needed = index_codes.fixed_bytes(header.blocks, header.bits) > index_bytes

    def reach(
        self,
        indices: np.ndarray,
        is_coded: np.ndarray,
        wave: int,
        kl_nats: float,
        variance_nats2: float,
    ) -> int:
        """log2 of the positions among which the next blocks may choose.

        Args:
          indices: uint32[blocks], those of coded blocks.
          is_coded: bool[blocks].
          wave: how many blocks come next.
          kl_nats, variance_nats2: divergence of the blocks that are left, on average, and variance
            of their log-weight. Plans have a guess of the second; where it is too large blocks
            would look far at first and hardly at all at last.
        """
        header = self._header
        if not self.is_needed:
            return header.bits
        law = round(4 * kl_nats) / 4, 2.0 ** (round(4 * np.log2(max(variance_nats2, 0.01))) / 4)
        costs = _costs(*law, header.bits, self._bits / header.blocks)
        positions = index_codes.positions(indices, header.bits, header.seed)[is_coded]
        buckets = np.frexp(positions.astype(np.float64))[1]
        low_bits = np.sum(np.maximum(buckets - 1, 0))
        room = self._bits - costs[buckets].sum() - max(0, _FIRST_BITS - low_bits)
        left = header.blocks - int(np.sum(is_coded))
        for reach in range(header.bits, 0, -1):
            worst = wave * costs[reach] + (left - wave) * costs[0]
            if worst <= room and left * float(_shares(*law, reach) @ costs[: reach + 1]) <= room:
                return reach
        return 0
