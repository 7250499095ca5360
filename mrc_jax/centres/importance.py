"""How much it costs to change a weight: the five diagonal objectives of Gao, Liu, Wang and Oh 2019
("Rate Distortion For Model Compression", arXiv 1810.06401, Tables 1 and 2).

Changing weight i by d costs square[i] d^2 + quartic[i] d^4. `loss` is of one example and takes
(weights, example); `examples` is a pytree of arrays [examples, ...], gone through one example at a
time, so that memory does not grow with their number.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax.errors import UsageError

Loss = Callable[[Any, Any], chex.Array]


class Importance(NamedTuple):
    """The cost of changes; trees of the weights' structure, float32, 0 or more.

    Attributes:
      square: factor of the squared change.
      quartic: factor of its fourth power.
    """

    square: Any
    quartic: Any

    def cost(self, change: Any) -> Any:
        """The cost of changing each weight by `change`, a tree like the weights."""
        return jax.tree.map(
            lambda s, q, d: s * jnp.square(d) + q * jnp.square(jnp.square(d)),
            self.square,
            self.quartic,
            change,
        )


def baseline(weights: Any) -> Importance:
    """Every weight is worth the same: the squared change."""
    return _of_square(jax.tree.map(jnp.ones_like, weights))


def fisher(
    logits: Callable[[Any, Any], chex.Array], weights: Any, inputs: Any, temperature: float = 1.0
) -> Importance:
    """E sum_c (df_c / dw_i)^2 / f_c of the class probabilities f: the diagonal of the Fisher
    information, so twice the KL that a small change makes; it needs no labels ('KL' in Table 1).

    Args:
      logits: (weights, input of one example) -> float32[classes].
      weights: a tree.
      inputs: a pytree of arrays [examples, ...].
      temperature: logits are divided by it, so that probabilities may be calibrated first.

    Raises:
      UsageError: the temperature is not positive.
    """
    if not temperature > 0:
        raise UsageError(f"temperature = {temperature:g}: it must be positive")

    def of_example(_: chex.Array, one: Any) -> Any:
        return _fisher_of(lambda w: logits(w, one) / temperature, weights)

    return _of_square(_mean(of_example, inputs))


def gradient(loss: Loss, weights: Any, examples: Any) -> Importance:
    """E (dL / dw_i)^2: to first order the mean squared change of an example's loss (Table 2)."""

    def of_example(_: chex.Array, one: Any) -> Any:
        return jax.tree.map(jnp.square, jax.grad(loss)(weights, one))

    return _of_square(_mean(of_example, examples))


def hessian(
    loss: Loss, weights: Any, examples: Any, key: chex.PRNGKey, probes: int = 1
) -> Importance:
    """E d2L / dw_i^2, estimated (see `hessian_diagonal`); what is below 0 counts as 0 (Table 2)."""
    mean, _ = hessian_diagonal(loss, weights, examples, key, max(probes, 2))
    return _of_square(jax.tree.map(lambda h: jnp.maximum(h, 0), mean))


def gradient_and_hessian(
    loss: Loss, weights: Any, examples: Any, key: chex.PRNGKey, probes: int = 8
) -> Importance:
    """E (dL / dw_i)^2 d^2 + E (d2L / dw_i^2)^2 d^4 / 4 (Table 2), the second estimated (see
    `hessian_diagonal`); what is below 0 counts as 0.
    """
    _, square = hessian_diagonal(loss, weights, examples, key, probes)
    quartic = jax.tree.map(lambda h: jnp.maximum(h, 0) / 4, square)
    return Importance(gradient(loss, weights, examples).square, quartic)


def gradient_and_fisher(
    loss: Loss, logits: Callable[[Any, Any], chex.Array], weights: Any, examples: Any
) -> Importance:
    """`gradient_and_hessian` without noise for cross-entropy of classes, where the logits are
    piecewise linear in each weight alone (of layers with ReLU and max-pooling they are): d2L /
    dw_i^2 is each example's own sum_c (df_c / dw_i)^2 / f_c then, and its mean is `fisher`'s.

    Args:
      loss: (weights, example) -> nats.
      logits: (weights, input of one example) -> float32[classes].
      weights: a tree.
      examples: (inputs, labels).
    """

    def of_example(_: chex.Array, one: Any) -> Any:
        found = _fisher_of(lambda w: logits(w, one[0]), weights)
        return jax.tree.map(lambda h: jnp.square(h) / 4, found)

    quartic = _mean(of_example, examples)
    return Importance(gradient(loss, weights, examples).square, quartic)


