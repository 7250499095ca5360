"""The small run behind two pictures of docs/how_it_works.md: budgets, and refinement."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mrc_jax
from experiments import data
from experiments.networks import loss
from mrc_jax.compress import Progress, code_all, train_to_budget
from mrc_jax.feed import steps_on
from mrc_jax.models.mlp import Mlp
from mrc_jax.problem import Problem, State
from mrc_jax.sharing import expand

KEY = jax.random.key(1)  # of training, of coding and, through it, of the file's seed


class Run(NamedTuple):
    """A small digits network, trained to a budget and coded.

    Attributes:
      block_of_kernel: int[inputs, units], the block of each weight of the first kernel.
      budget_bits: of a block.
      steps: int[calls].
      kl_bits, betas: float[calls, blocks].
      refined, alone: mean loss in nats after each block that was coded, with and without
        refinement; the first is before any.
    """

    block_of_kernel: np.ndarray
    budget_bits: float
    steps: np.ndarray
    kl_bits: np.ndarray
    betas: np.ndarray
    refined: np.ndarray
    alone: np.ndarray


def train_and_code(steps: int = 2500, refine_steps: int = 30, file_bytes: int = 160) -> Run:
    """Trains a 64-16-10 network to `file_bytes`, its manifest left out, and codes it twice."""
    split = data.load("digits", "").train
    recipe = mrc_jax.Recipe(
        bits=12,
        embed_manifest=False,
        steps=steps,
        steps_per_call=max(1, steps // 50),
        refine_steps=refine_steps,
        learning_rate=3e-3,
        final_learning_rate=1e-3,
        refine_learning_rate=1e-3,
        beta_init=1e-4,
        beta_step=8 / steps,
        log_std_init=-3.0,
    )
    net, pairs = Mlp((16, 10), 16.0), (split.inputs, split.labels)
    params = net.init(jax.random.key(0), jnp.asarray(split.inputs[:1]))
    problem, arrays, state = mrc_jax.prepare(net, params, loss, file_bytes, KEY, recipe)
    sharing, partition = problem.posterior.sharing, problem.header.partition
    kl = jax.jit(lambda params: mrc_jax.block_kl_nats(params, sharing, partition, arrays["order"]))
    seen: list[tuple[int, Any, Any]] = []

    def keep(state: State, progress: Progress) -> None:
        seen.append((progress.done, kl(state.params) / math.log(2), np.asarray(state.betas)))

    state = train_to_budget(problem, state, steps_on(problem, arrays, pairs), keep)
    refined, alone = (
        _losses(dataclasses.replace(problem, recipe=recipe), arrays, state, pairs)
        for recipe in (recipe, dataclasses.replace(recipe, refine_steps=0))
    )
    return Run(
        _block_of_kernel(problem, arrays),
        problem.budget_nats / math.log(2),
        np.asarray([done for done, _, _ in seen]),
        np.asarray([kl_bits for _, kl_bits, _ in seen]),
        np.asarray([betas for _, _, betas in seen]),
        refined,
        alone,
    )


def _block_of_kernel(problem: Problem, arrays: Any) -> np.ndarray:
    """The block of each weight: the tree that numbers of blocks, as a coded vector, expand to."""
    slots = arrays["order"]["slot"]
    number = (slots % problem.header.blocks + 1).astype(jnp.float32)
    tree = expand(problem.posterior.sharing, arrays["sharing"], number, [])
    return np.abs(np.asarray(tree["params"]["Dense_0"]["kernel"])).astype(int) - 1  # has signs


def _losses(problem: Problem, arrays: Any, state: State, pairs: Any) -> np.ndarray:
    """The mean loss over the data before coding and after each block; `state` is left alone."""
    inputs, labels = (jnp.asarray(x) for x in pairs)
    keys = jax.random.split(jax.random.key(2), 16)

    @jax.jit
    def mean_loss(state: State) -> jax.Array:
        variables = {"params": state.params, "sharing": arrays["sharing"]}

        def of_sample(key: jax.Array) -> jax.Array:
            outputs = problem.posterior.apply(
                variables, inputs, coded=state.coded, rngs={"posterior": key}
            )
            return jnp.mean(problem.loss(outputs, labels))

        return jnp.mean(jax.vmap(of_sample)(keys))

    losses = [float(mean_loss(state))]
    copied = jax.tree.map(jnp.copy, state)  # for coding gives its argument's memory away
    code_all(
        problem,
        arrays,
        copied,
        steps_on(problem, arrays, pairs),
        lambda state, _: losses.append(float(mean_loss(state))),
    )
    return np.asarray(losses)
