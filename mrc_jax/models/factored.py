"""A network whose kernels are made of coded factors: a cosine transform, and gains of channels.

The coding prior is independent over the numbers that are coded. Kernels are not: neighbouring
places of a filter are alike, and whole channels matter or do not. So what is coded is a kernel's
cosine transform, whose frequencies differ in scale as its places do not, and the logarithms of
gains, few numbers that turn a channel (a frequency, ..) up or down for little. Every network can be
had either way; only the numbers that are coded differ.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np


class Factors(NamedTuple):
    """How the kernel at a path is made.

    Attributes:
      path: keys of the kernel in the network's 'params', joined by '/'.
      view: the kernel's shape as the axes below have it, of the same size.
      cosine: axes that are transformed.
      gains: groups of axes; each has a gain for every place along its axes.
    """

    path: str
    view: tuple[int, ...]
    cosine: tuple[int, ...] = ()
    gains: tuple[tuple[int, ...], ...] = ()


class Factored(nn.Module):
    """`net`, with `weights` made of other parameters: 'transformed', a tree like the network's,
    and 'log_gains', the gains by path and axes.

    Attributes:
      net: a module whose only collection is 'params'.
      factors: of its kernels; the tensors without are as they are.
    """

    net: nn.Module
    factors: tuple[Factors, ...]

    @nn.compact
    def __call__(self, *args: Any) -> Any:
        """Applies the network."""
        net = self.net.clone(parent=None)
        own = self.param(
            "transformed", lambda key: self.transformed(net.init(key, *args)["params"])
        )
        gains = self.param("log_gains", lambda key: self._no_gains())
        return net.apply(self.weights({"params": {"transformed": own, "log_gains": gains}}), *args)

    def weights(self, variables: Any) -> Any:
        """The variables of `net`, float32, of this module's.

        A kernel is the inverse cosine transform (orthonormal, DCT-III) of its coefficients times
        exp(log gain) for every group of axes.
        """
        params = variables["params"]
        tree = params["transformed"]
        for factors in self.factors:
            kernel = _at(tree, factors.path).reshape(factors.view)
            for axes in factors.gains:
                gain = jnp.exp(params["log_gains"][factors.path][_name(axes)])
                kernel = kernel * gain.reshape(_along(factors.view, axes))
            tree = _replaced(tree, factors, _transform(kernel, factors.cosine, inverse=True))
        return {"params": tree}

    def transformed(self, tree: Any) -> Any:
        """The coefficients of a tree of the network's 'params', for gains of one."""
        for factors in self.factors:
            kernel = _at(tree, factors.path).reshape(factors.view)
            tree = _replaced(tree, factors, _transform(kernel, factors.cosine, inverse=False))
        return tree

    def factored(self, variables: Any) -> Any:
        """This module's variables for the network's: gains of one."""
        own = self.transformed(variables["params"])
        return {"params": {"transformed": own, "log_gains": self._no_gains()}}

    def _no_gains(self) -> dict[str, dict[str, chex.Array]]:
        return {
            factors.path: {
                _name(axes): jnp.zeros(int(np.prod([factors.view[i] for i in axes])), jnp.float32)
                for axes in factors.gains
            }
            for factors in self.factors
            if factors.gains
        }


def _name(axes: tuple[int, ...]) -> str:
    return "axis_" + "_".join(map(str, axes))


def _along(view: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size if axis in axes else 1 for axis, size in enumerate(view))


def _at(tree: Any, path: str) -> chex.Array:
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _replaced(tree: Mapping[str, Any], factors: Factors, kernel: chex.Array) -> dict[str, Any]:
    """The tree with another kernel at the path, in the shape that it has there."""
    key, _, rest = factors.path.partition("/")
    if not rest:
        return {**tree, key: kernel.reshape(tree[key].shape)}
    return {**tree, key: _replaced(tree[key], factors._replace(path=rest), kernel)}


def _transform(kernel: chex.Array, axes: tuple[int, ...], *, inverse: bool) -> chex.Array:
    """The transform along some axes, or its inverse: one product for axes that come first."""
    if not axes:
        return kernel
    matrix = reduce(np.kron, [cosines(kernel.shape[axis]) for axis in axes])
    first = jnp.moveaxis(kernel, axes, range(len(axes)))
    flat = first.reshape(len(matrix), -1)
    flat = jnp.dot(matrix.T if inverse else matrix, flat, precision="highest")
    return jnp.moveaxis(flat.reshape(first.shape), range(len(axes)), axes)


def cosines(size: int) -> np.ndarray:
    """The orthonormal DCT-II, float32[frequency, place]: row 0 is constant."""
    frequency, place = np.arange(size)[:, None], np.arange(size)[None]
    rows = np.cos(np.pi * (place + 0.5) * frequency / size) * np.sqrt(2 / size)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)
