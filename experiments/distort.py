"""Distorted copies of training images: small random affine maps with a smooth bend, and bilinear
interpolation.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Dataset, Split

# The largest of each, drawn uniformly; BEND is a standard deviation.
ROTATION, LOG_SCALE, SHEAR = 0.1, 0.06, 0.06  # radians; of rows and columns apart; of both
SHIFT, BEND = 0.8 / 28, 0.5 / 28  # shares of the width
_KNOTS = 5  # of the bend, along each side
_CHUNK = 5000  # images at a time


def with_copies(
    split: Split, count: int, seed: int, strength: float = 1.0, originals: int = 1
) -> Split:
    """A split `originals` times and then `count` distorted copies of it, each in its order.

    Args:
      split: images of N examples.
      count: copies.
      seed: of the distortions.
      strength: a factor of the largest of each distortion.
      originals: how often each image itself stands there.
    """
    images = split.inputs
    out = np.empty((originals + count, *images.shape), np.uint8)
    out[:originals] = images
    for number in range(count):
        key = jax.random.fold_in(jax.random.key(seed), number)
        for start in range(0, len(images), _CHUNK):
            part = slice(start, start + _CHUNK)
            keys = jax.random.split(jax.random.fold_in(key, start), len(images[part]))
            out[originals + number, part] = _distort(keys, images[part], strength)
    return Split(out.reshape(-1, *images.shape[1:]), np.tile(split.labels, originals + count))


def of_shards(
    dataset: Dataset, count: int, seed: int, strength: float, originals: int = 1
) -> Split:
    """The training examples with their copies; where they are in shards, each shard's follow it."""
    if not dataset.shards:
        return with_copies(dataset.train, count, seed, strength, originals)
    parts = zip(dataset.shards, dataset.train.divided(len(dataset.shards)), strict=True)
    done = [
        with_copies(part, count, seed ^ shard * 0x9E3779B1 & 0x7FFFFFFF, strength, originals)
        for shard, part in parts
    ]
    return Split(*(np.concatenate([getattr(s, n) for s in done]) for n in ("inputs", "labels")))


@jax.jit
def _distort(keys: chex.PRNGKey, images: chex.Array, strength: chex.Numeric) -> chex.Array:
    """Each image [N, H, W, C] seen through a map of its own."""
    return jax.vmap(_one, (0, 0, None))(keys, images, strength)


def _one(key: chex.PRNGKey, image: chex.Array, strength: chex.Numeric) -> chex.Array:
    height, width, channels = image.shape
    y, x = _places(key, height, width, strength)
    pixels, value = image.reshape(-1, channels), 0.0
    for row in (jnp.floor(y), jnp.floor(y) + 1):
        for column in (jnp.floor(x), jnp.floor(x) + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            share = jnp.where(inside, (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column)), 0)
            place = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
            value += share[:, None] * pixels[place]
    return jnp.round(value).astype(jnp.uint8).reshape(image.shape)


def _places(
    key: chex.PRNGKey, height: int, width: int, strength: chex.Numeric
) -> tuple[chex.Array, chex.Array]:
    """Row and column, float32[H * W], at which each pixel of the copy looks."""
    keys = jax.random.split(key, 5)
    angle, shear = (
        strength * jax.random.uniform(k, (), minval=-most, maxval=most)
        for k, most in ((keys[0], ROTATION), (keys[1], SHEAR))
    )
    log_scale = jax.random.uniform(keys[2], (2, 1), minval=-LOG_SCALE, maxval=LOG_SCALE)
    scale = jnp.exp(strength * log_scale)
    shift = strength * jax.random.uniform(keys[3], (2, 1), minval=-SHIFT, maxval=SHIFT)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.array([[cos, shear * cos - sin], [sin, shear * sin + cos]])
    grid = jnp.stack(jnp.mgrid[:height, :width]).reshape(2, -1)
    middle = jnp.array([[(height - 1) / 2], [(width - 1) / 2]])
    knots = jax.random.normal(keys[4], (2, _KNOTS, _KNOTS))
    bend = jnp.einsum("yk,ckl,xl->cyx", _weights(height), knots, _weights(width)).reshape(2, -1)
    y, x = middle + turn @ (scale * (grid - middle)) + width * (shift + strength * BEND * bend)
    return y, x


def _weights(size: int) -> np.ndarray:
    """How much each knot bends each pixel of a side, float32[size, _KNOTS]; rows of length 1."""
    distance = np.linspace(0, _KNOTS - 1, size)[:, None] - np.arange(_KNOTS)
    weights = np.exp(-(distance**2))
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
