"""Files of turned networks: equal networks come back, of the bytes that the bits add up to."""

import math

import make_golden
import numpy as np
import pytest
from golden_files import TURNED, golden
from hostile_files import limited_memory, sealed, survives
from hypothesis import given, settings
from hypothesis import strategies as st

from mrc_jax.decode import MAX_PARAMETERS, decode, parsed
from mrc_jax.errors import FormatError, UsageError
from mrc_jax.manifest import Manifest, Tensor, varint
from mrc_jax.rotation import heads
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.turned_file import STEPS_SHARE, TurnedFile, pack_turned, unpack_turned
from mrc_jax.rotation.turns import Member, Turn, turn_of

HALF_ULP = 2.0**-11  # of a float16, over its magnitude


def network(others: int, width: int = 12, heads: int = 4, groups: int = 2, d: int = 8):
    """A layer's manifest, turns, and weights: queries' heads share keys, layouts are both kinds."""
    tensors = [
        Tensor("key/bias", (groups, d), "float16", 0),
        Tensor("key/kernel", (width, groups, d), "float16", 0),
        Tensor("out", (heads * d, width), "float16", 0),
        Tensor("query", (width, heads * d), "float16", 0),
        Tensor("rest", (others,), "float16", 0),
        Tensor("value", (groups * d, width), "float16", 0),
    ]
    manifest = Manifest(tuple(tensors))
    members = [
        [("key/kernel", groups, True), ("key/bias", groups, False), ("query", heads, True)],
        [("value", groups, False), ("out", heads, False)],
    ]
    random = np.random.default_rng(others)
    weights = {t.path: (0.1 * random.normal(size=t.shape)).astype(np.float16) for t in tensors}
    return manifest, [turn_of(manifest, m, d) for m in members], weights


