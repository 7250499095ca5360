"""A convolution's value and gradients on CPU, by tiles against the shifted copies of the image."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from experiments.benchmark.measure import in_turns
from mrc_jax.models import convolution

BATCH_SIZE = 128
LAYERS = ((24, 48, 16), (48, 48, 16), (48, 96, 8), (96, 96, 8), (96, 96, 4))  # of VGG-8
_STEPS, _REPETITIONS = 10, 7  # of a call; calls of each kind, in turns
_RATE = 1e-6  # of the step that follows: or XLA would take the next one for the same


def rows() -> Iterator[dict[str, Any]]:
    """A row for each layer: channels (in, out), size (of the image), seconds and shifted_seconds
    (of a value with the gradients of image and kernel, medians of calls in turns) and ratio.
    """
    for channels, out, size in LAYERS:
        shifted = partial(convolution._shift_and_multiply, stride=1, padding=1)
        calls = {
            name: _call(convolve, channels, out, size)
            for name, convolve in (("tiles", convolution._by_tiles), ("shifted", shifted))
        }
        found = {name: s / _STEPS for name, s in in_turns(calls, _REPETITIONS).items()}
        yield {
            "channels": (channels, out),
            "size": size,
            "seconds": found["tiles"],
            "shifted_seconds": found["shifted"],
            "ratio": found["tiles"] / found["shifted"],
        }


def _call(convolve: Callable[..., Any], channels: int, out: int, size: int) -> Callable[[], None]:
    """What runs _STEPS values and gradients in a loop, and waits."""
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (channels, size, size, BATCH_SIZE))
    kernel = jax.random.normal(keys[1], (3, 3, channels, out))
    slope = jax.random.normal(keys[2], (out, size, size, BATCH_SIZE))

    @jax.jit
    def steps(images: chex.Array, kernel: chex.Array) -> Any:
        def step(both: Any, _: None) -> tuple[Any, chex.Array]:
            value, pull = jax.vjp(convolve, *both)
            moved = jax.tree.map(lambda x, s: x - _RATE * s, both, pull(slope))
            return moved, jnp.sum(value[0])

        return jax.lax.scan(step, (images, kernel), None, length=_STEPS)

    return lambda: _wait(steps(images, kernel))


def _wait(arrays: Any) -> None:
    jax.block_until_ready(arrays)
