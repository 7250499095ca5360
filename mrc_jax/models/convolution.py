"""Convolution and pooling with the batch in the last axis, quick on CPU inside a scan.

XLA's CPU backend runs a convolution in a loop far slower than outside one, and the gradient of
max-pooling slower than that of a maximum of slices. So on CPU a convolution is a matrix product
with shifted copies of the image; with the batch last every copy moves whole rows. Kernels of 3 x 3
need fewer products and copies still (`winograd`). On a GPU small kernels are products too: twelve
LeNet-5 trained together took 0.89 ms a step on an H100 and 1.88 ms with the backend's convolution,
which is used elsewhere.
"""

import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mrc_jax.models.winograd import convolve_3x3

_SMALL = 512  # weights of an output channel, at most
_DEEP = 24  # channels of an image, at least, for tiles, which take twice as long to compile
EPSILON = 1e-5  # added to the variances of batch norm


def convolve(
    images: chex.Array, kernel: chex.Array, stride: int = 1, padding: int = 0
) -> chex.Array:
    """Convolution of images with zeros around: [out, H', W', batch], with
    H' = (H + 2 padding - h) // stride + 1 and W' like it.

    Args:
      images: [in, H, W, batch].
      kernel: [h, w, in, out].
      stride: of both axes.
      padding: rows and columns of zeros at each edge.
    """
    static = {"stride": stride, "padding": padding}
    shifted, own = partial(_shift_and_multiply, **static), partial(_convolve, **static)
    is_small = kernel[..., 0].size <= _SMALL
    tiled = _by_tiles if _has_tiles(images, kernel, **static) else shifted
    return jax.lax.platform_dependent(
        images, kernel, cpu=tiled, cuda=shifted if is_small else own, default=own
    )


def _convolve(images: chex.Array, kernel: chex.Array, stride: int, padding: int) -> chex.Array:
    edges = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), edges, dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


def _shift_and_multiply(
    images: chex.Array, kernel: chex.Array, stride: int, padding: int
) -> chex.Array:
    height, width, channels, out = kernel.shape
    if padding:
        images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    images = _in_parts(images)
    rows = (images.shape[2] - height) // stride + 1
    columns = (images.shape[3] - width) // stride + 1
    down, right = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    shifted = jnp.stack([images[:, :, :, j : j + right : stride] for j in range(width)])
    shifted = jnp.stack([shifted[:, :, :, i : i + down : stride] for i in range(height)])
    parts, _, _, batch = images.shape[1:]
    patches = shifted.reshape(height * width * channels, parts * rows * columns * batch)
    product = kernel.reshape(-1, out).T @ patches
    return _joined(product.reshape(out, parts, rows, columns, batch))


def _has_tiles(images: chex.Array, kernel: chex.Array, stride: int, padding: int) -> bool:
    """Whether `_by_tiles` is right, and quicker: it spends work on every channel of the image."""
    channels, *sides = images.shape[:3]
    is_even = not any(side % 2 for side in sides)
    return (*kernel.shape[:2], stride, padding) == (3, 3, 1, 1) and is_even and channels >= _DEEP


def _by_tiles(images: chex.Array, kernel: chex.Array) -> chex.Array:
    return _joined(convolve_3x3(_in_parts(images), kernel))


def _in_parts(images: chex.Array) -> chex.Array:
    """Images [parts, H, W, batch / parts] of each channel, as many parts as there are devices.

    Where a mesh divides the batch, the places of a product's columns can be divided like it only if
    the devices' share comes first; with the batch last every device would work on all of it.
    """
    parts = math.gcd(images.shape[3], jax.device_count())
    return jnp.moveaxis(images.reshape(*images.shape[:3], parts, -1), 3, 1)


def _joined(images: chex.Array) -> chex.Array:
    """Images [channels, H, W, batch] of `_in_parts`' [channels, parts, H, W, batch / parts]."""
    images = jnp.moveaxis(images, 1, 3)
    return images.reshape(*images.shape[:3], -1)


def max_pool(images: chex.Array) -> chex.Array:
    """2x2 max-pooling with stride 2 of [channels, H, W, batch], H and W even."""
    images = jnp.maximum(images[:, ::2], images[:, 1::2])
    return jnp.maximum(images[:, :, ::2], images[:, :, 1::2])


class Conv(nn.Module):
    """A valid convolution with bias; its parameters are those of flax.linen.Conv.

    Attributes:
      features: output channels.
      width: of the square kernel.
    """

    features: int
    width: int

    @nn.compact
    def __call__(self, images: chex.Array) -> chex.Array:
        """[features, H', W', batch] of images [in, H, W, batch]."""
        shape = (self.width, self.width, images.shape[0], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return convolve(images, kernel) + bias[:, None, None, None]


class NormConv(nn.Module):
    """A convolution with zeros around, then batch norm; or, folded, with a bias alone.

    Folded its parameters are kernel and bias; else kernel and BatchNorm_0's scale and bias, beside
    the batch statistics BatchNorm_0's mean and var. `folding.fold` makes the first of the second.

    Attributes:
      features: output channels.
      folded: whether batch norm is part of the kernel and the bias.
      width: of the square kernel, odd; without a stride the images keep their size.
      stride: of both axes.
    """

    features: int
    folded: bool
    width: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, images: chex.Array, train: bool = False) -> chex.Array:
        """[features, H', W', batch] of images [in, H, W, batch].

        Args:
          images: the channels first, the batch last.
          train: whether batch norm takes the batch's moments, and moves its statistics, which
            must then be mutable.
        """
        shape = (self.width, self.width, images.shape[0], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x = convolve(images, kernel, self.stride, self.width // 2)
        if self.folded:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            return x + bias[:, None, None, None]
        return nn.BatchNorm(not train, axis=0, momentum=0.9, epsilon=EPSILON)(x)


def centred(pixels: chex.Array, scale: float) -> chex.Array:
    """float32[channels, H, W, batch] from -2 to 2 of pixels [batch, H, W, channels] up to `scale`:
    natural images' pixels have a deviation of about a quarter of the scale.
    """
    x = pixels.transpose(3, 1, 2, 0).astype(jnp.float32)
    return x * jnp.float32(4 / scale) - jnp.float32(2)
