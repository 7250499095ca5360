"""Makes the golden files that are not there yet; those that exist are never rewritten.

python tests/make_golden.py
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from mrc_jax.container import Container, Header, pack
from mrc_jax.decode import decode, weights_sha256
from mrc_jax.index_codes import ORDERED
from mrc_jax.manifest import Manifest, Tensor
from mrc_jax.models.lenet5 import LeNet5
from mrc_jax.rotation.turned_file import pack_turned
from mrc_jax.rotation.turns import Turn, turn_of
from mrc_jax.shared_random import offsets
from mrc_jax.sharing import make_sharing
from mrc_jax.value_file import pack_values

TESTS = pathlib.Path(__file__).parent
GOLDEN = TESTS / "golden"
DATA = TESTS.parent / "mrc_jax" / "data"
LENET5_RULES = (("Conv_1/kernel", 2), ("Dense_0/kernel", 50))
SCALES = (0x3E80, 0x3DCD, 0x4000, 0x3C01, 0x3F80, 0x0D80, 0x4980)  # 2^-100 and 2^20 are the last
RANGE_SCALES = (0x3E80, 0x3DC0, 0x4000, 0x3380, 0x4370)  # as version 3 has them; 2^-24 and 240

F32, BF16 = "float32", "bfloat16"
CASES = {  # name: (tensors, embedded, fields of the header, uncoded bytes)
    "example": (
        [("b", (2,), F32, 1), ("n", (2,), "int16", 0), ("w", (3, 2), F32, 2)],
        True,
        {"seed": 7, "bits": 6, "blocks": 2, "codebook_blocks": 2},
        np.asarray([-2, 300], "<i2").tobytes(),
    ),
    "one_weight": ([("w", (1,), F32, 1)], False, {"seed": 0, "bits": 1, "blocks": 1}, b""),
    "one_bit": ([("w", (37,), F32, 1)], True, {"seed": 1, "bits": 1, "blocks": 5}, b""),
    "shared_codebook": (
        [("a/bias", (7,), F32, 1), ("a/kernel", (7, 9), F32, 3), ("b", (29,), F32, 1)],
        True,
        {"seed": 20, "bits": 20, "blocks": 10, "codebook_blocks": 3},
        b"",
    ),
    "thirty_bits": ([("w", (3, 11), F32, 1)], True, {"seed": 30, "bits": 30, "blocks": 4}, b""),
    "uncoded": (
        [
            ("count", (2,), "int32", 0),
            ("empty", (0, 3), F32, 0),
            ("half", (2,), "float16", 0),
            ("kernel", (5,), F32, 1),
            ("mask", (4,), "bool", 0),
            ("mean", (3,), BF16, 0),
            ("wide", (1,), "float64", 0),
        ],
        True,
        {"seed": 6, "bits": 8, "blocks": 2},
        b"".join(
            [
                np.asarray([-1, 1 << 30], "<i4").tobytes(),
                np.asarray([0.1, -65504], "<f2").tobytes(),
                bytes([1, 0, 0, 1]),
                np.asarray([0x3F80, 0xBFC0, 0x7F80], "<u2").tobytes(),
                np.asarray([np.pi], "<f8").tobytes(),
            ]
        ),
    ),
    "dtypes": (
        [
            ("a", (6,), BF16, 1),
            ("b", (2, 3), "float16", 2),
            ("c", (5,), "float64", 1),
        ],
        True,
        {"seed": 0xFFFFFFFF, "bits": 13, "blocks": 3},
        b"",
    ),
    "scalars": (
        [("scale", (), F32, 1), ("step", (), "uint32", 0), ("temperature", (), BF16, 1)],
        True,
        {"seed": 3, "bits": 8, "blocks": 2},
        np.asarray(12345, "<u4").tobytes(),
    ),
    "external": (
        [
            ("params/Dense_0/bias", (10,), F32, 1),
            ("params/Dense_0/kernel", (20, 10), F32, 7),
            ("params/Dense_1/kernel", (10, 13), F32, 130),
            ("params/Größe", (5,), F32, 4),
        ],
        False,
        {"seed": 99, "bits": 17, "blocks": 6, "codebook_blocks": 4},
        b"",
    ),
    "single_entries": (
        [("w", (300,), F32, 1)],
        True,
        {"seed": 5, "bits": 8, "blocks": 300, "codebook_blocks": 300},
        b"",
    ),
    "ordered_example": (
        [("w", (12,), F32, 1)],
        True,
        {"seed": 7, "bits": 6, "blocks": 6, "index_code": ORDERED},
        b"",
    ),
    "ordered": (
        [("a", (30, 7), F32, 1), ("b", (300,), F32, 2)],
        True,
        {"seed": 12, "bits": 12, "blocks": 180, "codebook_blocks": 4, "index_code": ORDERED},
        b"",
    ),
    "ordered_one_bit": (
        [("w", (99,), F32, 1)],
        True,
        {"seed": 1, "bits": 1, "blocks": 99, "index_code": ORDERED},
        b"",
    ),
    "ranges": (
        [
            ("bias", (7,), F32, 1),
            ("kernel", (3, 3, 9, 7), F32, 1),
            ("shared", (1029,), F32, 2),
            ("step", (), "uint8", 0),
        ],
        True,
        {"seed": 40, "bits": 10, "blocks": 60, "ranges": 2},
        b"\x07",
    ),
    "ranges_ordered": (
        [("a", (1023,), F32, 1), ("b", (1025,), F32, 1), ("c", (5120,), F32, 3)],
        False,
        {"seed": 41, "bits": 14, "blocks": 90, "codebook_blocks": 7, "index_code": ORDERED}
        | {"ranges": 4},
        b"",
    ),
    "ordered_thirty_bits": (
        [("w", (20,), F32, 1)],
        True,
        {"seed": 30, "bits": 30, "blocks": 9, "index_code": ORDERED},
        b"",
    ),
    "ordered_external": (
        [
            ("a", (41, 3), F32, 5),
            ("b", (3,), F32, 0),
            ("c", (2,), "int8", 0),
            ("d", (1, 2), "uint8", 0),
            ("e", (2,), "uint16", 0),
            ("f", (2,), "int64", 0),
            ("g", (1,), "uint64", 0),
            ("h", (2, 2, 2), F32, 8),
            ("i", (11,), F32, 1),
        ],
        False,
        {"seed": 41, "bits": 24, "blocks": 16, "codebook_blocks": 16, "index_code": ORDERED},
        b"".join(
            [
                np.asarray([-0.0, 1.5, np.inf], "<f4").tobytes(),
                bytes([0x80, 0x7F, 0, 0xFF]),
                np.asarray([1, 65535], "<u2").tobytes(),
                np.asarray([-(1 << 63), 1 << 40], "<i8").tobytes(),
                np.asarray([(1 << 64) - 1], "<u8").tobytes(),
            ]
        ),
    ),
}


VALUES: dict[str, tuple[list[tuple[str, tuple[int, ...], str, int]], bool]] = {
    "values_example": ([("b", (2,), F32, 1), ("n", (2,), "int16", 0), ("w", (3, 2), F32, 1)], True),
    "values_tables": (
        [
            ("kernel", (200, 200), F32, 1),  # more than one lane
            ("mean", (3,), BF16, 0),
            ("one", (7,), "float16", 1),
            ("scale", (), F32, 1),
            ("wide", (9, 50), F32, 1),
        ],
        False,
    ),
}


F16 = "float16"
TURNED: dict[str, tuple[list[tuple[str, tuple[int, ...], str, int]], list, int]] = {
    # name: tensors; of each turn path, heads, whether they are the last axes; dimensions of a head
    "turned_example": (
        [("k", (3, 2), F16, 0), ("q", (3, 2), F16, 0), ("t", (6,), F16, 0)],
        [[("k", 1, True), ("q", 1, True)]],
        2,
    ),
    "turned_groups": (
        [
            ("count", (2,), "int32", 0),
            ("key/bias", (6,), F16, 0),
            ("key/kernel", (6, 4), F16, 0),
            ("out/kernel", (5, 12), F16, 0),
            ("query/bias", (12,), F16, 0),
            ("query/kernel", (4, 4, 3), F16, 0),
            ("table", (19,), BF16, 0),
            ("value/kernel", (6, 4), F16, 0),
        ],
        [
            [
                ("key/kernel", 2, False),
                ("key/bias", 2, False),
                ("query/kernel", 4, True),
                ("query/bias", 4, False),
            ],
            [("value/kernel", 2, False), ("out/kernel", 4, True)],
        ],
        3,
    ),
}


def turned_case(name: str) -> tuple[Manifest, list[Turn], dict[str, np.ndarray]]:
    """A case's manifest, turns and weights; of bfloat16 tensors the bits."""
    tensors, turns, dimensions = TURNED[name]
    manifest = Manifest(tuple(Tensor(*t) for t in tensors))
    weights = {}
    for number, tensor in enumerate(manifest.tensors):
        drawn = numbers(tensor.size + number, 20)[number:].reshape(tensor.shape)
        kind = "uint16" if tensor.dtype == BF16 else tensor.dtype
        weights[tensor.path] = (drawn % 20011).astype(kind)
        if tensor.dtype == F16:
            weights[tensor.path] = ((drawn % 2001 - 1000.0) / 4096).astype(F16)
    return manifest, [turn_of(manifest, turn, dimensions) for turn in turns], weights


