"""Convolution and pooling with the batch in the last axis, quick on CPU inside a scan.

XLA's CPU backend runs a convolution in a loop far slower than outside one, and the gradient of
max-pooling slower than that of a maximum of slices. So on CPU a convolution is a matrix product
with shifted copies of the image; with the batch last every copy moves whole rows. Elsewhere it is
the backend's own convolution.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp


def convolve(images: chex.Array, kernel: chex.Array) -> chex.Array:
    """Valid convolution with stride 1: [out, H - h + 1, W - w + 1, batch].

    Args:
      images: [in, H, W, batch].
      kernel: [h, w, in, out].
    """
    return jax.lax.platform_dependent(images, kernel, cpu=_shift_and_multiply, default=_convolve)


def _convolve(images: chex.Array, kernel: chex.Array) -> chex.Array:
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


def _shift_and_multiply(images: chex.Array, kernel: chex.Array) -> chex.Array:
    height, width, channels, out = kernel.shape
    rows, columns = images.shape[1] - height + 1, images.shape[2] - width + 1
    shifted = jnp.stack([images[:, :, j : j + columns] for j in range(width)])
    shifted = jnp.stack([shifted[:, :, i : i + rows] for i in range(height)])
    patches = shifted.reshape(height * width * channels, rows * columns * images.shape[3])
    product = kernel.reshape(-1, out).T @ patches
    return product.reshape(out, rows, columns, images.shape[3])


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
