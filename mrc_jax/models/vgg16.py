"""VGG-16 for 32 x 32 images: configuration D of Simonyan and Zisserman (2015, arXiv 1409.1556,
table 1) with batch norm and dense layers of 512, 512 and 10, as MIRACLE (section 4) has it.
"""

import chex
import flax.linen as nn

from mrc_jax.models.convolution import NormConv, centred, max_pool

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # channels over `width`


class Vgg16(nn.Module):
    """Thirteen 3 x 3 convolutions Conv_0 to Conv_12 with ReLU, a 2 x 2 max-pooling after the 2nd,
    4th, 7th, 10th and 13th, then three dense layers; 15,245,130 parameters when folded.

    Attributes:
      folded: whether batch norm is folded into the convolutions (see `folding`).
      width: channels of the first convolution; the widest, and the dense layers, have 8 times it.
      classes: outputs.
      scale: the largest pixel.
      dropout: before the first two dense layers, where `train` is true.
    """

    folded: bool = False
    width: int = 64
    classes: int = 10
    scale: float = 255.0
    dropout: float = 0.5

    @nn.compact
    def __call__(self, inputs: chex.Array, train: bool = False) -> chex.Array:
        """Logits, float32[batch, classes], of images [batch, 32, 32, channels].

        Args:
          inputs: pixels.
          train: whether batch norm and dropout act as in training; dropout then draws from the rng
            stream 'dropout', and 'batch_stats' must be mutable where it is not folded.
        """
        x, number = centred(inputs, self.scale), 0
        for stage in STAGES:
            for multiple in stage:
                conv = NormConv(multiple * self.width, self.folded, name=f"Conv_{number}")
                x, number = nn.relu(conv(x, train)), number + 1
            x = max_pool(x)
        x = x.reshape(8 * self.width, inputs.shape[0]).T
        for _ in range(2):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(8 * self.width)(x))
        return nn.Dense(self.classes)(x)
