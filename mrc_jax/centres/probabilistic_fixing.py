"""Probabilistic Weight Fixing (Subia-Waud and Dasmahapatra, NeurIPS 2023, arXiv 2309.13575): a
Gaussian for each weight says how far it may move to a value that many share.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mrc_jax.centres.assignment import Assignment, check_shares
from mrc_jax.centres.layout import Layout, layout_of
from mrc_jax.centres.mahalanobis import assign, deviations
from mrc_jax.centres.phases import Loss, check_data, check_loss, draw, numbers_of, scan_steps
from mrc_jax.centres.report import Fixed, Round, summary
from mrc_jax.centres.weight_noise import MIN_SIGMA, initial_sigma, sigma_gradient

SHARES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0)
_NUMBERS = ("strength", "learning_rate", "momentum", "weight_decay", "clip_norm")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of probabilistic fixing; the defaults are the paper's, for ImageNet networks.

    Attributes:
      shares: of the weights that are fixed after each round, ascending to 1.
      bits: the smallest power of two is 2^-bits; means below it count as 0.
      threshold: standard deviations that a weight may move before proposals are refined.
      most_powers: of two in a sum.
      strength: of the push on the standard deviations (the paper's S).
      learning_rate, momentum, weight_decay, clip_norm: of SGD, and the largest norm of a gradient;
        the decay is added after clipping.
      steps: training steps of a round (the paper: three epochs).
      first_steps: of the first round (the paper: 5 % of an epoch).
      batch_size: examples of a step.
    """

    shares: tuple[float, ...] = SHARES
    bits: int = 7
    threshold: float = 1.0
    most_powers: int = 4
    strength: float = 2.0**-11
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    steps: int = 1000
    first_steps: int = 17
    batch_size: int = 128


def train_phase(
    loss: Loss,
    layout: Layout,
    settings: Settings,
    params: dict[str, Any],
    is_fixed: chex.Array,
    data: Any,
    draws: Any,
) -> tuple[dict[str, Any], chex.Array]:
    """The training of a round: a new SGD on the loss of one sample of the weights. One compiled
    program for all settings.

    Fixed weights are drawn too, and neither their mean nor their sigma moves.

    Args:
      loss, layout: static.
      settings: see there.
      params: mean and sigma, float32[weights], and others, a list.
      is_fixed: bool[weights].
      data: a pytree of arrays [examples, ...].
      draws: of `phases.draw`.

    Returns:
      The parameters after, and the mean loss in nats.
    """
    numbers = numbers_of(settings, _NUMBERS)
    return _train_phase(loss, layout, numbers, params, is_fixed, data, draws)


@partial(jax.jit, static_argnames=("loss", "layout"))
def _train_phase(
    loss: Loss,
    layout: Layout,
    numbers: dict[str, chex.Array],
    params: dict[str, Any],
    is_fixed: chex.Array,
    data: Any,
    draws: Any,
) -> tuple[dict[str, Any], chex.Array]:
    optimizer = optax.chain(
        optax.clip_by_global_norm(numbers["clip_norm"]),
        optax.add_decayed_weights(numbers["weight_decay"]),
        optax.sgd(numbers["learning_rate"], numbers["momentum"]),
    )

    def of_free(tree: Any) -> dict[str, Any]:
        moved = {name: jnp.where(is_fixed, 0.0, tree[name]) for name in ("mean", "sigma")}
        return {**tree, **moved}

    def update(state: Any, batch: Any, key: chex.PRNGKey) -> Any:
        params, opt_state = state
        noise_key, loss_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, params["mean"].shape, jnp.float32)

        def objective(params: dict[str, Any]) -> chex.Array:
            sample = params["mean"] + params["sigma"] * noise
            return loss(layout.join(sample, params["others"]), batch, loss_key)

        nats, gradient = jax.value_and_grad(objective)(params)
        push = sigma_gradient(params["sigma"], noise, numbers["strength"])
        gradient = of_free({**gradient, "sigma": gradient["sigma"] + push})
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params: Any = optax.apply_updates(params, of_free(updates))
        return ({**params, "sigma": jnp.maximum(params["sigma"], MIN_SIGMA)}, opt_state), nats

    state, nats = scan_steps(update, (params, optimizer.init(params)), data, draws)
    return state[0], nats


def fix_share(
    settings: Settings, params: dict[str, Any], is_fixed: np.ndarray, share: float
) -> Assignment:
    """Fixes more weights, until a share of all is, in the parameters that it is given.

    The mean of a weight that is fixed becomes its centre, and its sigma the standard deviation of
    the means that were fixed with it, at least 2^-30.

    Args:
      settings: of the clustering.
      params: of `train_phase`; mean and sigma are replaced.
      is_fixed: bool[weights], so far.
      share: of all weights.

    Returns:
      Which weights were fixed to which centres.
    """
    mean, sigma = np.asarray(params["mean"]), np.asarray(params["sigma"])
    limits = (settings.bits, settings.threshold, settings.most_powers)
    found = assign(mean, sigma, is_fixed, share, *limits)
    spread = np.maximum(deviations(found, mean), MIN_SIGMA)
    params["mean"] = jnp.asarray(found.values(mean))
    params["sigma"] = jnp.asarray(found.spread(spread, sigma))
    return found


def fix(
    loss: Loss,
    weights: Any,
    data: Any,
    key: chex.PRNGKey,
    settings: Settings,
    is_coded: Callable[[str], bool] | None = None,
) -> Fixed:
    """Trains a Gaussian for each coded weight and fixes the weights to few values.

    Each round trains means and standard deviations of the weights that are free and fixes some of
    them to centres for good; the sigma of a weight that is fixed becomes the standard deviation of
    the means that were fixed with it. The result has no noise.

    Args:
      loss: (weights, batch, key) -> mean nats of an example.
      weights: a tree, trained already: the means at the start.
      data: a pytree of arrays [examples, ...], of which batches are drawn.
      key: of batches, noise and the keys that the loss is given.
      settings: see there.
      is_coded: of a leaf's path: which leaves are fixed (of float32; all unless it is given); the
        others are trained with them, without noise.

    Raises:
      UsageError: settings, data or weights that cannot be.
      NumericsError: the loss or a weight is not finite.
    """
    check_shares(settings.shares)
    check_data(data, settings.batch_size, settings.steps, settings.first_steps)
    layout = layout_of(weights, is_coded)
    mean, others = layout.split(weights)
    sigma = jnp.asarray(initial_sigma(np.asarray(mean)))
    params: dict[str, Any] = {"mean": mean, "sigma": sigma, "others": others}
    is_fixed, rounds = np.zeros(len(mean), bool), []
    data = jax.tree.map(jnp.asarray, data)
    for number, share in enumerate(settings.shares):
        steps = settings.steps if number else settings.first_steps
        draws = draw(jax.random.fold_in(key, number), data, steps, settings.batch_size)
        params, nats = train_phase(
            loss, layout, settings, params, jnp.asarray(is_fixed), data, draws
        )
        check_loss(float(nats), number)
        found = fix_share(settings, params, is_fixed, share)
        is_fixed = is_fixed | found.is_assigned
        values = len(np.unique(found.centres))
        rounds.append(Round(share, float(nats), values, found.powers, found.allowed))
    tree = layout.join(params["mean"], params["others"])
    return Fixed(tree, summary(np.asarray(params["mean"])), tuple(rounds))
