"""The coded leaves of a parameter tree as one vector, and back."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the coded leaves of a tree are; hashable, so that it can be a static argument.

    Attributes:
      structure: of the tree.
      shapes: of its leaves.
      is_coded: which of its leaves are coded.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    is_coded: tuple[bool, ...]

    def split(self, tree: Any) -> tuple[chex.Array, list[Any]]:
        """The coded leaves in one vector, float32[weights], and the list of the others."""
        leaves = jax.tree.leaves(tree)
        coded = [jnp.ravel(x) for x, yes in zip(leaves, self.is_coded, strict=True) if yes]
        others = [jnp.asarray(x) for x, yes in zip(leaves, self.is_coded, strict=True) if not yes]
        return jnp.concatenate(coded), others

    def join(self, vector: chex.Array, others: Sequence[Any]) -> Any:
        """The inverse of `split`."""
        leaves, place, rest = [], 0, iter(others)
        for shape, is_coded in zip(self.shapes, self.is_coded, strict=True):
            if not is_coded:
                leaves.append(next(rest))
                continue
            size = int(np.prod(shape))
            leaves.append(vector[place : place + size].reshape(shape))
            place += size
        return jax.tree.unflatten(self.structure, leaves)


def layout_of(tree: Any, is_coded: Callable[[str], bool] | None = None) -> Layout:
    """The layout of a tree.

    Args:
      tree: of arrays.
      is_coded: of a leaf's path, like 'params/Dense_0/kernel'; all leaves unless it is given.

    Raises:
      UsageError: nothing is coded, or a coded leaf is not of float32.
    """
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]
    coded = tuple(is_coded is None or bool(is_coded(path)) for path in paths)
    for path, (_, leaf), yes in zip(paths, found, coded, strict=True):
        if yes and jnp.asarray(leaf).dtype != jnp.float32:
            raise UsageError(f"{path} is {jnp.asarray(leaf).dtype}: coded weights must be float32")
    if not any(coded):
        raise UsageError("no weight is coded")
    return Layout(structure, tuple(np.shape(leaf) for _, leaf in found), coded)
