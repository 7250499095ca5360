"""Algorithm 2 (MIRACLE) whole: train to the budgets, then encode a wave of blocks, freeze,
refine, until none is left.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import candidates
from mrc_jax.blocks import lanes_in_use, slots_of_blocks
from mrc_jax.coded_file import container_of, shortest
from mrc_jax.decode import coded_vector
from mrc_jax.encode import select_wave_on
from mrc_jax.errors import NumericsError
from mrc_jax.feed import RunSteps
from mrc_jax.gaussian import kl_nats, log_weight_variance_nats2
from mrc_jax.index_room import IndexRoom
from mrc_jax.mesh import everywhere
from mrc_jax.objective import block_kl_nats, coded_blocks
from mrc_jax.posterior import log_prior_scale_of_entries, prior_scale, round_scale
from mrc_jax.problem import Problem, State, private_key
from mrc_jax.samples import Coded
from mrc_jax.waves import waves

OVER_BUDGET = (
    0.1  # share of the budget by which blocks may exceed it, on average, when coding starts
)


class Progress(NamedTuple):
    """What a call of a compiled program left behind.

    Attributes:
      phase: 'train', 'code' or 'recode'.
      done, total: steps, or blocks.
      metrics: of `train.train_step`; empty where no step was made; in 'recode', of `recode_all`.
      budget_nats: the KL target of a block.
    """

    phase: str
    done: int
    total: int
    metrics: dict[str, float]
    budget_nats: float


OnCall = Callable[[State, Progress], None]


def train_to_budget(
    problem: Problem, state: State, run_steps: RunSteps, on_call: OnCall | None = None
) -> State:
    """Trains until `recipe.steps` steps are done, from wherever the state stands.

    Raises:
      NumericsError: the loss is not finite.
    """
    recipe = problem.recipe
    while (done := int(state.step)) < recipe.steps:
        state, metrics = run_steps(state, min(recipe.steps_per_call, recipe.steps - done), False)
        report(problem, state, "train", int(state.step), recipe.steps, metrics, on_call)
    return state


def code_all(
    problem: Problem,
    arrays: Any,
    state: State,
    run_steps: RunSteps,
    on_call: OnCall | None = None,
) -> State:
    """Codes every block that is not coded yet, wave by wave, refining after each.

    Raises:
      NumericsError: the budgets were not reached in training, or the loss is not finite.
    """
    blocks = problem.header.blocks
    whole = everywhere(problem.mesh)
    code = jax.jit(partial(code_wave, problem), donate_argnums=1, out_shardings=whole)
    is_coded = np.array(coded_blocks(state.coded, problem.header.partition, arrays["order"]))
    room = IndexRoom(problem.header, problem.file_bytes)
    left = jax.jit(partial(_log_weight_left, problem), out_shardings=whole)
    done, reach = int(np.sum(is_coded)), None
    if done == 0:
        state = freeze_scales(problem, state)
        _check_budget(problem, arrays, state)
    for ids, kept in waves(problem, state, done):
        ids_in_use = ids[ids < blocks]
        if problem.recipe.selection == "ordered":
            law = np.asarray(left(arrays, state)) / (blocks - done)
            reach = room.reach(np.asarray(state.indices), is_coded, len(ids_in_use), *law.tolist())
        state, metrics = code(arrays, state, ids, kept, reach), {}
        del kept  # or two codebooks are held while the next is made
        is_coded[ids_in_use] = True
        done += len(ids_in_use)
        if done < blocks and problem.recipe.refine_steps:
            state, metrics = run_steps(state, problem.recipe.refine_steps, True)
        report(problem, state, "code", done, blocks, metrics, on_call)
    return state


def _log_weight_left(problem: Problem, arrays: Any, state: State) -> chex.Array:
    """Sums over the entries not yet coded, float32[2]: the mean of log q / p under q in nats, which
    is the divergence, and its variance.
    """
    params = problem.gaussian(state.params, arrays)
    log_scale = log_prior_scale_of_entries(params, problem.posterior.sharing)
    parameters = params["mean"], params["log_variance"], log_scale
    both = jnp.stack([kl_nats(*parameters), log_weight_variance_nats2(*parameters)])
    return jnp.sum(jnp.where(state.coded.is_coded, 0, both), axis=1)


def code_wave(
    problem: Problem,
    arrays: Any,
    state: State,
    blocks: chex.Array,
    kept: chex.Array | None = None,
    reach: chex.Array | None = None,
) -> State:
    """Chooses an index for each block of a wave and fixes the blocks' entries at their values.

    Args:
      problem, arrays: what is constant.
      state: before.
      blocks: uint32[wave], of one codebook if they share any; numbers from `header.blocks` on are
        left out.
      kept: the blocks' codebook, see `encode.select_wave`.
      reach: see `selection.select`.
    """
    header, partition = problem.header, problem.header.partition
    sharing, params = problem.posterior.sharing, problem.gaussian(state.params, arrays)
    seed = jnp.uint32(header.seed)
    scale = round_scale(jnp.exp(log_prior_scale_of_entries(params, sharing)))
    slot = slots_of_blocks(partition, blocks).astype(jnp.int32)
    entry = jnp.take(arrays["order"]["entry"], slot, mode="clip")
    mean, log_variance, scale = (x[entry] for x in (params["mean"], params["log_variance"], scale))
    in_use = lanes_in_use(partition, blocks)
    key = jax.random.fold_in(private_key(state), 0xFFFFFFFF)
    index = select_wave_on(
        problem.mesh,
        key,
        mean,
        log_variance,
        scale,
        in_use,
        seed,
        blocks,
        kept,
        reach,
        bits=header.bits,
        codebook_blocks=header.codebook_blocks,
        selection=problem.recipe.selection,
        together=problem.recipe.wave_blocks,
    )
    values = candidates.chosen_values(seed, blocks, index, scale, header.codebook_blocks)
    entry = jnp.where(in_use & (blocks < header.blocks), entry, header.entries)
    coded = Coded(
        is_coded=state.coded.is_coded.at[entry].set(True, mode="drop"),
        value=state.coded.value.at[entry].set(values, mode="drop"),
    )
    indices = state.indices.at[blocks].set(index, mode="drop")
    return dataclasses.replace(state, coded=coded, indices=indices)


def freeze_scales(problem: Problem, state: State) -> State:
    """Rounds the prior scales to what the file will hold; refining leaves them so."""
    scale = jnp.log(prior_scale(state.params, problem.posterior.sharing))
    return dataclasses.replace(state, params={**state.params, "log_prior_scale": scale})


def file_of(problem: Problem, state: State) -> bytes:
    """The file of a state whose blocks are all coded; checks that its decoder finds the same
    weights.
    """
    sharing = problem.posterior.sharing
    container = container_of(state.indices, state.params, state.uncoded, sharing, problem.header)
    if not np.array_equal(coded_vector(container, sharing.manifest), np.asarray(state.coded.value)):
        raise NumericsError("the decoder does not find the weights that were coded; report this")
    return shortest(container, problem.recipe.selection)


def _check_budget(problem: Problem, arrays: Any, state: State) -> None:
    kl = kl_of_blocks(problem, arrays, state.params)
    excess = float(np.mean(np.maximum(kl - problem.budget_nats, 0)))
    if not excess <= OVER_BUDGET * problem.budget_nats:
        raise NumericsError(
            f"after {int(state.step)} steps blocks are over their KL budget by "
            f"{excess / math.log(2):.1f} bits on average: raise steps, beta_step or file_bytes"
        )


def kl_of_blocks(problem: Problem, arrays: Any, params: Any) -> np.ndarray:
    """KL of each block, float32[blocks], of trained parameters."""
    sharing, partition = problem.posterior.sharing, problem.header.partition

    @jax.jit
    def program(arrays: Any, params: Any) -> chex.Array:
        gaussian = problem.gaussian(params, arrays)
        return block_kl_nats(gaussian, sharing, partition, arrays["order"])

    return np.asarray(program(arrays, params))


def report(
    problem: Problem,
    state: State,
    phase: str,
    done: int,
    total: int,
    metrics: dict[str, chex.Array],
    on_call: OnCall | None,
) -> None:
    """Tells `on_call` of the state that a call of a compiled program left behind.

    Args: `phase` to `metrics` as in `Progress`.

    Raises:
      NumericsError: the loss is not finite, or the posterior that the next step would start from.
    """
    values = {name: float(value) for name, value in metrics.items()}
    sound = math.isfinite(values.get("loss", 0.0))
    if not (sound and all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params))):
        name = "learning_rate" if phase == "train" else "refine_learning_rate"
        raise NumericsError(
            f"the {'posterior' if sound else 'loss'} is not finite by step {int(state.step)}, at "
            f"{name.replace('_', ' ')} {getattr(problem.recipe, name):g}: lower {name}"
        )
    if on_call is not None:
        on_call(state, Progress(phase, done, total, values, problem.budget_nats))
