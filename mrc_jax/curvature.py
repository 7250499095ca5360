"""The loss of a coded vector, its gradient and its curvature, batch after batch."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mrc_jax.problem import Problem, State
from mrc_jax.samples import Coded

_AT_ONCE = 20  # examples whose own gradients are in memory: each has a row of all weights
_IN_DOUBT = 0.9  # of the examples of the curvature; the others are drawn evenly


def loss_of(
    problem: Problem, arrays: Any, state: State, entries: chex.Array, batch: Any
) -> chex.Array:
    """Mean loss of a coded vector on a batch, a scalar in nats.

    Args:
      problem, arrays: what is constant.
      state: for what is not coded.
      entries: float32[entries].
      batch: (inputs, targets).
    """
    outputs = _outputs(problem, arrays, state, entries, batch[0])
    return jnp.mean(problem.loss(outputs, batch[1]))


def _outputs(problem: Problem, arrays: Any, state: State, entries: chex.Array, inputs: Any) -> Any:
    variables = {
        "params": problem.gaussian(state.params, arrays),
        "sharing": arrays["sharing"],
        "uncoded": state.uncoded,
    }
    coded = Coded(is_coded=jnp.ones_like(state.coded.is_coded), value=entries)
    return problem.posterior.apply(
        variables, inputs, coded=coded, sample=False, **dict(problem.net_kwargs)
    )


def value_and_gradient(
    loss: Callable[[chex.Array, Any], chex.Array], value: chex.Array, batches: Any
) -> tuple[chex.Array, chex.Array]:
    """The mean over batches [batches, batch, ...] of a loss of (value, batch), and its gradient."""

    def add(total: Any, batch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(value, batch)), None

    count = jax.tree.leaves(batches)[0].shape[0]
    total, _ = lax.scan(add, (jnp.zeros((), value.dtype), jnp.zeros_like(value)), batches)
    return jax.tree.map(lambda x: x / np.float32(count), total)


def curvature_factors(
    problem: Problem,
    arrays: Any,
    state: State,
    inputs: Any,
    key: chex.PRNGKey,
    *,
    count: int,
    batch: int,
) -> chex.Array:
    """F, float32[count * classes, entries], with F' F an estimate without bias of the Gauss-Newton
    matrix of the mean cross-entropy, J' (diag p - p p') J for logits with Jacobian J.

    Most examples have p near to a corner and add nothing; so they are drawn by 1 - p' p, and
    weighted back.

    Args:
      problem, arrays, state: all blocks coded; the network gives logits.
      inputs: [examples, ...].
      key: of the draw.
      count: examples drawn, with replacement.
      batch: examples worked on together.
    """
    size = inputs.shape[0]
    pool_key, key = jax.random.split(key)
    pooled = min(size, 20 * count) // batch * batch or size
    pool = jax.random.permutation(pool_key, size)[:pooled]

    def doubt(index: chex.Array) -> chex.Array:
        logits = _outputs(problem, arrays, state, state.coded.value, inputs[index])
        return 1 - jnp.sum(jnp.square(jax.nn.softmax(logits)), axis=-1)

    in_doubt = lax.map(doubt, pool.reshape(-1, min(batch, pooled))).ravel()
    share = _IN_DOUBT * in_doubt / jnp.sum(in_doubt) + (1 - _IN_DOUBT) / pooled
    drawn = jax.random.choice(key, pooled, (count,), p=share)
    weight = jnp.sqrt(1 / (count * pooled * share[drawn]))

    def of_example(one: tuple[chex.Array, chex.Array]) -> chex.Array:
        example, weight = one

        def logits(entries: chex.Array) -> chex.Array:
            return _outputs(problem, arrays, state, entries, inputs[example][None])[0]

        out, pull = jax.vjp(logits, state.coded.value)
        root = jnp.sqrt(jax.nn.softmax(out))
        rows = jnp.diag(root) - root[:, None] * jnp.square(root)  # R' R = diag p - p p'
        return weight * jax.vmap(lambda row: pull(row)[0])(rows)

    factors = lax.map(of_example, (pool[drawn], weight), batch_size=min(count, _AT_ONCE))
    return factors.reshape(-1, state.coded.value.shape[0])
