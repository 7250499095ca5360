"""What is in a parsed file, without expanding its weights: as a dictionary and as text."""

import dataclasses
from typing import Any

from mrc_jax.container import Container, parts_of_file, scales_to_float
from mrc_jax.index_codes import NAMES, ORDERED
from mrc_jax.manifest import Manifest

_OF_HEADER = ("seed", "blocks", "bits", "codebook_blocks", "ranges", "entries", "groups")


def facts(parsed: Container, manifest: Manifest | None, data: bytes) -> dict[str, Any]:
    """The file's header, group scales, tensors (none where the manifest is unknown) and parts.

    Everything is what JSON can hold; parts_bytes add up to the file's size. `data` is the whole
    file; where its indices are ordered, index_r and index_s are the parameters of their code.
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
    scales = iter(facts["group_scales"])
    for tensor in facts["tensors"]:
        coded = "stored as it is"
        if tensor["factor"]:
            own = ", ".join(str(next(scales)) for _ in range(tensor["groups"]))
            coded = f"factor {tensor['factor']}, {tensor['entries']} entries, scale {own}"
        shape = list(tensor["shape"])
        lines.append(f"  {tensor['path']}  {shape} {tensor['dtype']}: {coded}")
    if not facts["tensors"]:
        lines.append(f"{'group_scales':16}{', '.join(map(str, scales))}")
        lines.append(f"{'tensors':16}unknown: give the network's manifest (--manifest M)")
    lines.append("bytes")
    lines += [f"  {name:14}{size:>12}" for name, size in facts["parts_bytes"].items()]
    return "\n".join([*lines, f"  {'file_bytes':14}{facts['file_bytes']:>12}"])
