"""Coded vector <-> parameter tree: a fixed pseudorandom map; `factor` parameters share an entry.

Parameter i of tensor t, which has m entries, is entry permute(i) % m of them times a
random sign, the permutation acting on m * factor places (the hashing trick, MIRACLE section 3.3,
with every entry used equally often). With factor 1 parameter i is entry i, without a sign.
"""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mrc_jax.errors import UsageError
from mrc_jax.manifest import CODABLE, ITEM_BYTES, UNCODED, Manifest, Tensor
from mrc_jax.shared_random import CHUNK, Array, Stream, permute, sign_bits, unpermute

Rules = Sequence[tuple[str, int]]  # (path pattern, factor); the first that matches holds


@dataclasses.dataclass(frozen=True)
class Sharing:
    """The map of one network: its manifest, the seed and, for trees, the tree's structure.

    Attributes:
      manifest: the tensors in the order of the flattened tree.
      seed: of the shared randomness.
      treedef: structure of the parameter tree (a jax.tree_util.PyTreeDef).
      ranges: see `Tensor.group_sizes`.
    """

    manifest: Manifest
    seed: int
    treedef: Any = None
    ranges: int = 1

    @property
    def group_sizes(self) -> list[int]:
        """Entries of each group."""
        return self.manifest.group_sizes(self.ranges)


def coded_tensors(manifest: Manifest) -> Iterator[tuple[int, Tensor, slice]]:
    """Yields (index of the tensor, tensor, its slice of the coded vector) for each coded tensor."""
    start = 0
    for index, tensor in enumerate(manifest.tensors):
        if tensor.factor != UNCODED:
            yield index, tensor, slice(start, start + tensor.entries)
            start += tensor.entries


def group_of_entry(manifest: Manifest, ranges: int = 1) -> np.ndarray:
    """int32[entries]: the group, and so the prior scale, of each entry."""
    sizes = manifest.group_sizes(ranges)
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def signed_entry(tensor: Tensor, index: int, seed: Array, parameter: Array) -> tuple[Array, Array]:
    """Entry within the tensor (uint32) and negative sign (bool) of parameters of a shared tensor.

    Args:
      tensor, index, seed: the tensor, its place in the manifest and the shared randomness's seed.
      parameter: uint32[any], consecutive from a multiple of 64 (its type decides NumPy or JAX).
    """
    place = permute(parameter, tensor.entries * tensor.factor, seed, Stream.SHARING, index)
    row = parameter[:1] * np.uint32(0) + np.uint32(index)
    negative = sign_bits(seed, Stream.SHARING_SIGNS, row, len(parameter), parameter[0])[0]
    return place % np.uint32(tensor.entries), negative


def expand_group(group: Array, tensor: Tensor, index: int, seed: Array, xp: Any = np) -> Array:
    """The parameters of a tensor, float32[shape], from its entries of the coded vector."""
    if tensor.factor > 1:
        step = 8 * CHUNK if xp is np else tensor.size  # in pieces NumPy takes less memory
        parts = []
        for start in range(0, tensor.size, step):
            parameter = xp.arange(start, min(start + step, tensor.size), dtype=np.uint32)
            entry, negative = signed_entry(tensor, index, seed, parameter)
            part = xp.take(group, entry.astype(np.intp if xp is np else np.int32), axis=0)
            parts.append(xp.where(negative, -part, part))
        group = xp.concatenate(parts)
    return group.reshape(tensor.shape)


def make_sharing(
    tree: Any, seed: int, rules: Rules = (), uncoded: Sequence[str] = (), ranges: int = 1
) -> Sharing:
    """Reads a parameter tree (arrays or shapes) into a Sharing.

    Args:
      tree: any pytree of arrays; its leaves' paths are their keys joined by '/'. Where it has a
        key 'params' at the top it is a Flax module's variables, whose other collections are
        stored as they are.
      seed: of the shared randomness.
      rules: (pattern, factor) pairs as fnmatch has them, tried in order on the path and on every
        ending of it that begins at a key; factor 1 where none matches.
      uncoded: patterns of the tensors that are stored as they are; integer tensors always are.
      ranges: see `Tensor.group_sizes`.

    Raises:
      UsageError: a pattern that matches nothing, or a tree that cannot be coded.
    """
    import jax

    for pattern, factor in rules:
        if factor < 1:
            raise UsageError(f"sharing {pattern!r}: factor {factor} must be at least 1")
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    is_flax = isinstance(tree, Mapping) and "params" in tree
    used, tensors = set(), []
    for keys, leaf in leaves:
        path = "/".join(_key_name(k) for k in keys)
        factor = _factor(path, leaf, rules, uncoded, used)
        if is_flax and not path.startswith("params/"):
            factor = UNCODED
        if str(leaf.dtype) not in ITEM_BYTES:
            raise UsageError(f"{path}: a tensor of dtype {leaf.dtype} cannot be stored")
        tensors.append(Tensor(path, tuple(leaf.shape), str(leaf.dtype), factor))
    unused = {*(p for p, _ in rules), *uncoded} - used
    if unused:
        paths = ", ".join(t.path for t in tensors[:20])
        raise UsageError(f"pattern {sorted(unused)[0]!r} matches no tensor; there are {paths}")
    if not any(t.entries for t in tensors):
        raise UsageError("the network has no tensor to code")
    return Sharing(Manifest(tuple(tensors)), seed, treedef, ranges)


