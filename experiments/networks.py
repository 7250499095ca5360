"""The networks that configs name, their loss, plain training and errors."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Dataset, Split
from experiments.settings import Config
from mrc_jax.errors import NumericsError, UsageError
from mrc_jax.models.lenet5 import LeNet5
from mrc_jax.models.mlp import Mlp

_EVALUATION_BATCH = 500


def network(config: Config, dataset: Dataset) -> nn.Module:
    """The config's network for a data set."""
    if config.model == "mlp":
        return Mlp((*config.hidden, dataset.num_classes), dataset.scale)
    shape = dataset.train.inputs.shape[1:3]
    if shape != (28, 28):
        raise UsageError(f"model = 'lenet5' takes images of 28 x 28; {dataset.name} has {shape}")
    return LeNet5(dataset.scale)


def initial_weights(net: nn.Module, dataset: Dataset, seed: int) -> Any:
    """The network's variables at its random start."""
    return net.init(jax.random.key(seed), jnp.asarray(dataset.train.inputs[:1]))


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
    """Trains the uncompressed network with Adam, its rate falling to zero by a cosine.

    Args:
      net: the network.
      state: of `plain_start`, or what a call left.
      done: the steps that led to it.
      split: training data.
      config: plain_steps, plain_learning_rate, batch_size, steps_per_call and seed.
      on_call: called with (state, steps done, loss in nats).

    Returns:
      The trained weights.
    """
    run, data = plain_program(net, split, config)
    while done < config.plain_steps:
        end = min(done + config.steps_per_call, config.plain_steps)
        state, values = run(state, data, jnp.arange(done, end))
        done, mean = end, float(jnp.mean(values))
        if not np.isfinite(mean):
            raise NumericsError(
                f"plain training: the loss is not finite by step {done}, at learning rate "
                f"{config.plain_learning_rate:g}: lower plain_learning_rate"
            )
        on_call(state, done, mean)
    return state[0]


def plain_start(weights: Any, config: Config) -> tuple[Any, Any]:
    """The state of plain training before its first step: the weights, and Adam's."""
    return weights, _plain_optimizer(config).init(weights)


def plain_program(
    net: nn.Module, split: Split, config: Config
) -> tuple[Callable[[Any, Any, chex.Array], Any], Any]:
    """A compiled function (state, data, step numbers) -> (state, losses), and the data on the
    device.

    Args: as in `train_plain`.
    """
    optimizer = _plain_optimizer(config)
    key = jax.random.key(config.seed + 1)
    data = (jnp.asarray(split.inputs), jnp.asarray(split.labels))
    batch_size = min(config.batch_size, len(split.labels))

    def run(state: Any, data: Any, numbers: chex.Array) -> Any:
        def step(state: Any, number: chex.Array) -> tuple[Any, chex.Array]:
            weights, opt_state = state
            picked = jax.random.randint(
                jax.random.fold_in(key, number), (batch_size,), 0, data[1].shape[0]
            )
            value, gradient = jax.value_and_grad(
                lambda w: jnp.mean(loss(logits(net, w, data[0][picked]), data[1][picked]))
            )(weights)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(weights, updates), opt_state), value

        return jax.lax.scan(step, state, numbers)

    return jax.jit(run), data


def _plain_optimizer(config: Config) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(config.plain_learning_rate, config.plain_steps)
    return optax.adam(rate)


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
