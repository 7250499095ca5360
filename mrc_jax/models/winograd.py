"""Convolution with 3 x 3 kernels by Winograd's minimal filtering F(2 x 2, 3 x 3): 16 products for
four places of the output in place of 36 (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308).
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import chex
import jax.numpy as jnp

# Lavin and Gray, section 4.1: of four values in a row, of three taps, of four products.
_OF_IMAGE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_OF_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OF_PRODUCT = ((1, 1, 1, 0), (0, 1, -1, -1))


def convolve_3x3(images: chex.Array, kernel: chex.Array) -> chex.Array:
    """Convolution without stride, with a zero around each image: [out, parts, H, W, batch].

    Args:
      images: [in, parts, H, W, batch], H and W even.
      kernel: [3, 3, in, out].
    """
    channels, parts, height, width, batch = images.shape
    tiles = (parts, height // 2, width // 2, batch)
    images = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [_combined(_OF_KERNEL, list(row)) for row in _combined(_OF_KERNEL, list(kernel))]
    rows = _combined(_OF_IMAGE, _neighbours(images, 2))
    products = [  # [row][column] of 4 x 4, each [out, *tiles]
        [
            (tap.T @ values.reshape(channels, -1)).reshape(-1, *tiles)
            for tap, values in zip(own, _combined(_OF_IMAGE, _neighbours(row, 3)), strict=True)
        ]
        for own, row in zip(taps, rows, strict=True)
    ]
    columns = [_combined(_OF_PRODUCT, list(column)) for column in zip(*products, strict=True)]
    pairs = [_combined(_OF_PRODUCT, list(row)) for row in zip(*columns, strict=True)]
    placed = jnp.stack([jnp.stack(pair, axis=4) for pair in pairs], axis=3)
    return placed.reshape(-1, parts, height, width, batch)


def _neighbours(values: chex.Array, axis: int) -> list[chex.Array]:
    """The four values that each pair of outputs along an axis of 2 n + 2 is made of, n along it."""
    shape = values.shape
    pairs = values.reshape(*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
    before = (slice(None),) * axis
    ends = slice(None, -1), slice(1, None)
    return [pairs[(*before, end, place)] for end in ends for place in (0, 1)]


def _combined(matrix: Sequence[Sequence[float]], values: Sequence[chex.Array]) -> list[chex.Array]:
    """A linear combination of the values for each row of the matrix."""
    terms = [
        [value if factor == 1 else factor * value for factor, value in pairs if factor]
        for pairs in (zip(row, values, strict=True) for row in matrix)
    ]
    return [reduce(add, own) for own in terms]