def products(weights, groups: int = 2, heads: int = 4, d: int = 8) -> list[np.ndarray]:
    """What a layer is made of: products of queries and keys, outputs and values, head by head."""
    w = {path: array.astype(np.float64) for path, array in weights.items()}
    width = len(w["query"])
    key = np.concatenate([w["key/kernel"], w["key/bias"][None]]).repeat(heads // groups, axis=1)
    value = w["value"].reshape(groups, d, width).repeat(heads // groups, axis=0)
    out = w["out"].reshape(heads, d, width)
    return [
        np.einsum("whd,vhd->hwv", w["query"].reshape(width, heads, d), key),
        np.einsum("hdw,hdv->hwv", out, value),
    ]


def test_the_network_that_comes_back_is_equal_and_turned():
    manifest, turns, weights = network(300)
    found = decode(pack_turned(weights, manifest, turns)[0])
    assert list(found) == [t.path for t in manifest.tensors]
    assert found["rest"].tobytes() == weights["rest"].tobytes()
    for path, array in weights.items():
        assert found[path].dtype == np.float16 and found[path].shape == array.shape
        assert path == "rest" or np.mean(np.abs(found[path].astype(float) - array)) > 0.02
    for a, b in zip(products(found), products(weights), strict=True):
        assert np.abs(a - b).max() < 8 * 0.3 * 0.3 * 2 * HALF_ULP  # d products of numbers to 0.3
    wrong = {**found, "out": weights["out"]}
    assert np.abs(products(wrong)[1] - products(weights)[1]).max() > 0.05


@pytest.mark.parametrize("others", [0, 1, 3, 4, 7, 8, 9, 60, 61, 62, 63, 300])
def test_a_file_has_the_bytes_that_its_bits_add_up_to(others):
    """All tensors, less what rotations save: within the last byte, and a state's start of 64 bits,
    whose place the last eight bytes below take.
    """
    manifest, turns, weights = network(others)
    data, bits = pack_turned(weights, manifest, turns)
    file = parsed(data)
    assert isinstance(file, TurnedFile)
    net = sum(pair.net_bits for turn in bits for pair in turn)
    plain = 2 * (manifest.parameters - others) + max(2 * others, 16)
    stream = file.parts_bytes["stream"]
    assert stream - 1 - 1e-3 <= plain + 1 / 8 - net / 8 <= stream + 1 / 8 + 1e-3
    head = 5 + len(varint(len(manifest.data))) + len(manifest.data)
    assert len(data) == head + 1 + sum(len(t.data) for t in turns) + stream + 4
    assert sum(file.parts_bytes.values()) == len(data)
    ideal = 4 * 8 * 8 * 7
    assert net > 0.6 * ideal if others == 300 else net < ideal
    found = decode(data)
    assert found["rest"].tobytes() == weights["rest"].tobytes()
    again = [np.abs(a - b).max() for a, b in zip(products(found), products(weights), strict=True)]
    assert max(again) < 8 * 0.3 * 0.3 * 2 * HALF_ULP


def test_nothing_may_turn_and_any_dtype_may_stand_beside():
    tensors = [Tensor(n, (3,), n, 0) for n in ("bfloat16", "bool", "float64", "int8", "uint64")]
    manifest = Manifest(tuple(tensors))
    weights = {t.path: np.asarray([1, 0, 1]).astype(t.dtype) for t in tensors[1:]}
    weights["bfloat16"] = np.asarray([0x3F80, 0xC000, 0], np.uint16)
    data, _ = pack_turned(weights, manifest, [])
    found = decode(data)
    assert np.array_equal(found.pop("bfloat16"), [1, -2, 0])
    assert all(array.tobytes() == weights[path].tobytes() for path, array in found.items())
    assert len(data) == 5 + 1 + len(manifest.data) + 1 + manifest.uncoded_bytes + 1 + 4


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_turn_s_columns_are_those_of_the_layouts_and_go_back(groups):
    d, heads, width = 4, 6, 5
    first, last = np.arange(heads * d * width), np.arange(heads * d * width)[::-1]
    bias = np.arange(groups * d)
    turn = Turn(groups, d, heads // groups, (Member(0, True), Member(1, True, True), Member(2)))
    pairs = turn.pairs({0: first, 1: last, 2: bias})
    assert pairs.shape == (groups, d, 2 * heads // groups * width + 1)
    for group in range(groups):
        for row in range(d):
            wanted = []
            for head in range(heads // groups * group, heads // groups * (group + 1)):
                wanted += [first[(head * d + row) * width + i] for i in range(width)]
            for head in range(heads // groups * group, heads // groups * (group + 1)):
                wanted += [last[(i * heads + head) * d + row] for i in range(width)]
            assert pairs[group, row].tolist() == [*wanted, bias[group * d + row]]
    sizes = (first.size, last.size, bias.size)
    tensors = [Tensor(str(i), (n,), "float16", 0) for i, n in enumerate(sizes)]
    back = dict(turn.arrays(pairs, tensors))
    assert all(np.array_equal(back[i], x) for i, x in enumerate((first, last, bias)))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=90), st.integers(0, 2**32 - 1), st.booleans())
def test_any_stream_is_refused_or_decoded(raw, seed, finite):
    manifest, turns, weights = network(10, width=3, d=2)
    data, _ = pack_turned(weights, manifest, turns)
    stream = np.random.default_rng(seed).bytes(200) if seed % 2 else data[-200:-4]
    if finite:  # no exponent of 31
        stream = bytes(b & 0xBF if i % 2 else b for i, b in enumerate(stream))
    start = data[: len(data) - parsed(data).parts_bytes["stream"] - 4]  # pyright: ignore
    survives(sealed(start + raw + stream))
    survives(sealed(start + stream + raw))


def forged(turns: bytes, stream: bytes = bytes(900) + b"\1", **changes) -> bytes:
    manifest, _, _ = network(10, **changes)
    own = varint(len(manifest.data)) + manifest.data
    return sealed(b"MRC\x05\x01" + own + turns + stream)


def turn_bytes(groups=2, d=8, share=2, members=(1 << 2 | 2, 0, 3 << 2 | 3)) -> bytes:
    return b"\1" + b"".join(map(varint, (groups, d, share, len(members), *members)))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (turn_bytes(groups=0), "no groups"),
        (turn_bytes(share=0), "no groups"),
        (turn_bytes(members=()), "no groups"),
        (turn_bytes(d=0), "heads of 0"),
        (turn_bytes(groups=1, d=1, share=1), "heads of 1 have"),
        (turn_bytes(d=4097), "dimensions of a head is 4097"),
        (turn_bytes(groups=7), "key/kernel: is no float16 tensor that has heads of 56"),
        (turn_bytes(share=5), "query: is no float16 tensor that has heads of 80"),
        (turn_bytes(groups=1 << 34), "number of groups"),
        (turn_bytes(groups=(1 << 34) - 1, d=4096, share=(1 << 34) - 1), "has heads of"),
        (turn_bytes(members=(6 << 2,)), "a tensor that turns is 24"),
        (turn_bytes(members=(4, 4)), "key/kernel: turns twice"),
        (turn_bytes(members=(0,)), "heads of 8 have 1 columns"),
        (b"\7" + 7 * turn_bytes()[1:], "number of turns"),
        (b"\2" + 2 * turn_bytes()[1:], "turns twice"),
        (b"\1\2\xff\xff\xff\xff\xff\1", "is too long"),
        (b"\1\x82\0", "shortest form"),
    ],
)
def test_turns_that_no_writer_writes_are_refused(turns, message):
    with pytest.raises(FormatError, match=message):
        parsed(forged(turns))
    assert not survives(forged(turns))


def test_what_is_around_the_turns_is_checked_too():
    assert isinstance(parsed(forged(turn_bytes())), TurnedFile)
    good = forged(turn_bytes())
    for flags in (0, 2, 3, 255):
        with pytest.raises(FormatError, match="unknown flags"):
            parsed(sealed(good[:4] + bytes([flags]) + good[5:-4]))
    with pytest.raises(FormatError, match="version 4"):
        unpack_turned(sealed(good[:3] + b"\4" + good[4:-4]))
    for stream in (b"", bytes(3), bytes(20)):
        with pytest.raises(FormatError, match="the file ends inside"):
            parsed(forged(turn_bytes(), stream))
    coded = Manifest((Tensor("w", (4,), "float16", 1),))
    with pytest.raises(FormatError, match="a tensor is coded"):
        parsed(sealed(b"MRC\x05\x01" + varint(len(coded.data)) + coded.data + b"\0" + bytes(99)))
    other = Manifest((Tensor("w", (4, 4), "float32", 0),))
    body = b"MRC\x05\x01" + varint(len(other.data)) + other.data
    with pytest.raises(FormatError, match="is no float16 tensor"):
        parsed(sealed(body + turn_bytes(1, 2, 1, (0,)) + bytes(99)))


def test_what_lies_below_is_of_its_length_its_padding_zero_and_the_state_the_shortest():
    manifest, turns, weights = network(2)  # 4 bytes, and 12 of zeros
    data, _ = pack_turned(weights, manifest, turns)
    size = parsed(data).parts_bytes["stream"]  # pyright: ignore[reportAttributeAccessIssue]
    assert survives(data)
    for more in (bytes(4), b"\0\0\0\1"):
        for at in (len(data) - 4 - size, len(data) - 4):
            assert not survives(sealed(data[:at] + more + data[at:-4]))
    nothing = Manifest((Tensor("w", (3,), "int8", 0),))
    body, _ = pack_turned({"w": np.zeros(3, np.int8)}, nothing, [])
    assert body[-4 - 17 : -4] == bytes(16) + b"\1" and survives(body)
    for at in range(3, 16):
        wrong = bytes(at) + b"\5" + bytes(15 - at) + b"\1"
        assert not survives(sealed(body[: -4 - 17] + wrong))
    for wrong in (bytes(16) + b"\2", bytes(16) + b"\0", bytes(15) + b"\1\1\0"):
        assert not survives(sealed(body[: -4 - 17] + wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.zeros(3)}, "query: the weights have no such tensor of shape"),
        ({"rest": np.zeros(300)}, "rest: is float64, the manifest says float16"),
        ({"out": np.full((32, 12), np.nan)}, "longer than float16 goes"),
    ],
)
def test_weights_that_no_file_holds_are_named(change, message):
    manifest, turns, weights = network(300)
    with pytest.raises(UsageError, match=message):
        pack_turned(weights | change, manifest, turns)


