"""Training of the uncompressed network, which the report compares with and means may start from."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import networks
from experiments.augment import augment_of
from experiments.data import Split
from experiments.settings import Config
from mrc_jax.errors import NumericsError
from mrc_jax.mesh import everywhere, make_mesh, picked, replicated
from mrc_jax.models.factored import Factored
from mrc_jax.models.folding import fold

_AUGMENT, _DROPOUT = 0x41554700, 0x44524F00  # of the key of a step of plain training
_MOMENTUM = 0.9
_WARM_UP = 20  # of its steps 'sgd' and 'muon' warm up in one
_NO_KERNEL = 3  # 'muon' has Adam's rate this much lower, for what is no kernel of a convolution


def train(
    net: nn.Module,
    state: Any,
    done: int,
    split: Split,
    config: Config,
    on_call: Callable[[Any, int, float], None],
) -> Any:
    """Trains the uncompressed network by the config's optimizer, its rate falling to zero by a
    cosine.

    Args:
      net: the network that is coded; `networks.plain_network` of it is trained.
      state: of `start`, or what a call left.
      done: the steps that led to it.
      split: training data.
      config: the fields plain_*, batch_size, augment, steps_per_call, seed, mesh and shards; split
        has the shards of this process, one after the other, where there are several.
      on_call: called with (state, steps done, loss in nats).

    Returns:
      The trained weights of `net`: batch norm folded, or kernels factored.
    """
    run, data = program(net, split, config)
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
    return fold(state[0]) if networks.is_normalised(net) else state[0]


def start(weights: Any, config: Config) -> tuple[Any, Any]:
    """The state of plain training before its first step: the weights, and the optimizer's.

    Args:
      weights: of `networks.initial_weights` of `networks.plain_network`.
      config: as in `train`.
    """
    state = weights, _optimizer(config).init(_trained(weights))
    return replicated(state, make_mesh(config.mesh))


def program(
    net: nn.Module, split: Split, config: Config
) -> tuple[Callable[[Any, Any, Any], Any], Any]:
    """A compiled function (state, data, step numbers) -> (state, losses), and the data on the
    device.

    Args: as in `train`.
    """
    optimizer, augment = _optimizer(config), augment_of(config.plain_augment or config.augment)
    key = jax.random.key(config.seed + 1)
    objective = _objective(net, config.plain_label_smoothing)
    shards, data = config.shards, networks.on_devices((split.inputs, split.labels), config)
    rows = data[1].shape[-1]
    batch_size = min((config.plain_batch_size or config.batch_size) // shards, rows)

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


def _objective(net: nn.Module, smoothing: float) -> Callable[..., tuple[chex.Array, Any]]:
    """A function (trained, weights, inputs, labels, key) -> (mean loss, collections that moved) of
    `networks.plain_network`, whose batch norm and dropout act as in training.
    """
    plain, is_normalised = networks.plain_network(net), networks.is_normalised(net)

    def mean_loss(outputs: Any, labels: Any) -> chex.Array:
        if smoothing:
            classes = jax.nn.one_hot(labels, outputs.shape[-1])
            labels = optax.smooth_labels(classes, smoothing)
        return jnp.mean(networks.loss(outputs, labels))

    def objective(trained: Any, weights: Any, inputs: Any, labels: Any, key: Any) -> Any:
        if not is_normalised:
            return mean_loss(networks.logits(plain, trained, inputs), labels), {}
        outputs, moved = plain.apply(
            {**weights, **trained},
            inputs,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return mean_loss(outputs, labels), moved

    return objective


def _trained(weights: Any) -> dict[str, Any]:
    """What the optimizer changes, without batch statistics."""
    return {"params": weights["params"]}


def _updated(trained: Any, updates: Any) -> dict[str, Any]:
    updated: Any = optax.apply_updates(trained, updates)
    return updated


def _optimizer(config: Config) -> optax.GradientTransformation:
    """Adam, or AdamW where weights decay (Loshchilov and Hutter 2019, arXiv 1711.05101); or
    Nesterov's momentum with weight decay in the gradient, its rate warmed up; or of the kernels of
    convolutions that momentum made orthogonal, its rate warmed up, with decay as AdamW's (Muon,
    Jordan 2024, https://kellerjordan.github.io/posts/muon).
    """
    rate, steps = config.plain_learning_rate, config.plain_steps
    decay = config.plain_weight_decay
    warmed = partial(
        optax.warmup_cosine_decay_schedule,
        0.0,
        warmup_steps=-(-steps // _WARM_UP),
        decay_steps=steps,
    )
    if config.plain_optimizer == "sgd":
        momentum = optax.sgd(warmed(rate), _MOMENTUM, nesterov=True)
        return optax.chain(optax.add_decayed_weights(decay), momentum)
    if config.plain_optimizer == "muon":
        return optax.contrib.muon(
            warmed(rate),
            beta=_MOMENTUM,
            weight_decay=decay,
            adam_learning_rate=warmed(rate / _NO_KERNEL),
            muon_weight_dimension_numbers=_matrices,
        )
    cosine = optax.cosine_decay_schedule(rate, steps)
    return optax.adamw(cosine, weight_decay=decay) if decay else optax.adam(cosine)


def _matrices(weights: Any) -> Any:
    """For each kernel [h, w, in, out] of a convolution, which of its axes make the matrix."""
    made = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return jax.tree.map(lambda x: made if x.ndim == 4 else None, weights)