def value_weights(manifest: Manifest) -> dict[str, np.ndarray]:
    """Weights with few values that look random: mostly zeros in a large tensor, others in each."""
    weights = {}
    for number, tensor in enumerate(manifest.tensors):
        drawn = numbers(tensor.size, 20).reshape(tensor.shape)
        if not tensor.factor:
            kind = "uint16" if tensor.dtype == BF16 else tensor.dtype
            weights[tensor.path] = (drawn % 100).astype(kind)
            continue
        place = drawn % (number + 2) if tensor.size < 1000 else (drawn % 101 == 0) * (drawn % 7)
        weights[tensor.path] = (np.float32(0.375) * place - np.float32(number % 2)).astype("f4")
    return weights


def numbers(count: int, bits: int) -> np.ndarray:
    """uint32[count]: numbers below 2**bits that look random; the last is the largest."""
    spread = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(2)
    chosen = (spread % np.uint64(1 << bits)).astype(np.uint32)
    chosen[-1] = (1 << bits) - 1
    return chosen


def indices(header: Header) -> np.ndarray:
    """uint32[blocks]: `numbers`, or candidates whose positions are such numbers of fewer bits."""
    drawn, block = numbers(header.blocks, header.bits), np.arange(header.blocks, dtype=np.uint32)
    if header.index_code != ORDERED:
        return drawn
    positions = drawn >> block[::-1] * np.uint32(5) % np.uint32(header.bits + 1)
    first = offsets(np.uint32(header.seed), block, header.bits)
    return positions + first & np.uint32((1 << header.bits) - 1)


