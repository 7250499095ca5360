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
_AT_ONCE_CPU = 1 << 20  # weights times centres, so that memory does not grow with them: a cache's
_AT_ONCE = 1 << 25  # and on other devices, whose launches cost more than their memory


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
    zero_distance: chex.Numeric,
    temperature: chex.Numeric,
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
    value, slope = _value_and_slope(
        jax.lax.stop_gradient(weights), centres, zero_distance, temperature
    )
    linear = value + slope * (weights - jax.lax.stop_gradient(weights))
    total = jnp.sum(jnp.where(is_free, linear, 0.0))
    return total / jnp.maximum(jnp.sum(is_free), 1)


def _value_and_slope(
    weights: chex.Array,
    centres: chex.Array,
    zero_distance: chex.Numeric,
    temperature: chex.Numeric,
) -> tuple[chex.Array, chex.Array]:
    """Of each weight its soft distance and the derivative, float32[weights].

    With e_j = exp(-D_j / temperature) the value is V = sum e D / sum e, and its derivative
    (sum e D' (1 + V / temperature) - sum e D D' / temperature) / sum e: one pass of four sums.
    """
    is_centre = jnp.isfinite(centres)[:, None]
    centre = jnp.where(is_centre, centres[:, None], 0.0)

    def of_weights(w: chex.Array) -> tuple[chex.Array, chex.Array]:
        size = jnp.maximum(jnp.abs(w), _TINY)
        shrinks = jnp.where(jnp.abs(w) > _TINY, jnp.sign(w), 0.0)
        is_at_zero = (jnp.abs(w) < zero_distance) & (centre == 0)
        away = jnp.where(is_at_zero, 0.0, jnp.abs(w - centre) / size)
        slope = jnp.where(is_at_zero, 0.0, (jnp.sign(w - centre) - away * shrinks) / size)
        nearest = jnp.min(jnp.where(is_centre, away, _FAR), axis=0)
        share = jnp.where(is_centre, jnp.exp((nearest - away) / temperature), 0.0)
        total, value = jnp.sum(share, axis=0), jnp.sum(share * away, axis=0)
        slopes, products = jnp.sum(share * slope, axis=0), jnp.sum(share * away * slope, axis=0)
        value = value / total
        return value, (slopes * (1 + value / temperature) - products / temperature) / total

    at_once = _AT_ONCE_CPU if jax.default_backend() == "cpu" else _AT_ONCE
    chunk = min(max(1, at_once // len(centres)), len(weights))
    padded = jnp.pad(weights, (0, -len(weights) % chunk), constant_values=1.0).reshape(-1, chunk)
    value, slope = jax.lax.map(of_weights, padded)
    return jnp.ravel(value)[: len(weights)], jnp.ravel(slope)[: len(weights)]


def at_share(loss: chex.Array, regulariser: chex.Array, ratio: chex.Numeric) -> chex.Array:
    """Loss + alpha * regulariser with alpha = ratio * loss / regulariser, a constant to gradients,
    so that the second term is `ratio` of the first; the loss alone where the regulariser is below
    1e-9 and there is nothing left to pull (alpha would overflow).
    """
    is_tiny = regulariser < _LEAST
    alpha = jnp.where(is_tiny, 0.0, ratio * loss / jnp.where(is_tiny, 1.0, regulariser))
    return loss + jax.lax.stop_gradient(alpha) * regulariser
