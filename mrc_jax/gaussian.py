"""Diagonal Gaussians: KL divergence and log density."""

import math

import chex
import jax.numpy as jnp


def kl_nats(mean: chex.Array, log_variance: chex.Array, log_prior_scale: chex.Array) -> chex.Array:
    """KL(N(mean, exp(log_variance)) || N(0, exp(2 log_prior_scale))) of each entry, in nats.

    Args:
      mean, log_variance, log_prior_scale: float32, shapes that broadcast.
    """
    log_ratio = log_variance - 2 * log_prior_scale
    return 0.5 * (jnp.square(mean * jnp.exp(-log_prior_scale)) + jnp.expm1(log_ratio) - log_ratio)


def log_weight_variance_nats2(
    mean: chex.Array, log_variance: chex.Array, log_prior_scale: chex.Array
) -> chex.Array:
    """The variance of log q / p of each entry under q, in nats squared; args as in `kl_nats`.

    Of q = N(a, x) in units of the prior's scale log q / p is (a + sqrt(x) e)^2 / 2 - e^2 / 2 and a
    constant, e ~ N(0, 1): its variance is a^2 x + (1 - x)^2 / 2.
    """
    log_ratio = log_variance - 2 * log_prior_scale
    square = jnp.square(mean) * jnp.exp(log_variance - 4 * log_prior_scale)
    return square + 0.5 * jnp.square(jnp.expm1(log_ratio))


def log_density(value: chex.Array, mean: chex.Array, log_variance: chex.Array) -> chex.Array:
    """ln N(value; mean, exp(log_variance)) of each entry, in nats."""
    squared = jnp.square(value - mean) * jnp.exp(-log_variance)
    return -0.5 * (squared + log_variance + math.log(2 * math.pi))
