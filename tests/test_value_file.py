"""Files of weights that take few values: the coder against entropy, the file against its limits."""

import math
import struct

import independent_decoder
import numpy as np
import pytest
from golden_files import VALUES, golden
from hostile_files import limited_memory, sealed, survives
from hypothesis import given, settings
from hypothesis import strategies as st
from make_golden import VALUES as CASES
from make_golden import value_weights

from mrc_jax import value_code
from mrc_jax.decode import decode, parsed
from mrc_jax.errors import FormatError, UsageError
from mrc_jax.manifest import Manifest, Tensor
from mrc_jax.value_code import (
    LARGEST_RATE,
    MAX_STEPS,
    MAX_VALUES,
    Table,
    lanes_of,
    pack_symbols,
    table_of,
    unpack_symbols,
)
from mrc_jax.value_file import MAX_TABLES, ValueFile, pack_values


def network(*sizes: int) -> Manifest:
    return Manifest(tuple(Tensor(f"w{i}", (n,), "float32", 1) for i, n in enumerate(sizes)))


def drawn(rng: np.random.Generator, count: int, shares: list[float]) -> np.ndarray:
    """Weights of values 0, 1, 2, .. with the shares given."""
    return rng.choice(len(shares), count, p=shares).astype(np.float32)


def entropy_bytes(weights: np.ndarray) -> float:
    _, counts = np.unique(weights, return_counts=True)
    return float(np.sum(counts * np.log2(weights.size / counts)) / 8)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_weights_come_back(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=4))
    counts = [data.draw(st.integers(1, 40)) for _ in sizes]
    weights = {}
    for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        values = rng.normal(size=count).astype(np.float32).view(np.uint32) & 0xFFFF0000
        weights[f"w{i}"] = rng.choice(values.view(np.float32), size)
    manifest, embed = network(*sizes), data.draw(st.booleans())
    file = pack_values(weights, manifest, embed)
    found = decode(file, manifest.data)
    assert all(np.array_equal(found[name], array) for name, array in weights.items())
    assert independent_decoder.decode(file, manifest.data) == [
        (name, array.tobytes()) for name, array in weights.items()
    ]


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.98, 0.02], [0.9, 0.05, 0.03, 0.02], [1 / 64] * 64]
)
@pytest.mark.parametrize("count", [20_000, 100_000])
def test_the_file_is_as_long_as_the_entropy_says(count, shares):
    """Within 0.5 %, a state of each lane, and the tables."""
    weights = drawn(np.random.default_rng(count), count, shares)
    file = pack_values({"w0": weights}, network(count))
    parts = parsed(file).parts_bytes  # pyright: ignore[reportAttributeAccessIssue]
    assert parts["tables"] == 2 + 3 * len(shares)
    coded, least = parts["weights"], entropy_bytes(weights)
    assert least - 2 <= coded <= 1.005 * least + 4 * lanes_of(count)


def test_weights_of_one_value_take_no_bytes_but_a_state():
    file = pack_values({"w0": np.zeros(MAX_STEPS, np.float32)}, network(MAX_STEPS))
    assert parsed(file).parts_bytes["weights"] == 4  # pyright: ignore[reportAttributeAccessIssue]
    assert not decode(file)["w0"].any()


def test_a_table_for_each_tensor_is_written_where_that_is_shorter():
    rng = np.random.default_rng(0)
    alike = {"w0": drawn(rng, 500, [0.5, 0.5]), "w1": drawn(rng, 500, [0.5, 0.5])}
    unlike = {"w0": drawn(rng, 5000, [0.98, 0.02]), "w1": drawn(rng, 5000, [0.02, 0.98])}
    for weights, tables in ((alike, 1), (unlike, 2)):
        file = parsed(pack_values(weights, network(*map(len, weights.values()))))
        assert isinstance(file, ValueFile) and len(file.tables) == tables


def test_frequencies_are_positive_and_have_their_sum():
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 100, MAX_VALUES):
        for rates in (rng.integers(0, 128, count), np.zeros(count), np.full(count, 127)):
            f = Table(np.zeros(count, np.float32), rates.astype(np.uint8)).frequencies
            assert f.min() >= 1 and f.sum() == 1 << 14


def test_a_rate_is_within_a_sixteenth_of_the_count_or_the_smallest():
    counts = np.asarray([1, 7, 100, 1234, 50_000, 491_520])
    table, _ = table_of(np.repeat(np.arange(6), counts).astype(np.float32))
    stated = (8 + (table.rates.astype(int) & 7)) << (table.rates >> 3).astype(int)
    assert np.all(np.abs(stated / np.maximum(counts, 8) - 1) <= 1 / 16)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 100), st.binary(max_size=60))
def test_any_bytes_are_refused_or_are_what_their_weights_are_written_as(seed, count, data):
    rng = np.random.default_rng(seed)
    rates = rng.integers(0, LARGEST_RATE + 1, rng.integers(1, 20)).astype(np.uint8)
    tables = [Table(np.arange(len(rates), dtype=np.float32), rates)]
    which = np.zeros(count, np.int64)
    true = pack_symbols(rng.integers(0, len(rates), count), which, tables)
    for tried in (data, true[:4] + data, true + data, data + true):
        try:
            symbols = unpack_symbols(tried, which, tables)
        except FormatError:
            continue
        assert pack_symbols(symbols, which, tables) == tried


