"""The order in which blocks are coded, in waves whose blocks share a codebook if any do."""

import dataclasses
from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import kernels
from mrc_jax.mesh import axes_but, devices_of, everywhere
from mrc_jax.problem import Problem, State, private_key


def waves(
    problem: Problem, state: State, done: int
) -> Iterator[tuple[np.ndarray, chex.Array | None]]:
    """Yields the waves after the first `done` blocks.

    Yields:
      The wave's blocks, uint32[wave_blocks], filled up with the number of blocks, which is no
      block's, to a multiple of the devices that share them; and their codebook,
      int16[block_size, 2**bits], where it is kept.
    """
    blocks, wave = problem.header.blocks, problem.recipe.wave_blocks
    shared = problem.header.codebook_blocks
    order = block_order(problem, state)
    size = wave + -wave % devices_of(problem.mesh, axes_but(problem.mesh, "candidates"))
    codebook_of, codebook, kept = order // np.uint32(shared), None, None
    while done < blocks:
        count = min(wave, blocks - done)
        if problem.recipe.selection == "ordered":  # so that the last may still make up for others
            count = min(wave, -(-(blocks - done) // 2))
        if shared > 1:
            count = int(np.sum(codebook_of[done : done + count] == codebook_of[done]))
        if codebook != codebook_of[done]:
            codebook, kept = codebook_of[done], None  # the old one goes before the new one is made
            kept = _kept_codebook(problem, codebook)
        ids = np.full(size, blocks, np.uint32)
        ids[:count] = order[done : done + count]
        yield ids, kept
        done += count


def block_order(problem: Problem, state: State) -> np.ndarray:
    """The order in which blocks are coded, uint32[blocks], by the state's key; those that share a
    codebook follow one another.
    """
    state = dataclasses.replace(state, key=jnp.asarray(np.asarray(state.key)))  # of this process
    key = jax.random.fold_in(private_key(state), 0xFFFFFFFE)
    order = np.asarray(jax.random.permutation(key, problem.header.blocks), np.uint32)
    codebook = order // np.uint32(problem.header.codebook_blocks)
    _, first, number = np.unique(codebook, return_index=True, return_inverse=True)
    return order[np.argsort(first[number], kind="stable")]


def _kept_codebook(problem: Problem, codebook: int) -> chex.Array | None:
    """The candidates that a codebook's blocks share, or None where they are not worth keeping."""
    header = problem.header
    size, bits = header.partition.block_size, header.bits
    if header.codebook_blocks == 1 or 2 * size << bits > problem.recipe.codebook_bytes:
        return None
    make = jax.jit(
        kernels.make_codebook,
        static_argnames=("size", "bits"),
        out_shardings=everywhere(problem.mesh),
    )
    return make(np.uint32(header.seed), np.uint32(codebook), size=size, bits=bits)
