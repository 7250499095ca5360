"""The Gaussian of each weight in Probabilistic Weight Fixing (arXiv 2309.13575): where its standard
deviation begins, and what pushes it up.
"""

import chex
import jax.numpy as jnp

MIN_SIGMA = 2.0**-30
MAX_SIGMA = 0.05
_SCALE = 0.0025


def initial_sigma(mean: chex.Array) -> chex.Array:
    """Standard deviations at the start, float32[weights]: small near a power of two.

    With u and d the powers of two at and above and at and below |mean|, r = |(mean - u) / mean|
    |(mean - d) / mean|, 0 where the mean is; sigma = 0.0025 r / q, q the 0.75 quantile of r over
    all weights, within [2^-30, 0.05]. All are 2^-30 where q is 0.

    Args:
      mean: float32[weights], the whole network's.
    """
    size = jnp.where(mean == 0, 1.0, jnp.abs(mean))
    fraction, exponent = jnp.frexp(size)  # of [0.5, 1), exact where a logarithm is not
    is_power = fraction == 0.5
    below = jnp.ldexp(jnp.float32(0.5), exponent)
    above = jnp.where(is_power, below, 2 * below)
    ratio = jnp.abs((size - above) / size) * jnp.abs((size - below) / size)
    quantile = jnp.quantile(ratio, 0.75)
    scaled = jnp.where(quantile > 0, _SCALE * ratio / jnp.where(quantile > 0, quantile, 1.0), 0.0)
    return jnp.clip(scaled, MIN_SIGMA, MAX_SIGMA)


def sigma_gradient(sigma: chex.Array, noise: chex.Array, strength: float) -> chex.Array:
    """What is added to the loss's gradient of sigma: -strength relu(0.05 - sigma) |noise|.

    Args:
      sigma, noise: float32[weights]; the noise is the standard normal that the weight was drawn by.
      strength: the paper's S.
    """
    return -strength * jnp.maximum(MAX_SIGMA - sigma, 0.0) * jnp.abs(noise)
