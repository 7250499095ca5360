"""How training steps get their examples: from arrays on the devices, or batch by batch."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import train
from mrc_jax.errors import UsageError
from mrc_jax.mesh import (
    Placed,
    axes_but,
    by_shards,
    devices_of,
    everywhere,
    own_shards,
    placed,
    replicated,
    spread,
)
from mrc_jax.problem import Problem, State

RunSteps = Callable[[State, int, bool], tuple[State, dict[str, chex.Array]]]


def steps_on(problem: Problem, arrays: Any, data: Any) -> RunSteps:
    """A function (state, steps, refining) -> (state, metrics) that trains on the data given.

    Args:
      problem, arrays: what is constant.
      data: a tuple (inputs, targets) of arrays [examples, ...], which go to the devices once; or
        `Placed`, where they are there already; or an iterable of such tuples, one a batch, that
        can be iterated again and again (with several processes: each process's share of it).

    Raises:
      UsageError: the devices of the problem's mesh cannot share the batches.
    """
    mesh, shards = problem.mesh, problem.recipe.data_shards
    if shards % (devices := devices_of(mesh, axes_but(mesh))):
        raise UsageError(
            f"data_shards = {shards}: must be a multiple of the mesh's {devices} devices"
        )
    whole = everywhere(mesh)
    if isinstance(data, tuple | Placed):
        data = on_devices(problem, data)
        program = jax.jit(
            partial(train.train_on_arrays, problem),
            static_argnames=("steps", "refining"),
            donate_argnums=1,
            out_shardings=whole,
        )
        return lambda state, steps, refining: program(
            arrays, state, data, steps=steps, refining=refining
        )
    batches = _endless(data)
    fed = jax.jit(
        partial(train.train_on_batches, problem),
        static_argnames="refining",
        donate_argnums=1,
        out_shardings=whole,
    )

    def run(state: State, steps: int, refining: bool) -> tuple[State, dict[str, chex.Array]]:
        picked = [next(batches) for _ in range(steps)]
        stacked = jax.tree.map(lambda *leaves: _stacked(problem, leaves), *picked)
        return fed(arrays, state, stacked, refining=refining)

    return run


def on_devices(problem: Problem, data: Any) -> Any:
    """Arrays as `train.train_on_arrays` takes them, of a tuple or of `Placed`."""
    mesh, shards = problem.mesh, problem.recipe.data_shards
    if isinstance(data, Placed):
        return data.arrays
    if shards == 1:
        return replicated(jax.tree.map(jnp.asarray, data), mesh)
    own = by_shards(len(jax.tree.leaves(data)[0]), shards)[list(own_shards(shards, mesh))]
    return placed(jax.tree.map(lambda x: np.asarray(x)[own], data), shards, mesh)


def _stacked(problem: Problem, leaves: Any) -> chex.Array:
    """Batches [steps, batch, ...], each divided over the devices."""
    mesh = problem.mesh
    if mesh is None:
        return jnp.stack(leaves)
    return jax.make_array_from_process_local_data(spread(mesh, axes_but(mesh), 1), np.stack(leaves))


def _endless(data: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise UsageError("the data gave no batch: pass arrays, or an iterable that can restart")