def table_bytes(values: list[int], rates: list[int]) -> bytes:
    return bytes([len(values)]) + struct.pack(f"<{len(values)}H", *values) + bytes(rates)


GOOD = table_bytes([0, 0x3F80], [100, 90])


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x00" + GOOD,  # no table
        b"\x02" + GOOD + GOOD,  # more tables than tensors
        b"\x01" + table_bytes([], []),
        b"\x01" + table_bytes([0x3F80, 0], [100, 90]),  # descending
        b"\x01" + table_bytes([0, 0], [100, 90]),  # twice the same
        b"\x01" + table_bytes([0x8000, 0x3F80], [100, 90]),  # negative zero
        b"\x01" + table_bytes([0, 0x7F80], [100, 90]),  # infinity
        b"\x01" + table_bytes([0, 0x7FC0], [100, 90]),  # NaN
        b"\x01" + table_bytes([0, 0x3F80], [100, 128]),  # no such rate
        b"\x01" + GOOD[:-1],
    ],
)
def test_what_no_writer_writes_is_refused(wrong):
    file = pack_values({"w0": np.asarray([0, 1, 0], np.float32)}, network(3))
    own = parsed(file)
    assert isinstance(own, ValueFile)
    start = own.parts_bytes["header"] + own.parts_bytes["manifest"]
    rest = file[start + own.parts_bytes["tables"] : -4]
    assert file[start] == 1 and survives(sealed(file[:start] + b"\x01" + GOOD + rest)) in (
        True,
        False,
    )
    with pytest.raises(FormatError):
        parsed(sealed(file[:start] + wrong + rest))
    with pytest.raises(FormatError, match="flags"):
        parsed(sealed(file[:4] + b"\x03" + file[5:-4]))


def test_a_tensor_that_shares_is_refused_both_ways():
    shared = Manifest((Tensor("w0", (4,), "float32", 2),))
    with pytest.raises(UsageError, match="w0: shares weights"):
        pack_values({"w0": np.zeros(4, np.float32)}, shared)
    file = pack_values({"w0": np.zeros(4, np.float32)}, network(4))
    forged = file[:5] + file[5:-4].replace(network(4).data, shared.data)
    with pytest.raises(FormatError, match="shares weights"):
        parsed(sealed(forged))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "w0: the weights have no such tensor"),
        ({"w0": np.zeros(4, np.float32)}, "of shape \\(5000,\\)"),
        ({"w0": np.full(5000, 0.1, np.float32)}, "w0: has values that bfloat16 does not"),
        ({"w0": np.full(5000, np.inf, np.float32)}, "w0: has values"),
        ({"w0": (np.arange(5000) << 16).astype("u4").view("f4")}, "w0: has 5000 values; 4096"),
    ],
)
def test_weights_that_no_file_holds_are_named(weights, message):
    with pytest.raises(UsageError, match=message):
        pack_values(weights, network(5000))


def test_negative_zero_becomes_zero():
    found = decode(pack_values({"w0": np.asarray([-0.0, 1], np.float32)}, network(2)))["w0"]
    assert not np.signbit(found).any()


def test_the_largest_network_is_decoded_in_time_and_memory():
    """2^24 weights of one value each, of 60 bytes and a state a lane: within 2 s and 512 MiB."""
    side = 1 << 12
    file = pack_values(
        {"w": np.zeros((side, side), np.float32)},
        Manifest((Tensor("w", (side, side), "float32", 1),)),
    )
    assert len(file) < 60 + 4 * lanes_of(side * side)
    with limited_memory():
        assert survives(file)


@pytest.mark.parametrize("name", VALUES)
def test_golden_files_are_what_their_weights_are_written_as(name):
    tensors, embed = CASES[name.removesuffix(".mrc")]
    manifest = Manifest(tuple(Tensor(*t) for t in tensors))
    data, _ = golden(name)
    assert pack_values(value_weights(manifest), manifest, embed) == data
    lanes = lanes_of(manifest.entries)
    assert lanes == math.ceil(manifest.entries / 2**15)


def test_both_ways_to_take_lanes_agree(monkeypatch):
    rng = np.random.default_rng(2)
    count = 3 * MAX_STEPS + 7
    which = rng.integers(0, 2, count)
    tables = [table_of(drawn(rng, 500, shares))[0] for shares in ([0.9, 0.1], [0.2, 0.3, 0.5])]
    symbols = rng.integers(0, 2 + which)
    data = pack_symbols(symbols, which, tables)
    for fewest in (1, 1000):
        monkeypatch.setattr(value_code, "_SIDE_BY_SIDE", fewest)
        assert np.array_equal(unpack_symbols(data, which, tables), symbols)
        for wrong in (data[:-2], data + b"\0\0"):
            with pytest.raises(FormatError, match="the weights"):
                unpack_symbols(wrong, which, tables)


def test_more_tensors_than_tables_share_one_or_are_refused():
    weights = {f"w{i}": np.full(1, i % 5, np.float32) for i in range(MAX_TABLES + 1)}
    manifest = network(*[1] * len(weights))
    found = decode(pack_values(weights, manifest))
    assert all(np.array_equal(found[name], array) for name, array in weights.items())
    many = (np.arange(20 * len(weights), dtype=np.uint32) + 0x3F80 << 16).view(np.float32)
    apart = {name: many[20 * i : 20 * i + 20] for i, name in enumerate(weights)}
    with pytest.raises(UsageError, match="more than 256 tensors cannot have tables of their own"):
        pack_values(apart, network(*[20] * len(weights)))
