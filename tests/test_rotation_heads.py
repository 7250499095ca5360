"""Pairs come back bit for bit and the stream below them too; a turned network is the same one."""

import hashlib

import numpy as np
import pytest

from mrc_jax.errors import FormatError, UsageError
from mrc_jax.manifest import Tensor
from mrc_jax.rotation import corrections, heads, orthogonal
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.orthogonal import Direction
from mrc_jax.rotation.turns import Member, Turn

HALF_ULP = 2.0**-11  # of a float16, over its magnitude


def stream(seed, count=60000):
    return Stack(np.random.default_rng(seed).bytes(count))


def cases():
    random = np.random.default_rng(0)
    normal = random.normal(size=(16, 40)) * 0.05
    yield "normal", normal
    yield "as many columns as must be", normal[:, :15]
    yield "two rows", normal[:2]
    yield "triangle already", np.triu(normal)
    yield "zero", 0 * normal
    yield "zero columns", normal * (np.arange(40) % 3 > 0)
    yield "one column again and again", np.repeat(normal[:, :1], 40, axis=1)
    yield "rank one", np.outer(normal[:, 0], normal[0])
    yield "rank 8", normal[:, :8] @ random.normal(size=(8, 40))
    basis = np.linalg.qr(random.normal(size=(16, 16)))[0]
    yield "W W^T with one eigenvalue", np.concatenate([basis, basis], axis=1)
    nearly = np.linalg.qr(random.normal(size=(16, 16)))[0] * (1 + 1e-4 * random.normal(size=16))
    yield "W W^T with eigenvalues nearly equal", np.concatenate([basis, nearly], axis=1)
    yield "nearly dependent columns", np.cumsum(normal * 2.0 ** -np.arange(40), axis=1)
    yield "subnormal", normal * 2.0**-20
    yield "large", normal * 65504 / np.linalg.norm(normal, axis=0).max()
    yield "all sizes", normal * 2.0 ** random.integers(-20, 12, size=40)


CASES = [pytest.param(x, id=name) for name, x in cases()]


@pytest.mark.parametrize("weights", CASES)
def test_a_pair_comes_back_bit_for_bit_and_so_does_the_stream_below(weights):
    stack = stream(1)
    before, held = stack.to_bytes(), stack.bits
    sent = heads.encode_pair(stack, weights)
    turned, bits = sent.weights, sent.bits
    coded = stack.to_bytes()
    assert stack.bits - held == pytest.approx(bits.weight_bits - bits.net_bits, abs=1e-3)
    received = Stack.from_bytes(coded)
    found = heads.decode_pair(received, *weights.shape)
    assert found.dtype == np.float16 and found.tobytes() == turned.tobytes()
    assert received.to_bytes() == before
    np.testing.assert_allclose(sent.turn @ sent.turn.T, np.eye(len(weights)), atol=1e-7)
    exact = sent.turn @ weights
    step = np.maximum(HALF_ULP * np.abs(exact), 2.0**-25)  # rounded to nearest, and once
    assert np.all(np.abs(turned - exact) <= step)


@pytest.mark.parametrize("d", [16, 32, 64])
def test_at_least_two_thirds_of_the_ideal_bits_are_saved(d):
    weights = np.random.default_rng(d).normal(size=(d, 8 * d)) * 0.04
    bits = heads.encode_pair(stream(2), weights).bits
    assert bits.ideal_bits == 16 * d * (d - 1) // 2
    assert bits.net_bits > 2 / 3 * bits.ideal_bits


@pytest.mark.parametrize("count", [*range(8, 40), 60, 100, 200, 300])
def test_a_stream_of_few_bits_gives_as_much_of_a_rotation_as_it_holds(count):
    """The whole one takes 7 directions of 8 to 2 dimensions, some 12 bits a ratio: 50 bytes."""
    weights = np.random.default_rng(count).normal(size=(8, 20))
    stack = Stack(np.random.default_rng(count).bytes(count))
    before = stack.to_bytes()
    sent = heads.encode_pair(stack, weights)
    assert heads.decode_pair(stack, 8, 20).tobytes() == sent.weights.tobytes()
    assert stack.to_bytes() == before
    assert sent.bits.rotation_bits <= 8 * count - 36
    whole = heads.encode_pair(stream(0), weights).bits.rotation_bits
    if count < 12:
        assert sent.bits.rotation_bits == 0
    elif count >= 60:
        assert sent.bits.rotation_bits == pytest.approx(whole, abs=1e-3)
    elif count > 25:
        assert 0.3 * 8 * (count - 17) < sent.bits.rotation_bits < whole


