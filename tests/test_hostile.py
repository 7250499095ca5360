"""Hostile files of sound structure: a FormatError or a clean decode, in little time and memory."""

import struct
import tracemalloc

import numpy as np
import pytest
from hostile_files import header_alone, sealed, survives
from hypothesis import given, settings
from hypothesis import strategies as st

from mrc_jax import container
from mrc_jax.decode import decode
from mrc_jax.errors import FormatError
from mrc_jax.manifest import MAX_PARAMETERS, Manifest, Tensor, varint

LIMIT = 1 << 14  # parameters, where many networks are tried: quick to expand


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
    survives(sealed(body), manifest, LIMIT)


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


BOMBS = [
    (Tensor("w", (2**31,), "float32", 1), {}),
    (Tensor("w", (2**31,), "float32", 1), {"blocks": 2**31}),
    (Tensor("w", (2**24 + 1,), "float32", 1), {}),
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
