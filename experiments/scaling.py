"""Measures what training, coding and decoding take, by weights, bits, blocks and devices.

python -m experiments.scaling devices --out=experiments/results/scaling   1, 2, 4 and 8 devices
python -m experiments.scaling sizes --out=experiments/results/scaling     1 to 100 million weights

Times are processor seconds of all devices together,
so other work on the machine does not count. `experiments.cost` holds what was fitted to the rows.
"""

import os
import pathlib
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import cost, record
from experiments.benchmark.measure import in_fresh_process, origin, resident
from experiments.command import run
from mrc_jax import api, container, train
from mrc_jax.coded_file import encode_file
from mrc_jax.decode import decode
from mrc_jax.encode import encode_blocks
from mrc_jax.errors import UsageError
from mrc_jax.manifest import Manifest, Tensor
from mrc_jax.mesh import everywhere, make_mesh, placed, replicated
from mrc_jax.models.mlp import Mlp
from mrc_jax.recipe import Recipe
from mrc_jax.sharing import Sharing

DEVICES, STEPS = (1, 2, 4, 8), 4
TRAINED = ((1_000, 64), (8_000, 64), (8_000, 16))  # hidden units, batch
CODED = (  # entries, block size, bits, blocks that share a codebook
    (1 << 17, 16, 8, 1 << 12), (1 << 19, 32, 8, 1 << 12), (1 << 19, 32, 11, 1 << 12),
    (1 << 12, 64, 16, 1),
)  # fmt: skip
SIZES = (1_000_000, 4_000_000, 16_000_000, 100_000_000)  # weights; the last is not fitted to
SIZE, BITS, SHARED = 100, 10, 1 << 12  # of the blocks of SIZES


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) != 2 or argv[1] not in ("devices", "sizes"):
        raise UsageError("say what to measure: devices or sizes")
    folder = pathlib.Path(str(flags.FLAGS.out))
    folder.mkdir(parents=True, exist_ok=True)
    rows = devices_rows() if argv[1] == "devices" else sizes_rows()
    about = {"command": f"python -m experiments.scaling {argv[1]}", **in_fresh_process(origin)}
    record.write_json(folder / f"{argv[1]}.json", {**about, "rows": rows})


def devices_rows() -> list[dict[str, Any]]:
    """Of training and of coding, on each number of devices."""
    rows = []
    for devices in DEVICES:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        rows += in_fresh_process(on_devices, devices)
    return rows


def on_devices(devices: int) -> list[dict[str, Any]]:
    """The rows of a number of devices."""
    rows = [_said(training(*sizes, devices)) for sizes in TRAINED]
    return rows + [_said(coding(*sizes, devices)) for sizes in CODED]


def sizes_rows() -> list[dict[str, Any]]:
    """Of a file of each size, coded and decoded; memory beside the cost model's."""
    os.environ["XLA_FLAGS"] = ""
    return [
        _said(in_fresh_process(of_size, what, entries))
        for entries in SIZES
        for what in ("code", "decode")
    ]


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row


