"""docs/FORMAT.md says what the code does: its numbers, its limits, its examples."""

import hashlib
import json
import pathlib
import re

import independent_decoder
import numpy as np
import pytest

from mrc_jax import (
    container,
    manifest,
    ordered_code,
    shared_random,
    sharing,
    value_code,
    value_file,
)
from mrc_jax.decode import MAX_PARAMETERS, coded_vector, decode
from mrc_jax.shared_random import Stream, offsets, permute, quantiles, sign_bits, threefry

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
DOCUMENT = (ROOT / "docs" / "FORMAT.md").read_text()
FILES = json.loads((GOLDEN / "golden.json").read_text())
EXAMPLE = (GOLDEN / "example.mrc").read_bytes()
SEED = np.uint32(7)
SIZES = (100, 1000, 65536, 65537, 10**6, 2**32 - 1, 2**32)


def listed(values: object) -> str:
    """Numbers as the document lists them: exactly, with commas between them."""
    return ", ".join(str(v) for v in np.asarray(values).astype(object).ravel())


def exact(values: np.ndarray) -> str:
    """float32 numbers as the document lists them: the shortest float64 that is the same number."""
    return listed(values.astype(np.float64) if values.dtype == np.float32 else values)


def permuted(indices: list[int], size: int) -> list[int]:
    return permute(np.asarray(indices, np.uint32), size, SEED, Stream.BLOCKS).tolist()


