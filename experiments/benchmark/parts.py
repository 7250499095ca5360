"""A variational step of ResNet-20 whose batch is taken in parts: time, and memory at work."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from configs import cifar10_resnet20
from experiments import networks
from experiments.benchmark.measure import in_turns
from experiments.benchmark.train import random_images
from experiments.data import Dataset
from experiments.settings import Config
from mrc_jax import train

PARTS = (1, 8, 16, 32)  # of a batch of 128
_STEPS, _REPETITIONS = 3, 5  # of a call; calls of each kind, in turns


def rows() -> Iterator[dict[str, Any]]:
    """A row for each number of parts: batch_parts, examples (of a part), seconds (of a step, the
    median of calls in turns), ratio (to that of the whole) and working_bytes (of the compiled
    program). Images are random; a plain network gives the targets, as in the config.
    """
    dataset = random_images("cifar10", (32, 32, 3))
    calls: dict[int, Callable[[], None]] = {}
    held: dict[int, int] = {}
    config = Config.from_config_dict(cifar10_resnet20.get_config())
    for parts in PARTS:
        own = dataclasses.replace(config, batch_parts=parts)
        calls[parts], held[parts] = _program(own, dataset)
    found = in_turns(calls, _REPETITIONS)
    for parts, seconds in found.items():
        yield {
            "batch_parts": parts,
            "examples": config.batch_size // parts,
            "seconds": seconds / _STEPS,
            "ratio": seconds / found[1],
            "working_bytes": held[parts],
        }


def _program(config: Config, dataset: Dataset) -> tuple[Callable[[], None], int]:
    """What runs _STEPS steps and waits, and the bytes that their program holds at work."""
    net = networks.network(config, dataset)
    weights = networks.initial_weights(net, dataset, config.seed)
    problem, arrays, state = networks.prepare(config, net, weights)
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
