"""VGG-8, a small VGG (Simonyan and Zisserman 2015, arXiv 1409.1556) for 32 x 32 images, with batch
norm. A single convolution is at full size, so that most of its work is in wide products of
matrices, which CPU cores do well.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from mrc_jax.models.convolution import NormConv, centred, max_pool

STAGES = ((1,), (2, 2), (4, 4), (4, 4))  # channels over `width`


class Vgg8(nn.Module):
    """Convolutions Conv_0 to Conv_6 with ReLU, a 2 x 2 max-pooling after the 1st, 3rd and 5th, the
    maximum over the image and a dense layer; 574,218 parameters when folded.

    Attributes:
      folded: whether batch norm is folded into the convolutions (see `folding`).
      width: channels of the first convolution; the widest have 4 times it.
      classes: outputs.
      scale: the largest pixel.
    """

    folded: bool = False
    width: int = 32
    classes: int = 10
    scale: float = 255.0

    @nn.compact
    def __call__(self, inputs: chex.Array, train: bool = False) -> chex.Array:
        """Logits, float32[batch, classes], of images [batch, 32, 32, channels].

        Args:
          inputs: pixels.
          train: whether batch norm acts as in training; 'batch_stats' must then be mutable where it
            is not folded.
        """
        x, number = centred(inputs, self.scale), 0
        for stage in STAGES:
            x = max_pool(x) if number else x
            for multiple in stage:
                conv = NormConv(multiple * self.width, self.folded, name=f"Conv_{number}")
                x, number = nn.relu(conv(x, train)), number + 1
        return nn.Dense(self.classes)(jnp.max(x, axis=(1, 2)).T)
