"""The networks that configs name, their loss and their errors."""

import dataclasses
import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.augment import augment_of
from experiments.data import Dataset, Split
from experiments.settings import NORMALISED, Config
from mrc_jax import api
from mrc_jax.errors import UsageError
from mrc_jax.mesh import make_mesh, own_shards, placed, replicated
from mrc_jax.models.factored import Factored
from mrc_jax.models.lenet5 import FACTORS, LeNet5
from mrc_jax.models.mlp import Mlp
from mrc_jax.models.resnet20 import ResNet20
from mrc_jax.models.vgg8 import Vgg8
from mrc_jax.models.vgg16 import Vgg16
from mrc_jax.problem import Problem, State

_EVALUATION_BATCH = 500
_NORMALISED: dict[str, Any] = {"vgg16": Vgg16, "resnet20": ResNet20, "vgg8": Vgg8}


def network(config: Config, dataset: Dataset) -> nn.Module:
    """The config's network for a data set, without batch norm: the one that is coded."""
    if config.model == "mlp":
        return Mlp((*config.hidden, dataset.num_classes), dataset.scale)
    shape = dataset.train.inputs.shape[1:3]
    side = 32 if config.model in NORMALISED else 28
    if shape != (side, side):
        raise UsageError(
            f"model = {config.model!r} takes images of {side} x {side}; {dataset.name} has {shape}"
        )
    if config.model == "lenet5":
        net = LeNet5(dataset.scale)
        return Factored(net, FACTORS) if config.factored else net
    net = _NORMALISED[config.model](folded=True, classes=dataset.num_classes, scale=dataset.scale)
    return net.clone(width=config.width) if config.width else net


def plain_network(net: nn.Module) -> nn.Module:
    """What plain training trains: the network, with batch norm where it was folded away, and
    without factors.
    """
    if isinstance(net, Factored):
        return net.net
    return net.clone(folded=False) if is_normalised(net) else net


def is_normalised(net: nn.Module) -> bool:
    return isinstance(net, tuple(_NORMALISED.values()))


def initial_weights(net: nn.Module, dataset: Dataset, seed: int) -> Any:
    """The network's variables at its random start."""
    init = jax.jit(net.init) if is_normalised(net) else net.init  # the deep ones run no layer
    return init(jax.random.key(seed), jnp.asarray(dataset.train.inputs[:1]))


def prepare(
    config: Config, net: nn.Module, weights: Any, mesh: jax.sharding.Mesh | None = None
) -> tuple[Problem, Any, State]:
    """The problem, its constant arrays and the first state, with the posterior's means at weights.

    Args:
      config: of the run.
      net, weights: of `network`.
      mesh: the devices that share the work.
    """
    return api.prepare(
        net,
        weights,
        loss,
        config.file_bytes,
        jax.random.key(config.seed),
        config.recipe(),
        augment=augment_of(config.augment),
        mesh=mesh,
    )


def loss(logits: chex.Array, targets: chex.Array) -> chex.Array:
    """Negative log-likelihood of each example in nats, float32[batch].

    Args:
      logits: float32[batch, classes].
      targets: classes, int32[batch], or their probabilities, float32[batch, classes].
    """
    if targets.ndim == logits.ndim:
        return optax.softmax_cross_entropy(logits, targets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def on_devices(data: Any, config: Config) -> Any:
    """Arrays of a split, by `train.train_on_arrays`'s shapes, where the config's mesh has them.

    Args:
      data: pytree of arrays [examples, ...], of this process's shards one after the other.
      config: shards and mesh.
    """
    shards, mesh = config.shards, make_mesh(config.mesh)
    if shards == 1:
        return replicated(jax.tree.map(jnp.asarray, data), mesh)
    own = len(own_shards(shards, mesh))
    parts = jax.tree.map(lambda x: np.reshape(x, (own, -1, *x.shape[1:])), data)
    return placed(parts, shards, mesh)


def error(net: nn.Module, weights: Any, split: Split) -> float:
    """The share of a split that the network gets wrong."""
    wrong = 0
    for start in range(0, len(split.labels), _EVALUATION_BATCH):
        part = slice(start, start + _EVALUATION_BATCH)
        predicted = _predict(net, weights, jnp.asarray(split.inputs[part]))
        wrong += int(np.sum(np.asarray(predicted) != split.labels[part]))
    return wrong / len(split.labels)


def mean_loss(net: nn.Module, weights: Any, split: Split) -> float:
    """The loss on a split, in nats an example."""
    return loss_of_shares(probabilities(net, weights, split.inputs), split.labels)


def loss_of_shares(shares: np.ndarray, labels: np.ndarray) -> float:
    """The loss of `probabilities`, in nats an example."""
    picked = shares[np.arange(len(labels)), labels]
    return float(np.mean(-np.log(np.maximum(picked, np.finfo(np.float32).tiny))))


def probabilities(net: nn.Module, weights: Any, inputs: np.ndarray) -> np.ndarray:
    """Of the classes, float32[examples, classes], as the network sees them."""
    parts = range(0, len(inputs), _EVALUATION_BATCH)
    return np.concatenate(
        [_probabilities(net, weights, inputs[i : i + _EVALUATION_BATCH]) for i in parts]
    )


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(net: nn.Module, weights: Any, inputs: chex.Array) -> chex.Array:
    return jax.nn.softmax(logits(net, weights, inputs))


@functools.partial(jax.jit, static_argnums=0)
def _predict(net: nn.Module, weights: Any, inputs: chex.Array) -> chex.Array:
    return jnp.argmax(logits(net, weights, inputs), axis=-1)


def logits(net: nn.Module, weights: Any, inputs: chex.Array) -> Any:
    """What the network says of inputs, float32[batch, classes]."""
    return net.apply(weights, inputs)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network's (weights, inputs) -> probabilities of the classes, as targets of training."""

    net: nn.Module

    def __call__(self, weights: Any, inputs: chex.Array) -> chex.Array:
        """See above."""
        return jax.nn.softmax(logits(self.net, weights, inputs))


@dataclasses.dataclass(frozen=True)
class Mean:
    """The network at the posterior's mean, with the `apply` of a network."""

    problem: Problem

    def apply(self, variables: Any, inputs: Any) -> Any:
        """See above."""
        return self.problem.posterior.apply(variables, inputs, sample=False)
