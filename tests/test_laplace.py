"""A posterior that starts at its budgets: the Fisher information by hand, the start by its
stationary point.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import smoke
from experiments import run as runs
from experiments.settings import Config
from mrc_jax.budget import plan
from mrc_jax.compress import kl_of_blocks
from mrc_jax.errors import UsageError
from mrc_jax.gaussian import kl_nats
from mrc_jax.laplace import budget_start, fisher_diagonal
from mrc_jax.posterior import Posterior, init_variables, log_prior_scale_of_entries, scaled_start
from mrc_jax.problem import Problem, State, init_state
from mrc_jax.recipe import Recipe
from mrc_jax.sharing import make_sharing

RANDOM = np.random.default_rng(0)
INPUTS = jnp.asarray(RANDOM.normal(size=(64, 6)), jnp.float32)
WEIGHTS = {"w": jnp.asarray(RANDOM.normal(size=(6, 4)), jnp.float32), "b": jnp.ones(4)}


def network(tree: Any, inputs: Any) -> Any:
    return inputs @ tree["w"] + tree["b"]


def problem(**settings: Any) -> tuple[Problem, Any, State]:
    recipe = Recipe(bits=8, batch_size=32, prior_scale_init=0.8, **settings)
    sharing = make_sharing(WEIGHTS, 3)
    header = plan(sharing.manifest, 44, recipe, seed=3)
    made = Problem(Posterior(network, sharing), lambda *_: jnp.zeros(()), header, recipe, 1000)
    variables = init_variables(sharing, WEIGHTS, -16.0, recipe.prior_scale_init)
    arrays = made.index_arrays(variables["sharing"])
    return made, arrays, init_state(made, arrays, variables, jax.random.key(0))


@pytest.mark.parametrize("parts, shards", [(1, 1), (4, 1), (2, 2)])
def test_the_fisher_information_is_that_of_a_linear_classifier(parts: int, shards: int) -> None:
    """E[x_j^2 p_k (1 - p_k)] of weight (j, k), by 20,000 batches. A batch's estimate has a variance
    of at most 4 times its square, so that none of 28 weights is 5 standard errors, 7 %, off but
    once in 6e4 runs. With the classes that are likeliest it is.
    """
    made, arrays, state = problem(batch_parts=parts, data_shards=shards)
    inputs = INPUTS if shards == 1 else INPUTS.reshape(2, 32, 6)
    run = jax.jit(lambda state: fisher_diagonal(made, arrays, state, inputs, 20_000))
    found = run(state)
    images = np.asarray(INPUTS, np.float64)
    logits = images @ np.asarray(WEIGHTS["w"], np.float64) + 1
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    doubt = shares * (1 - shares)
    wanted = {"b": doubt.mean(0), "w": (images**2).T @ doubt / 64}
    names = [t.path for t in made.posterior.sharing.manifest.coded]
    flat = np.concatenate([np.ravel(wanted[name]) for name in names])
    np.testing.assert_allclose(found, flat, rtol=0.07)


def test_blocks_start_at_their_budgets_where_the_objective_is_least() -> None:
    """By its gradient: with the loss h ((m - trained)^2 + variance) / 2 that of
    loss + beta KL is zero in every mean and log-variance.
    """
    made, arrays, state = problem()
    start = jax.jit(lambda state: budget_start(made, arrays, state, INPUTS))(state)
    kl = kl_of_blocks(made, arrays, start.params)
    assert len(kl) > 2
    np.testing.assert_allclose(kl, made.budget_nats, rtol=1e-4)
    params = scaled_start(state.params, made.posterior.sharing, 0.1)
    fisher = fisher_diagonal(made, arrays, state.replace(params=params), INPUTS, 10_000 // 32 + 1)
    log_scale = log_prior_scale_of_entries(params, made.posterior.sharing)
    beta = start.betas[arrays["order"]["slot"] % made.header.blocks]
    assert float(beta.max() / beta.min()) > 1.1  # blocks differ

    def objective(mean: Any, log_variance: Any) -> Any:
        moved = jnp.square(mean - state.params["mean"]) + jnp.exp(log_variance)
        return jnp.sum(0.5 * fisher * moved + beta * kl_nats(mean, log_variance, log_scale))

    slopes = jax.grad(objective, argnums=(0, 1))(start.params["mean"], start.params["log_variance"])
    for slope in slopes:
        assert float(jnp.abs(slope / beta).max()) < 1e-3
    assert bool((jnp.abs(start.params["mean"]) < jnp.abs(state.params["mean"])).all())


def test_weights_without_curvature_leave_a_block_under_its_budget() -> None:
    made, arrays, state = problem()
    start = budget_start(made, arrays, state, 0 * INPUTS)  # the biases alone count
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(start.params))
    kl = kl_of_blocks(made, arrays, start.params)
    assert float(kl.max()) <= made.budget_nats * 1.001 and float(start.betas.min()) > 0


SMOKE = Config.from_config_dict(smoke.get_config())


def test_a_run_starts_at_its_budgets(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(
        SMOKE, start_from_plain=True, plain_noise=0.1, budget_start=True, steps=20
    )
    with runs.opened(config, tmp_path / "run") as job:
        job.data()
        kl = kl_of_blocks(job.problem, job.arrays, job.state.params)
        budget = job.problem.budget_nats
    assert np.median(kl) == pytest.approx(budget, rel=1e-3) and kl.max() < 1.001 * budget


def test_a_budget_start_needs_a_noise() -> None:
    with pytest.raises(UsageError, match="budget_start: needs a plain_noise"):
        dataclasses.replace(SMOKE, start_from_plain=True, budget_start=True)
