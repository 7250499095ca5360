"""Pruning, k-means and training of centroids: by hand, and on the digits."""

import digits_network
import jax
import numpy as np
import pytest

from mrc_jax.centres.deep_compression import Settings, compress, largest, quantised
from mrc_jax.decode import decode
from mrc_jax.errors import UsageError
from mrc_jax.sharing import make_sharing, tree_of
from mrc_jax.value_file import pack_values


def test_the_largest_magnitudes_are_kept():
    weights = np.asarray([1.0, -3.0, 2.0, -2.0, 0.5])
    assert largest(weights, 2).tolist() == [False, True, True, False, False]
    assert largest(weights, 5).all() and not largest(weights, 0).any()


def test_zeros_stay_and_each_tensor_has_its_own_centroids():
    weights = np.asarray([0, 1, 1.5, -4, 0, 8, 8, 0], np.float32)
    free, place = quantised(weights, [4, 3, 1], 2)
    assert free[place].tolist() == [0, 1.25, 1.25, -4, 0, 8, 8, 0]
    assert free[0] == 0 and place[0] == place[4] == place[7] == 0


@pytest.mark.parametrize("wrong", [{"kept": 0.0}, {"kept": 1.5}, {"kept": 0.1, "values": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match="kept must be"):
        Settings(**wrong)


def test_the_digits_network_keeps_few_weights_of_few_values_and_its_error():
    weights = digits_network.trained()
    settings = Settings(kept=0.3, values=8, rounds=3, steps=250, batch_size=64, learning_rate=3e-3)
    before, data = digits_network.error(weights), digits_network.TRAIN
    done = compress(digits_network.loss, weights, data, jax.random.key(0), settings)
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(done.weights)])
    assert np.count_nonzero(flat) <= 0.3 * flat.size + 1
    for leaf in jax.tree.leaves(done.weights):
        assert len(np.unique(leaf[leaf != 0])) <= 8
    assert done.summary.bfloat16_share == 1 and len(done.rounds) == 4
    assert digits_network.error(done.weights) <= before + 0.03
    manifest = make_sharing(done.weights, 0).manifest
    tensors = {
        tensor.path: np.asarray(leaf)
        for tensor, leaf in zip(manifest.tensors, jax.tree.leaves(done.weights), strict=True)
    }
    file = pack_values(tensors, manifest)
    assert len(file) < 1200  # 2,410 weights, 9,640 bytes
    again = tree_of(decode(file), done.weights)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, done.weights))
