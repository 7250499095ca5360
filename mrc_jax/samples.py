"""Samples of the coded vector from the Gaussian posterior, pure functions of its parameters."""

from collections.abc import Mapping
from functools import partial

import chex
import jax
import jax.numpy as jnp

from mrc_jax.shared_random import stored

Parameters = Mapping[str, chex.Array]  # mean, log_variance: [entries]; log_prior_scale: [groups]
Moments = tuple[chex.Array, chex.Array]  # of the posterior: mean, standard deviation: [entries]


@chex.dataclass(frozen=True)
class Coded:
    """The entries that are coded and so fixed.

    Attributes:
      is_coded: bool[entries].
      value: float32[entries], the decoded value where is_coded.
    """

    is_coded: chex.Array
    value: chex.Array

    @classmethod
    def none(cls, entries: int) -> "Coded":
        """Nothing is coded yet."""
        return cls(is_coded=jnp.zeros(entries, bool), value=jnp.zeros(entries, jnp.float32))


def sample_entries(
    parameters: Parameters, key: chex.PRNGKey | None, coded: Coded | None = None
) -> chex.Array:
    """One sample of the coded vector, float32[entries].

    Args:
      parameters: of the posterior.
      key: consumed; None gives the mean.
      coded: entries that keep their coded value.
    """
    if key is None:
        entries = parameters["mean"]
        return entries if coded is None else jnp.where(coded.is_coded, coded.value, entries)
    noise = stored_noise(key, parameters["mean"].size)
    return sample_of_noise(moments(parameters), noise, coded)


def moments(parameters: Parameters) -> Moments:
    """Mean and standard deviation of the coded vector, float32[entries] each."""
    return parameters["mean"], jnp.exp(0.5 * parameters["log_variance"])


def sample_of_noise(moments: Moments, noise: chex.Array, coded: Coded | None = None) -> chex.Array:
    """The sample of the coded vector with this noise, float32[entries].

    Args:
      moments: of the posterior.
      noise: standard normals, float32[entries].
      coded: entries that keep their coded value.
    """
    mean, deviation = moments
    drawn = mean + deviation * noise
    return drawn if coded is None else jnp.where(coded.is_coded, coded.value, drawn)


def stored_noise(key: chex.PRNGKey, entries: int) -> chex.Array:
    """Standard normals, in memory: or XLA on a CPU draws one for every parameter that shares its
    entry, a fifth of a step.
    """
    word = jax.random.key_data(key).ravel()[0]
    draw = partial(_normal, entries=entries)
    return stored(draw, word, jnp.zeros(entries, jnp.float32), key)


def mirrored_noise(key: chex.PRNGKey, number: chex.Numeric, last: chex.Array) -> chex.Array:
    """The noise of one of many samples, taken in order: each with an odd number has the negative of
    the one before it, the pairs are independent (antithetic variates, Hammersley and Morton 1956).

    Args:
      key: of all samples.
      number: of the sample, from 0.
      last: the noise of the one before, float32[entries].
    """
    draw = partial(_normal, jax.random.fold_in(key, number), last.size)
    return jax.lax.cond(number % 2 == 1, lambda: -last, draw)


def _normal(key: chex.PRNGKey, entries: int) -> chex.Array:
    return jax.random.normal(key, (entries,), jnp.float32)