def permutation_rows() -> list[str]:
    rows = []
    for size in SIZES:
        values = permuted([0, 1 % size, size // 2, size - 1], size)
        rows.append(f"| {size} | " + " | ".join(map(str, values)) + " |")
    return rows


def small_rows() -> list[str]:
    return [f"| {n} | {listed(permuted(list(range(n)), n))} |" for n in range(1, 11)]


def shared_row() -> str:
    index = np.arange(10, dtype=np.uint32)
    return f"row 3: {listed(permute(index, 10, SEED, Stream.SHARING, 3))}."


@pytest.mark.parametrize("row", [*permutation_rows(), *small_rows(), shared_row()])
def test_the_golden_permutations_are_the_code_s(row):
    assert row in DOCUMENT


def test_the_known_answers_of_threefry_are_the_code_s():
    word = "([0-9a-f]{8})"
    rows = re.findall(rf"\| {word} {word} \| {word} {word} \| {word} {word} \|", DOCUMENT)
    assert len(rows) == 3
    for row in rows:
        k0, k1, c0, c1, w0, w1 = (np.uint32(int(x, 16)) for x in row)
        assert threefry((k0, k1), (np.asarray(c0), np.asarray(c1))) == (w0, w1)


def test_the_normal_table_is_as_described():
    table = shared_random.normal_table()
    (digest,) = re.findall(r"^`([0-9a-f]{64})`\. No value", DOCUMENT, re.MULTILINE)
    assert hashlib.sha256(table.astype("<i2").tobytes()).hexdigest() == digest
    values = re.findall(r"q\[(\d+)\] = (-?\d+)", DOCUMENT)
    assert len(values) == 4
    assert all(table[int(i)] == int(q) for i, q in values)
    assert np.array_equal(independent_decoder.normal_table(), table)


def test_the_dtype_codes_and_streams_are_the_code_s():
    cells = re.findall(r"\| (\d+) \| ([a-z]+\d*) \| (\d) (?=\|)", DOCUMENT)
    found = {int(code): (name, int(size)) for code, name, size in cells}
    assert [found[i] for i in range(13)] == list(manifest.ITEM_BYTES.items())
    streams = set(re.findall(r"^\| (\d) \| [a-z ]+ \| [a-z0]", DOCUMENT, re.M))
    assert streams == {str(int(s)) for s in Stream} - {"5"}


def test_the_limits_are_the_code_s():
    text = DOCUMENT.replace(",", "")
    assert container.MAX_FILE_BYTES == 2**32 and "| file | 2^32 bytes |" in text
    assert manifest.MAX_BYTES == 2**20 and f"2^20 bytes 1 to {manifest.MAX_TENSORS} tensors" in text
    assert f"| path | {manifest.MAX_PATH_BYTES} bytes |" in text
    assert manifest.MAX_PARAMETERS == 2**34 - 1 and manifest.MAX_ENTRIES == 2**32 - 1
    assert manifest.MAX_SHARED_PLACES == 2**32 and MAX_PARAMETERS == 2**24
    assert (container.MIN_SCALE, container.MAX_SCALE) == (2.0**-100, 2.0**20)
    assert (container.MIN_RANGE_SCALE, container.MAX_RANGE_SCALE) == (2.0**-24, 240)
    first, dropped = container._FIRST_SCALE, 32 - container.RANGE_SCALE_BITS
    assert f"float32 whose bits are (c + {first}) << {dropped}" in text
    assert f"R ranges of a large tensor 2 to {manifest.MAX_RANGES}" in text
    assert f"one group if m < {manifest.MIN_RANGE_ENTRIES} x R" in text


@pytest.mark.parametrize("name", ["example.mrc", "ordered_example.mrc", "values_example.mrc"])
def test_the_annotated_bytes_of_the_example_are_the_file(name):
    section = DOCUMENT.split(f"`tests/golden/{name}`")[1].split("On the way")[0]
    rows = re.findall(r"^\| (\d+) \| ((?:[0-9a-f]{2} ?)+) \|", section, re.M)
    position, data = 0, b""
    for offset, hexadecimal in rows:
        assert int(offset) == position
        data += bytes.fromhex(hexadecimal)
        position = len(data)
    assert data == (GOLDEN / name).read_bytes()


def test_the_steps_of_the_example_are_the_code_s():
    parsed = container.unpack(EXAMPLE)
    header, network = parsed.header, parsed.header.manifest
    assert network is not None
    drawn = quantiles(SEED, np.uint32([0]), parsed.indices, 3).T
    signs = sign_bits(SEED, Stream.CODEBOOK_SIGNS, np.uint32([0, 1]), 3)
    signed = np.where(signs, -drawn, drawn)
    slots = permuted(list(range(5)), 5)
    index, tensor, _ = list(sharing.coded_tensors(network))[1]
    places = permute(np.arange(6, dtype=np.uint32), 6, SEED, Stream.SHARING, index)
    rows = {
        "draws of candidate 44, codebook 0": listed(drawn[0]),
        "draws of candidate 63, codebook 0": listed(drawn[1]),
        "stream 4, sign bits of blocks 0 and 1": " and ".join(listed(s + 0) for s in signs),
        "z of blocks 0 and 1": " and ".join(map(listed, signed)),
        "slots of entries 0 to 4": listed(slots),
        "draws of entries 0 to 4": listed([signed[s % 2, s // 2] for s in slots]),
        "coded vector": exact(coded_vector(parsed, network)),
        "stream 2, row 2: permute(0) to permute(5) of 6": listed(places),
        "stream 3, sign bits of row 2": listed(
            sharing.signed_entry(tensor, index, SEED, np.arange(6, dtype=np.uint32))[1] + 0
        ),
    }
    rows |= {path: exact(array) for path, array in decode(EXAMPLE).items()}
    for name, values in rows.items():
        assert f"| {name} | {values} |" in DOCUMENT
    assert f"`{header.fingerprint.hex()}`" in DOCUMENT
    assert f"weights_sha256 is `{FILES['example.mrc']['sha256']}`" in DOCUMENT


def test_the_steps_of_the_ordered_example_are_the_code_s():
    data = (GOLDEN / "ordered_example.mrc").read_bytes()
    parsed = container.unpack(data)
    bits, block = parsed.header.bits, np.arange(parsed.header.blocks, dtype=np.uint32)
    field = data[22:-4]
    first = offsets(SEED, block, bits)
    positions = ordered_code.unpack_ordered(field, 6, bits)
    frequencies = ordered_code.frequencies(field[0], field[1], bits)
    assert independent_decoder.bucket_frequencies(field[0], field[1], bits) == frequencies.tolist()
    state, states = int.from_bytes(field[2:6], "big"), []
    buckets = [int(p).bit_length() for p in positions]
    for i in buckets:
        state = int(frequencies[i]) * (state >> 16) + state % 65536 - int(frequencies[:i].sum())
        state = state << 8 | field[6] if state < 1 << 24 else state
        states.append(state)
    rows = {
        "frequencies of buckets 0 to 6": frequencies,
        "states after blocks 0 to 5": states,
        "buckets of blocks 0 to 5": buckets,
        "raw bits, 9 in all, bit 0 first": [state >> j & 1 for j in range(9)],
        "positions": positions,
        "offsets": first,
        "indices": parsed.indices,
    }
    for name, values in rows.items():
        assert f"| {name} | {listed(values)} |" in DOCUMENT
    np.testing.assert_array_equal(positions + first & np.uint32(63), parsed.indices)
    assert f"first state {int.from_bytes(field[2:6], 'big')} |" in DOCUMENT
    assert f"weights_sha256 is `{FILES['ordered_example.mrc']['sha256']}`" in DOCUMENT


def test_the_weights_of_the_example_with_values_are_the_code_s():
    data = (GOLDEN / "values_example.mrc").read_bytes()
    file = value_file.unpack_values(data)
    (table,) = file.tables
    state, symbols, states = int.from_bytes(file.field[:4], "little"), [], []
    words = np.frombuffer(file.field[4:], "<u2").tolist()
    frequencies = table.frequencies
    for _ in range(file.header.entries):
        i = int(np.searchsorted(np.cumsum(frequencies), state % 16384, side="right"))
        state = int(frequencies[i]) * (state >> 14) + state % 16384 - int(frequencies[:i].sum())
        state = state << 16 | words.pop(0) if state < 65536 else state
        symbols.append(i)
        states.append(state)
    rows = {
        "frequencies of values 0 to 2": frequencies,
        "values of weights 0 to 7": symbols,
        "states after weights 0 to 7": states,
    }
    rows |= {path: exact(array) for path, array in decode(data).items()}
    for name, values in rows.items():
        text = values if isinstance(values, str) else listed(values)
        assert f"| {name} | {text} |" in DOCUMENT
    assert states[-1] == 65536 and not words
    assert f"weights_sha256 is `{FILES['values_example.mrc']['sha256']}`" in DOCUMENT
    assert f"k values, 1 to {value_code.MAX_VALUES:,}" in DOCUMENT
    assert f"ceil(n / {value_code.MAX_STEPS}) lanes" in DOCUMENT
    assert f"number of tables, 1 to {value_file.MAX_TABLES}" in DOCUMENT
    assert f"none above {value_code.LARGEST_RATE}" in DOCUMENT
