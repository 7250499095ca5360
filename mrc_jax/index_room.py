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


@functools.lru_cache(256)
def _shares(kl_nats: float, size: int, reach: int) -> np.ndarray:
    """How likely each bucket is for a position chosen among 2**reach, float64[reach + 1]."""
    kl_nats = min(max(kl_nats, 0.01), 150.0)
    variance = codelength.likely_variance_nats2(kl_nats, size)
    return codelength.ordered_bucket_probabilities(kl_nats, reach, variance)


@functools.lru_cache(256)
def _costs(kl_nats: float, size: int, bits: int) -> np.ndarray:
    """Bits of an index in each bucket, in the code planned for all: float64[bits + 1]."""
    parameters = best_parameters(_shares(kl_nats, size, bits), bits)
    return bucket_bits(*parameters, bits) + _CODER_BITS


def planned_index_bytes(header: Header, kl_nats: float) -> int:
    """Bytes that a file's ordered indices are expected to take, at most those of fixed ones.

    Args:
      header: the file's.
      kl_nats: divergence that a block will have.
    """
    fixed = index_codes.fixed_bytes(header.blocks, header.bits)
    size = header.partition.block_size
    mean = float(_shares(kl_nats, size, header.bits) @ _costs(kl_nats, size, header.bits))
    return min(fixed, int(np.ceil((_OVERHEAD_BITS + header.blocks * mean) / 8)))


class IndexRoom:
    """Keeps the ordered indices of a file within its limit."""

    def __init__(self, header: Header, kl_nats: float, file_bytes: int) -> None:
        """Args: the file's plan, the divergence that a block has, the file's limit."""
        self._header, self._kl = header, kl_nats
        index_bytes = file_bytes - sum(parts(header, 0).values())
        self._bits = 8 * index_bytes - _OVERHEAD_BITS
        self._is_needed = index_codes.fixed_bytes(header.blocks, header.bits) > index_bytes

    def reach(self, indices: np.ndarray, is_coded: np.ndarray, wave: int) -> int:
        """log2 of the positions among which the next blocks may choose.

        Args:
          indices: uint32[blocks], those of coded blocks.
          is_coded: bool[blocks].
          wave: how many blocks come next.
        """
        header = self._header
        if not self._is_needed:
            return header.bits
        size = header.partition.block_size
        costs = _costs(self._kl, size, header.bits)
        positions = index_codes.positions(indices, header.bits, header.seed)[is_coded]
        buckets = np.frexp(positions.astype(np.float64))[1]
        low_bits = np.sum(np.maximum(buckets - 1, 0))
        room = self._bits - costs[buckets].sum() - max(0, _FIRST_BITS - low_bits)
        left = header.blocks - int(np.sum(is_coded))
        for reach in range(header.bits, 0, -1):
            worst = wave * costs[reach] + (left - wave) * costs[0]
            mean = float(_shares(self._kl, size, reach) @ costs[: reach + 1])
            if worst <= room and left * mean <= room:
                return reach
        return 0
