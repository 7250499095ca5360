"""A multilayer perceptron with ReLU."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax.numpy as jnp


class Mlp(nn.Module):
    """Flattens its inputs, divides them by `scale`, and applies dense layers.

    Attributes:
      widths: units of the hidden layers and of the output.
      scale: the largest possible input value.
    """

    widths: Sequence[int]
    scale: float = 1.0

    @nn.compact
    def __call__(self, inputs: chex.Array) -> chex.Array:
        """Logits, float32[batch, widths[-1]], of inputs [batch, ...]."""
        x = inputs.reshape(inputs.shape[0], -1).astype(jnp.float32) * jnp.float32(1 / self.scale)
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)
