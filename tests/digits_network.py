"""A small network trained on the digits, for tests of what is done to its weights."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import load
from mrc_jax.centres.phases import draw, scan_steps
from mrc_jax.models.mlp import Mlp

NET = Mlp((32, 10), 16.0)
DATA = load("digits", "")
TRAIN = (DATA.train.inputs, DATA.train.labels)


def loss(weights, batch, key):
    """Mean nats of an example."""
    logits = NET.apply(weights, batch[0])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))


def error(weights):
    """Share of the validation examples that are wrong."""
    labels = jnp.argmax(NET.apply(weights, DATA.validation.inputs), axis=-1)
    return float(jnp.mean(labels != DATA.validation.labels))


@functools.cache
def trained():
    """The tree of 2,410 weights after 500 steps."""
    adam = optax.adam(5e-3)

    def update(state, batch, key):
        nats, gradient = jax.value_and_grad(loss)(state[0], batch, key)
        updates, after = adam.update(gradient, state[1])
        return (optax.apply_updates(state[0], updates), after), nats

    rng = np.random.default_rng(0)
    widths, params = (64, 32, 10), {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        kernel = rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32)
        params[f"Dense_{i}"] = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(outputs)}
    weights, data = {"params": params}, jax.tree.map(jnp.asarray, TRAIN)
    run = jax.jit(lambda w, draws: scan_steps(update, (w, adam.init(w)), data, draws))
    return run(weights, draw(jax.random.key(1), data, 500, 64))[0][0]