def training(hidden: int, batch_size: int, devices: int) -> dict[str, Any]:
    """A row: the bytes a device and the processor seconds of a training step."""
    mesh = make_mesh(f"data={devices}") if devices > 1 else None
    net = Mlp((hidden, 10), 16.0)
    images = np.zeros((1 << 10, 8, 8, 1), np.uint8)
    labels = np.zeros(1 << 10, np.int32)
    params = net.init(jax.random.key(0), images[:1])
    recipe = Recipe(bits=10, block_size=30, batch_size=batch_size, data_shards=devices)
    entries = sum(x.size for x in jax.tree.leaves(params))
    size = 200 + entries // 24
    problem, arrays, state = api.prepare(
        net, params, _loss, size, jax.random.key(0), recipe, mesh=mesh
    )
    shape = (devices, len(labels) // devices) if devices > 1 else (len(labels),)
    data = placed((images.reshape(*shape, 8, 8, 1), labels.reshape(shape)), devices, mesh)
    batch = (images[:batch_size], labels[:batch_size])
    flops = cost.forward_flops(problem, batch)
    program = jax.jit(
        partial(train.train_on_arrays, problem, steps=STEPS),
        donate_argnums=1,
        out_shardings=everywhere(mesh),
    )
    program = program.lower(arrays, state, data).compile()
    memory: Any = program.memory_analysis()
    state, _ = jax.block_until_ready(program(arrays, state, data))
    start = time.process_time()
    jax.block_until_ready(program(arrays, state, data))
    return {
        "what": "train", "devices": devices, "entries": entries, "batch": batch_size,
        "flops": flops, "blocks": problem.header.blocks,
        "step_cpu_s": (time.process_time() - start) / STEPS,
        "argument_bytes": memory.argument_size_in_bytes, "temp_bytes": memory.temp_size_in_bytes,
    }  # fmt: skip


def _loss(logits: Any, labels: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def coding(entries: int, block_size: int, bits: int, shared: int, devices: int) -> dict[str, Any]:
    """A row: the bytes a device and the processor seconds of coding a vector."""
    mesh = make_mesh(f"data={devices}") if devices > 1 else None
    mean, log_variance = _vectors(entries)
    vectors = replicated((mean, log_variance, jnp.float32(0.1)), mesh)
    code = partial(
        encode_blocks, bits=bits, block_size=block_size, codebook_blocks=shared, mesh=mesh
    )
    program = jax.jit(code).lower(jax.random.key(0), *vectors, np.uint32(1)).compile()
    memory: Any = program.memory_analysis()
    start = time.process_time()
    jax.block_until_ready(program(jax.random.key(0), *vectors, np.uint32(1)))
    return {
        "what": "code", "devices": devices, "entries": entries, "block_size": block_size,
        "bits": bits, "codebook_blocks": shared, "blocks": -(-entries // block_size),
        "cpu_s": time.process_time() - start,
        "argument_bytes": memory.argument_size_in_bytes, "temp_bytes": memory.temp_size_in_bytes,
    }  # fmt: skip


def _vectors(entries: int) -> tuple[Any, Any]:
    """Means and log-variances of a posterior with some SIZE / BITS entries a bit of KL."""

    @jax.jit
    def made(key: Any) -> tuple[Any, Any]:
        parts = jax.lax.map(  # piece by piece: all at once it would take five times the memory
            lambda i: 0.03 * jax.random.normal(jax.random.fold_in(key, i), (entries // 64,)),
            jnp.arange(64),
        )
        return parts.ravel(), jnp.full(entries, 2 * np.log(0.09), jnp.float32)

    return made(jax.random.key(0))


def of_size(what: str, entries: int) -> dict[str, Any]:
    """A row: a file of independent weights, coded and written, or read and decoded."""
    manifest = Manifest((Tensor("w", (entries,), "float32", 1),))
    blocks = -(-entries // SIZE)
    header = container.Header.of(
        manifest, True, seed=1, blocks=blocks, bits=BITS, codebook_blocks=SHARED
    )
    start, found = time.process_time(), {}
    if what == "code":
        mean, log_variance = _vectors(entries)
        scale = np.float32(np.log(0.1)).reshape(1)
        params = {"mean": mean, "log_variance": log_variance, "log_prior_scale": scale}
        key, sharing = jax.random.key(1), Sharing(manifest, 1)

        def once() -> None:
            found["file"] = encode_file(key, params, {}, sharing, header)

        predicted = cost.coding_bytes(entries)
    else:
        indices = np.random.default_rng(0).integers(0, 1 << BITS, blocks).astype(np.uint32)
        data = container.pack(
            container.Container(header, np.full(1, 0x3DCC, np.uint16), b"", indices)
        )

        def once() -> None:
            found["weights"] = decode(data, max_parameters=1 << 34)["w"]

        predicted = cost.decoding_bytes(entries)
    once()
    peak = resident("VmHWM")
    row = {"what": what, "entries": entries, "block_size": SIZE, "bits": BITS, "blocks": blocks}
    size = len(found["file"]) if what == "code" else found["weights"].nbytes
    return {
        **row, "bytes_made": size, "cpu_s": time.process_time() - start, "peak_bytes": peak,
        "predicted_bytes": predicted, "off": peak / predicted - 1,
    }  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The folder to write the rows to.")
    flags.mark_flags_as_required(["out"])
    run(main)
