"""A variational LeNet-5 step against the plain one of the same network and batch."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import mnist_lenet5
from experiments import networks
from experiments.data import Dataset, Split
from experiments.settings import Config
from mrc_jax import api
from mrc_jax.compress import steps_on

BATCH_SIZE = 128
_STEPS, _REPETITIONS = 20, 7  # of a call; calls of each kind, in turns


def rows() -> list[dict[str, Any]]:
    """Milliseconds of a step of each kind, and their ratio; images are random."""
    config = Config.from_config_dict(mnist_lenet5.get_config())
    config = dataclasses.replace(config, batch_size=BATCH_SIZE)
    plain, variational = _calls(config)
    times: dict[str, list[float]] = {"plain": [], "variational": []}
    for _ in range(_REPETITIONS + 1):
        for name, call in (("plain", plain), ("variational", variational)):
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    found = {n: statistics.median(t[1:]) / _STEPS for n, t in times.items()}  # the first compiles
    ratio = found["variational"] / found["plain"]
    return [
        {"step": n, "batch_size": BATCH_SIZE, "seconds": s, "ratio": ratio if n != "plain" else 1.0}
        for n, s in found.items()
    ]


def _calls(config: Config) -> tuple[Callable[[], None], Callable[[], None]]:
    """What runs _STEPS steps of the plain network, and of the posterior, and waits for them."""
    dataset = _random_images()
    net = networks.network(config, dataset)
    weights = networks.initial_weights(net, dataset, config.seed)
    run, carry = networks.plain_program(net, weights, dataset.train, config)
    key, recipe = jax.random.key(config.seed), config.recipe()
    loss, size = networks.loss, config.file_bytes
    problem, arrays, state = api.prepare(net, weights, loss, size, key, recipe)
    run_steps = steps_on(problem, arrays, (dataset.train.inputs, dataset.train.labels))

    def plain() -> None:
        nonlocal carry
        carry, losses = run(carry, jnp.arange(_STEPS))
        jax.block_until_ready(losses)

    def variational() -> None:
        nonlocal state
        state, metrics = run_steps(state, _STEPS, False)
        jax.block_until_ready(metrics)

    return plain, variational


def _random_images() -> Dataset:
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (2000, 28, 28, 1), np.uint8)
    split = Split(inputs, random.integers(0, 10, 2000).astype(np.int32))
    return Dataset("mnist", split, split, split, 10, 255.0)
