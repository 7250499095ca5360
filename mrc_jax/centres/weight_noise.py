"""The Gaussian of each weight in Probabilistic Weight Fixing (arXiv 2309.13575): where its standard
deviation begins, and what pushes it up.
"""

import chex
import jax.numpy as jnp
import numpy as np

MIN_SIGMA = 2.0**-30
MAX_SIGMA = 0.05
_SCALE = 0.0025


def initial_sigma(mean: np.ndarray) -> np.ndarray:
    """Standard deviations at the start, float32[weights]: small near a power of two.

    With u and d the nearest powers of two above and below |mean|, r = |(mean - u) / mean|
    |(mean - d) / mean|, 0 where the mean is 0 or a power of two; sigma = 0.0025 r / q, q the 0.75
    quantile of r over all weights, within [2^-30, 0.05]. All are 2^-30 where q is 0.

    Args:
      mean: float32[weights], the whole network's, at least one.
    """
    size = np.where(mean == 0, 1.0, np.abs(mean.astype(np.float64)))
    _, exponent = np.frexp(size)  # exact where a logarithm is not
    below = np.ldexp(0.5, exponent)
    ratio = np.abs((size - 2 * below) / size) * np.abs((size - below) / size)
    quantile = np.quantile(ratio, 0.75)
    scaled = _SCALE * ratio / quantile if quantile > 0 else np.zeros_like(ratio)
    return np.clip(scaled, MIN_SIGMA, MAX_SIGMA).astype(np.float32)


def sigma_gradient(sigma: chex.Array, noise: chex.Array, strength: chex.Numeric) -> chex.Array:
    """What is added to the loss's gradient of sigma: -strength relu(0.05 - sigma) |noise|.

    Args:
      sigma, noise: float32[weights]; the noise is the standard normal that the weight was drawn by.
      strength: the paper's S.
    """
    return -strength * jnp.maximum(MAX_SIGMA - sigma, 0.0) * jnp.abs(noise)
