"""The Mean-KL parameterisation of the posterior (Lin, Flamich and Hernandez-Lobato 2023,
arXiv 2307.07816): an entry has a mean and a share of its block's KL, and its variance follows. A
block's KL is its budget at every step, so there are no betas.

With prior scale r, a = mean / r and u = -ln(variance / r^2) the KL of an entry is kappa where

    u - 1 + exp(-u) = kappa * 2 - a^2,  u >= 0.

Its parameters are free and every map of them is smooth:

    kappa = budget * softmax(share_logit) over the block,  a = sqrt(2 kappa) tanh(mean_atanh),

so 2 kappa - a^2 = p^2 / 2 with p = 2 sqrt(kappa) / cosh(mean_atanh), and u is analytic in p: near
the branch point of Lambert's W, at p = 0, nothing is subtracted and no square root is taken of 0.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from mrc_jax.blocks import Partition, lanes_in_use, slots_to_blocks
from mrc_jax.errors import UsageError
from mrc_jax.gaussian import kl_nats
from mrc_jax.objective import in_entry_order, in_slot_order
from mrc_jax.posterior import log_prior_scale_of_entries
from mrc_jax.samples import Parameters
from mrc_jax.sharing import Sharing

_MOST = 0.9  # of the mean that a share allows, at the start
_LEAST = 1e-3  # nats that count for a share at the start, so that no logarithm is of 0


def gaussian(
    params: Parameters, sharing: Sharing, partition: Partition, order: Any, budget_nats: float
) -> dict[str, chex.Array]:
    """Mean and log-variance [entries] of the posterior, beside log_prior_scale [groups].

    Args:
      params: mean_atanh and share_logit, float32[entries], any finite values, and log_prior_scale.
      sharing: gives each entry its prior scale, in whose units mean and deviation are.
      partition: the blocks.
      order: of `slot_order`.
      budget_nats: KL of a block.
    """
    log_kl = log_kl_nats(params["share_logit"], partition, order, budget_nats)
    mean, log_variance = in_prior_scales(params["mean_atanh"], log_kl)
    log_scale = log_prior_scale_of_entries(params, sharing)
    return {
        "mean": mean * jnp.exp(log_scale),
        "log_variance": log_variance + 2 * log_scale,
        "log_prior_scale": params["log_prior_scale"],
    }


def start(
    params: Parameters, sharing: Sharing, partition: Partition, order: Any, budget_nats: float
) -> dict[str, chex.Array]:
    """The free parameters that come nearest to a Gaussian posterior: shares in proportion to its
    KL, and its means as far as these shares allow.

    Args: as in `gaussian`, but for params: of the posterior.

    Raises:
      UsageError: the budget is not positive.
    """
    if not budget_nats > 0:
        raise UsageError(
            f"slack_nats leaves a block {budget_nats:.3g} nats of KL: it must have some"
        )
    log_scale = log_prior_scale_of_entries(params, sharing)
    share_logit = jnp.log(kl_nats(params["mean"], params["log_variance"], log_scale) + _LEAST)
    log_kl = log_kl_nats(share_logit, partition, order, budget_nats)
    part = params["mean"] * jnp.exp(-log_scale - 0.5 * log_kl) / jnp.sqrt(2.0)
    return {
        "mean_atanh": jnp.arctanh(jnp.clip(part, -_MOST, _MOST)),
        "share_logit": share_logit,
        "log_prior_scale": params["log_prior_scale"],
    }


def log_kl_nats(
    share_logit: chex.Array, partition: Partition, order: Any, budget_nats: float
) -> chex.Array:
    """ln of each entry's KL in nats, float32[entries]: its block's budget times its share."""
    logits = slots_to_blocks(in_slot_order(share_logit, order), partition)
    in_use = lanes_in_use(partition, jnp.arange(partition.blocks, dtype=jnp.uint32))
    log_share = jax.nn.log_softmax(jnp.where(in_use, logits, -jnp.inf), axis=0)
    log_share = in_entry_order(jnp.ravel(log_share)[: partition.entries], order)
    return log_share + jnp.log(jnp.float32(budget_nats))


def in_prior_scales(mean_atanh: chex.Array, log_kl: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Mean and log-variance of entries whose prior scale is 1.

    Args:
      mean_atanh: artanh of the mean over the largest that the KL allows.
      log_kl: ln of the KL in nats, of the same shape.
    """
    root, (tanh, sech) = jnp.exp(0.5 * log_kl), tanh_and_sech(mean_atanh)
    return jnp.sqrt(2.0) * root * tanh, -negative_log_ratio(2 * root * sech)


@jax.custom_jvp
def tanh_and_sech(x: chex.Array) -> tuple[chex.Array, chex.Array]:
    """tanh and 1 / cosh; neither they nor their derivatives overflow or cancel anywhere."""
    small = jnp.exp(-jnp.abs(x))
    return jnp.tanh(x), 2 * small / (1 + jnp.square(small))


@tanh_and_sech.defjvp
def _tanh_and_sech_jvp(primals: Any, tangents: Any) -> Any:
    tanh, sech = tanh_and_sech(*primals)
    (tangent,) = tangents
    return (tanh, sech), (jnp.square(sech) * tangent, -tanh * sech * tangent)


def _series(degree: int) -> list[float]:
    """Coefficients 1 to `degree` of u(p), from u' (1 - exp(-u)) = p term by term."""
    c = [0.0, 1.0]
    for n in range(2, degree + 1):
        inner = sum(i * c[i] * c[n + 1 - i] for i in range(2, n))
        c.append(((n - 1) / 2 * c[n - 1] - inner) / (n + 1))
    return c[1:]


_SERIES = _series(18)  # within 1e-7 up to p = 2; it converges up to sqrt(4 pi)


@jax.custom_jvp
def negative_log_ratio(p: chex.Array) -> chex.Array:
    """The u >= 0 with u - 1 + exp(-u) = p^2 / 2, of p >= 0, float32 to the last place or two."""
    below = jnp.minimum(p, 2.0)
    series = jnp.zeros_like(p)
    for coefficient in reversed(_SERIES):
        series = (series + coefficient) * below
    half_square = jnp.square(jnp.maximum(p, 2.0)) / 2
    u = half_square + 1 - jnp.exp(-half_square - 1)
    for _ in range(2):  # Newton's steps
        u -= (u + jnp.expm1(-u) - half_square) / -jnp.expm1(-u)
    return jnp.where(p < 2.0, series, u)


@negative_log_ratio.defjvp
def _negative_log_ratio_jvp(primals: Any, tangents: Any) -> Any:
    (p,), (tangent,) = primals, tangents
    u = negative_log_ratio(p)
    is_zero = u == 0
    slope = jnp.where(is_zero, 1.0, p / -jnp.expm1(-jnp.where(is_zero, 1.0, u)))
    return u, slope * tangent
