"""A descent over candidates once every block is coded: blocks choose again, all others fixed.

A block was chosen while the blocks after it could still make up for it; once all are coded, what
its candidates are worth has changed. The loss around a coded vector is about
loss + g d + d' F'F d / 2, with its gradient g and the factors F of its Gauss-Newton matrix
(Schraudolph, "Fast curvature matrix-vector products", Neural Computation 2002). In rounds of some
blocks each takes the candidate for which this is least, with what the blocks before it have moved.
A round that does not lower the training loss is taken back, and the next is more cautious
(Levenberg and Marquardt's damping). What is coded is then a choice and no sample of the posterior,
as with 'argmax'; the file's format, its decoder and its size are the same.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mrc_jax import candidates, kernels
from mrc_jax.blocks import lanes_in_use, slots_of_blocks
from mrc_jax.compress import OnCall, report
from mrc_jax.curvature import curvature_factors, loss_of, value_and_gradient
from mrc_jax.errors import UsageError
from mrc_jax.mesh import Placed
from mrc_jax.posterior import log_prior_scale_of_entries, round_scale
from mrc_jax.problem import Problem, State, private_key
from mrc_jax.shared_random import offsets

_ROUNDS = 24  # of a sweep
_EXAMPLES = 1 << 18  # on which the loss and its gradient are computed, at most
_BATCH = 1000  # examples worked on together
_KEY = 0x5245434F  # of the order of blocks and of the examples of the curvature
DAMPING = 0.1  # of the first round, see `recode_round`
_LEAST_DAMPING = 0.01
_UP, _DOWN = 4.0, 0.5  # what a round that is taken back, or kept, makes of it


class _Block(NamedTuple):
    """What the lanes of a block hold, each [block_size].

    Attributes:
      number: of the block, uint32 scalar.
      entry: int32.
      in_use: bool.
      scale, value: the prior scale, and what is coded.
    """

    number: chex.Array
    entry: chex.Array
    in_use: chex.Array
    scale: chex.Array
    value: chex.Array


def recode_all(
    problem: Problem,
    arrays: Any,
    state: State,
    data: Any,
    done: int = 0,
    damping: float = DAMPING,
    on_call: OnCall | None = None,
) -> State:
    """Goes over all blocks `recipe.recode_sweeps` times, each time in another order.

    Args:
      problem, arrays: what is constant.
      state: all blocks coded.
      data: (inputs, targets), arrays [examples, ...]; the targets are those of a cross-entropy. Of
        more than 2**18 examples so many are taken, evenly.
      done, damping: blocks that earlier calls have gone over, and what they left (of the last
        progress's metrics).
      on_call: called with (state, progress); its phase is 'recode'.

    Raises:
      UsageError: the data are not arrays.
    """
    blocks, total = problem.header.blocks, problem.recipe.recode_sweeps * problem.header.blocks
    if not total:
        return state
    data = data.arrays if isinstance(data, Placed) else data
    if not isinstance(data, tuple) or problem.mesh is not None or problem.recipe.data_shards > 1:
        raise UsageError(
            "recode_sweeps: to code blocks again data must be arrays on one device; set it to 0"
        )
    size = data[0].shape[0]
    spread = np.linspace(0, size, min(size, _EXAMPLES), endpoint=False).astype(np.int64)
    data = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[spread]), data)
    program = jax.jit(partial(recode_round, problem), donate_argnums=1)
    key = jax.random.fold_in(private_key(state), _KEY)
    while done < total:
        sweep, place = divmod(done, blocks)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, sweep), blocks))
        ids = np.full(-(-blocks // _ROUNDS), blocks, np.uint32)
        count = min(len(ids), blocks - place)
        ids[:count] = order[place : place + count]
        state, metrics = program(
            arrays,
            state,
            jnp.asarray(ids),
            jax.random.fold_in(key, done + (1 << 30)),
            data,
            damping,
        )
        done += count
        is_fine = metrics["kept"] or not metrics["predicted"]
        damping = max(damping * (_DOWN if is_fine else _UP), _LEAST_DAMPING)
        told = {**metrics, "damping": jnp.float32(damping)}
        report(problem, state, "recode", done, total, told, on_call)
    return state


def recode_round(
    problem: Problem,
    arrays: Any,
    state: State,
    blocks: chex.Array,
    key: chex.PRNGKey,
    data: Any,
    damping: chex.Numeric,
) -> tuple[State, dict[str, chex.Array]]:
    """Lets some blocks choose again, one after the other; takes all back if the loss rises.

    Args:
      problem, arrays: what is constant.
      state: all blocks coded.
      blocks: uint32[n]; numbers from the number of blocks on are left out.
      key: of the examples of the curvature.
      data: (inputs, targets), arrays [examples, ...].
      damping: how much the curvature is raised, relative to itself.

    Returns:
      The state after, and the metrics loss (the mean over all examples, after the round),
      predicted (how much it should have fallen), fell (how much it did) and kept (0 if the round
      was taken back).
    """
    size = data[0].shape[0]
    batch = min(_BATCH, size)
    batches = jax.tree.map(
        lambda x: x[: size // batch * batch].reshape(-1, batch, *x.shape[1:]), data
    )
    loss = partial(loss_of, problem, arrays, state)
    before, gradient = value_and_gradient(loss, state.coded.value, batches)
    factors = curvature_factors(
        problem, arrays, state, data[0], key, count=problem.recipe.recode_examples, batch=batch
    )

    turn = partial(_turn, problem, arrays, state, gradient, factors, damping)
    start = (state.coded.value, state.indices, jnp.zeros(factors.shape[0], jnp.float32))
    (value, indices, _), gains = lax.scan(turn, start, blocks)
    after = jnp.mean(lax.map(partial(loss, value), batches))
    kept = after < before
    value = jnp.where(kept, value, state.coded.value)
    state = dataclasses.replace(
        state,
        coded=dataclasses.replace(state.coded, value=value),
        indices=jnp.where(kept, indices, state.indices),
    )
    return state, {
        "loss": jnp.where(kept, after, before),
        "predicted": jnp.sum(gains),
        "fell": before - after,
        "kept": kept.astype(jnp.float32),
    }


def _turn(
    problem: Problem,
    arrays: Any,
    state: State,
    gradient: chex.Array,
    factors: chex.Array,
    damping: chex.Numeric,
    carry: tuple[chex.Array, ...],
    number: chex.Array,
) -> tuple[tuple[chex.Array, ...], chex.Array]:
    """One block of a round: its candidate, and the predicted gain.

    Args:
      gradient, factors: where the round began, by entry.
      carry: the coded vector, the indices, and the factors times what has moved since.
      number: of the block.
    """
    value, indices, moved = carry
    blocks, entries = problem.header.blocks, problem.header.entries
    block = _block(problem, arrays, state, value, number)
    own = jnp.where(block.in_use, factors[:, block.entry], 0)
    slope = jnp.where(block.in_use, gradient[block.entry], 0) + own.T @ moved
    curvature = _damped(own.T @ own, block.scale, damping)
    index, gain = _best(problem, block, indices, slope, curvature)
    better = (gain > 0) & (number < blocks)
    chosen = _values(problem, block, index[None])[:, 0]
    chosen = jnp.where(better & block.in_use, chosen, block.value)
    moved = moved + own @ (chosen - block.value)
    indices = indices.at[jnp.where(better, number, blocks)].set(index, mode="drop")
    target = jnp.where(better & block.in_use, block.entry, entries)
    value = value.at[target].set(chosen, mode="drop")
    return (value, indices, moved), jnp.where(better, gain, 0)


def _damped(curvature: chex.Array, scale: chex.Array, damping: chex.Numeric) -> chex.Array:
    """The curvature of a block, [block_size, block_size], raised along each lane by a share of
    itself and of the lanes' mean, in units of their prior scales.
    """
    own = jnp.diag(curvature)
    mean = jnp.mean(own * jnp.square(scale)) / jnp.square(scale)
    return curvature + damping * jnp.diag(own + mean)


def _block(
    problem: Problem, arrays: Any, state: State, value: chex.Array, number: chex.Array
) -> _Block:
    partition = problem.header.partition
    in_use = lanes_in_use(partition, number)
    slot = jnp.where(in_use, slots_of_blocks(partition, number), 0)
    entry = arrays["order"]["entry"][slot.astype(jnp.int32)]
    log_scale = log_prior_scale_of_entries(state.params, problem.posterior.sharing)
    scale = round_scale(jnp.exp(log_scale))[entry]
    return _Block(number, entry, in_use, scale, value[entry])


def _values(problem: Problem, block: _Block, index: chex.Array) -> chex.Array:
    """float32[block_size, candidates]: the weights of candidates."""
    header = problem.header
    wide = jnp.broadcast_to(block.scale[:, None], (*block.scale.shape, *index.shape))
    number = jnp.full_like(index, block.number)
    return candidates.chosen_values(
        jnp.uint32(header.seed), number, index, wide, header.codebook_blocks
    )


def _best(
    problem: Problem, block: _Block, indices: chex.Array, slope: chex.Array, curvature: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """The candidate with the least predicted loss, and by how much that is lower than now.

    Where indices are 'ordered', among positions that cost no more bits than the present one.
    """
    header, bits = problem.header, problem.header.bits
    mask = jnp.uint32((1 << bits) - 1)
    offset, reach = jnp.uint32(0), jnp.uint32(bits)
    if problem.recipe.selection == "ordered":
        offset = offsets(jnp.uint32(header.seed), block.number, bits)
        reach = jnp.uint32(32) - lax.clz((indices[block.number] - offset) & mask)
    chunk_bits = kernels.chunk_bits(bits, len(block.value), 1)
    within = jnp.arange(1 << chunk_bits, dtype=jnp.uint32)

    def look(i: chex.Array, found: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        position = (i.astype(jnp.uint32) << chunk_bits) + within
        index = (position + offset) & mask
        moved = _values(problem, block, index) - block.value[:, None]
        moved = jnp.where(block.in_use[:, None], moved, 0)
        change = slope @ moved + 0.5 * jnp.sum(moved * (curvature @ moved), axis=0)
        change = jnp.where(position >> reach == 0, change, jnp.inf)
        place = jnp.argmin(change)
        is_lower = change[place] < found[1]
        return jnp.where(is_lower, index[place], found[0]), jnp.minimum(change[place], found[1])

    chunks = (jnp.int32(1) << reach.astype(jnp.int32)) + (within.size - 1) >> chunk_bits
    index, change = lax.fori_loop(0, chunks, look, (offset, jnp.float32(jnp.inf)))
    return index, -change
