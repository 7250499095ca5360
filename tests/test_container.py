"""The file: what is packed is what is unpacked, and what cannot be is refused by name."""

import dataclasses
import struct

import numpy as np
import pytest
from hostile_files import sealed
from hypothesis import given, settings
from hypothesis import strategies as st

from mrc_jax import container
from mrc_jax.container import Container, Header, pack, parts, unpack
from mrc_jax.errors import FormatError, UsageError
from mrc_jax.index_codes import FIXED, ORDERED
from mrc_jax.manifest import Manifest, Tensor

NETWORK = Manifest(
    (
        Tensor("bias", (5,), "float32", 1),
        Tensor("kernel", (5, 7), "float32", 4),
        Tensor("step", (), "int32", 0),
    )
)
SCALES = np.asarray([0x3E80, 0x3F00], np.uint16)


def a_container(embed: bool = True, **fields: int) -> Container:
    header = Header.of(NETWORK, embed, **{"seed": 1, "blocks": 3, "bits": 4, **fields})
    indices = np.arange(header.blocks, dtype=np.uint32) % (1 << header.bits)
    return Container(header, SCALES, b"\1\2\3\4", indices)


@settings(max_examples=60)
@given(st.data())
def test_what_is_packed_is_unpacked(data):
    blocks = data.draw(st.integers(1, NETWORK.entries))
    bits = data.draw(st.integers(1, 30))
    header = Header.of(
        NETWORK,
        data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 2**32 - 1)),
        blocks=blocks,
        bits=bits,
        codebook_blocks=data.draw(st.integers(1, blocks)),
        index_code=data.draw(st.sampled_from(sorted(container.VERSIONS))),
        ranges=data.draw(st.integers(1, 64)),
    )
    indices = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=blocks, max_size=blocks))
    uncoded = data.draw(st.binary(min_size=4, max_size=4))
    file = pack(Container(header, SCALES, uncoded, np.asarray(indices, np.uint32)))
    again = unpack(file)
    assert again.header == header and again.uncoded == uncoded
    np.testing.assert_array_equal(again.indices, indices)
    np.testing.assert_array_equal(again.scales, SCALES)
    assert pack(again) == file and file[3] == header.version
    sizes = container.parts_of_file(header, len(file))
    assert sum(sizes.values()) == len(file) and sizes["indices"] > 0
    if header.index_code == FIXED:
        assert parts(header) == sizes


@pytest.mark.parametrize("embed", [True, False])
def test_the_parts_are_the_bytes_of_the_file(embed):
    one = a_container(embed)
    sizes = parts(one.header)
    assert sizes["header"] + sizes["manifest"] == len(one.header.data)
    assert sizes["manifest"] == (len(NETWORK.data) if embed else 0)
    assert sizes["scales"] == 4 and sizes["uncoded"] == 4
    assert sizes["indices"] == 2 and sizes["checksum"] == 4
    assert sum(sizes.values()) == len(pack(one))


def test_the_parts_of_a_file_with_ordered_indices_need_its_size():
    one = a_container(index_code=ORDERED)
    with pytest.raises(UsageError, match="index_bytes"):
        parts(one.header)
    sizes = container.parts_of_file(one.header, len(pack(one)))
    assert sizes == parts(one.header, sizes["indices"]) and sizes["indices"] == 6


def test_an_index_code_and_a_version_that_do_not_belong_together_are_refused():
    for code in (FIXED, ORDERED):
        body = pack(a_container(index_code=code))[:-4]
        for version, flags in ((1, 3), (2, 1), (1, 5), (2, 5), (3, 5), (4, 1)):
            wrong = body[:3] + bytes([version, flags]) + body[5:]
            with pytest.raises(FormatError, match=f"format version {version}"):
                unpack(sealed(wrong))
    one = a_container()
    unknown = dataclasses.replace(one, header=dataclasses.replace(one.header, index_code=2))
    with pytest.raises(UsageError, match="no index code 2"):
        pack(unknown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 0}, "bits an index"),
        ({"bits": 31}, "bits an index"),
        ({"blocks": 0}, "blocks for"),
        ({"blocks": NETWORK.entries + 1}, "blocks for"),
        ({"codebook_blocks": 0}, "blocks a codebook"),
        ({"codebook_blocks": 4}, "blocks a codebook"),
        ({"groups": 0}, "groups for"),
        ({"groups": 99}, "groups for"),
    ],
)
def test_impossible_headers_can_be_neither_written_nor_read(change, message):
    one = a_container(embed=False)
    header = dataclasses.replace(one.header, **change)
    with pytest.raises(UsageError, match=message):
        pack(dataclasses.replace(one, header=header))
    body = header.data + bytes(2 * header.groups) + one.uncoded + bytes(200)
    with pytest.raises(FormatError, match=message):
        unpack(sealed(body))


@pytest.mark.parametrize("scale", [0, 0x0D00, 0x4981, 0x7F80, 0x7FC0, 0xBE80, 0x8000])
def test_scales_out_of_bounds_are_refused(scale):
    one = a_container()
    scales = np.asarray([0x3E80, scale], np.uint16)
    with pytest.raises(UsageError, match="prior scale"):
        pack(dataclasses.replace(one, scales=scales))
    body = bytearray(pack(one)[:-4])
    at = len(one.header.data) + 2
    body[at : at + 2] = struct.pack("<H", scale)
    with pytest.raises(FormatError, match="prior scale"):
        unpack(sealed(bytes(body)))


@pytest.mark.parametrize("scale", [0x0D80, 0x4980])
def test_the_smallest_and_largest_scale_are_accepted(scale):
    one = dataclasses.replace(a_container(), scales=np.asarray([scale, scale], np.uint16))
    assert unpack(pack(one)).scales.tolist() == [scale, scale]


def test_values_that_do_not_fit_the_header_are_not_written():
    one = a_container()
    for wrong in (
        {"indices": np.asarray([0, 0], np.uint32)},
        {"indices": np.asarray([0, 16, 0], np.uint32)},
        {"indices": np.asarray([0, -1, 0])},
        {"uncoded": b"123"},
        {"scales": SCALES[:1]},
    ):
        with pytest.raises(UsageError, match="cannot write the file"):
            pack(dataclasses.replace(one, **wrong))


def test_a_wrong_magic_version_flag_checksum_or_length_is_refused_by_name():
    body = pack(a_container())[:-4]
    for wrong, message in (
        (b"", "not an .mrc file"),
        (b"MRC\1", "not an .mrc file"),
        (sealed(b"PK\3" + body[3:]), "not an .mrc file"),
        (sealed(body[:3] + b"\2" + body[4:]), "format version 2"),
        (sealed(body[:4] + b"\3" + body[5:]), "unknown flags 0x3"),
        (body + b"1234", "damaged"),
        (sealed(body + b"\0"), "1 bytes too many"),
        (sealed(body[:-1]), "ends inside the indices"),
        (sealed(body[:-3]), "ends inside the uncoded tensors"),
        (sealed(body[:-1] + bytes([body[-1] | 0x80])), "spare bits"),
    ):
        with pytest.raises(FormatError, match=message):
            unpack(wrong)
