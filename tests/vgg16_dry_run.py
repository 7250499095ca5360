"""A few steps and one wave of VGG-16 as its config has it; prints figures as JSON. In a process of
its own, so that its peak of memory is this work's.
"""

import dataclasses
import importlib
import json
import math
import resource
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments import networks
from experiments.data import Dataset, Split
from experiments.settings import Config
from mrc_jax.compress import code_wave
from mrc_jax.feed import steps_on
from mrc_jax.waves import waves

BATCH, STEPS, BITS = 8, 2, 10  # fewer candidates than the config's, whose codebook is no larger


def main() -> None:
    """Prints parameters, entries, blocks, coded, loss, step_s and peak_bytes."""
    values = importlib.import_module("configs.cifar10_vgg16").get_config()
    config = dataclasses.replace(Config.from_config_dict(values), batch_size=BATCH, bits=BITS)
    config = dataclasses.replace(config, file_bytes=config.file_bytes * BITS // values.bits)
    images = np.random.default_rng(0).integers(0, 256, (4 * BATCH, 32, 32, 3), np.uint8)
    split = Split(images, np.arange(len(images), dtype=np.int32) % 10)
    dataset = Dataset("cifar10", split, split, split, 10, 255.0)
    net = networks.network(config, dataset)
    shapes = jax.eval_shape(lambda: networks.initial_weights(net, dataset, 0))
    weights = jax.tree.map(_start, shapes)
    problem, arrays, state = networks.prepare(config, net, weights)
    run_steps = steps_on(problem, arrays, (split.inputs, split.labels))
    begin = time.monotonic()
    for _ in range(2):  # the first compiles
        begin = time.monotonic()
        state, metrics = jax.block_until_ready(run_steps(state, STEPS, True))
    step_s = (time.monotonic() - begin) / STEPS
    ids, kept = next(waves(problem, state, 0))
    state = jax.jit(partial(code_wave, problem))(arrays, state, jnp.asarray(ids), kept)
    figures = {
        "parameters": problem.posterior.sharing.manifest.parameters,
        "entries": problem.header.entries,
        "blocks": problem.header.blocks,
        "coded": int(jnp.sum(state.coded.is_coded)),
        "block_size": problem.header.partition.block_size,
        "wave": int(np.sum(ids < problem.header.blocks)),
        "loss": float(metrics["loss"]),
        "step_s": step_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }
    print(json.dumps(figures))


def _start(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Random weights without a program to compile for each tensor."""
    rng = np.random.default_rng(math.prod(shape.shape))
    scale = math.sqrt(2 / max(math.prod(shape.shape[:-1]), 1)) if len(shape.shape) > 1 else 0.0
    return jnp.asarray(scale * rng.standard_normal(shape.shape), shape.dtype)


if __name__ == "__main__":
    main()
