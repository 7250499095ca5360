"""Times of the NumPy decoder, part by part, on one core."""

import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmark.measure import in_fresh_process
from mrc_jax import container
from mrc_jax.decode import _entries, _lanes, decode, find_manifest
from mrc_jax.manifest import Manifest, Tensor

ENTRIES, BLOCK_SIZE, BITS = 15_000_000, 32, 16
LENET5 = pathlib.Path(__file__).parents[1] / "results/mnist_lenet5/rate_4e-3_70k_seed0/model.mrc"
_REPETITIONS = 5


def rows() -> list[dict[str, Any]]:
    """Of 15 million weights without sharing, and of the committed LeNet-5 file."""
    return [in_fresh_process(_row, name) for name in ("15 million weights", "LeNet-5")]


def _large_file() -> bytes:
    random = np.random.default_rng(0)
    blocks = -(-ENTRIES // BLOCK_SIZE)
    manifest = Manifest((Tensor("w", (ENTRIES,), "float32", 1),))
    header = container.Header.of(
        manifest, True, seed=1, blocks=blocks, bits=BITS, codebook_blocks=1
    )
    indices = random.integers(0, 1 << BITS, blocks).astype(np.uint32)
    return container.pack(container.Container(header, np.full(1, 0x3F80, np.uint16), b"", indices))


def _row(name: str) -> dict[str, Any]:
    """Times of one file, on one core."""
    data = LENET5.read_bytes() if name == "LeNet-5" else _large_file()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    first = time.perf_counter()
    decode(data)
    first = time.perf_counter() - first
    parsed = container.unpack(data)
    manifest = find_manifest(parsed.header)
    lanes = _lanes(parsed)
    parts: dict[str, Callable[[], Any]] = {
        "whole": lambda: decode(data),
        "parsing": lambda: container.unpack(data),
        "candidates": lambda: _lanes(parsed),
        "permutation": lambda: _entries(lanes, parsed.header),
    }
    found = {f"{part}_seconds": _seconds(call) for part, call in parts.items()}
    found["scales_and_sharing_seconds"] = max(0.0, 2 * found["whole_seconds"] - sum(found.values()))
    found["first_seconds"] = first
    return {
        "file": name,
        "weights": manifest.parameters,
        "file_bytes": len(data),
        "cores": 1,
        **found,
    }


def _seconds(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