def test_a_correction_that_leads_beyond_all_directions_is_refused():
    seen = np.asarray([1 << 30, 1 << 30])  # a ratio of one, and one unit more
    stack = Stack(bytes(100))
    stack.push_symbol(1, corrections._COUNTS)
    stack.push_symbol(0, corrections._AXIS_COUNTS)
    with pytest.raises(FormatError, match="beyond all directions"):
        corrections._pop(stack, seen, 5)


def test_many_pairs_in_one_stream_each_give_back_what_the_one_before_wrote():
    """Nearly all the rotations' bits are those of weights in the stream, not of what was before."""
    random = np.random.default_rng(3)
    pairs = [random.normal(size=(8 + i, 50)) * 0.1 for i in range(12)]
    stack = Stack(random.bytes(200))
    before, total, saved, turned = stack.to_bytes(), stack.bits, 0.0, []
    for pair in pairs:
        sent = heads.encode_pair(stack, pair)
        turned.append(sent.weights)
        total += sent.bits.weight_bits
        saved += sent.bits.net_bits
    coded = stack.to_bytes()
    assert 8 * len(coded) == pytest.approx(total - saved + 96, abs=32)
    received = Stack.from_bytes(coded)
    for pair in reversed(turned):
        assert heads.decode_pair(received, *pair.shape).tobytes() == pair.tobytes()
    assert received.to_bytes() == before


def test_the_rotation_is_the_stream_s_and_not_the_weights():
    """Weights turned before are sent as the same weights but for rounding."""
    weights = np.random.default_rng(4).normal(size=(16, 100))
    other = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 16)))[0] @ weights
    first, again = (heads.encode_pair(stream(6), x).weights for x in (weights, other))
    np.testing.assert_allclose(first.astype(float), again, rtol=2 * HALF_ULP, atol=1e-6)
    third = heads.encode_pair(stream(7), weights).weights
    assert np.abs(third.astype(float) - first).mean() > 0.1


@pytest.mark.parametrize("pattern", range(12))
@pytest.mark.parametrize("size", [2.0**-45, 2.0**-12, 2.0**-7])
def test_a_sender_whose_qr_rounds_otherwise_writes_what_decodes(monkeypatch, pattern, size):
    """Its LAPACK's errors, and far worse ones, with any signs; the receiver computes no float."""
    right = heads._canonical
    signs = np.random.default_rng(pattern).choice([-1.0, 1.0], size=(16, 16))
    monkeypatch.setattr(heads, "_canonical", lambda weights: right(weights) + size * signs)
    for case in CASES:
        weights = case.values[0]
        if weights.shape != (16, 40) or np.abs(weights).max() > 100:
            continue
        stack = stream(pattern)
        before = stack.to_bytes()
        turned = heads.encode_pair(stack, weights).weights
        assert heads.decode_pair(stack, 16, 40).tobytes() == turned.tobytes()
        assert stack.to_bytes() == before


def test_any_correction_decodes_whatever_the_columns_show():
    """Directions that the columns do not show at all, each with every kind of correction."""
    d, random = 9, np.random.default_rng(8)
    for bits in (1, 3, 15):
        grid_bits = [bits] * (d - 1)
        directions = orthogonal.pop_rotation(stream(bits), d, grid_bits)
        tied = (2**bits - 1,) * (d - 1)
        directions[0] = Direction(3, True, tied)  # no axis is larger than another
        for values in (random.normal(size=(d, d - 1)), np.zeros((d, d - 1)), np.ones((d, d - 1))):
            columns, stack = orthogonal.unit_columns(values.astype(np.float16)), Stack(bytes(900))
            before = stack.to_bytes()
            corrections.push_corrections(stack, columns, directions, grid_bits)
            assert corrections.pop_directions(stack, columns, grid_bits) == directions
            assert stack.to_bytes() == before


@pytest.mark.parametrize("difference", range(-7, 8))
def test_every_difference_is_corrected(difference):
    seen = np.asarray([100, -(1 << 30), 5 << 20])
    guess = orthogonal.likely_ratios(seen, 1, 12)
    direction = Direction(1, True, (guess[0] + difference, guess[1] - difference))
    stack = Stack(bytes(100))
    corrections._push(stack, direction, seen, 12)
    assert corrections._pop(stack, seen, 12) == direction
    assert stack.to_bytes() == Stack(bytes(100)).to_bytes()


def test_streams_of_noise_decode_to_something_or_are_refused():
    done = 0
    for seed in range(40):
        stack = stream(seed, 1000)
        try:
            found = heads.decode_pair(stack, 3, 4)
            done += np.all(np.isfinite(found))
        except FormatError:
            pass
    assert 0 < done < 40


