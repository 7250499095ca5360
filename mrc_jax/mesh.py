"""A mesh of devices, and what lies where on it: states on every device, examples and blocks spread.

With several processes (`jax.distributed`) the mesh is of the devices of all of them, and every
process runs the same calls in the same order.
"""

import functools
import math
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrc_jax.errors import UsageError

AXES = ("data", "members", "candidates")


class Placed(NamedTuple):
    """A data set on the devices; see `placed`."""

    arrays: Any


def axes_of(text: str) -> dict[str, int]:
    """The axes that a text like 'data=4,candidates=2' names, with the number of devices of each.

    'members' divides the members that train together, 'candidates' each block's candidates while
    blocks are coded; 'data' divides batches and the blocks of a wave. An axis that has nothing of
    its own to divide divides what 'data' does. '' has no axis: one device.

    Raises:
      UsageError: it is not of that form.
    """
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if name not in AXES or name in found or not count.isdecimal() or int(count) < 1:
            raise UsageError(
                f"mesh = {text!r}: give AXIS=DEVICES pairs like 'data=8' or 'data=4,candidates=2', "
                f"each axis once, of {', '.join(AXES)}"
            )
        found[name] = int(count)
    return found


@functools.cache
def make_mesh(text: str) -> Mesh | None:
    """The mesh of `axes_of` a text, over the devices of all processes; None for ''.

    Raises:
      UsageError: there are not so many devices, or processes would be left out.
    """
    axes = axes_of(text)
    if not axes:
        return None
    count, there = math.prod(axes.values()), jax.device_count()
    if count > there or (jax.process_count() > 1 and count != there):
        raise UsageError(
            f"mesh = {text!r} has {count} devices, and there are {there} in {jax.process_count()} "
            "processes: give as many, or with one process fewer"
        )
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    devices = jax.devices()[:count]
    return jax.make_mesh(tuple(axes.values()), tuple(axes), kinds, devices=devices)


def axes_but(mesh: Mesh | None, *left_out: str) -> tuple[str, ...]:
    """The names of the axes that are not left out."""
    return () if mesh is None else tuple(n for n in mesh.axis_names if n not in left_out)


def devices_of(mesh: Mesh | None, names: tuple[str, ...]) -> int:
    """How many devices some axes have."""
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in names)


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what every device holds whole; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh, names: tuple[str, ...], axis: int = 0) -> NamedSharding:
    """The sharding of arrays whose dimension `axis` is divided over some axes of a mesh."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, names))


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """A pytree that every process has, on every device; as it is without a mesh."""
    where = everywhere(mesh)
    return tree if where is None else jax.tree.map(lambda x: _put(x, where), tree)


def local(tree: Any, mesh: Mesh | None) -> Any:
    """A pytree of which every device holds all, as NumPy arrays; as it is without a mesh."""
    return tree if mesh is None else jax.tree.map(np.asarray, tree)


def _put(x: Any, where: NamedSharding) -> chex.Array:
    if isinstance(x, jax.Array) and x.sharding == where:
        return x
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, where, lambda index: values[index])


def own_shards(shards: int, mesh: Mesh | None) -> tuple[int, ...]:
    """Which of the shards of a data set lie on the devices of this process, ascending."""
    if mesh is None:
        return tuple(range(shards))
    places = spread(mesh, axes_but(mesh)).addressable_devices_indices_map((shards,))
    found = [range(shards)[index[0]] for index in places.values() if index is not None]
    return tuple(sorted({shard for part in found for shard in part}))


def by_shards(examples: int, shards: int) -> np.ndarray:
    """The examples of each shard, int[shards, rows]: shard v has v, v + shards, .., and all have
    equally many; a few of the last are left out where that does not come out even.
    """
    rows = examples // shards
    if rows < 1:
        raise UsageError(f"{examples} examples are too few for {shards} shards of the data")
    return np.arange(rows * shards).reshape(rows, shards).T


def placed(own: Any, shards: int, mesh: Mesh | None) -> Any:
    """A data set on the devices, each shard on the one that reads it.

    Args:
      own: pytree of arrays [own shards, rows, ...], of `own_shards`: all a process needs to have.
      shards: in all.
      mesh: of the devices, whose number divides that of the shards; None: the default device.

    Returns:
      Global arrays [shards, rows, ...].
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, own)
    numbers, where = own_shards(shards, mesh), spread(mesh, axes_but(mesh))

    def put(x: Any) -> chex.Array:
        values, shape = np.asarray(x), (shards, *np.shape(x)[1:])

        def part(index: Any) -> np.ndarray:
            wanted = range(shards)[index[0]]
            return values[[numbers.index(shard) for shard in wanted]]

        return jax.make_array_from_callback(shape, where, part)

    return jax.tree.map(put, own)


def picked(data: Any, rows: chex.Array) -> Any:
    """The batch [batch, ...] of rows int32[shards, batch / shards] of data [shards, rows, ...]:
    each device takes its own examples, and nothing moves.
    """

    def take(x: chex.Array) -> chex.Array:
        part = jax.vmap(lambda shard, row: shard[row])(x, rows)
        return part.reshape(-1, *part.shape[2:])

    return jax.tree.map(take, data)
