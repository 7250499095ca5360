"""Damaged and hostile files: always a FormatError or a clean decode, in little time and memory."""

import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from golden_files import TESTS, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from mrc_jax import container
from mrc_jax.decode import decode
from mrc_jax.errors import FormatError
from mrc_jax.manifest import MAX_PARAMETERS, Manifest, Tensor, varint

SMALL = ("example.mrc", "one_weight.mrc", "uncoded.mrc", "ordered_example.mrc")
LIMIT = 1 << 14  # parameters: enough for every golden file here, and quick to expand


def sealed(body: bytes) -> bytes:
    """A body with the checksum that fits it."""
    return body + struct.pack("<I", zlib.crc32(body))


def survives(data: bytes, manifest: bytes | None = None) -> bool:
    """Whether the file is decoded; any exception but a one-line FormatError fails the test."""
    try:
        weights = decode(data, manifest, LIMIT)
    except FormatError as error:
        assert "\n" not in str(error)
        return False
    assert sum(w.size for w in weights.values()) <= LIMIT
    return True


@pytest.mark.parametrize("name", SMALL)
def test_every_single_bit_flip_is_noticed(name):
    data, manifest = golden(name)
    assert survives(data, manifest)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not survives(bytes(damaged), manifest)


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_and_every_extension_is_noticed(name):
    data, manifest = golden(name)
    for size in range(len(data)):
        assert not survives(data[:size], manifest)
        if size >= 4:
            assert not survives(sealed(data[: size - 4]), manifest)
    for more in (b"\0", bytes(100)):
        assert not survives(data + more, manifest)
        assert not survives(sealed(data[:-4] + more), manifest)


@pytest.mark.parametrize("name", SMALL)
def test_a_bit_flip_under_a_right_checksum_is_refused_or_decoded(name):
    data, manifest = golden(name)
    outcomes = set()
    for bit in range(8 * (len(data) - 4)):
        damaged = bytearray(data[:-4])
        damaged[bit // 8] ^= 1 << bit % 8
        outcomes.add(survives(sealed(bytes(damaged)), manifest))
    assert outcomes == {True, False}


@pytest.mark.parametrize("name", SMALL)
def test_any_byte_under_a_right_checksum_is_refused_or_decoded(name):
    data, manifest = golden(name)
    for at in range(len(data) - 4):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            survives(sealed(data[:at] + bytes([value]) + data[at + 1 : -4]), manifest)


NUMBERS = st.one_of(
    st.integers(0, 70),
    st.sampled_from([127, 128, 2**14, 2**25, 2**31, 2**32 - 1, 2**32, 2**34 - 1, 2**34, 2**35 - 1]),
)


@st.composite
def hostile_manifests(draw):
    """Manifest bytes with a sound structure and numbers, codes and paths that may be impossible."""
    count = draw(st.integers(0, 4))
    out = varint(draw(st.one_of(st.just(count), NUMBERS)))
    for i in range(count):
        path = draw(st.one_of(st.just(b"%d" % i), st.binary(max_size=4)))
        shape = draw(st.lists(NUMBERS, max_size=4))
        kind = draw(st.one_of(st.sampled_from([0, 1, 5, 12]), st.integers(0, 15)))
        out += varint(draw(st.sampled_from([0, 0, 0, 1, 9]))) + varint(len(path)) + path
        out += bytes([kind << 4 | len(shape)]) + b"".join(map(varint, shape))
        out += varint(draw(NUMBERS))
    return out


@settings(max_examples=400)
@given(st.data())
def test_any_numbers_in_a_well_formed_file_are_refused_or_decoded(data):
    manifest, embed = data.draw(hostile_manifests()), data.draw(st.booleans())
    ordered = data.draw(st.integers(0, 1))
    body = b"MRC" + bytes([1 + ordered, 2 * ordered + embed])
    if embed:
        body += varint(len(manifest)) + manifest
    else:
        network = Manifest((Tensor("w", (5,), "float32", 1),))
        manifest, body = network.data, body + network.fingerprint
        body += b"".join(varint(data.draw(NUMBERS)) for _ in range(3))
    body += struct.pack("<I", data.draw(st.integers(0, 2**32 - 1)))
    body += bytes([data.draw(st.integers(0, 33))])
    body += varint(data.draw(NUMBERS)) + varint(data.draw(NUMBERS))
    body += data.draw(st.sampled_from([b"", b"\x80\x3e"])) * data.draw(st.integers(0, 4))
    body += data.draw(st.binary(max_size=60))
    survives(sealed(body), manifest)


def tensors() -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(1, 12), max_size=3).map(tuple)
    return st.builds(Tensor, st.just("w"), shapes, st.just("float32"), st.integers(1, 144))


