"""The networks that configs name, their loss, plain training and errors."""

import dataclasses
import functools
from collections.abc import Callable
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
from mrc_jax.errors import NumericsError, UsageError
from mrc_jax.mesh import everywhere, make_mesh, own_shards, picked, placed, replicated
from mrc_jax.models.factored import Factored
from mrc_jax.models.folding import fold
from mrc_jax.models.lenet5 import FACTORS, LeNet5
from mrc_jax.models.mlp import Mlp
from mrc_jax.models.resnet20 import ResNet20
from mrc_jax.models.vgg16 import Vgg16
from mrc_jax.train import Problem

_EVALUATION_BATCH = 500
_AUGMENT, _DROPOUT = 0x41554700, 0x44524F00  # of the key of a step of plain training


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
    kind = Vgg16 if config.model == "vgg16" else ResNet20
    net = kind(folded=True, classes=dataset.num_classes, scale=dataset.scale)
    return net.clone(width=config.width) if config.width else net


def plain_network(net: nn.Module) -> nn.Module:
    """What plain training trains: the network, with batch norm where it was folded away, and
    without factors.
    """
    if isinstance(net, Factored):
        return net.net
    return net.clone(folded=False) if _is_normalised(net) else net


def _is_normalised(net: nn.Module) -> bool:
    return isinstance(net, Vgg16 | ResNet20)


def initial_weights(net: nn.Module, dataset: Dataset, seed: int) -> Any:
    """The network's variables at its random start."""
    init = jax.jit(net.init) if _is_normalised(net) else net.init  # the deep ones run no layer
    return init(jax.random.key(seed), jnp.asarray(dataset.train.inputs[:1]))


def loss(logits: chex.Array, targets: chex.Array) -> chex.Array:
    """Negative log-likelihood of each example in nats, float32[batch].

    Args:
      logits: float32[batch, classes].
      targets: classes, int32[batch], or their probabilities, float32[batch, classes].
    """
    if targets.ndim == logits.ndim:
        return optax.softmax_cross_entropy(logits, targets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def train_plain(
    net: nn.Module,
    state: Any,
    done: int,
    split: Split,
    config: Config,
    on_call: Callable[[Any, int, float], None],
) -> Any:
    """Trains the uncompressed network with Adam, or AdamW where weights decay (Loshchilov and
    Hutter 2019, arXiv 1711.05101), its rate falling to zero by a cosine.

    Args:
      net: the network that is coded; `plain_network` of it is trained.
      state: of `plain_start`, or what a call left.
      done: the steps that led to it.
      split: training data.
      config: plain_steps, plain_learning_rate, plain_weight_decay, batch_size, augment,
        steps_per_call, seed, mesh and shards; split has the shards of this process, one after the
        other, where there are several.
      on_call: called with (state, steps done, loss in nats).

    Returns:
      The trained weights of `net`: batch norm folded, or kernels factored.
    """
    run, data = plain_program(net, split, config)
    while done < config.plain_steps:
        end = min(done + config.steps_per_call, config.plain_steps)
        state, values = run(state, data, np.arange(done, end, dtype=np.int32))
        done, mean = end, float(jnp.mean(values))
        if not np.isfinite(mean):
            raise NumericsError(
                f"plain training: the loss is not finite by step {done}, at learning rate "
                f"{config.plain_learning_rate:g}: lower plain_learning_rate"
            )
        on_call(state, done, mean)
    if isinstance(net, Factored):
        return net.factored(state[0])
    return fold(state[0]) if _is_normalised(net) else state[0]


def plain_start(weights: Any, config: Config) -> tuple[Any, Any]:
    """The state of plain training before its first step: the weights, and Adam's.

    Args:
      weights: of `initial_weights` of `plain_network`.
      config: as in `train_plain`.
    """
    state = weights, _plain_optimizer(config).init(_trained(weights))
    return replicated(state, make_mesh(config.mesh))


def plain_program(
    net: nn.Module, split: Split, config: Config
) -> tuple[Callable[[Any, Any, Any], Any], Any]:
    """A compiled function (state, data, step numbers) -> (state, losses), and the data on the
    device.

    Args: as in `train_plain`.
    """
    optimizer, augment = _plain_optimizer(config), augment_of(config.augment)
    key = jax.random.key(config.seed + 1)
    objective = _plain_objective(net)
    shards, data = config.shards, on_devices((split.inputs, split.labels), config)
    rows = data[1].shape[-1]
    batch_size = min(config.batch_size // shards, rows)

    def run(state: Any, data: Any, numbers: chex.Array) -> Any:
        def step(state: Any, number: chex.Array) -> tuple[Any, chex.Array]:
            weights, opt_state = state
            own = jax.random.fold_in(key, number)
            rows_of = jax.random.randint(own, (shards, batch_size), 0, rows)
            inputs, labels = picked(data, rows_of) if shards > 1 else (x[rows_of[0]] for x in data)
            if augment is not None:
                inputs = augment(inputs, jax.random.fold_in(own, _AUGMENT))
            trained = _trained(weights)
            (value, moved), gradient = jax.value_and_grad(objective, has_aux=True)(
                trained, weights, inputs, labels, jax.random.fold_in(own, _DROPOUT)
            )
            updates, opt_state = optimizer.update(gradient, opt_state, trained)
            return ({**moved, **_updated(trained, updates)}, opt_state), value

        return jax.lax.scan(step, state, numbers)

    return jax.jit(run, out_shardings=everywhere(make_mesh(config.mesh))), data


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


def _plain_objective(net: nn.Module) -> Callable[..., tuple[chex.Array, Any]]:
    """A function (trained, weights, inputs, labels, key) -> (mean loss, collections that moved) of
    `plain_network`, whose batch norm and dropout act as in training.
    """
    plain, is_normalised = plain_network(net), _is_normalised(net)

    def objective(trained: Any, weights: Any, inputs: Any, labels: Any, key: Any) -> Any:
        if not is_normalised:
            return jnp.mean(loss(logits(plain, trained, inputs), labels)), {}
        outputs, moved = plain.apply(
            {**weights, **trained},
            inputs,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return jnp.mean(loss(outputs, labels)), moved

    return objective


def _trained(weights: Any) -> dict[str, Any]:
    """What the optimizer changes, without batch statistics."""
    return {"params": weights["params"]}


def _updated(trained: Any, updates: Any) -> dict[str, Any]:
    updated: Any = optax.apply_updates(trained, updates)
    return updated


def _plain_optimizer(config: Config) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(config.plain_learning_rate, config.plain_steps)
    if not config.plain_weight_decay:
        return optax.adam(rate)
    return optax.adamw(rate, weight_decay=config.plain_weight_decay)


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
    shares = probabilities(net, weights, split.inputs)
    picked = shares[np.arange(len(split.labels)), split.labels]
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
class Mean:
    """The network at the posterior's mean, with the `apply` of a network."""

    problem: Problem

    def apply(self, variables: Any, inputs: Any) -> Any:
        """See above."""
        return self.problem.posterior.apply(variables, inputs, sample=False)
