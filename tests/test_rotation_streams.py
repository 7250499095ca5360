"""The small transformer, sliced and turned: the same network at each step, and what is counted."""

import json
import pathlib

import jax
import numpy as np
import pytest

from experiments import rotation_streams
from experiments.float16_code import coded_bytes
from experiments.sliced import Shape, cut, initial, logits, patches, sliced_of

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = Shape(width=16, heads=2, hidden=24, layers=1)


@pytest.fixture(scope="module")
def network():
    """A network whose gains are not 1, and images."""
    streams = initial(jax.random.key(0), SHAPE)
    for i, stream in enumerate(streams):
        stream["gain"] = 1 + 0.3 * jax.random.normal(jax.random.key(i), (SHAPE.width,))
        stream["bias"] = 0.1 * jax.random.normal(jax.random.key(10 + i), stream["bias"].shape)
    return sliced_of(streams), np.random.default_rng(1).random((20, 16, 4)).astype(np.float32)


def test_patches_are_the_squares_of_two_by_two_pixels():
    images = np.zeros((2, 64))
    images[1] = np.arange(64)
    found = patches(images)
    assert found.shape == (2, 16, 4) and not np.any(found[0])
    np.testing.assert_allclose(63 * found[1, 5], [18, 19, 26, 27], rtol=1e-6)


def test_a_token_s_place_matters_and_a_scale_of_its_stream_does_not(network):
    """RMSNorm alone reads the streams: twice every writer and bias of a writer is the same."""
    net, x = network
    wanted = logits(net, x, SHAPE)[0]
    twice = rotation_streams.Sliced(
        [2 * w for w in net.writers], net.readers, net.biases, net.skips
    )
    np.testing.assert_allclose(logits(twice, x, SHAPE)[0], wanted, rtol=1e-3, atol=1e-4)
    assert np.std(logits(net, x[:, ::-1], SHAPE)[0] - wanted) > 1e-3


def test_the_other_bases_of_all_dimensions_are_the_same_network_and_fewer_are_near_it(network):
    net, x = network
    wanted = np.asarray(logits(net, x, SHAPE)[0])
    whole = cut(net, x, SHAPE, SHAPE.width)
    assert all(np.max(np.abs(skip - np.eye(16))) > 0.1 for skip in whole.skips)
    np.testing.assert_allclose(logits(whole, x, SHAPE)[0], wanted, rtol=2e-4, atol=2e-4)
    errors = [
        np.std(np.asarray(logits(cut(net, x, SHAPE, width), x, SHAPE)[0]) - wanted)
        for width in (15, 12, 4)
    ]
    assert 1e-4 < errors[0] < errors[1] < errors[2] and errors[0] < 0.3 * np.std(wanted)


def test_what_is_decoded_is_the_same_network_and_every_byte_is_counted(network):
    net, x = cut(*network, SHAPE, 12), network[1]
    plain, saving = rotation_streams.rounded(net), rotation_streams.save(net)
    size = sum(part.nbytes for part in rotation_streams.tensors(plain).values())
    net_bytes = sum(b.net_bits for b in saving.bits) / 8
    # a state of 12 bytes whose last 8 hold bits, of which 2 more are lost at each end
    assert size - net_bytes <= len(saving.stream) + 1e-6 <= size - net_bytes + 12
    assert [b.ideal_bits for b in saving.bits] == [8 * 12 * 11] * 3
    assert net_bytes > 0.5 * sum(b.ideal_bits for b in saving.bits) / 8
    turned = rotation_streams.tensors(saving.net)
    assert all(x.dtype == np.float16 for x in turned.values())
    for name, array in rotation_streams.tensors(plain).items():
        assert turned[name].shape == array.shape
        assert name.startswith("biases") == np.array_equal(turned[name], array)
    exact, of_plain, of_turned = (
        np.asarray(logits(rotation_streams._float32(n), x, SHAPE)[0])
        for n in (net, plain, saving.net)
    )
    assert np.std(of_turned - exact) < 3 * np.std(of_plain - exact)


def test_float16_is_entropy_coded_by_high_bytes():
    """High bytes of 4 values alike cost 2 bits, random low bytes 8: 10 bits a weight."""
    random = np.random.default_rng(0)
    pairs = np.stack([random.integers(256, size=20000), random.integers(60, 64, size=20000)], 1)
    weights = {"a": pairs.astype(np.uint8).view("<f2").reshape(100, 200)}
    assert 25000 < coded_bytes(weights) < 25100
    alike = {**weights, "b": np.full((50, 2), 1.5, np.float16)}
    assert coded_bytes(alike) - coded_bytes(weights) == pytest.approx(100, abs=40)


def test_what_is_said_is_what_was_measured():
    found, text = rotation_streams.measured(12, 2, 0, SHAPE)
    assert found["kept_width"] == 12 and found["width"] == 16 and len(found["streams"]) == 3
    assert text.splitlines()[-1].startswith("| all | ") and text.count("\n") == 2 + 3
    said = rotation_streams.said(json.loads(json.dumps(found)))
    raw, net = found["float16_bytes"], found["net_bytes"]
    assert f"float16 {raw:,} bytes, stream {found['stream_bytes']:,}: {net / raw:.2%} net" in said
    assert found["validation_errors"]["trained"] > 0.5  # two steps teach it nothing


def test_the_document_says_what_the_results_say():
    found = json.loads((ROOT / "experiments/results/rotation/streams.json").read_text())
    text = (ROOT / "docs/rotation.md").read_text()
    raw, coded = found["float16_bytes"], found["entropy_coded_bytes"]
    assert f"{raw:,} bytes become {found['stream_bytes']:,}" in text
    assert f"{found['net_bytes'] / raw:.2%} of them" in text
    assert f"{found['net_bytes'] / coded:.2%} of the {coded:,}" in text
    assert found["net_bytes"] >= 0.5 * found["ideal_bytes"]
