"""docs/rotation.md says what the library does: a decoder written from it, and its example."""

import hashlib
import re
import struct

import independent_turned
import pytest
from golden_files import FILES, TESTS, TURNED, golden
from hostile_files import sealed, survives
from test_turned_file import network, turn_bytes

from mrc_jax.decode import decode
from mrc_jax.rotation import heads
from mrc_jax.rotation.turned_file import pack_turned

DOCUMENT = (TESTS.parent / "docs" / "rotation.md").read_text()


@pytest.mark.parametrize("name", TURNED)
def test_a_decoder_of_the_document_gives_the_golden_weights(name):
    data = golden(name)[0]
    decoded = independent_turned.decode(data)
    assert decoded == [(path, array.tobytes()) for path, array in decode(data).items()]
    digest = hashlib.sha256(b"".join(array for _, array in decoded)).hexdigest()
    assert digest == FILES[name]["sha256"]


@pytest.mark.parametrize("others", [0, 5, 61, 300])
@pytest.mark.parametrize("grid_bits", [None, 1, 9, 15])
def test_a_decoder_of_the_document_gives_the_library_s_weights(others, grid_bits, monkeypatch):
    """With the grids that are chosen, and with all too coarse or too fine, so that much is sent."""
    if grid_bits:
        monkeypatch.setattr(heads, "_grids", lambda triangle: [grid_bits] * (len(triangle) - 1))
    manifest, turns, weights = network(others, width=5)
    data, _ = pack_turned(weights, manifest, turns)
    decoded = independent_turned.decode(data)
    assert decoded == [(path, array.tobytes()) for path, array in decode(data).items()]


@pytest.mark.parametrize(("name", "step"), [("turned_example.mrc", 1), ("turned_groups.mrc", 23)])
def test_what_damaged_files_decode_to_is_what_the_document_says(name, step):
    data = golden(name)[0][:-4]
    decoded = 0
    for bit in range(40, 8 * len(data), step):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file = sealed(bytes(damaged))
        if survives(file):
            found = [(path, array.tobytes()) for path, array in decode(file).items()]
            assert independent_turned.decode(file) == found
            decoded += 1
    assert decoded > 20


def test_the_decoder_of_the_document_shares_no_code_with_the_library():
    text = (TESTS / "independent_turned.py").read_text()
    imported = re.findall(r"^(?:import|from) (\S+)", text, re.MULTILINE)
    assert imported == ["math", "struct", "independent_decoder"]


def test_the_example_is_as_the_document_has_it():
    data = golden("turned_example.mrc")[0]
    rows = re.findall(r"^\| (\d+) \| ((?:[0-9a-f]{2} ?)+) \|", DOCUMENT, re.MULTILINE)
    assert [int(start) for start, _ in rows] == [0, 5, 27, 34, 38, 62, 73]
    found = b"".join(bytes.fromhex(part) for _, part in rows)
    assert found == data and all(
        data[int(start) :].startswith(bytes.fromhex(part)) for start, part in rows
    )
    assert f"`{FILES['turned_example.mrc']['sha256']}`" in DOCUMENT
    for path, array in decode(data).items():
        assert f"| {path} | {', '.join(str(float(x)) for x in array.ravel())} |" in DOCUMENT
    head = data[: len(data) - 43]
    assert head[27:] == turn_bytes(1, 2, 1, (0 << 2 | 2, 1 << 2 | 2))
    stack = independent_turned.Stack(data[34:-4], 11)
    assert f"the state {stack.x}, in" in DOCUMENT
    values = struct.unpack("<12e", stack.take(24))
    bits = stack.pop_by(independent_turned._GRIDS)
    assert f"after b[0] is popped is {stack.x}," in DOCUMENT
    u = independent_turned.integers([values[0], values[6]])
    sign, axis, ratios, _ = independent_turned.direction(stack, u, bits)
    wanted = f"b[0] = {bits}, u[0] = {u[0]}, {u[1]}, axis {axis}, sign {sign}, ratio {ratios[0]}"
    assert wanted in DOCUMENT
    assert f"after the ratio is {stack.x}." in DOCUMENT
