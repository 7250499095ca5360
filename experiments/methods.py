"""The methods that `compare` runs on one trained network: each gives weights of few values, which
`mrc_jax.value_file` writes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import networks
from mrc_jax.centres import deep_compression, importance, probabilistic_fixing, weight_fixing
from mrc_jax.centres.k_centroids import k_centroids
from mrc_jax.centres.phases import Loss
from mrc_jax.centres.powers_of_two import to_bfloat16
from mrc_jax.errors import UsageError

OBJECTIVES = (
    "baseline", "fisher", "gradient", "hessian", "gradient_and_hessian", "gradient_and_fisher",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained network.

    Attributes:
      net: the module.
      weights: its variables.
      data: (inputs, labels) of its training examples, in which the ones as they were come first.
      loss: (weights, batch, key) -> mean nats of an example.
      seed: of everything random.
    """

    net: nn.Module
    weights: Any
    data: tuple[np.ndarray, np.ndarray]
    loss: Loss
    seed: int

    @property
    def key(self) -> chex.PRNGKey:
        """Of a method's private randomness."""
        return jax.random.key(self.seed + 2)


def subject(net: nn.Module, weights: Any, data: Any, seed: int) -> Subject:
    """A network as the methods take it; its loss is one function, so programs are compiled once."""

    def loss(weights: Any, batch: Any, key: chex.PRNGKey) -> chex.Array:
        return jnp.mean(networks.loss(networks.logits(net, weights, batch[0]), batch[1]))

    return Subject(net, weights, data, loss, seed)


def _deep_compression(subject: Subject, **settings: Any) -> Any:
    own = deep_compression.Settings(**settings)
    return deep_compression.compress(
        subject.loss, subject.weights, subject.data, subject.key, own
    ).weights


def _weight_fixing(subject: Subject, **settings: Any) -> Any:
    own = weight_fixing.Settings(**settings)
    return weight_fixing.fix(subject.loss, subject.weights, subject.data, subject.key, own).weights


def _probabilistic_fixing(subject: Subject, **settings: Any) -> Any:
    own = probabilistic_fixing.Settings(**settings)
    return probabilistic_fixing.fix(
        subject.loss, subject.weights, subject.data, subject.key, own
    ).weights


def _rate_distortion(
    subject: Subject, objective: str, pruned: float = 0.0, values: int = 0, examples: int = 1000
) -> Any:
    """Pruning and k centroids at the least cost by an objective, without any training after (Gao et
    al. 2019).

    Args:
      subject: the network.
      objective: one of OBJECTIVES.
      pruned: share of each tensor's weights that become zero.
      values: of each tensor beside zero; 0 leaves those that are not pruned as they are.
      examples: of the training data, by which the objective is estimated.
    """
    found = importance_of(subject, objective, examples)
    weights = importance.prune(subject.weights, found, pruned) if pruned else subject.weights
    if values:
        return few_values(weights, found, values, bool(pruned))
    return jax.tree.map(lambda w: to_bfloat16(np.asarray(w)).astype(np.float32), weights)


def few_values(weights: Any, found: importance.Importance, values: int, is_pruned: bool) -> Any:
    """The weights with so many bfloat16 values a tensor, at the least cost.

    Args:
      weights: a tree.
      found: what changing them costs.
      values: of each tensor, at most; beside zero where it is pruned.
      is_pruned: whether zeros stay what they are.
    """

    def quantised(weights: Any, square: Any, quartic: Any) -> np.ndarray:
        flat = np.array(weights, np.float32).ravel()
        used = flat != 0 if is_pruned else np.ones(flat.size, bool)
        if np.any(used):
            parts = (np.asarray(x).ravel()[used] for x in (weights, square, quartic))
            centroids, nearest = k_centroids(*parts, k=min(values, int(np.sum(used))))
            flat[used] = to_bfloat16(centroids)[nearest]
        return flat.reshape(np.shape(weights))

    return jax.tree.map(quantised, weights, found.square, found.quartic)


def importance_of(subject: Subject, objective: str, examples: int) -> importance.Importance:
    """What changing a network's weights costs by one of OBJECTIVES, by its first examples."""
    if objective not in OBJECTIVES:
        raise UsageError(f"objective = {objective!r}: must be one of {', '.join(OBJECTIVES)}")
    pair = tuple(jnp.asarray(x[:examples]) for x in subject.data)
    return _importance(subject.net, objective, subject.weights, pair, subject.key)


@partial(jax.jit, static_argnames=("net", "objective"))
def _importance(
    net: nn.Module, objective: str, weights: Any, pair: Any, key: chex.PRNGKey
) -> importance.Importance:
    def logits(weights: Any, one: Any) -> chex.Array:
        return networks.logits(net, weights, one[None])[0]

    def loss(weights: Any, one: Any) -> chex.Array:
        return networks.loss(logits(weights, one[0])[None], one[1][None])[0]

    made: dict[str, Callable[[], importance.Importance]] = {
        "baseline": lambda: importance.baseline(weights),
        "fisher": lambda: importance.fisher(logits, weights, pair[0]),
        "gradient": lambda: importance.gradient(loss, weights, pair),
        "hessian": lambda: importance.hessian(loss, weights, pair, key, 4),
        "gradient_and_hessian": lambda: importance.gradient_and_hessian(
            loss, weights, pair, key, 4
        ),
        "gradient_and_fisher": lambda: importance.gradient_and_fisher(loss, logits, weights, pair),
    }
    return made[objective]()


METHODS: Mapping[str, Callable[..., Any]] = {
    "deep_compression": _deep_compression,
    "weight_fixing": _weight_fixing,
    "probabilistic_fixing": _probabilistic_fixing,
    "rate_distortion": _rate_distortion,
}
