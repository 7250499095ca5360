"""Members that differ in seed, size or learning rate, trained together by one vmapped program."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrc_jax.errors import UsageError
from mrc_jax.mesh import axes_but, devices_of, replicated
from mrc_jax.problem import Problem, State
from mrc_jax.train import train_on_arrays

RunMembers = Callable[[list[State], int], tuple[list[State], list[dict[str, chex.Array]]]]


def vmap_members(
    problems: Sequence[Problem], arrays: Sequence[Any], data: Any, own_data: bool = False
) -> RunMembers:
    """A function (states, steps) -> (states, metrics), a list of each, that trains members up to
    the coding of their first blocks; it gives the numbers of `train_on_arrays` for each of them, up
    to rounding.

    Args:
      problems: of the members, which may differ in seeds, in file_bytes and so in the number of
        blocks, and in learning rates.
      arrays: of `Problem.index_arrays`, of each.
      data: (inputs, targets), pytrees of arrays as `train_on_arrays` takes them, the same for all.
      own_data: whether each member has its own; data is then [members, ...] of them.

    The problems' mesh, all of this process, divides members on its axis 'members'.

    Raises:
      UsageError: members differ in more.
    """
    _check(problems)
    first, blocks = problems[0], [problem.header.blocks for problem in problems]
    rates = _rates([problem.recipe for problem in problems])
    mesh, first = first.mesh, dataclasses.replace(first, mesh=None)  # what lies where is given here
    members = tuple(name for name in axes_but(mesh) if name == "members")
    fill = -len(problems) % devices_of(mesh, members)  # so that they divide evenly

    def together(trees: Any, *names: Any) -> Any:
        return _placed(_stacked([*trees, *[trees[-1]] * fill]), mesh, members, *names)

    constant = together(arrays)
    constant["rates"] = together(list(rates))
    if len(set(blocks)) > 1:
        constant["blocks"] = together(list(jnp.asarray(blocks, jnp.int32)))
    names = axes_but(mesh, "members")
    if own_data:
        parts = [jax.tree.map(lambda x, i=i: x[i], data) for i in range(len(blocks))]
        data = together(parts, names)
    else:
        data = _placed(jax.tree.map(jnp.asarray, data), mesh, names)
    out = None if mesh is None else NamedSharding(mesh, PartitionSpec(members))

    @partial(jax.jit, static_argnames="steps", donate_argnums=1, out_shardings=out)
    def run(constant: Any, state: State, data: Any, steps: int) -> tuple[State, Any]:
        def member(constant: Any, state: State, data: Any) -> tuple[State, Any]:
            return train_on_arrays(first, constant, state, data, steps)

        return jax.vmap(member, (0, 0, 0 if own_data else None))(constant, state, data)

    def run_members(states: list[State], steps: int) -> tuple[list[State], list[Any]]:
        padded = [_of_blocks(state, max(blocks)) for state in states]
        after, metrics = run(constant, together(padded), data, steps=steps)
        parts = [
            replicated(jax.tree.map(lambda x, i=i: x[i], (after, metrics)), mesh)
            for i in range(len(blocks))
        ]
        return [_of_blocks(s, n) for (s, _), n in zip(parts, blocks, strict=True)], [
            m for _, m in parts
        ]

    return run_members


def _rates(recipes: Sequence[Any]) -> chex.Array:
    return jnp.asarray([(r.learning_rate, r.final_learning_rate) for r in recipes], jnp.float32)


def _placed(tree: Any, mesh: Mesh | None, *names: tuple[str, ...]) -> Any:
    """A tree whose first dimensions are divided over some axes each."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*names)))


def _of_blocks(state: State, blocks: int) -> State:
    """A state with room for other numbers of blocks; blocks that are new have a beta of zero."""

    def sized(values: chex.Array) -> chex.Array:
        return jnp.pad(values[:blocks], (0, max(blocks - len(values), 0)))

    return dataclasses.replace(state, betas=sized(state.betas), indices=sized(state.indices))


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _check(problems: Sequence[Problem]) -> None:
    """Raises UsageError where one program cannot train all."""
    same = {"learning_rate": 1.0, "final_learning_rate": 1.0, "refine_learning_rate": 1.0}
    for problem in problems:
        for name, values in {
            "settings": [dataclasses.replace(p.recipe, **same) for p in (problem, problems[0])],
            "bits": [p.header.bits for p in (problem, problems[0])],
            "numbers of blocks under mean_kl": [
                p.header.blocks * (p.recipe.parameterisation == "mean_kl")
                for p in (problem, problems[0])
            ],
            "networks": [p.posterior.sharing.manifest for p in (problem, problems[0])],
            "keyword arguments": [p.net_kwargs for p in (problem, problems[0])],
            "changes of the inputs": [p.augment for p in (problem, problems[0])],
            "teachers": [p.teacher for p in (problem, problems[0])],
        }.items():
            if values[0] != values[1]:
                raise UsageError(
                    f"members with other {name} cannot train together; only seeds, file_bytes and "
                    "learning rates may differ"
                )
