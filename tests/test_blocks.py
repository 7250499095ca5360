"""The partition: every entry in one slot, blocks of nearly equal length, one arrangement."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrc_jax.blocks import Partition, entry_of_slot, lanes_in_use, slot_of_entry, to_blocks


@st.composite
def partitions(draw):
    entries = draw(st.integers(1, 300))
    return Partition(entries, draw(st.integers(1, entries)))


@given(partitions(), st.integers(0, 2**32 - 1))
def test_every_entry_is_in_exactly_one_slot_in_use(partition, seed):
    entry = np.arange(partition.entries, dtype=np.uint32)
    slot = slot_of_entry(partition, np.uint32(seed), entry)
    assert sorted(slot) == list(range(partition.entries))
    np.testing.assert_array_equal(entry_of_slot(partition, np.uint32(seed), slot), entry)
    used = lanes_in_use(partition, np.arange(partition.blocks, dtype=np.uint32))
    assert used.shape == (partition.block_size, partition.blocks)
    lanes = np.divmod(slot.astype(int), partition.blocks)
    expected = np.zeros(used.shape, bool)
    expected[lanes] = True
    np.testing.assert_array_equal(used, expected)
    lengths = used.sum(0)
    assert lengths.min() >= 1 and lengths.max() - lengths.min() <= 1
    assert lengths.max() == partition.block_size


@settings(max_examples=30)
@given(partitions())
def test_to_blocks_puts_each_entry_where_a_loop_puts_it(partition):
    seed = np.uint32(5)
    values = np.random.default_rng(0).normal(size=partition.entries).astype(np.float32)
    expected = np.zeros((partition.block_size, partition.blocks), np.float32)
    for entry, value in enumerate(values):
        slot = int(slot_of_entry(partition, seed, np.asarray([entry], np.uint32))[0])
        expected[slot // partition.blocks, slot % partition.blocks] = value
    order = entry_of_slot(partition, seed, np.arange(partition.entries, dtype=np.uint32))
    np.testing.assert_array_equal(to_blocks(values, order, partition), expected)


@pytest.mark.parametrize("entries, blocks", [(1, 1), (7, 7), (10, 3), (64, 5)])
def test_numpy_and_jax_arrange_alike(entries, blocks):
    partition, seed = Partition(entries, blocks), 2**32 - 1
    slot = np.arange(entries, dtype=np.uint32)
    order = entry_of_slot(partition, np.uint32(seed), slot)
    on_jax = entry_of_slot(partition, jnp.uint32(seed), jnp.asarray(slot))
    np.testing.assert_array_equal(order, on_jax)
    values = np.arange(1, entries + 1, dtype=np.float32)
    arranged = to_blocks(jnp.asarray(values), on_jax, partition)
    np.testing.assert_array_equal(to_blocks(values, order, partition), arranged)
    block = np.arange(blocks, dtype=np.uint32)
    np.testing.assert_array_equal(
        lanes_in_use(partition, block), lanes_in_use(partition, jnp.asarray(block))
    )
