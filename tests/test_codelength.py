"""Code lengths against hand-worked values and against the size of real files."""

import math

import numpy as np
import pytest

from mrc_jax import codelength
from mrc_jax.container import Container, Header, pack, parts
from mrc_jax.manifest import Manifest, Tensor


def test_the_payload_is_what_the_file_holds_beyond_its_other_parts() -> None:
    manifest = Manifest((Tensor("w", (100,), "float32", 1),))
    header = Header.of(manifest, True, seed=1, blocks=33, bits=13)
    container = Container(header, np.array([0x3F80], np.uint16), b"", np.arange(33))
    others = sum(size for name, size in parts(header).items() if name != "indices")
    assert len(pack(container)) - others == math.ceil(codelength.payload_bits(header) / 8)


def test_bounds_at_hand_worked_points() -> None:
    assert codelength.lower_bound_bits(7 * math.log(2)) == pytest.approx(7)
    assert codelength.upper_bound_bits(7 * math.log(2)) == pytest.approx(7 + 3 + 4)
    assert codelength.upper_bound_bits(0.0) == 4


def test_the_bias_bound_falls_as_candidates_are_added() -> None:
    assert codelength.bias_bound(0.0, 0.0) == 1
    assert codelength.bias_bound(-8 * math.log(2), 0.0) == pytest.approx(0.5)
    assert codelength.bias_bound(-8 * math.log(2), 0.01) == pytest.approx(math.sqrt(0.25 + 0.2))


# Simulated bits of an ordered index: with normal log-weights of variance 2 KL, and for blocks of 30
# Gaussian lanes of equal KL, half of it in the mean. Their log-weights are skewed: the model is
# near up to KL = ln K, and says up to 0.25 bits too many above.
@pytest.mark.parametrize(
    ("kl_bits", "bits", "share_of_2_kl", "simulated", "tolerance"),
    [
        (8, 10, 1, 7.904, 0.05),
        (12, 10, 1, 8.676, 0.05),
        (12, 14, 1, 11.318, 0.05),
        (8, 10, 0.5810, 8.503, 0.1),
        (10, 10, 0.5424, 9.005, 0.1),
        (12, 14, 0.5093, 12.153, 0.1),
        (14, 14, 0.4803, 12.733, 0.15),
        (12, 10, 0.5093, 9.324, 0.25),
        (16, 14, 0.4545, 13.101, 0.25),
    ],
)
def test_ordered_indices_take_the_bits_that_a_simulation_finds(
    kl_bits, bits, share_of_2_kl, simulated, tolerance
) -> None:
    kl_nats = kl_bits * math.log(2)
    found = codelength.ordered_index_bits(kl_nats, bits, share_of_2_kl * 2 * kl_nats)
    assert found == pytest.approx(simulated, abs=tolerance)


@pytest.mark.parametrize("kl_bits", [0, 1e-9, 0.5, 8, 30, 60])
@pytest.mark.parametrize("bits", [1, 10, 30])
def test_the_buckets_of_any_block_have_probabilities(kl_bits, bits) -> None:
    share = codelength.ordered_bucket_probabilities(kl_bits * math.log(2), bits)
    assert share.shape == (bits + 1,) and share.min() >= 0
    assert share.sum() == pytest.approx(1)
    assert codelength.ordered_index_bits(kl_bits * math.log(2), bits) <= bits + 0.001
