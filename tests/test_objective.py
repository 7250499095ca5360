"""The objective: every block's KL, the penalty of the blocks not yet coded, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax import blocks as blocks_lib
from mrc_jax.blocks import Partition, slot_of_entry
from mrc_jax.gaussian import kl_nats
from mrc_jax.objective import block_kl_nats, coded_blocks, penalty_nats, slot_order
from mrc_jax.posterior import log_prior_scale_of_entries
from mrc_jax.samples import Coded
from mrc_jax.sharing import group_of_entry, make_sharing

SEED = 11
SHARING = make_sharing({"a": jnp.ones((4, 5)), "b": jnp.ones(17), "c": jnp.ones(1)}, SEED)
ENTRIES = 38
BLOCKS = [1, 5, 38]


def parameters():
    random = np.random.default_rng(0)
    return {
        "mean": jnp.asarray(random.normal(size=ENTRIES), jnp.float32),
        "log_variance": jnp.asarray(random.normal(-3, 1, ENTRIES), jnp.float32),
        "log_prior_scale": jnp.asarray([-1.0, 0.3, 0.8], jnp.float32),
    }


def kl_by_scatter(params, partition):
    """Each entry's KL added to its block, in the order of the entries."""
    group = group_of_entry(SHARING.manifest)
    kl = kl_nats(params["mean"], params["log_variance"], params["log_prior_scale"][group])
    entry = np.arange(ENTRIES, dtype=np.uint32)
    block = slot_of_entry(partition, np.uint32(SEED), entry) % partition.blocks
    return jnp.zeros(partition.blocks).at[block.astype(np.int32)].add(kl)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_block_kl_is_that_of_a_loop_over_the_entries(blocks):
    partition, params = Partition(ENTRIES, blocks), parameters()
    group = group_of_entry(SHARING.manifest)
    expected = np.zeros(blocks)
    for entry in range(ENTRIES):
        scale = np.exp(float(params["log_prior_scale"][group[entry]]))
        variance = np.exp(float(params["log_variance"][entry]))
        squared = (variance + float(params["mean"][entry]) ** 2) / scale**2
        slot = int(slot_of_entry(partition, np.uint32(SEED), np.asarray([entry], np.uint32))[0])
        expected[slot % blocks] += 0.5 * (squared - 1 - np.log(variance / scale**2))
    order = slot_order(partition, SEED)
    found = block_kl_nats(params, SHARING, partition, order)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_gradient_is_that_of_the_scattering_version(blocks):
    partition, params = Partition(ENTRIES, blocks), parameters()
    order = slot_order(partition, SEED)
    betas = jnp.linspace(0.5, 2, blocks)
    coded = jnp.arange(blocks) % 4 == 1

    def gathering(params):
        return penalty_nats(betas, block_kl_nats(params, SHARING, partition, order), coded)

    def scattering(params):
        return jnp.sum(jnp.where(coded, 0, betas * kl_by_scatter(params, partition)))

    found, expected = jax.grad(gathering)(params), jax.grad(scattering)(params)
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
    assert np.any(found["mean"] != 0)


def test_the_gradient_gathers_and_does_not_scatter():
    partition, params = Partition(ENTRIES, 5), parameters()
    order = slot_order(partition, SEED)

    def total(mean):
        return jnp.sum(block_kl_nats({**params, "mean": mean}, SHARING, partition, order))

    assert "scatter" not in str(jax.make_jaxpr(jax.grad(total))(params["mean"]))
    plain = jax.grad(lambda x: jnp.sum(blocks_lib.to_blocks(x, order["entry"], partition)))
    assert "scatter" in str(jax.make_jaxpr(plain)(params["mean"]))


def test_the_penalty_leaves_coded_blocks_out():
    betas, kl = jnp.asarray([1.0, 2.0, 4.0]), jnp.asarray([10.0, 100.0, 1000.0])
    assert penalty_nats(betas, kl) == 4210
    assert penalty_nats(betas, kl, jnp.asarray([False, True, False])) == 4010


def test_slot_order_holds_the_partition_and_its_inverse():
    partition = Partition(ENTRIES, 5)
    order = slot_order(partition, SEED)
    entry = np.arange(ENTRIES, dtype=np.uint32)
    np.testing.assert_array_equal(order["slot"], slot_of_entry(partition, np.uint32(SEED), entry))
    np.testing.assert_array_equal(order["entry"][order["slot"]], entry)
    assert order["entry"].dtype == order["slot"].dtype == np.int32


@pytest.mark.parametrize("blocks", BLOCKS)
def test_coded_blocks_are_read_from_the_coded_entries(blocks):
    partition = Partition(ENTRIES, blocks)
    order = slot_order(partition, SEED)
    wanted = np.arange(blocks) % 3 == 0
    coded = Coded(is_coded=jnp.asarray(wanted)[order["slot"] % blocks], value=jnp.zeros(ENTRIES))
    np.testing.assert_array_equal(coded_blocks(coded, partition, order), wanted)
    assert not np.any(coded_blocks(Coded.none(ENTRIES), partition, order))


def test_each_entry_has_its_group_s_scale():
    params = parameters()
    expected = params["log_prior_scale"][group_of_entry(SHARING.manifest)]
    np.testing.assert_array_equal(log_prior_scale_of_entries(params, SHARING), expected)
