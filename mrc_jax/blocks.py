"""The partition of the coded vector into blocks, by a keyed permutation.

Entry e sits in slot permute(e); slot s is lane s // blocks of block s % blocks. So blocks differ by
at most one in length, and a coded vector of n entries in slot order, padded to block_size * blocks,
is an array [block_size, blocks].
"""

import dataclasses

import numpy as np

from mrc_jax.shared_random import Array, Stream, namespace, permute, unpermute


@dataclasses.dataclass(frozen=True)
class Partition:
    """How many entries lie in how many blocks (1 <= blocks <= entries)."""

    entries: int
    blocks: int

    @property
    def block_size(self) -> int:
        """Lanes of the longest block."""
        return -(-self.entries // self.blocks)

    @property
    def slots(self) -> int:
        """Lanes of all blocks, padding included."""
        return self.block_size * self.blocks


def slot_of_entry(partition: Partition, seed: Array, entry: Array) -> Array:
    """The slot of each entry (uint32, any shape)."""
    return permute(entry, partition.entries, seed, Stream.BLOCKS)


def entry_of_slot(partition: Partition, seed: Array, slot: Array) -> Array:
    """The entry in each slot below `partition.entries` (uint32, any shape)."""
    return unpermute(slot, partition.entries, seed, Stream.BLOCKS)


def slots_of_blocks(partition: Partition, block: Array) -> Array:
    """uint32[block_size, ...]: the slot of each lane of blocks [...], past the last in padding."""
    xp = namespace(block)
    lane = xp.arange(partition.block_size, dtype=np.uint32).reshape((-1,) + (1,) * block.ndim)
    return lane * np.uint32(partition.blocks) + block.astype(np.uint32)


def lanes_in_use(partition: Partition, block: Array) -> Array:
    """bool[block_size, ...]: False where a block has no entry in a lane."""
    return slots_of_blocks(partition, block) < partition.entries


def to_blocks(values: Array, entry: Array, partition: Partition) -> Array:
    """Arranges a vector over entries as [block_size, blocks], zero in lanes that are not in use.

    Args:
      values: [entries].
      entry: uint32[entries], `entry_of_slot` of all slots.
      partition: the partition.
    """
    xp = namespace(values)
    slots = xp.take(values, entry.astype(np.int32), axis=0)
    return slots_to_blocks(slots, partition)


def slots_to_blocks(slots: Array, partition: Partition) -> Array:
    """A vector in slot order, [entries], as [block_size, blocks]; zero in lanes not in use."""
    padded = namespace(slots).pad(slots, (0, partition.slots - partition.entries))
    return padded.reshape(partition.block_size, partition.blocks)
