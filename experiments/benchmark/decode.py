"""Times of the NumPy decoder, part by part, on one core."""

import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mrc_jax import container, decode
from mrc_jax.manifest import Manifest, Tensor

ENTRIES, BLOCK_SIZE, BITS = 15_000_000, 32, 16
LENET5 = pathlib.Path(__file__).parents[1] / "results/mnist_lenet5/rate_4e-3_70k_seed0/model.mrc"
_REPETITIONS = 5


def rows() -> list[dict[str, Any]]:
    """Of 15 million weights without sharing, and of the committed LeNet-5 file."""
    random = np.random.default_rng(0)
    blocks = -(-ENTRIES // BLOCK_SIZE)
    manifest = Manifest((Tensor("w", (ENTRIES,), "float32", 1),))
    header = container.Header.of(
        manifest, True, seed=1, blocks=blocks, bits=BITS, codebook_blocks=1
    )
    indices = random.integers(0, 1 << BITS, blocks).astype(np.uint32)
    large = container.pack(container.Container(header, np.full(1, 0x3F80, np.uint16), b"", indices))
    return [_row("15 million weights", large), _row("LeNet-5", LENET5.read_bytes())]


def _row(name: str, data: bytes) -> dict[str, Any]:
    parsed = container.unpack(data)
    manifest = decode.find_manifest(parsed.header)
    lanes = decode._lanes(parsed)
    parts: dict[str, Callable[[], Any]] = {
        "whole": lambda: decode.decode(data),
        "parsing": lambda: container.unpack(data),
        "candidates": lambda: decode._lanes(parsed),
        "permutation": lambda: decode._entries(lanes, parsed.header),
    }
    found = {f"{part}_seconds": _seconds(call) for part, call in parts.items()}
    whole = found["whole_seconds"]
    found["scales_and_sharing_seconds"] = max(0.0, 2 * whole - sum(found.values()))
    return {"file": name, "weights": manifest.parameters, "file_bytes": len(data), **found}


def _seconds(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
