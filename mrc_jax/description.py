"""What is in a parsed file, without expanding its weights: as a dictionary and as text."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from mrc_jax.container import Container, parts_of_file, scales_to_float
from mrc_jax.identity import TURNED_VERSION, VALUES_VERSION
from mrc_jax.index_codes import NAMES, ORDERED
from mrc_jax.manifest import Manifest
from mrc_jax.rotation.turned_file import TurnedFile
from mrc_jax.value_file import ValueFile

_OF_HEADER = ("seed", "blocks", "bits", "codebook_blocks", "ranges", "entries", "groups")


def facts(
    parsed: Container | ValueFile | TurnedFile, manifest: Manifest | None, data: bytes
) -> dict[str, Any]:
    """The file's header, tensors (none where the manifest is unknown) with what their weights are
    made of, and parts.

    Everything is what JSON can hold; parts_bytes add up to the file's size. `data` is the whole
    file.
    """
    if isinstance(parsed, TurnedFile):
        return _of_turned(parsed)
    if isinstance(parsed, ValueFile):
        return _of_values(parsed, manifest)
    return _of_blocks(parsed, manifest, data)


def _of_turned(parsed: TurnedFile) -> dict[str, Any]:
    """With the turns: groups of heads, dimensions of a head, and paths of tensors."""
    manifest = parsed.header.manifest
    assert manifest is not None
    return {
        "version": TURNED_VERSION,
        "entries": 0,
        "parameters": manifest.parameters,
        "fingerprint": parsed.header.fingerprint.hex(),
        "turns": [
            {
                "groups": turn.groups,
                "dimensions": turn.dimensions,
                "tensors": [manifest.tensors[m.tensor].path for m in turn.members],
            }
            for turn in parsed.turns
        ],
        "tensors": [dataclasses.asdict(t) | {"entries": 0} for t in manifest.tensors],
        "parts_bytes": parsed.parts_bytes,
    }


def _of_values(parsed: ValueFile, manifest: Manifest | None) -> dict[str, Any]:
    """With the values of each table, and the numbers of the coded tensors' tables in order."""
    header = parsed.header
    return {
        "version": VALUES_VERSION,
        "entries": header.entries,
        "parameters": manifest.parameters if manifest else None,
        "fingerprint": header.fingerprint.hex(),
        "tables": [table.values.tolist() for table in parsed.tables],
        "table_of_tensor": list(parsed.which),
        "tensors": [
            dataclasses.asdict(t) | {"entries": t.entries}
            for t in (manifest.tensors if manifest else ())
        ],
        "parts_bytes": parsed.parts_bytes,
    }


def _of_blocks(parsed: Container, manifest: Manifest | None, data: bytes) -> dict[str, Any]:
    """With the scales of the groups; where the indices are ordered, index_r and index_s are the
    parameters of their code.
    """
    header = parsed.header
    sizes = parts_of_file(header, len(data))
    field = data[-sizes["indices"] - sizes["checksum"] :]
    ordered = header.index_code == ORDERED
    coding = {"index_r": field[0], "index_s": field[1]} if ordered else {}
    tensors = manifest.tensors if manifest else ()
    return {
        "version": header.version,
        **{name: getattr(header, name) for name in _OF_HEADER},
        "block_size": header.partition.block_size,
        "index_code": NAMES[header.index_code],
        **coding,
        "parameters": manifest.parameters if manifest else None,
        "fingerprint": header.fingerprint.hex(),
        "group_scales": scales_to_float(parsed.scales).tolist(),
        "tensors": [
            dataclasses.asdict(t)
            | {"entries": t.entries, "groups": len(t.group_sizes(header.ranges))}
            for t in tensors
        ],
        "parts_bytes": sizes,
    }


def text(facts: dict[str, Any]) -> str:
    """Facts with file_bytes, as lines: numbers, tensors with their scales, bytes by part."""
    lines = [
        f"{name:16}{'unknown' if value is None else value}"
        for name, value in facts.items()
        if not isinstance(value, list | dict) and name != "file_bytes"
    ]
    lines += [
        f"{'turn':16}{turn['groups']} x {turn['dimensions']}: {', '.join(turn['tensors'])}"
        for turn in facts.get("turns", ())
    ]
    turned = {path for turn in facts.get("turns", ()) for path in turn["tensors"]}
    made_of = _scales_of(facts) if "group_scales" in facts else _tables_of(facts)
    lines += [
        f"  {t['path']}  {list(t['shape'])} {t['dtype']}: "
        + (next(made_of) if t["factor"] else "turned" if t["path"] in turned else "stored as it is")
        for t in facts["tensors"]
    ]
    if not facts["tensors"]:
        lines += [f"{'coded':16}{what}" for what in made_of]
        lines.append(f"{'tensors':16}unknown: give the network's manifest (--manifest M)")
    lines.append("bytes")
    lines += [f"  {name:14}{size:>12}" for name, size in facts["parts_bytes"].items()]
    return "\n".join([*lines, f"  {'file_bytes':14}{facts['file_bytes']:>12}"])


def _scales_of(facts: dict[str, Any]) -> Iterator[str]:
    """What each coded tensor's weights are made of; all scales at once without the manifest."""
    scales = iter(facts["group_scales"])
    for tensor in facts["tensors"]:
        if tensor["factor"]:
            own = ", ".join(str(next(scales)) for _ in range(tensor["groups"]))
            yield f"factor {tensor['factor']}, {tensor['entries']} entries, scale {own}"
    if not facts["tensors"]:
        yield f"scales {', '.join(map(str, scales))}"


def _tables_of(facts: dict[str, Any]) -> Iterator[str]:
    """The values of each coded tensor's table, or the table's number where others have it too."""
    for number in facts.get("table_of_tensor", ()):
        values = facts["tables"][number]
        yield f"{len(values)} values of table {number}, {values[0]} to {values[-1]}"
