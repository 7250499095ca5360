"""Images of a batch moved and mirrored at random on the device, inside of a training step."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

PAD = 4  # pixels of zeros at each edge, before an image of the old size is cut out
HOLE = 12  # pixels of the side of the square that is hidden

Augment = Callable[[chex.Array, chex.PRNGKey], chex.Array]


def augment_of(name: str) -> Augment | None:
    """The function (images, key) -> images of a config's `augment`; None for 'none'."""
    return {"none": None, "crop_flip": crop_flip, "crop_flip_cutout": crop_flip_cutout}[name]


def crop_flip(images: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Each image at a random place of itself with `PAD` zeros around, mirrored with probability a
    half (He et al. 2015, arXiv 1512.03385, section 4.2).

    Args:
      images: [batch, H, W, C], of any dtype, which it keeps.
      key: consumed.
    """
    batch, height, width, _ = images.shape
    place_key, mirror_key = jax.random.split(key)
    place = jax.random.randint(place_key, (2, batch, 1), 0, 2 * PAD + 1)
    mirrored = jax.random.bernoulli(mirror_key, 0.5, (batch, 1))
    rows, columns = jnp.arange(height), jnp.arange(width)
    columns = place[1] + jnp.where(mirrored, width - 1 - columns, columns)  # [batch, W]
    rows = place[0] + rows  # [batch, H]
    edges = ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0))
    cut = jax.vmap(lambda image, rows, columns: image[rows[:, None], columns])
    return cut(jnp.pad(images, edges), rows, columns)


def crop_flip_cutout(images: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """`crop_flip`, then a square of `HOLE` pixels hidden in each image, its middle anywhere, by the
    mean of the image's pixels (DeVries and Taylor 2017, arXiv 1708.04552).

    Args: as in `crop_flip`.
    """
    move_key, hole_key = jax.random.split(key)
    images = crop_flip(images, move_key)
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(hole_key)
    rows = _hidden(row_key, batch, height)[:, :, None, None]
    columns = _hidden(column_key, batch, width)[:, None, :, None]
    mean = jnp.mean(images, (1, 2), keepdims=True, dtype=jnp.float32).astype(images.dtype)
    return jnp.where(rows & columns, mean, images)


def _hidden(key: chex.PRNGKey, batch: int, size: int) -> chex.Array:
    """Which of `size` pixels of a side a square hides, bool[batch, size]."""
    first = jax.random.randint(key, (batch, 1), 0, size) - HOLE // 2
    place = jnp.arange(size)
    return (place >= first) & (place < first + HOLE)