def build(
    manifest: Manifest, embed: bool, fields: dict[str, int], uncoded: bytes = b""
) -> Container:
    """A file's parts with indices of `indices` and scales of SCALES."""
    header = Header.of(manifest, embed, **fields)
    known = SCALES if header.ranges == 1 else RANGE_SCALES
    scales = np.resize(np.asarray(known, np.uint16), header.groups)
    return Container(header, scales, uncoded, indices(header))


def lenet5_manifest(rules: tuple[tuple[str, int], ...]) -> Manifest:
    """The manifest of LeNet-5 with sharing rules."""
    inputs = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)
    tree = jax.eval_shape(LeNet5().init, jax.random.key(0), inputs)
    return make_sharing(tree, 0, rules).manifest


def _write(path: pathlib.Path, data: bytes) -> None:
    if path.exists():
        print(f"{path.name}: exists, so it stays")
        return
    path.write_bytes(data)


def _record(
    name: str, data: bytes, embedded: bool, manifest: Manifest, known: dict[str, Any]
) -> None:
    if name in known:
        print(f"{name}: exists, so it stays")
        return
    _write(GOLDEN / name, data)
    facts = {
        "sha256": weights_sha256(decode(data, manifest.data)),
        "file_bytes": len(data),
        "embedded_manifest": embedded,
    }
    if not embedded and not name.startswith("lenet5"):
        facts["manifest"] = name.replace(".mrc", ".manifest")
        _write(GOLDEN / facts["manifest"], manifest.data)
    known[name] = facts


def main() -> None:
    """Writes what is missing."""
    GOLDEN.mkdir(exist_ok=True)
    table = GOLDEN / "golden.json"
    known = json.loads(table.read_text()) if table.exists() else {}
    for name, (tensors, embed, fields, uncoded) in CASES.items():
        manifest = Manifest(tuple(Tensor(*t) for t in tensors))
        data = pack(build(manifest, embed, fields, uncoded))
        _record(f"{name}.mrc", data, embed, manifest, known)
    for name, (tensors, embed) in VALUES.items():
        manifest = Manifest(tuple(Tensor(*t) for t in tensors))
        data = pack_values(value_weights(manifest), manifest, embed)
        _record(f"{name}.mrc", data, embed, manifest, known)
    for name in TURNED:
        manifest, turns, weights = turned_case(name)
        data, _ = pack_turned(weights, manifest, turns)
        _record(f"{name}.mrc", data, True, manifest, known)
    for name, rules in (("lenet5", LENET5_RULES), ("lenet5_plain", ())):
        manifest = lenet5_manifest(rules)
        _write(DATA / f"{name}.manifest", manifest.data)
        fields = {"seed": 2020, "bits": 16, "blocks": 900 if rules else 400, "codebook_blocks": 8}
        _record(f"{name}.mrc", pack(build(manifest, False, fields)), False, manifest, known)
    table.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
