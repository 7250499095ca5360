"""The manifest: bytes and back, one valid form only, limits that hold before allocation."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrc_jax import manifest
from mrc_jax.errors import FormatError, UsageError
from mrc_jax.manifest import CODABLE, ITEM_BYTES, Manifest, Reader, Tensor, parse, varint

KEYS = st.text(st.characters(exclude_characters="/\\"), min_size=1, max_size=4).filter(
    lambda k: k.isprintable() and k not in (".", "..")
)


@st.composite
def tensors(draw):
    path = "/".join(draw(st.lists(KEYS, min_size=1, max_size=3)))
    dtype = draw(st.sampled_from(list(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 40), max_size=4)))
    tensor = Tensor(path, shape, dtype, 0)
    if dtype not in CODABLE or tensor.size == 0:
        return tensor
    return Tensor(path, shape, dtype, draw(st.integers(0, tensor.size)))


MANIFESTS = st.lists(tensors(), min_size=1, max_size=8, unique_by=lambda t: t.path).map(
    lambda found: Manifest(tuple(found))
)


@settings(max_examples=50)
@given(MANIFESTS)
def test_what_is_written_is_read(network):
    again = parse(network.data)
    assert again == network and again.data == network.data
    assert again.fingerprint == network.fingerprint and len(again.fingerprint) == 8
    assert again.parameters == sum(t.size for t in network.tensors)
    assert again.entries == sum(t.entries for t in again.coded)


@settings(max_examples=50)
@given(MANIFESTS, st.data())
def test_only_what_is_written_is_read(network, data):
    damaged = bytearray(network.data)
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        again = parse(bytes(damaged))
    except FormatError:
        return
    assert again.data == damaged


@settings(max_examples=50)
@given(MANIFESTS)
def test_every_truncation_and_any_byte_more_is_refused(network):
    for size in range(len(network.data)):
        with pytest.raises(FormatError):
            parse(network.data[:size])
    with pytest.raises(FormatError, match="bytes too many"):
        parse(network.data + b"\0")


@given(st.integers(0, 2**35 - 1))
def test_varints_are_read_as_written_and_in_no_other_form(value):
    data = varint(value)
    reader = Reader(data, "here")
    assert reader.varint(2**35 - 1, "it") == value
    reader.end()
    longer = data[:-1] + bytes([data[-1] | 0x80, 0])
    with pytest.raises(FormatError):
        Reader(longer, "here").varint(2**35 - 1, "it")
    if value:
        with pytest.raises(FormatError):
            Reader(data, "here").varint(value - 1, "it")


def test_a_varint_without_an_end_is_refused():
    for data in (b"", b"\xff", b"\xff" * 5, b"\xff" * 100):
        with pytest.raises(FormatError):
            Reader(data, "here").varint(2**62, "it")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor("", (1,), "float32", 1), "keys must be"),
        (Tensor("/a", (1,), "float32", 1), "keys must be"),
        (Tensor("a//b", (1,), "float32", 1), "keys must be"),
        (Tensor("a/../b", (1,), "float32", 1), "keys must be"),
        (Tensor("a\nb", (1,), "float32", 1), "keys must be"),
        (Tensor("a\u202eb", (1,), "float32", 1), "keys must be"),
        (Tensor("\ud800", (1,), "float32", 1), "keys must be"),
        (Tensor("a\\b", (1,), "float32", 1), "backslash"),
        (Tensor("ä" * 513, (1,), "float32", 1), "1024 bytes"),
        (Tensor("a", (1,) * 16, "float32", 1), "16 dimensions"),
        (Tensor("a", (1,), "complex64", 0), "complex64"),
        (Tensor("a", (3,), "int32", 1), "cannot be coded"),
        (Tensor("a", (0, 3), "float32", 1), "cannot be coded"),
        (Tensor("a", (3,), "float32", 4), "larger than the tensor"),
        (Tensor("a", (0, 3), "float32", 2), "cannot be coded"),
        (Tensor("a", (2**33, 2), "int8", 0), "2\\^34"),
        (Tensor("a", (2**33, 0, 2**33), "int8", 0), "2\\^34"),
        (Tensor("a", (2**32,), "float32", 1), "2\\^32"),
        (Tensor("a", (2**33,), "float32", 4), "2\\^32 parameters cannot share"),
        (Tensor("a", (2**32,), "float32", 2**32 - 1), "2\\^32 parameters cannot share"),
    ],
)
def test_impossible_tensors_are_refused_by_name(tensor, message):
    with pytest.raises(UsageError, match=message):
        Manifest((tensor,))


def test_the_largest_tensors_are_accepted():
    for tensor in (
        Tensor("a" * 1024, (2**32 - 1,), "float32", 1),
        Tensor("a", (2**32,), "float32", 2**32),
        Tensor("a", (2**34 - 1,), "uint8", 0),
        Tensor("a", (2**34 - 1, 0), "uint8", 0),
    ):
        network = Manifest((tensor,))
        assert parse(network.data) == network


def test_paths_twice_no_tensors_and_too_many_are_refused():
    one = Tensor("a", (1,), "float32", 1)
    many = tuple(Tensor(f"{i}", (1,), "float32", 1) for i in range(4097))
    for wrong in ((one, one), (), many):
        with pytest.raises(UsageError):
            Manifest(wrong)
    assert len(parse(Manifest(many[:4096]).data).tensors) == 4096
    with pytest.raises(UsageError, match="the limit is"):
        Manifest(tuple(Tensor(f"{i:04}" + "x" * 500, (1,), "float32", 1) for i in range(4096)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0", "1 to 4096"),
        (b"\1\1\1a\1\1\1", "shared length"),
        (b"\1\0\1a\xd1\1\1", "dtype code 13"),
        (b"\1\0\1\xff\1\1\1", "not UTF-8"),
        (b"\2\0\1a\1\1\1\0\2ab\1\1\1", "shortest form"),
        (b"\x81\0\0\1a\1\1\1", "shortest form"),
        (bytes(manifest.MAX_BYTES + 1), "the limit is"),
    ],
)
def test_other_forms_are_refused_by_name(data, message):
    with pytest.raises(FormatError, match=message):
        parse(data)


def test_paths_that_grow_by_front_coding_are_refused_at_once():
    """4,096 paths of almost 1 MiB in a manifest of 1 MiB would be 4 GiB of text."""
    first = b"\0" + varint(1_000_000) + b"a" * 1_000_000 + b"\1\1\1"
    rest = b"".join(varint(1_000_000 - i) + b"\1b\1\1\1" for i in range(4095))
    start = time.perf_counter()
    with pytest.raises(FormatError, match="length of a path"):
        parse(varint(4096) + first + rest)
    assert time.perf_counter() - start < 1
