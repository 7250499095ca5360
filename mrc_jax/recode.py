"""A descent over candidates once every block is coded: blocks choose again, one after the other.

A block was chosen while the blocks after it could still make up for it; with all others fixed, what
its candidates are worth has changed. The loss of a candidate that moves the block by d is about
loss + g d + d' H d / 2, with the gradient g and the Gauss-Newton matrix H of the block's own
entries (Schraudolph, "Fast curvature matrix-vector products", Neural Computation 2002). The
candidates for which this is least are tried, and the best of them takes the place of the present
one where it lowers the loss. What is coded is then a choice and no sample of the posterior, as with
'argmax'; the file's format, its decoder and its size are the same.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mrc_jax import candidates, train
from mrc_jax.blocks import lanes_in_use
from mrc_jax.compress import OnCall, report
from mrc_jax.curvature import curvature_factors, loss_of, value_and_gradient
from mrc_jax.errors import UsageError
from mrc_jax.posterior import log_prior_scale_of_entries, round_scale
from mrc_jax.shared_random import Stream, offsets, permute
from mrc_jax.train import Problem, State

TRIED = 8  # candidates of a block whose loss is computed
_CHUNK_BITS = 14  # log2 of the candidates whose predicted loss is computed at a time
_BATCH = 500  # examples worked on together
_FACTORS = 1000  # examples of the Gauss-Newton matrices, drawn where the network is in doubt
_PER_CALL = 16  # blocks of a call of the compiled program
_KEY = 0x5245434F  # of the order of blocks and of the examples


class _Block(NamedTuple):
    """Lanes of a block, each [block_size].

    Attributes:
      entry: which entry lies in each lane, int32.
      in_use: bool.
      scale, value: the prior scale and what is coded.
    """

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
    on_call: OnCall | None = None,
) -> State:
    """Goes over all blocks `recipe.recode_sweeps` times, each time in another order.

    Args:
      problem, arrays: what is constant.
      state: all blocks coded.
      data: (inputs, targets), arrays [examples, ...].
      done: blocks that earlier calls have gone over.
      on_call: called with (state, progress); its phase is 'recode'.

    Raises:
      UsageError: the data are not arrays.
    """
    blocks, sweeps = problem.header.blocks, problem.recipe.recode_sweeps
    if not sweeps:
        return state
    if not isinstance(data, tuple):
        raise UsageError("recode_sweeps: to code blocks again data must be arrays; set it to 0")
    data = jax.tree.map(jnp.asarray, data)
    again = jax.jit(partial(recode_blocks, problem), donate_argnums=2)
    factors_of = jax.jit(partial(curvature_factors, problem), static_argnames=("count", "batch"))
    key = jax.random.fold_in(train.private_key(state), _KEY)
    factors, total = None, sweeps * blocks
    while done < total:
        sweep, place = divmod(done, blocks)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, sweep), blocks))
        if factors is None or place == 0:
            draw = jax.random.fold_in(key, done + (1 << 30))
            factors = factors_of(arrays, state, data[0], draw, count=_FACTORS, batch=_BATCH)
        count = min(_PER_CALL, blocks - place)
        ids = np.resize(order[place : place + count], _PER_CALL)  # none is harmed by another turn
        keys = jax.vmap(partial(jax.random.fold_in, key))(done + np.arange(_PER_CALL))
        state, losses = again(arrays, factors, state, jnp.asarray(ids, jnp.uint32), keys, data)
        done += count
        report(problem, state, "recode", done, total, {"loss": losses[count - 1]}, on_call)
    return state


def recode_blocks(
    problem: Problem,
    arrays: Any,
    factors: chex.Array,
    state: State,
    blocks: chex.Array,
    keys: chex.PRNGKey,
    data: Any,
) -> tuple[State, chex.Array]:
    """Lets blocks choose again, one after the other.

    Args:
      problem, arrays: what is constant.
      factors: of `curvature_factors`, for this coded vector or one nearby.
      state: all blocks coded.
      blocks: uint32[n].
      keys: [n], of the examples whose loss counts for each.
      data: (inputs, targets), arrays [examples, ...].

    Returns:
      The state after, and the loss on each block's examples after its turn, float32[n].
    """
    size = jax.tree.leaves(data)[0].shape[0]
    batch = min(_BATCH, size)
    batches = min(-(-problem.recipe.recode_examples // batch), size // batch)

    def turn(state: State, one: tuple[chex.Array, chex.PRNGKey]) -> tuple[State, chex.Array]:
        block, key = one
        place = jnp.arange(batches * batch, dtype=jnp.uint32)
        picked = permute(place, size, jax.random.bits(key, (), jnp.uint32), Stream.BATCHES)
        picked = picked.astype(jnp.int32).reshape(batches, batch)
        given = jax.tree.map(lambda x: x[picked], data)
        return _recode(problem, arrays, factors, state, block, given)

    return lax.scan(turn, state, (blocks, keys))


def _recode(
    problem: Problem,
    arrays: Any,
    factors: chex.Array,
    state: State,
    number: chex.Array,
    batches: Any,
) -> tuple[State, chex.Array]:
    header, value = problem.header, state.coded.value
    loss = partial(loss_of, problem, arrays, state)
    before, gradient = value_and_gradient(loss, value, batches)
    block = _block(problem, arrays, state, number)
    slope = jnp.where(block.in_use, gradient[block.entry], 0)
    own = jnp.where(block.in_use, factors[:, block.entry], 0)
    offset = offsets(jnp.uint32(header.seed), number, header.bits)
    reach = jnp.uint32(header.bits)
    if problem.recipe.selection == "ordered":  # a position in the same bucket costs no more
        position = (state.indices[number] - offset) & jnp.uint32((1 << header.bits) - 1)
        reach = jnp.uint32(32) - lax.clz(position)
    tried = _most_promising(problem, number, offset, reach, block, slope, own.T @ own)
    values = _values(problem, number, tried, block.scale)
    target = jnp.where(block.in_use, block.entry, header.entries)
    vectors = jax.vmap(lambda v: value.at[target].set(v, mode="drop"), 1)(values)
    losses = lax.map(lambda vector: jnp.mean(lax.map(partial(loss, vector), batches)), vectors)
    best = jnp.argmin(losses)
    better = losses[best] < before
    coded = dataclasses.replace(state.coded, value=jnp.where(better, vectors[best], value))
    index = jnp.where(better, tried[best], state.indices[number])
    indices = state.indices.at[number].set(index)
    after = dataclasses.replace(state, coded=coded, indices=indices)
    return after, jnp.where(better, losses[best], before)


def _block(problem: Problem, arrays: Any, state: State, number: chex.Array) -> _Block:
    partition = problem.header.partition
    in_use = lanes_in_use(partition, number)
    lane = jnp.arange(partition.block_size, dtype=jnp.uint32)
    slot = jnp.where(in_use, lane * np.uint32(partition.blocks) + number, 0)
    entry = arrays["order"]["entry"][slot.astype(jnp.int32)]
    log_scale = log_prior_scale_of_entries(state.params, problem.posterior.sharing)
    scale = round_scale(jnp.exp(log_scale))[entry]
    return _Block(entry, in_use, scale, state.coded.value[entry])


def _values(
    problem: Problem, number: chex.Array, index: chex.Array, scale: chex.Array
) -> chex.Array:
    """float32[block_size, candidates]: the weights of a block's candidates."""
    header = problem.header
    wide = jnp.broadcast_to(scale[:, None], (*scale.shape, *index.shape))
    number = jnp.full_like(index, number)
    return candidates.chosen_values(
        jnp.uint32(header.seed), number, index, wide, header.codebook_blocks
    )


