"""A tiny run over a mesh, in a process of its own or as one of several; says what it held.

python tests/mesh_runs.py FOLDER MESH [MESH ..]

Does a run for each mesh in FOLDER/MESH, and prints a line of JSON for each.
"""

import json
import os
import pathlib
import sys
from typing import Any

import jax

from configs import default
from experiments import hosts, networks
from experiments.run import opened
from experiments.settings import Config
from mrc_jax import compress as coding
from mrc_jax import train
from mrc_jax.checkpoint import encode
from mrc_jax.compress import train_to_budget
from mrc_jax.feed import steps_on
from mrc_jax.mesh import Placed, make_mesh

FIELDS = {
    "hidden": (), "file_bytes": 100, "bits": 6, "embed_manifest": False, "plain_steps": 10,
    "steps": 120, "steps_per_call": 60, "batch_size": 16, "refine_steps": 2, "wave_blocks": 32,
    "beta_init": 1.0, "beta_step": 0.1, "log_std_init": -3.0, "data_shards": 2,
    "codebook_blocks": 1 << 14, "learning_rate": 1e-3,
}  # fmt: skip


def main(folder: pathlib.Path, meshes: list[str]) -> None:
    """Does the runs."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        hosts.start()
    held: dict[str, Any] = {}
    watch(held)
    for mesh in meshes:
        if mesh == "coded":
            path = folder / "data=2"
            coded = [encode(path, mesh=make_mesh(text)).hex() for text in ("", "data=2")]
            print(json.dumps({"files": coded}))
            continue
        held.clear()
        values = {**default.get_config().to_dict(), **FIELDS, "mesh": mesh}
        config = Config(**values)
        sha256 = one_run(config, folder / (mesh or "one"), held)
        print(json.dumps({"mesh": mesh, "data_sha256": sha256, **held}), flush=True)


def one_run(config: Config, workdir: pathlib.Path, held: dict[str, Any]) -> str:
    """The SHA-256 of a run's data; a run on one device is trained only."""
    with opened(config, workdir) as job:
        held["shards"] = len(job.dataset.shards)
        held["examples"] = len(job.dataset.train.labels)
        if config.mesh:
            return job.go()["data_sha256"]
        data = Placed(networks.on_devices(job.data(), config))
        run_steps = steps_on(job.problem, job.arrays, data)
        train_to_budget(job.problem, job.state, run_steps, job.on_call)
        return hosts.sha256(job.dataset)


def watch(held: dict[str, Any]) -> None:
    """Writes down the shapes of what this process's devices have of a batch and of a wave."""
    step, choose = train.train_step, coding.select_wave_on
    shapes = held.setdefault

    def train_step(problem: Any, arrays: Any, state: Any, batch: Any, refining: bool) -> Any:
        whole = batch[0].shape

        def seen(sharding: Any) -> None:
            shapes("batch", [list(whole), list(sharding.shard_shape(whole))])
            shapes("devices", len(sharding.addressable_devices))

        jax.debug.inspect_array_sharding(batch[0], callback=seen)
        return step(problem, arrays, state, batch, refining)

    def select_wave_on(mesh: Any, *arguments: Any, **options: Any) -> Any:
        chosen = choose(mesh, *arguments, **options)

        def seen(sharding: Any) -> None:
            shapes("blocks", [chosen.shape[0], sharding.shard_shape(chosen.shape)[0]])

        jax.debug.inspect_array_sharding(chosen, callback=seen)
        return chosen

    train.train_step, coding.select_wave_on = train_step, select_wave_on


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
