"""Golden files damaged in every single place: an error of one line, or a clean decode."""

import os

import pytest
from golden_files import FILES, GOLDEN, golden
from hostile_files import limited_memory, sealed, survives

from mrc_jax.cli import main


def quick(largest_bytes: int) -> list:
    """The golden files, those above a size as slow tests."""
    return [
        pytest.param(name, marks=pytest.mark.slow if facts["file_bytes"] > largest_bytes else ())
        for name, facts in FILES.items()
    ]


@pytest.fixture(autouse=True)
def _bounded():
    with limited_memory():
        yield


def test_every_golden_file_is_under_two_kilobytes():
    assert max(facts["file_bytes"] for facts in FILES.values()) < 2000


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_every_single_bit_flip_is_noticed(name):
    data, manifest = golden(name)
    assert survives(data, manifest)
    for bit in range(8 * len(data)):
        assert not survives(flipped(data, bit), manifest)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_and_every_extension_is_noticed(name):
    data, manifest = golden(name)
    for size in range(len(data)):
        assert not survives(data[:size], manifest)
        if size >= 4:
            assert not survives(sealed(data[: size - 4]), manifest)
    for more in (b"\0", bytes(100)):
        assert not survives(data + more, manifest)
        assert not survives(sealed(data[:-4] + more), manifest)


@pytest.mark.parametrize("name", quick(100))
def test_a_bit_flip_under_a_right_checksum_is_refused_or_decoded(name):
    data, manifest = golden(name)
    outcomes = set()
    for bit in range(8 * (len(data) - 4)):
        outcomes.add(survives(sealed(flipped(data[:-4], bit)), manifest))
    assert outcomes == {True, False}


@pytest.mark.parametrize("name", quick(50))
def test_any_byte_under_a_right_checksum_is_refused_or_decoded(name):
    data, manifest = golden(name)
    for at in range(len(data) - 4):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            survives(sealed(data[:at] + bytes([value]) + data[at + 1 : -4]), manifest)


@pytest.mark.parametrize(("name", "step"), [("example.mrc", 1), ("ordered_external.mrc", 7)])
def test_the_command_exits_with_5_at_bit_flips_and_truncations(name, step, tmp_path, capsys):
    data, manifest = golden(name)
    more = ["--manifest", str(GOLDEN / FILES[name]["manifest"])] if manifest else []
    file = tmp_path / "damaged.mrc"
    damaged = [flipped(data, bit) for bit in range(8 * len(data))]
    damaged += [data[:size] for size in range(len(data))]
    damaged += [sealed(data[:size]) for size in range(len(data) - 4)]
    for i, broken in enumerate(damaged[::step]):
        file.write_bytes(broken)
        command = ("verify", "inspect", "decode")[i % 3]
        out = ["-o", str(tmp_path / "w.npz")] if command == "decode" else []
        assert main([command, str(file), *more, *out]) == 5
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("mrc-jax: error: ")
        assert said.err.count("\n") == 1
    assert os.listdir(tmp_path) == ["damaged.mrc"]


def test_the_command_exits_with_5_where_a_manifest_is_damaged(tmp_path, capsys):
    data = (GOLDEN / "external.manifest").read_bytes()
    file, manifest = str(GOLDEN / "external.mrc"), tmp_path / "damaged.manifest"
    damaged = [flipped(data, bit) for bit in range(8 * len(data))]
    for broken in [*damaged[::5], *(data[:size] for size in range(len(data))), data + b"\0"]:
        manifest.write_bytes(broken)
        assert main(["inspect", file, "--manifest", str(manifest)]) == 5
        assert capsys.readouterr().err.count("\n") == 1
