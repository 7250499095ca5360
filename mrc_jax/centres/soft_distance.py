"""The regulariser of Weight Fixing Networks (arXiv 2210.13554): how far free weights are from the
centres, by a soft minimum over them, held at a fixed share of the loss.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

_PADDED_TO = 32  # centres, so that few programs are compiled
_FAR = 1e30  # distance of a centre that is only padding
_TINY = 1e-12  # a weight is divided by no less
_LEAST = 1e-9  # of the regulariser: below, nothing is left to pull
_CHUNK = 1 << 14  # weights at once, so that memory does not grow as weights times centres


def pad_centres(values: np.ndarray) -> np.ndarray:
    """The distinct centres and 0, float32, and inf up to a multiple of 32.

    Args:
      values: float32, any number.
    """
    centres = np.unique(np.append(values, 0.0)).astype(np.float32)
    size = -(-len(centres) // _PADDED_TO) * _PADDED_TO
    return np.pad(centres, (0, size - len(centres)), constant_values=np.inf)


def soft_distance(
    weights: chex.Array,
    is_free: chex.Array,
    centres: chex.Array,
    zero_distance: float,
    temperature: float,
) -> chex.Array:
    """Mean over the free weights of sum_j softmin_j(D_ij / temperature) D_ij, a scalar.

    D_ij = |w_i - c_j| / |w_i|, and 0 for c_j = 0 where |w_i| < zero_distance. 0 where none is free.
    It has a gradient with regard to the weights, and no second one.

    Args:
      weights: float32[weights].
      is_free: bool[weights].
      centres: float32[centres]; those that are inf are left out.
      zero_distance, temperature: above 0.
    """
    is_centre = jnp.isfinite(centres)[:, None]
    centre = jnp.where(is_centre, centres[:, None], 0.0)

    def of_weights(w: chex.Array) -> chex.Array:
        size = jnp.abs(w)
        distance = jnp.abs(w - centre) / jnp.maximum(size, _TINY)
        distance = jnp.where((size < zero_distance) & (centre == 0), 0.0, distance)
        distance = jnp.where(is_centre, distance, _FAR)
        return jnp.sum(jax.nn.softmax(-distance / temperature, axis=0) * distance, axis=0)

    chunk = min(_CHUNK, len(weights))
    padded = jnp.pad(weights, (0, -len(weights) % chunk), constant_values=1.0).reshape(-1, chunk)
    # Value and slope in one pass forwards: nothing of the size weights times centres is kept.
    value, slope = jax.lax.map(
        lambda w: jax.jvp(of_weights, (w,), (jnp.ones_like(w),)), jax.lax.stop_gradient(padded)
    )
    linear = value + slope * (padded - jax.lax.stop_gradient(padded))
    total = jnp.sum(jnp.where(is_free, jnp.ravel(linear)[: len(weights)], 0.0))
    return total / jnp.maximum(jnp.sum(is_free), 1)


def at_share(loss: chex.Array, regulariser: chex.Array, ratio: chex.Numeric) -> chex.Array:
    """Loss + alpha * regulariser with alpha = ratio * loss / regulariser, a constant to gradients,
    so that the second term is `ratio` of the first; the loss alone where the regulariser is below
    1e-9 and there is nothing left to pull (alpha would overflow).
    """
    is_tiny = regulariser < _LEAST
    alpha = jnp.where(is_tiny, 0.0, ratio * loss / jnp.where(is_tiny, 1.0, regulariser))
    return loss + jax.lax.stop_gradient(alpha) * regulariser
