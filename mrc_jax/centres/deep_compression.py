"""Pruning, k-means and training of the centroids (Han, Mao and Dally, ICLR 2016, arXiv 1510.00149):
the usual baseline. The entropy coding of the paper's third stage is the file's own.
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

from mrc_jax.centres.k_centroids import k_centroids
from mrc_jax.centres.layout import Layout, layout_of
from mrc_jax.centres.phases import Loss, check_data, check_loss, descend, draw
from mrc_jax.centres.powers_of_two import to_bfloat16
from mrc_jax.centres.report import Fixed, Round, summary
from mrc_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of pruning and quantisation.

    Attributes:
      kept: share of the coded weights that are not zero in the end.
      values: of each tensor, beside zero.
      rounds: of pruning and training; the share falls by the same factor in each.
      steps: training steps of a round, and of the centroids at the end.
      batch_size: examples of a step.
      learning_rate: Adam's at the start of each round and, by a cosine, a hundredth at its end.
    """

    kept: float
    values: int = 8
    rounds: int = 5
    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        """Raises UsageError for settings that cannot be."""
        if not 0 < self.kept <= 1 or self.values < 1 or self.rounds < 1:
            raise UsageError("kept must be in (0, 1], values and rounds at least 1")


def largest(weights: np.ndarray, count: int) -> np.ndarray:
    """bool[n]: the `count` weights of largest magnitude, the first of equal ones first."""
    order = np.argsort(-np.abs(weights), kind="stable")
    kept = np.zeros(weights.size, bool)
    kept[order[:count]] = True
    return kept


@partial(jax.jit, static_argnames=("loss", "layout", "steps"))
def train_phase(
    loss: Loss,
    layout: Layout,
    steps: int,
    learning_rate: chex.Numeric,
    params: dict[str, Any],
    place: chex.Array,
    data: Any,
    draws: Any,
) -> tuple[dict[str, Any], chex.Array]:
    """The training of a round, with a new Adam.

    Args:
      loss, layout, steps: static.
      learning_rate: at the start.
      params: `free`, what weights can be, float32[m], of which the first stays 0; and `others`.
      place: int32[weights], which of them each coded weight is.
      data: a pytree of arrays [examples, ...].
      draws: of `phases.draw`.

    Returns:
      The parameters after, and the mean loss in nats.
    """
    rate = optax.cosine_decay_schedule(learning_rate, steps, 0.01)
    # Zeros are out of range, so that the gradients of most weights have nowhere to be added up.
    place = jnp.where(place == 0, len(params["free"]), place)

    def objective(params: dict[str, Any], batch: Any, key: chex.PRNGKey) -> Any:
        coded = params["free"].at[place].get(mode="fill", fill_value=0.0)
        nats = loss(layout.join(coded, params["others"]), batch, key)
        return nats, nats

    return descend(objective, optax.adam(rate), lambda gradient: gradient, params, data, draws)


def quantised(weights: np.ndarray, sizes: list[int], values: int) -> tuple[np.ndarray, np.ndarray]:
    """What weights become if those of each tensor that are not zero have few values.

    Args:
      weights: float32[n], of all tensors.
      sizes: of the tensors.
      values: of each tensor, beside zero.

    Returns:
      What weights can be, float32[1 + tensors * values], first zero, then the centroids of each
      tensor, then zeros where there were fewer; and which of them each weight is, int32[n].
    """
    free, place, start = [np.zeros(1)], np.zeros(weights.size, np.int32), 0
    for size in sizes:
        part = weights[start : start + size]
        (used,) = np.nonzero(part)
        if len(used):
            even, none = np.ones(len(used)), np.zeros(len(used))
            centres, nearest = k_centroids(part[used], even, none, min(values, len(used)))
            place[start + used] = sum(map(len, free)) + nearest
            free.append(centres)
        start += size
    found = np.concatenate(free).astype(np.float32)
    return np.pad(found, (0, 1 + len(sizes) * values - len(found))), place


def compress(
    loss: Loss,
    weights: Any,
    data: Any,
    key: chex.PRNGKey,
    settings: Settings,
    is_coded: Callable[[str], bool] | None = None,
) -> Fixed:
    """Prunes a network's coded weights and gives those that are left few values.

    Args:
      loss: (weights, batch, key) -> mean nats of an example.
      weights: a tree, trained already.
      data: a pytree of arrays [examples, ...], of which batches are drawn.
      key: of batches and of the keys that the loss is given.
      settings: see there.
      is_coded: of a leaf's path: which leaves are coded (of float32; all unless it is given); the
        others are trained with them.

    Raises:
      UsageError: settings, data or weights that cannot be.
      NumericsError: the loss is not finite.
    """
    check_data(data, settings.batch_size, settings.steps)
    layout = layout_of(weights, is_coded)
    coded, others = layout.split(weights)
    vector, data, rounds = np.asarray(coded), jax.tree.map(jnp.asarray, data), []
    rate = jnp.float32(settings.learning_rate)
    pairs = zip(layout.shapes, layout.is_coded, strict=True)
    sizes = [int(np.prod(shape)) for shape, yes in pairs if yes]

    def train(free: np.ndarray, place: np.ndarray, number: int) -> tuple[np.ndarray, Any]:
        draws = draw(jax.random.fold_in(key, number), data, settings.steps, settings.batch_size)
        params = {"free": jnp.asarray(free), "others": others}
        params, nats = train_phase(
            loss, layout, settings.steps, rate, params, jnp.asarray(place), data, draws
        )
        check_loss(float(nats), number)
        share = float(np.mean(place > 0))
        rounds.append(Round(share, float(nats), len(np.unique(place)), 0, 0.0))
        return np.asarray(params["free"]), params["others"]

    for number in range(settings.rounds):
        share = settings.kept ** ((number + 1) / settings.rounds)
        kept = largest(vector, max(1, round(share * vector.size)))
        place = np.where(kept, np.arange(1, vector.size + 1), 0).astype(np.int32)
        free, others = train(np.concatenate([[0], np.where(kept, vector, 0)]), place, number)
        vector = free[place]
    free, place = quantised(vector, sizes, settings.values)
    free, others = train(free, place, settings.rounds)
    vector = to_bfloat16(free).astype(np.float32)[place]
    tree = layout.join(jnp.asarray(vector), others)
    return Fixed(tree, summary(vector), tuple(rounds))