def hessian_diagonal(
    loss: Loss, weights: Any, examples: Any, key: chex.PRNGKey, probes: int
) -> tuple[Any, Any]:
    """Unbiased estimates of E d2L / dw_i^2 and of E (d2L / dw_i^2)^2, trees of the weights'
    structure.

    With v of independent signs E v_i (H v)_i = H_ii (Hutchinson 1989; Bekas, Kokiopoulou and Saad
    2007); each example has probes of its own. The variance of one is sum_{j != i} H_ij^2. The
    square of an example's diagonal is the mean product of two different probes', which has no
    bias, where squaring their mean would add that variance.

    Args:
      loss, weights, examples: as in the module.
      key: of the signs.
      probes: of each example, at least 2; each costs a Hessian-vector product.

    Raises:
      UsageError: fewer than 2 probes.
    """
    if probes < 2:
        raise UsageError(f"probes = {probes}: the square needs 2 at least")
    leaves, structure = jax.tree.flatten(weights)

    def of_example(number: chex.Array, one: Any) -> Any:
        def probe(key: chex.PRNGKey) -> Any:
            keys = jax.random.split(key, len(leaves))
            signs = [
                jax.random.rademacher(k, x.shape, x.dtype)
                for k, x in zip(keys, leaves, strict=True)
            ]
            v = structure.unflatten(signs)
            slope = jax.jvp(lambda w: jax.grad(loss)(w, one), (weights,), (v,))[1]
            return jax.tree.map(jnp.multiply, v, slope)

        found = jax.vmap(probe)(jax.random.split(jax.random.fold_in(key, number), probes))
        pairs = jax.tree.map(
            lambda h: (
                (jnp.square(h.sum(axis=0)) - jnp.square(h).sum(axis=0)) / (probes * (probes - 1))
            ),
            found,
        )
        return jax.tree.map(lambda h: h.mean(axis=0), found), pairs

    return _mean(of_example, examples)


def prune(weights: Any, importance: Importance, share: float) -> Any:
    """The tree with the given share of each tensor's weights set to 0, those whose loss costs
    least; of equal ones the first.

    Args:
      weights: a tree.
      importance: of its weights.
      share: 0 to 1, the same for each tensor; the count is rounded to the nearest.

    Raises:
      UsageError: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share = {share:g}: it must be from 0 to 1")

    def one(weights: Any, cost: Any) -> np.ndarray:
        flat = np.array(weights).ravel()
        order = np.argsort(np.asarray(cost).ravel(), kind="stable")
        flat[order[: round(share * flat.size)]] = 0
        return flat.reshape(np.shape(weights))

    return jax.tree.map(one, weights, importance.cost(weights))


def _fisher_of(logits: Callable[[Any], chex.Array], weights: Any) -> Any:
    """sum_c (df_c / dw_i)^2 / f_c of one example, a tree like the weights."""

    def log_f(weights: Any) -> chex.Array:
        return jax.nn.log_softmax(logits(weights))

    f = jnp.exp(log_f(weights))
    slopes = jax.jacrev(log_f)(weights)  # (df / dw)^2 / f = f (dlog f / dw)^2
    return jax.tree.map(lambda s: jnp.tensordot(f, jnp.square(s), 1), slopes)


def _of_square(square: Any) -> Importance:
    return Importance(square, jax.tree.map(jnp.zeros_like, square))


def _mean(of_example: Callable[[chex.Array, Any], Any], examples: Any) -> Any:
    """The mean of a function of (number, example), a tree, over the examples."""
    count = jax.tree.leaves(examples)[0].shape[0]
    numbers = jnp.arange(count)
    shapes = jax.eval_shape(of_example, numbers[0], jax.tree.map(lambda x: x[0], examples))
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total: Any, one: tuple[chex.Array, Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_example(*one)), None

    total, _ = jax.lax.scan(add, start, (numbers, examples))
    return jax.tree.map(lambda x: x / count, total)