def _most_promising(
    problem: Problem,
    number: chex.Array,
    offset: chex.Array,
    reach: chex.Array,
    block: _Block,
    slope: chex.Array,
    curvature: chex.Array,
) -> chex.Array:
    """The candidates with the least predicted loss among the positions below 2**reach:
    uint32[TRIED].
    """
    bits = problem.header.bits
    chunk_bits = min(bits, _CHUNK_BITS)
    within = jnp.arange(1 << chunk_bits, dtype=jnp.uint32)

    def look(i: chex.Array, found: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        position = (i.astype(jnp.uint32) << chunk_bits) + within
        index = (position + offset) & jnp.uint32((1 << bits) - 1)
        moved = _values(problem, number, index, block.scale) - block.value[:, None]
        moved = jnp.where(block.in_use[:, None], moved, 0)
        predicted = slope @ moved + 0.5 * jnp.sum(moved * (curvature @ moved), axis=0)
        predicted = jnp.where(position >> reach == 0, predicted, jnp.inf)
        score, place = lax.top_k(-jnp.concatenate([found[0], predicted]), TRIED)
        return -score, jnp.concatenate([found[1], index])[place]

    chunks = (jnp.int32(1) << reach.astype(jnp.int32)) + (within.size - 1) >> chunk_bits
    start = jnp.full(TRIED, jnp.inf), jnp.full(TRIED, offset, jnp.uint32)
    return lax.fori_loop(0, chunks, look, start)[1]
