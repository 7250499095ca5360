"""Importances against closed forms, k centroids against every partition, and the theorem that says
what they are for (Gao et al. 2019, Theorem 4), by brute force.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax.centres import importance, k_centroids
from mrc_jax.errors import UsageError

RANDOM = np.random.default_rng(0)


def test_fisher_of_a_linear_classifier_is_its_closed_form() -> None:
    """df_c / dW_kj = f_c (1[c = k] - f_k) x_j, so the sum over c of its square over f_c is
    f_k (1 - f_k) x_j^2.
    """
    x, weights = RANDOM.normal(size=(50, 4)), RANDOM.normal(size=(3, 4))
    for temperature in (1.0, 2.5):
        logits = x @ weights.T / temperature
        f = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        wanted = np.einsum("nk,nj->kj", f * (1 - f), x**2) / 50 / temperature**2
        found = importance.fisher(
            lambda w, x: w["kernel"] @ x,
            {"kernel": jnp.asarray(weights, jnp.float32)},
            jnp.asarray(x, jnp.float32),
            temperature,
        )
        np.testing.assert_allclose(found.square["kernel"], wanted, rtol=1e-5)
        assert not np.any(found.quartic["kernel"])


def _quadratic(weights, example):
    """w A w / 2 + b w of an example's own A and b."""
    a, b = example
    return weights @ a @ weights / 2 + b @ weights


def _quadratics(count, size, seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(count, size, size)), random.normal(size=(count, size))
    a = a + a.transpose(0, 2, 1)
    return a, b, random.normal(size=size)


