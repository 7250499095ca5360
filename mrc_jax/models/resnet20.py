"""ResNet-20 for 32 x 32 images (He, Zhang, Ren and Sun 2015, arXiv 1512.03385, section 4.2), its
shortcuts without parameters (option A).
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from mrc_jax.models.convolution import NormConv, centred

BLOCKS = 3  # of each of the three stages


class ResNet20(nn.Module):
    """A 3 x 3 convolution Conv_0, then three stages of three residual blocks of two convolutions
    (Conv_1 to Conv_18), the mean over the image and a dense layer; 269,034 parameters when folded.

    The second and third stages begin with a stride of 2 and twice the channels; their shortcuts
    take every other pixel, with zeros in the channels that are new.

    Attributes:
      folded: whether batch norm is folded into the convolutions (see `folding`).
      width: channels of the first stage.
      classes: outputs.
      scale: the largest pixel.
    """

    folded: bool = False
    width: int = 16
    classes: int = 10
    scale: float = 255.0

    @nn.compact
    def __call__(self, inputs: chex.Array, train: bool = False) -> chex.Array:
        """Logits, float32[batch, classes], of images [batch, H, W, channels].

        Args:
          inputs: pixels.
          train: whether batch norm acts as in training; 'batch_stats' must then be mutable where it
            is not folded.
        """
        x = centred(inputs, self.scale)
        x = nn.relu(NormConv(self.width, self.folded, name="Conv_0")(x, train))
        number = 1
        for stage in range(3):
            for block in range(BLOCKS):
                stride = 2 if stage and not block else 1
                features = self.width << stage
                first = NormConv(features, self.folded, stride=stride, name=f"Conv_{number}")
                second = NormConv(features, self.folded, name=f"Conv_{number + 1}")
                inner = second(nn.relu(first(x, train)), train)
                x, number = nn.relu(inner + _shortcut(x, features, stride)), number + 2
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)).T)


def _shortcut(images: chex.Array, features: int, stride: int) -> chex.Array:
    """[features, H / stride, W / stride, batch] of images [in, H, W, batch]."""
    new = features - images.shape[0]
    return jnp.pad(images[:, ::stride, ::stride], ((0, new), (0, 0), (0, 0), (0, 0)))