def test_a_stream_decodes_to_the_weights_and_bits_of_its_golden_hash():
    """Of a decoder that is the same on every machine; the stream is not made by the encoder."""
    values = (np.arange(12 * 30, dtype=np.int64) * 7919 % 2003 - 1001).reshape(12, 30)
    stack = stream(9)
    stack.push_bytes((values / 1024).astype("<f2").tobytes())
    heads.decode_pair(stack, 12, 30)
    assert hashlib.sha256(stack.to_bytes()).hexdigest() == GOLDEN


GOLDEN = "67629207202e5056905d9171932ebf6e1a2390bf27c0b8d973e80e390b69cffa"


def test_columns_of_either_byte_order_and_any_layout_are_the_same_numbers():
    values = np.random.default_rng(11).normal(size=(6, 20)).astype("<f2")
    wanted = orthogonal.unit_columns(values)
    for other in (values.astype(">f2"), np.asfortranarray(values), np.repeat(values, 2, 1)[:, ::2]):
        np.testing.assert_array_equal(orthogonal.unit_columns(other), wanted)


def test_what_cannot_be_a_pair_is_refused():
    for shape in ((1, 5), (5, 3), (4,), (5, 5, 5)):
        with pytest.raises(UsageError, match="a pair has"):
            heads.encode_pair(stream(0), np.ones(shape))
    for shape in ((1, 5), (5, 3)):
        with pytest.raises(UsageError, match="a pair has"):
            heads.decode_pair(stream(0), *shape)
    for value in (np.nan, np.inf, 65520.0):
        with pytest.raises(UsageError, match="longer than float16 goes"):
            heads.encode_pair(stream(0), np.full((3, 5), value))
    stack = Stack(np.random.default_rng(0).bytes(30))
    with pytest.raises(FormatError, match="ends where more was to come"):
        heads.decode_pair(stack, 5, 9)


def attention(params, x, y):
    """Attention with biases, several heads of queries to a head of keys, in float64."""
    with_one = [np.concatenate([z, np.ones((len(z), 1))], axis=1) for z in (x, y)]
    query = np.einsum("tw,whd->htd", with_one[0], params["query"])
    key, value = (np.einsum("tw,wgd->gtd", with_one[1], params[n]) for n in ("key", "value"))
    share = len(query) // len(key)
    key, value = np.repeat(key, share, axis=0), np.repeat(value, share, axis=0)
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("htd,whd->tw", weights @ value, params["out"]), scores


@pytest.mark.parametrize("groups", [6, 2, 1])
def test_a_layer_s_turned_weights_are_the_same_attention(groups):
    """Exact by orthogonal matrices in float64; by float16 as far as the weights' own rounding."""
    random = np.random.default_rng(groups)
    width, all_heads, d = 40, 6, 8

    def kernel(rows, count):
        return (random.normal(size=(rows, count, d)) * 0.15).astype(np.float16).astype(float)

    params = {"query": kernel(width + 1, all_heads), "key": kernel(width + 1, groups)}
    params |= {"value": kernel(width + 1, groups), "out": kernel(width, all_heads)}
    x, y = random.normal(size=(5, width)), random.normal(size=(11, width))
    wanted, wanted_scores = attention(params, x, y)

    shared = Member(1, True, True)

    def mapped(change):
        out = {}
        for reader, other in (("key", "query"), ("value", "out")):
            turn = Turn(groups, d, all_heads // groups, (Member(0, False, True), shared))
            arrays = {0: params[reader], 1: params[other]}
            tensors = [Tensor(str(i), x.shape, "float16", 0) for i, x in arrays.items()]
            pairs = np.stack([change(pair) for pair in turn.pairs(arrays)])
            found = dict(turn.arrays(pairs, tensors))
            out[reader], out[other] = (found[i].reshape(x.shape) for i, x in arrays.items())
        return out

    same = mapped(lambda pair: pair)
    assert all(np.array_equal(same[name], params[name]) for name in params)
    exact = mapped(lambda pair: np.linalg.qr(random.normal(size=(d, d)))[0] @ pair)
    for found, value in zip(attention(exact, x, y), (wanted, wanted_scores), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-12)
    stack = stream(10)
    turned = mapped(lambda pair: heads.encode_pair(stack, pair).weights.astype(float))
    found, found_scores = attention(turned, x, y)
    assert 0 < np.abs(found_scores - wanted_scores).max() < 20 * HALF_ULP
    # Random noise of float16's relative size on the first weights does as much.
    errors = []
    for _ in range(20):
        noisy = mapped(lambda pair: pair * (1 + 2.0**-12.35 * random.normal(size=pair.shape)))
        errors.append(np.std(attention(noisy, x, y)[0] - wanted))
    assert np.std(found - wanted) < 1.5 * max(errors)
