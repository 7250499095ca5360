"""Networks with turned residual streams are the same networks, and come back bit for bit."""

import itertools

import numpy as np
import pytest

from mrc_jax.errors import UsageError
from mrc_jax.rotation import heads, residual
from mrc_jax.rotation.ans import Stack

WIDTH, INPUTS, HIDDEN, OUTPUTS, BLOCKS = 16, 10, 24, 7, 3


def random_network(seed):
    """A network of pre-norm blocks with LayerNorms, in the units of float64."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return 0.3 * random.normal(size=shape)

    return {
        "embedding": normal(WIDTH, INPUTS),
        "blocks": [
            {
                "gain": 1 + normal(WIDTH),
                "shift": normal(WIDTH),
                "in": normal(WIDTH, HIDDEN),
                "in_bias": normal(HIDDEN),
                "out": normal(WIDTH, HIDDEN + 1),  # the last column is its bias
            }
            for _ in range(BLOCKS)
        ],
        "gain": 1 + normal(WIDTH),
        "shift": normal(WIDTH),
        "head": normal(WIDTH, OUTPUTS),
        "head_bias": normal(OUTPUTS),
    }


def with_layer_norms(net, x):
    def norm(x, gain, shift):
        x = x - x.mean(axis=0)
        return gain[:, None] * x / np.sqrt(np.mean(x**2, axis=0) + 1e-5) + shift[:, None]

    x = net["embedding"] @ x
    for block in net["blocks"]:
        y = block["in"].T @ norm(x, block["gain"], block["shift"]) + block["in_bias"][:, None]
        x = x + block["out"] @ np.concatenate([np.tanh(y), np.ones((1, y.shape[1]))])
    return net["head"].T @ norm(x, net["gain"], net["shift"]) + net["head_bias"][:, None]


def folded(net):
    """Columns at the stream of each block and of the head, and the biases of the readers."""
    pairs, biases = [[residual.centred(net["embedding"])]], []
    for block in net["blocks"]:
        kernel, bias = residual.read_through(
            block["gain"], block["shift"], block["in"], block["in_bias"]
        )
        pairs[-1].append(kernel)
        pairs.append([residual.centred(block["out"])])
        biases.append(bias)
    kernel, bias = residual.read_through(net["gain"], net["shift"], net["head"], net["head_bias"])
    pairs[-1].append(kernel)
    return [np.concatenate(pair, axis=1) for pair in pairs], [*biases, bias]


def with_streams(streams, biases, x, skips):
    def norm(x):
        return x / np.sqrt(np.mean(x**2, axis=0) + 1e-5)

    x, written = streams[0][:, :INPUTS] @ x, INPUTS
    for i, bias in enumerate(biases[:-1]):
        y = np.tanh(streams[i][:, written : written + HIDDEN].T @ norm(x) + bias[:, None])
        written = HIDDEN + 1
        y = np.concatenate([y, np.ones((1, y.shape[1]))])
        x = skips[i] @ x + streams[i + 1][:, :written] @ y
    return streams[-1][:, written : written + OUTPUTS].T @ norm(x) + biases[-1][:, None]


@pytest.mark.parametrize("rotations", ["one", "one a block"])
def test_a_network_with_turned_streams_has_the_same_outputs(rotations):
    net, x = random_network(0), np.random.default_rng(1).normal(size=(INPUTS, 50))
    wanted = with_layer_norms(net, x)
    streams, biases = folded(net)
    plain = [np.eye(WIDTH)] * BLOCKS
    found = with_streams(streams, biases, x, plain)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    stack = Stack(np.random.default_rng(2).bytes(3000))
    before, cuts = stack.to_bytes(), np.cumsum([s.shape[1] for s in streams])[:-1]
    pairs = [np.concatenate(streams, axis=1)] if rotations == "one" else streams
    skips = [] if rotations == "one" else plain
    sent = residual.encode_streams(stack, pairs, skips)
    received = residual.decode_streams(stack, [pair.shape for pair in pairs])
    for turned, weights in zip(sent, received, strict=True):
        assert turned.weights.tobytes() == weights.tobytes()
    assert stack.to_bytes() == before
    exact = [turned.turn for turned in sent]
    if rotations == "one":
        turned_streams = np.split(exact[0] @ pairs[0], cuts, axis=1)
        found16, between = np.split(received[0].astype(float), cuts, axis=1), plain
        turned_skips = plain
    else:
        turned_streams = [turn @ pair for turn, pair in zip(exact, pairs, strict=True)]
        turned_skips = [b @ a.T for a, b in itertools.pairwise(exact)]
        found16 = [weights.astype(float) for weights in received]
        between = [weights[:, -WIDTH:] for weights in found16[1:]]
    # The integers' rotations are orthogonal to some 2**-27.
    same = with_streams(turned_streams, biases, x, turned_skips)
    np.testing.assert_allclose(same, wanted, rtol=1e-6, atol=1e-6)
    rounded = [stream.astype(np.float16).astype(float) for stream in streams]
    error = np.std(with_streams(found16, biases, x, between) - wanted)
    usual = np.std(with_streams(rounded, biases, x, plain) - wanted)
    assert 0 < error < 3 * usual


def test_streams_save_half_of_what_a_rotation_is_worth():
    random = np.random.default_rng(3)
    pair = random.normal(size=(96, 300))
    bits = residual.encode_streams(Stack(random.bytes(20000)), [pair])[0].bits
    assert bits.net_bits > 2 / 3 * bits.ideal_bits == 2 / 3 * 8 * 96 * 95


def test_matrices_that_do_not_fit_the_streams_are_refused():
    stack, streams = Stack(bytes(5000)), [np.ones((4, 9)), np.ones((5, 9))]
    for skips in ([], [np.ones((4, 5))], [np.ones((5, 4))] * 2):
        with pytest.raises(UsageError, match="need matrices between them"):
            residual.encode_streams(stack, streams, skips)
    with pytest.raises(UsageError, match="need matrices between them"):
        residual.encode_streams(stack, [])
    assert residual.encode_streams(stack, streams, [np.ones((5, 4))])[1].weights.shape == (5, 13)
    assert isinstance(residual.encode_streams(stack, streams[:1])[0], heads.Turned)
