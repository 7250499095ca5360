"""Code lengths against hand-worked values and against the size of real files."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from mrc_jax import codelength
from mrc_jax.container import Container, Header, pack, parts
from mrc_jax.manifest import Manifest, Tensor
from mrc_jax.ordered_code import best_parameters, bucket_bits


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


def simulated_positions(
    rng: np.random.Generator, kl_bits: float, bits: int, blocks: int, lanes: int = 30
) -> tuple[np.ndarray, float]:
    """Positions of ordered coding, int[blocks], and the log-weights' variance under the posterior.

    Each lane is N(0, 1) a priori and N(m, v) a posteriori with m**2 / 2 half its KL. A block's
    log-weights need the lanes' sum and sum of squares alone: a normal and a chi-squared number.
    """
    mean_square = lane_nats = kl_bits * math.log(2) / lanes
    v = brentq(lambda v: v - 1 - math.log(v) - lane_nats, 1e-9, 1 - 1e-9)
    left = (1 << bits) - np.arange(1 << bits)
    positions = np.empty(blocks, np.int64)
    for b in range(blocks):
        normal = rng.standard_normal(1 << bits)
        squares = normal**2 + 2 * rng.standard_gamma((lanes - 1) / 2, 1 << bits)
        shift = 2 * math.sqrt(mean_square * lanes) * normal
        log_weight = squares / 2 - (squares - shift) / (2 * v)  # but for a constant
        arrivals = np.cumsum(rng.standard_exponential(1 << bits) / left)  # sorted, of rate 1
        positions[b] = np.argmax(log_weight - np.log(arrivals))
    return positions, lanes * (mean_square * v + (1 - v) ** 2 / 2)


@pytest.mark.parametrize(("kl_bits", "bits", "error"), [(6, 8, 0.1), (8, 10, 0.1), (12, 10, 0.25)])
def test_the_code_of_the_model_s_buckets_suits_simulated_blocks(kl_bits, bits, error) -> None:
    blocks, kl_nats = 3000, kl_bits * math.log(2)
    positions, variance = simulated_positions(np.random.default_rng(5), kl_bits, bits, blocks)
    share = codelength.ordered_bucket_probabilities(kl_nats, bits, variance)
    cost = bucket_bits(*best_parameters(share, bits), bits)[np.frexp(positions.astype(float))[1]]
    expected = codelength.ordered_index_bits(kl_nats, bits, variance)
    assert abs(cost.mean() - expected) < error + 3 * cost.std() / math.sqrt(blocks)
    buckets = np.bincount(np.frexp(positions.astype(float))[1], minlength=bits + 1)
    own = bucket_bits(*best_parameters(buckets, bits), bits) @ buckets / blocks
    assert own <= cost.mean() < own + 0.1  # parameters found by the model are nearly the best


@pytest.mark.parametrize("kl_bits", [4, 8, 22])
def test_an_ordered_index_keeps_the_theorem_s_bound_and_hardly_grows(kl_bits) -> None:
    kl_nats = kl_bits * math.log(2)
    spent = [codelength.ordered_index_bits(kl_nats, kl_bits + more) for more in (2, 6, 8)]
    assert max(spent) <= codelength.upper_bound_bits(kl_nats)
    assert np.all(np.diff(spent) > 0) and spent[2] - spent[1] < 1


@pytest.mark.parametrize("kl_bits", [0, 1e-9, 8, 30, 200])
@pytest.mark.parametrize("bits", [1, 10, 30])
def test_the_buckets_of_any_block_have_probabilities(kl_bits, bits) -> None:
    share = codelength.ordered_bucket_probabilities(kl_bits * math.log(2), bits)
    assert share.shape == (bits + 1,) and share.min() >= 0
    assert share.sum() == pytest.approx(1)
    assert codelength.ordered_index_bits(kl_bits * math.log(2), bits) <= bits + 0.001