def maps(sharing: Sharing) -> dict[str, dict[str, Array]]:
    """The index arrays that `expand` needs, by tensor path, for tensors with a factor above 1.

    They are arrays, not attributes, so that compiled programs take them as arguments:
    entry int32[size], sign float32[size], parameter int32[factor, entries] (size where there is
    none).
    """
    out = {}
    for index, tensor, _ in coded_tensors(sharing.manifest):
        if tensor.factor > 1:
            places = tensor.entries * tensor.factor
            seed = np.uint32(sharing.seed)
            arange = np.arange(places, dtype=np.uint32)
            entry, negative = signed_entry(tensor, index, seed, arange[: tensor.size])
            parameter = unpermute(arange, places, seed, Stream.SHARING, index)
            parameter = np.minimum(parameter, np.uint32(tensor.size)).astype(np.int32)
            out[tensor.path] = {
                "entry": entry.astype(np.int32),
                "sign": np.where(negative, np.float32(-1), np.float32(1)),
                "parameter": parameter.reshape(tensor.factor, tensor.entries),
            }
    return out


def expand(sharing: Sharing, maps: Any, coded: Array, uncoded: Sequence[Array]) -> Any:
    """The parameter tree, each leaf in its own dtype, of a coded vector.

    Args:
      sharing: the map.
      maps: of `maps(sharing)`.
      coded: float32[entries].
      uncoded: the uncoded leaves, in manifest order.

    Its gradient gathers (each entry from the parameters that share it) and does not scatter.
    """
    rest, leaves = iter(uncoded), []
    slices = {index: where for index, _, where in coded_tensors(sharing.manifest)}
    for index, tensor in enumerate(sharing.manifest.tensors):
        if tensor.factor == UNCODED:
            leaves.append(next(rest))
            continue
        group = coded[slices[index]]
        if tensor.factor > 1:
            group = _gather_shared()(group, maps[tensor.path])
        leaves.append(group.reshape(tensor.shape).astype(tensor.dtype))
    return sharing.treedef.unflatten(leaves)


def collapse(sharing: Sharing, maps: Any, tree: Any) -> Array:
    """The coded vector, float32[entries], whose expansion has the tree's scale.

    An entry becomes the signed sum of its parameters over the square root of their number: with
    factor 1 the inverse of `expand`; above, a random start keeps its variance.
    """
    import jax.numpy as jnp

    leaves, out = sharing.treedef.flatten_up_to(tree), []
    for index, tensor, _ in coded_tensors(sharing.manifest):
        leaf = jnp.ravel(jnp.asarray(leaves[index], jnp.float32))
        if tensor.factor > 1:
            own = maps[tensor.path]
            padded = jnp.append(leaf * own["sign"], jnp.float32(0))
            count = jnp.sum(own["parameter"] < tensor.size, axis=0)
            total = jnp.sum(padded[own["parameter"]], axis=0)
            leaf = total / jnp.sqrt(jnp.maximum(count, 1).astype(jnp.float32))
        out.append(leaf)
    return jnp.concatenate(out)


def uncoded_leaves(sharing: Sharing, tree: Any) -> list[Array]:
    """The uncoded leaves of a tree, in manifest order."""
    leaves = sharing.treedef.flatten_up_to(tree)
    tensors = sharing.manifest.tensors
    return [x for x, t in zip(leaves, tensors, strict=True) if t.factor == UNCODED]


def tree_of(weights: dict[str, np.ndarray], like: Any) -> Any:
    """Decoded weights as a parameter tree, each leaf cast to the dtype that it has in `like`.

    Args:
      weights: arrays by path, as `decode` returns them.
      like: a tree of arrays or shapes with the network's structure.
    """
    import jax

    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    paths = ["/".join(_key_name(k) for k in keys) for keys, _ in leaves]
    if sorted(paths) != sorted(weights):
        raise UsageError("the weights are of another network: their paths are not those of `like`")
    cast = [weights[p].astype(leaf.dtype) for p, (_, leaf) in zip(paths, leaves, strict=True)]
    return treedef.unflatten(cast)


def _gather_shared() -> Any:
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def gather(group: Array, own: dict[str, Array]) -> Array:
        return group[own["entry"]] * own["sign"]

    def backward(own: dict[str, Array], gradient: Array) -> tuple[Array, None]:
        padded = jnp.append(gradient * own["sign"], jnp.zeros((), gradient.dtype))
        return jnp.sum(padded[own["parameter"]], axis=0), None

    gather.defvjp(lambda group, own: (gather(group, own), own), backward)
    return gather


def _key_name(key: Any) -> str:
    """A key of a tree path as text: of a dict, an attribute or a sequence."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _factor(path: str, leaf: Any, rules: Rules, uncoded: Sequence[str], used: set[str]) -> int:
    keys = path.split("/")
    endings = ["/".join(keys[i:]) for i in range(len(keys))]
    for pattern in uncoded:
        if any(fnmatch.fnmatchcase(ending, pattern) for ending in endings):
            used.add(pattern)
            return UNCODED
    if str(leaf.dtype) not in CODABLE:
        return UNCODED
    for pattern, factor in rules:
        if any(fnmatch.fnmatchcase(ending, pattern) for ending in endings):
            used.add(pattern)
            return factor
    return 1