def test_the_gradient_s_is_the_mean_square_and_the_baseline_s_is_one() -> None:
    a, b, w = _quadratics(20, 4, 1)
    examples = (jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    found = importance.gradient(_quadratic, jnp.asarray(w, jnp.float32), examples)
    np.testing.assert_allclose(found.square, np.mean((a @ w + b) ** 2, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(importance.baseline(jnp.asarray(w)).square, 1)


def test_a_diagonal_hessian_is_found_exactly_by_any_probes() -> None:
    diagonal = RANDOM.normal(size=(6, 3))
    a = np.einsum("nj,jk->njk", diagonal, np.eye(3))
    examples = (jnp.asarray(a, jnp.float32), jnp.zeros((6, 3)))
    weights, key = jnp.ones(3), jax.random.key(0)
    mean, square = importance.hessian_diagonal(_quadratic, weights, examples, key, 2)
    np.testing.assert_allclose(mean, diagonal.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(square, (diagonal**2).mean(axis=0), rtol=1e-5)
    found = importance.hessian(_quadratic, weights, examples, key)
    np.testing.assert_allclose(
        found.square, np.maximum(diagonal.mean(axis=0), 0), rtol=1e-5, atol=1e-6
    )
    both = importance.gradient_and_hessian(_quadratic, weights, examples, key, 2)
    np.testing.assert_allclose(both.square, (diagonal**2).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(both.quartic, (diagonal**2).mean(axis=0) / 4, rtol=1e-5)


def test_estimates_of_a_full_hessian_have_no_bias() -> None:
    """Each of 2 x 5 means of 400 keys is within 5 standard errors of its value (1 in 200,000)."""
    a, b, w = _quadratics(3, 5, 2)
    examples = (jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    one = jax.jit(
        jax.vmap(
            lambda key: importance.hessian_diagonal(
                _quadratic, jnp.asarray(w, jnp.float32), examples, key, 3
            )
        )
    )
    diagonal = np.diagonal(a, axis1=1, axis2=2)
    wanted = diagonal.mean(axis=0), (diagonal**2).mean(axis=0)
    for found, value in zip(one(jax.random.split(jax.random.key(1), 400)), wanted, strict=True):
        error = np.std(found, axis=0) / 20
        assert np.all(error > 0) and np.all(np.abs(np.mean(found, axis=0) - value) < 5 * error)


def test_without_noise_a_network_with_relu_has_the_mean_square_of_its_hessian_s_diagonal() -> None:
    """By JAX's whole Hessian of each example's loss."""
    x = jnp.asarray(RANDOM.normal(size=(6, 4)), jnp.float32)
    labels = jnp.asarray([0, 1, 2, 0, 1, 2])
    weights = jnp.asarray(RANDOM.normal(size=5 * 4 + 3 * 5), jnp.float32)

    def logits(weights, x):
        return weights[20:].reshape(3, 5) @ jax.nn.relu(weights[:20].reshape(5, 4) @ x)

    def loss(weights, one):
        return -jax.nn.log_softmax(logits(weights, one[0]))[one[1]]

    found = importance.gradient_and_fisher(loss, logits, weights, (x, labels))
    pairs = list(zip(x, labels, strict=True))
    diagonals = np.asarray([np.diag(jax.hessian(loss)(weights, one)) for one in pairs])
    slopes = np.asarray([jax.grad(loss)(weights, one) for one in pairs])
    assert np.count_nonzero(diagonals.mean(axis=0)) > 25
    np.testing.assert_allclose(found.quartic, (diagonals**2).mean(axis=0) / 4, atol=1e-5)
    np.testing.assert_allclose(found.square, (slopes**2).mean(axis=0), rtol=1e-4, atol=1e-6)
    fisher = importance.fisher(logits, weights, x).square
    np.testing.assert_allclose(fisher, diagonals.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_pruning_takes_the_cheapest_of_each_tensor() -> None:
    weights = {"a": jnp.asarray([3.0, -1.0, 2.0, 0.5]), "b": jnp.asarray([[1.0, 2.0]])}
    square = {"a": jnp.asarray([0.1, 4.0, 1.0, 4.0]), "b": jnp.asarray([[5.0, 1.0]])}
    quartic = {"a": jnp.asarray([1.0, 0.0, 0.0, 0.0]), "b": jnp.zeros((1, 2))}
    # costs: 81.9, 4, 4, 1; 5, 4
    found = importance.prune(weights, importance.Importance(square, quartic), 0.5)
    np.testing.assert_array_equal(found["a"], [3, 0, 2, 0])
    np.testing.assert_array_equal(found["b"], [[1, 0]])
    everything = importance.prune(weights, importance.Importance(square, quartic), 1.0)
    assert not any(np.any(x) for x in everything.values())


def _partitions(count, k):
    """Every way to put `count` weights in k groups or fewer, as labels."""
    for labels in itertools.product(range(k), repeat=count):
        if all(x <= max((*labels[:i], -1)) + 1 for i, x in enumerate(labels)):
            yield np.asarray(labels)


def _cost(weights, centroids, square, quartic):
    d = centroids - weights
    return float(np.sum(square * d**2 + quartic * d**4))


@pytest.mark.parametrize("has_quartic", [False, True])
def test_a_centroid_is_the_best_of_a_fine_grid(has_quartic) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        w, s, q = random.normal(size=6), *np.exp(2 * random.normal(size=(2, 6)))
        q = q * has_quartic
        grid = np.linspace(w.min(), w.max(), 100_001)
        costs = ((grid - w[:, None]) ** 2 * s[:, None] + (grid - w[:, None]) ** 4 * q[:, None]).sum(
            0
        )
        found = k_centroids.best_centroid(w, s, q)
        assert abs(found - grid[np.argmin(costs)]) < 2 * (grid[1] - grid[0])


@pytest.mark.parametrize(("has_quartic", "seeds"), [(False, 12), (True, 3)])
def test_k_centroids_are_a_minimum_and_often_the_least_of_all_partitions(
    has_quartic, seeds
) -> None:
    is_best = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        w, s, q = random.normal(size=7), *np.exp(random.normal(size=(2, 7)))
        q = q * has_quartic
        centroids, nearest = k_centroids.k_centroids(w, s, q, 3)
        found = _cost(w, centroids[nearest], s, q)
        np.testing.assert_array_equal(np.argmin(np.abs(w[:, None] - centroids), axis=1), nearest)
        np.testing.assert_allclose(_best_values(w, s, q, nearest), centroids[nearest], atol=1e-9)
        least = min(_cost(w, _best_values(w, s, q, x), s, q) for x in _partitions(7, 3))
        assert found >= least - 1e-12
        is_best.append(found < least * (1 + 1e-9))
    assert np.mean(is_best) > 0.3


def _best_values(w, s, q, labels):
    values = np.empty(len(w))
    for j in np.unique(labels):
        own = labels == j
        values[own] = k_centroids.best_centroid(w[own], s[own], q[own])
    return values


def test_bits_of_quantised_weights_by_hand() -> None:
    """8 of 12 weights take a bit, 4 take 2, and two values of 32 bits."""
    assert k_centroids.quantised_bits([8, 0, 4]) == 8 + 8 + 64
    assert k_centroids.quantised_bits([5]) == 32


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="k = 0"):
        k_centroids.k_centroids([1.0], [1.0], [0.0], 0)
    with pytest.raises(UsageError, match="importances"):
        k_centroids.k_centroids([1.0], [1.0, 2.0], [0.0], 1)
    one = importance.baseline(jnp.ones(1))
    for call, reason in (
        (lambda: importance.prune(jnp.ones(1), one, 1.5), "share"),
        (lambda: importance.fisher(lambda w, x: w, one, one, 0.0), "temperature"),
        (
            lambda: importance.hessian_diagonal(_quadratic, one, one, jax.random.key(0), 1),
            "probes",
        ),
    ):
        with pytest.raises(UsageError, match=reason):
            call()


# Theorem 4: f(x) = max(0, w x) of x ~ N(0, diag(lam)), where I_w = diag(lam) / 2.


def output_error(w, v, lam):
    """E (f_w - f_v)^2, by the kernel E f_w f_v = |w| |v| (sin t + (pi - t) cos t) / (2 pi) of the
    angle t between sqrt(lam) w and sqrt(lam) v (Cho and Saul 2009).
    """
    one, other = np.linalg.norm(np.sqrt(lam) * w), np.linalg.norm(np.sqrt(lam) * v, axis=-1)
    cosine = np.clip(np.sum(lam * w * v, axis=-1) / np.maximum(one * other, 1e-300), -1, 1)
    t = np.arccos(cosine)
    kernel = one * other * (np.sin(t) + (np.pi - t) * cosine) / (2 * np.pi)
    return one**2 / 2 + other**2 / 2 - 2 * kernel


def _unit(seed, size=6):
    random = np.random.default_rng(seed)
    return random.normal(size=size), np.exp(random.normal(size=size))


def test_the_closed_form_is_the_error_of_outputs_on_inputs_drawn() -> None:
    """Within 5 standard errors (1 in 2 million), and I_w is diag(lam) / 2 (5 of each of 36)."""
    (w, lam), (v, _) = _unit(0), _unit(1)
    x = np.random.default_rng(2).normal(size=(200_000, 6)) * np.sqrt(lam)
    errors = np.square(np.maximum(x @ w, 0) - np.maximum(x @ v, 0))
    wanted = output_error(w, v, lam)
    assert abs(errors.mean() - wanted) < 5 * errors.std() / math.sqrt(len(x))
    products = np.einsum("ni,nj->nij", x, x * (x @ w > 0)[:, None])
    spread = products.std(axis=0) / math.sqrt(len(x))
    assert np.all(np.abs(products.mean(axis=0) - np.diag(lam) / 2) < 5 * spread)


def test_theorem_4_the_quadratic_s_best_pruning_is_the_output_s() -> None:
    for seed in range(50):
        w, lam = _unit(seed)
        for kept in range(1, 6):
            masks = np.asarray(
                [np.isin(range(6), c) for c in itertools.combinations(range(6), kept)]
            )
            least = np.argmin(output_error(w, masks * w, lam))
            assert least == np.argmin(np.sum(lam * np.square(masks * w - w), axis=1))
            cost = importance.Importance(jnp.asarray(lam / 2), jnp.zeros(6))
            pruned = importance.prune(w, cost, 1 - kept / 6)
            np.testing.assert_array_equal(pruned, masks[least] * w)


def test_theorem_4_the_quadratic_s_best_centroids_are_the_output_s_among_centroids() -> None:
    """Over every partition with its weighted means, each of which meets golden rule 1. The rule is
    needed: a scale of the same vector that breaks it gives a smaller error still.
    """
    for seed in range(50):
        w, lam = _unit(seed)
        values = []
        for labels in _partitions(6, 2):
            mean = np.bincount(labels, lam * w, 2) / np.maximum(np.bincount(labels, lam, 2), 1e-300)
            values.append(mean[labels])
        values = np.stack(values)
        rule = np.sum(lam * values * (values - w), axis=1)
        np.testing.assert_allclose(rule, 0, atol=1e-12 * np.sum(lam * w**2))
        least = np.argmin(output_error(w, values, lam))
        assert least == np.argmin(np.sum(lam * np.square(values - w), axis=1))
        scaled = (1 + np.geomspace(1e-6, 0.5, 100))[:, None] * values[least]
        assert output_error(w, scaled, lam).min() < output_error(w, values[least], lam)