def test_turns_that_no_file_holds_are_named():
    manifest, turns, weights = network(300)
    with pytest.raises(UsageError, match="key/kernel: turns twice"):
        pack_turned(weights, manifest, [*turns, turns[0]])
    with pytest.raises(UsageError, match="keys: the manifest has no such tensor"):
        turn_of(manifest, [("keys", 2, True)], 8)
    for counts in ((2, 3), (1, 2, 4), (0, 2)):
        with pytest.raises(UsageError, match="heads cannot turn together"):
            turn_of(manifest, [("query", heads, True) for heads in counts], 8)


def of_shape(count: int, d: int) -> bytes:
    """A file of pairs in one turn."""
    tensors = (Tensor("below", (10 * d,), "float16", 0), Tensor("w", (count * d, d), "float16", 0))
    random = np.random.default_rng(d)
    weights = {t.path: random.normal(size=t.shape).astype(np.float16) for t in tensors}
    return pack_turned(weights, Manifest(tensors), [Turn(count, d, 1, (Member(1),))])[0]


@pytest.mark.parametrize("d", [2, 480])
def test_the_most_pairs_that_are_decoded_take_no_longer_than_they_may(d, monkeypatch):
    """With grids so fine that nearly every ratio is sent, which takes the longest."""
    monkeypatch.setattr(heads, "_grids", lambda triangle: [15] * (len(triangle) - 1))
    file = of_shape(MAX_PARAMETERS // STEPS_SHARE // Turn(1, d, 1, ()).steps, d)
    with limited_memory():
        assert survives(file)


@pytest.mark.parametrize("d", [2, 3, 16])
def test_rotations_of_more_steps_than_max_parameters_allow_are_refused(d):
    steps = Turn(7, d, 1, ()).steps
    assert steps == 7 * (d * (d - 1) // 2 + 25 * (d - 1))
    file = of_shape(7, d)
    decode(file, max_parameters=STEPS_SHARE * steps)
    with pytest.raises(FormatError, match=rf"{steps} steps, more than .* = .*--max_parameters"):
        decode(file, max_parameters=STEPS_SHARE * steps - 1)
    assert isinstance(parsed(file), TurnedFile)  # inspect and verify look no further


def test_the_largest_network_is_decoded_in_time_and_memory():
    count = MAX_PARAMETERS
    manifest = Manifest((Tensor("w", (count,), "float64", 0),))
    file = pack_turned({"w": np.ones(count)}, manifest, [])[0]
    with limited_memory():
        assert survives(file)


@pytest.mark.parametrize("name", TURNED)
def test_golden_files_are_of_networks_equal_to_those_of_the_script(name):
    manifest, turns, weights = make_golden.turned_case(name.removesuffix(".mrc"))
    found = decode(golden(name)[0])
    again, bits = pack_turned(weights, manifest, turns)
    assert len(again) == len(golden(name)[0])
    assert all(pair.rotation_bits > 8 for turn in bits for pair in turn)
    members = {m.tensor for turn in turns for m in turn.members}
    for number, tensor in enumerate(manifest.tensors):
        if number not in members:
            wanted = weights[tensor.path]
            if tensor.dtype == "bfloat16":
                wanted = (wanted.astype("<u4") << 16).view("<f4")
            assert np.array_equal(found[tensor.path], wanted, equal_nan=True)
    for turn in turns:
        before, after = (
            turn.pairs({m.tensor: w[manifest.tensors[m.tensor].path] for m in turn.members})
            for w in (weights, found)
        )
        for a, b in zip(before.astype(float), after.astype(float), strict=True):
            assert np.allclose(a.T @ a, b.T @ b, atol=4 * turn.dimensions * 0.25**2 * HALF_ULP)
            assert not np.allclose(a, b, atol=0.01)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=8, max_size=60), st.lists(st.integers(1, 2**32), max_size=9))
def test_a_stack_that_holds_bytes_gives_them_back(content, totals):
    stack = Stack.holding(content)
    assert stack.bits == pytest.approx(8 * len(content) - 64, abs=1)
    popped = []
    for total in totals:
        if stack.bits > math.log2(total) + 33:
            popped.append((stack.pop(total), total))
    for value, total in reversed(popped):
        stack.push(value, total)
    assert bytes(stack.content()) == content


def test_a_stack_of_more_has_no_content():
    stack = Stack.holding(bytes(8))
    stack.push(1, 2)
    with pytest.raises(FormatError, match="more than it should"):
        stack.content()