@settings(max_examples=150)
@given(tensors(), st.integers(0, 2**32 - 1), st.data())
def test_any_valid_header_and_any_payload_is_decoded(tensor, seed, data):
    tensor = Tensor("w", tensor.shape, "float32", min(tensor.factor, tensor.size))
    blocks, bits = data.draw(st.integers(1, tensor.entries)), data.draw(st.integers(1, 30))
    share = data.draw(st.integers(1, blocks))
    header = container.Header.of(
        Manifest((tensor,)),
        True,
        seed=seed,
        blocks=blocks,
        bits=bits,
        codebook_blocks=share,
        index_code=data.draw(st.sampled_from(sorted(container.VERSIONS))),
    )
    indices = np.random.default_rng(seed).integers(0, 1 << bits, blocks)
    parts = container.Container(header, np.asarray([0x3F80], np.uint16), b"", indices)
    weights = decode(container.pack(parts))["w"]
    assert weights.shape == tensor.shape and np.abs(weights).max() < 4.4


def header_alone(manifest: Manifest, embed: bool, **fields: int) -> bytes:
    """A file with a true header and next to nothing after it."""
    header = container.Header.of(manifest, embed, **{"seed": 1, "bits": 8, "blocks": 1, **fields})
    return sealed(header.data + b"\x80\x3e" * header.groups + bytes(6 if header.index_code else 1))


BOMBS = [
    (Tensor("w", (2**31,), "float32", 1), {}),
    (Tensor("w", (2**31,), "float32", 1), {"blocks": 2**31}),
    (Tensor("w", (2**25 + 1,), "float32", 1), {}),
    (Tensor("w", (2**32,), "float32", 2**32), {}),
    (Tensor("w", (2**32 - 1,), "float32", 1), {"blocks": 2**32 - 1, "bits": 30}),
    (Tensor("w", (2**20, 2**12), "float32", 2**31), {}),
    (Tensor("w", (2**32 - 1,), "float32", 1), {"blocks": 2**32 - 1, "index_code": 1}),
]


@pytest.mark.parametrize(("tensor", "fields"), BOMBS)
@pytest.mark.parametrize("embed", [True, False])
def test_small_files_of_large_networks_are_refused_before_anything_is_allocated(
    tensor, fields, embed
):
    manifest = Manifest((tensor,))
    data = header_alone(manifest, embed, **fields)
    assert len(data) < 60
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            decode(data, manifest.data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_shared_tensor_beyond_32_bit_indices_is_refused():
    manifest = b"\1\0\1w\1" + varint(2**33) + varint(2**33)
    body = b"MRC\1\1" + varint(len(manifest)) + manifest + struct.pack("<IBBB", 1, 8, 1, 1)
    with pytest.raises(FormatError, match="cannot share"):
        decode(sealed(body + b"\x80\x3e\0"), max_parameters=MAX_PARAMETERS)


def test_empty_uncoded_tensors_of_any_shape_are_refused_or_decoded():
    for shape in ((2**33, 0), (0, 2**34 - 1), (2**33, 0, 2**33), (2**34 - 1,) * 14 + (0,), (0,)):
        for dtype in range(13):
            manifest = b"\2\0\1e" + bytes([dtype << 4 | len(shape)])
            manifest += b"".join(map(varint, shape)) + b"\0" + b"\0\1w\1\3\1"
            body = b"MRC\1\1" + varint(len(manifest)) + manifest
            body += struct.pack("<IBBB", 1, 8, 1, 1) + b"\x80\x3e\0"
            assert survives(sealed(body)) == (len(shape) < 3)


def test_four_thousand_tensors_are_decoded():
    network = Manifest(tuple(Tensor(f"{i:04}", (), "float32", 1) for i in range(4096)))
    data = container.Header.of(network, True, seed=1, bits=1, blocks=1).data
    assert survives(sealed(data + b"\x80\x3e" * 4096 + b"\1"))


WORST = """
import re, sys
from mrc_jax.container import Header
from mrc_jax.decode import decode
from mrc_jax.manifest import Manifest, Tensor
sys.path.insert(0, {tests!r})
from test_hostile import header_alone
network = Manifest((Tensor("w", (2**25,), "float32", {factor}),))
decode(header_alone(network, True))
status = open("/proc/self/status").read()  # getrusage would count the parent's peak too
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2, 2**25])
def test_the_largest_network_without_a_larger_limit_takes_memory_in_proportion(factor):
    """2^25 parameters are 128 MiB; one block of all of them, the worst case, takes some 800."""
    code = WORST.format(factor=factor, tests=str(TESTS))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1200  # MiB
