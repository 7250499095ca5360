"""Weight Fixing Networks (Subia-Waud and Dasmahapatra, ECCV 2022, arXiv 2210.13554): a network is
trained and its weights are fixed to few values, round by round.
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

from mrc_jax.centres.assignment import check_shares
from mrc_jax.centres.layout import Layout, layout_of
from mrc_jax.centres.phases import Loss, check_data, check_loss, descend, draw, numbers_of
from mrc_jax.centres.relative import allowed_distances, assign
from mrc_jax.centres.report import Fixed, Round, summary
from mrc_jax.centres.soft_distance import at_share, pad_centres, soft_distance

SHARES = (0.3, 0.6, 0.8, 0.9, 0.95, 0.975, 0.99, 0.9975, 0.999, 1.0)
_NUMBERS = ("learning_rate", "clip_norm", "zero_distance", "temperature")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of weight fixing; the defaults are the paper's, for pretrained ImageNet networks.

    Attributes:
      shares: of the weights that are fixed after each round, ascending to 1.
      delta: mean relative distance allowed in the last round; round t of T allows
        delta * max(1, T - t), all within (0, 1).
      zero_distance: weights below it count as at no distance from 0 (the paper's gamma_0).
      ratio: of the regulariser to the loss; 0 leaves it out.
      temperature: of its soft minimum.
      learning_rate, clip_norm: Adam's, and the largest norm of a gradient.
      steps: training steps of a round (the paper: three epochs).
      batch_size: examples of a step.
    """

    shares: tuple[float, ...] = SHARES
    delta: float = 0.01
    zero_distance: float = 2.0**-7
    ratio: float = 0.4
    temperature: float = 0.05
    learning_rate: float = 2e-5
    clip_norm: float = 0.5
    steps: int = 1000
    batch_size: int = 128


def train_phase(
    loss: Loss,
    layout: Layout,
    settings: Settings,
    params: dict[str, Any],
    is_fixed: chex.Array,
    centres: chex.Array,
    ratio: chex.Numeric,
    data: Any,
    draws: Any,
) -> tuple[dict[str, Any], chex.Array]:
    """The training of a round, with a new Adam; fixed weights do not move. One compiled program for
    all settings.

    Args:
      loss, layout: static.
      settings: see there.
      params: coded, float32[weights], and others, a list.
      is_fixed: bool[weights].
      centres: of `pad_centres`.
      ratio: of the regulariser to the loss.
      data: a pytree of arrays [examples, ...].
      draws: of `phases.draw`.

    Returns:
      The parameters after, and the mean loss in nats.
    """
    numbers = numbers_of(settings, _NUMBERS)
    return _train_phase(loss, layout, numbers, params, is_fixed, centres, ratio, data, draws)


@partial(jax.jit, static_argnames=("loss", "layout"))
def _train_phase(
    loss: Loss,
    layout: Layout,
    numbers: dict[str, chex.Array],
    params: dict[str, Any],
    is_fixed: chex.Array,
    centres: chex.Array,
    ratio: chex.Array,
    data: Any,
    draws: Any,
) -> tuple[dict[str, Any], chex.Array]:
    adam = optax.adam(numbers["learning_rate"])
    optimizer = optax.chain(optax.clip_by_global_norm(numbers["clip_norm"]), adam)

    def objective(params: dict[str, Any], batch: Any, key: chex.PRNGKey) -> Any:
        nats = loss(layout.join(params["coded"], params["others"]), batch, key)
        distance = soft_distance(
            params["coded"], ~is_fixed, centres, numbers["zero_distance"], numbers["temperature"]
        )
        return at_share(nats, distance, ratio), nats

    def still(gradient: dict[str, Any]) -> dict[str, Any]:
        return {**gradient, "coded": jnp.where(is_fixed, 0.0, gradient["coded"])}

    return descend(objective, optimizer, still, params, data, draws)


def fix(
    loss: Loss,
    weights: Any,
    data: Any,
    key: chex.PRNGKey,
    settings: Settings,
    is_coded: Callable[[str], bool] | None = None,
) -> Fixed:
    """Trains a network and fixes its coded weights to few values.

    Each round trains the weights that are free, clusters all of them anew, and fixes a larger share
    to their centres. The first has no regulariser, for there are no centres yet; later ones have
    those of the round before, and 0.

    Args:
      loss: (weights, batch, key) -> mean nats of an example.
      weights: a tree, trained already.
      data: a pytree of arrays [examples, ...], of which batches are drawn.
      key: of batches and of the keys that the loss is given.
      settings: see there.
      is_coded: of a leaf's path: which leaves are fixed (of float32; all unless it is given); the
        others are trained with them.

    Raises:
      UsageError: settings, data or weights that cannot be.
      NumericsError: the loss or a weight is not finite.
    """
    check_shares(settings.shares)
    check_data(data, settings.batch_size, settings.steps)
    allowed = allowed_distances(settings.delta, len(settings.shares))
    layout = layout_of(weights, is_coded)
    coded, others = layout.split(weights)
    params: dict[str, Any] = {"coded": coded, "others": others}
    is_fixed, centres, rounds = jnp.zeros(len(coded), bool), np.zeros(0), []
    data = jax.tree.map(jnp.asarray, data)
    for number, share in enumerate(settings.shares):
        draws = draw(jax.random.fold_in(key, number), data, settings.steps, settings.batch_size)
        ratio, padded = settings.ratio if number else 0.0, jnp.asarray(pad_centres(centres))
        params, nats = train_phase(
            loss, layout, settings, params, is_fixed, padded, ratio, data, draws
        )
        check_loss(float(nats), number)
        before = np.asarray(params["coded"])
        found = assign(before, share, float(allowed[number]), settings.zero_distance)
        params["coded"], is_fixed = (
            jnp.asarray(found.values(before)),
            jnp.asarray(found.is_assigned),
        )
        centres = np.unique(found.centres)
        rounds.append(Round(share, float(nats), len(centres), found.powers, found.allowed))
    tree = layout.join(params["coded"], params["others"])
    return Fixed(tree, summary(np.asarray(params["coded"])), tuple(rounds))
