"""A variational step of ResNet-20 whose batch is taken in parts: time, and memory at work."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from configs import cifar10_two_cores
from experiments import networks
from experiments.augment import augment_of
from experiments.data import Dataset, Split
from experiments.settings import Config
from mrc_jax import api, train

PARTS = (1, 8, 16, 32)  # of a batch of 128
_STEPS, _REPETITIONS = 3, 5  # of a call; calls of each kind, in turns


def rows() -> Iterator[dict[str, Any]]:
    """A row for each number of parts: batch_parts, examples (of a part), seconds (of a step, the
    median of calls in turns), ratio (to that of the whole) and working_bytes (of the compiled
    program). Images are random; a plain network gives the targets, as in the config.
    """
    dataset = _random_images()
    calls: dict[int, Callable[[], None]] = {}
    held: dict[int, int] = {}
    config = Config.from_config_dict(cifar10_two_cores.get_config())
    for parts in PARTS:
        own = dataclasses.replace(config, batch_parts=parts)
        calls[parts], held[parts] = _program(own, dataset)
    times: dict[int, list[float]] = {parts: [] for parts in PARTS}
    for _ in range(_REPETITIONS + 1):
        for parts, call in calls.items():
            start = time.perf_counter()
            call()
            times[parts].append((time.perf_counter() - start) / _STEPS)
    found = {parts: statistics.median(seconds[1:]) for parts, seconds in times.items()}
    for parts, seconds in found.items():
        yield {
            "batch_parts": parts,
            "examples": config.batch_size // parts,
            "seconds": seconds,
            "ratio": seconds / found[1],
            "working_bytes": held[parts],
        }


def _program(config: Config, dataset: Dataset) -> tuple[Callable[[], None], int]:
    """What runs _STEPS steps and waits, and the bytes that their program holds at work."""
    net = networks.network(config, dataset)
    weights = networks.initial_weights(net, dataset, config.seed)
    problem, arrays, state = api.prepare(
        net,
        weights,
        networks.loss,
        config.file_bytes,
        jax.random.key(config.seed),
        config.recipe(),
        augment=augment_of(config.augment),
    )
    problem = dataclasses.replace(problem, teacher=networks.Teacher(net))
    arrays, data = {**arrays, "teacher": weights}, (dataset.train.inputs, dataset.train.labels)
    steps = partial(train.train_on_arrays, problem, steps=_STEPS)
    program = jax.jit(steps, donate_argnums=1).lower(arrays, state, data).compile()
    memory: Any = program.memory_analysis()

    def call() -> None:
        nonlocal state
        state, metrics = program(arrays, state, data)
        jax.block_until_ready(metrics)

    return call, memory.temp_size_in_bytes


def _random_images() -> Dataset:
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (2000, 32, 32, 3), np.uint8)
    split = Split(inputs, random.integers(0, 10, 2000).astype(np.int32))
    return Dataset("cifar10", split, split, split, 10, 255.0)
