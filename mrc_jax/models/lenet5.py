"""LeNet-5-Caffe: 431,080 parameters for 28 x 28 images of one channel (MIRACLE, section 4)."""

import chex
import flax.linen as nn
import jax.numpy as jnp

from mrc_jax.models.convolution import Conv, max_pool
from mrc_jax.models.factored import Factors

# Of 5 x 5 filters the frequencies; of the first dense layer those of the 4 x 4 places of each
# channel. Gains of frequencies, of input channels and of output channels.
FACTORS = (
    Factors("Conv_0/kernel", (5, 5, 1, 20), cosine=(0, 1), gains=((0, 1), (3,))),
    Factors("Conv_1/kernel", (5, 5, 20, 50), cosine=(0, 1), gains=((0, 1), (2,), (3,))),
    Factors("Dense_0/kernel", (4, 4, 50, 500), cosine=(0, 1), gains=((0, 1), (2,), (3,))),
)


class LeNet5(nn.Module):
    """Two 5 x 5 valid convolutions, each followed by 2 x 2 max-pooling, then 800-500 with ReLU
    and 500-10.

    Attributes:
      scale: inputs are divided by it, and by nothing else.
    """

    scale: float = 255.0

    @nn.compact
    def __call__(self, inputs: chex.Array) -> chex.Array:
        """Logits, float32[batch, 10], of images [batch, 28, 28] or [batch, 28, 28, 1]."""
        batch = inputs.shape[0]
        x = inputs.reshape(batch, 28, 28, 1).transpose(3, 1, 2, 0)
        x = x.astype(jnp.float32) * jnp.float32(1 / self.scale)
        x = max_pool(Conv(20, 5)(x))
        x = max_pool(Conv(50, 5)(x))
        x = x.transpose(3, 1, 2, 0).reshape(batch, 800)
        x = nn.relu(nn.Dense(500)(x))
        return nn.Dense(10)(x)
