"""Batch norm folded into the convolutions before it: a trained network without statistics.

With the running mean m and variance v of a channel, batch norm of a convolution with kernel w is
(w * x - m) s + b, s = scale / sqrt(v + epsilon): a convolution with the kernel w s and the bias
b - m s. So no tensor is left that a file would have to hold beside the coded ones.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mrc_jax.errors import UsageError
from mrc_jax.models.convolution import EPSILON

_NORM = "BatchNorm_0"  # the name that flax gives it inside of a NormConv


def fold(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables {'params': ...} of a network of folded `NormConv`s that gives what the network
    of unfolded ones gives with its running statistics, up to float32 rounding.

    Args:
      variables: 'params' and 'batch_stats' of a network of `NormConv`s, on the host or a device.

    Raises:
      UsageError: 'batch_stats' holds statistics of something other than a NormConv, or not those
        of every NormConv, or there are further collections.
    """
    if others := set(variables) - {"params", "batch_stats"}:
        raise UsageError(f"cannot fold the collection {min(others)!r}; leave it out")
    return {"params": _folded(variables["params"], variables.get("batch_stats", {}), "params")}


def _folded(params: Mapping[str, Any], stats: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The folded parameters of a module and its children."""
    if _NORM in params and "kernel" in params:
        norm, moments = params[_NORM], stats.get(_NORM, {})
        if {*params} != {"kernel", _NORM} or {*moments} != {"mean", "var"}:
            raise UsageError(f"{path}: batch norm without its statistics; pass 'batch_stats' too")
        variance, mean, scale, bias, kernel = (
            np.asarray(x, np.float64)
            for x in (
                moments["var"],
                moments["mean"],
                norm["scale"],
                norm["bias"],
                params["kernel"],
            )
        )
        scale = scale / np.sqrt(variance + EPSILON)
        found = {"kernel": kernel * scale, "bias": bias - mean * scale}
        return {name: jnp.asarray(x, jnp.float32) for name, x in found.items()}
    for name in stats:
        if not isinstance(params.get(name), Mapping) or name == _NORM:
            raise UsageError(f"{path}/{name}: statistics that belong to no NormConv; cannot fold")
    return {
        name: _folded(child, stats.get(name, {}), f"{path}/{name}")
        if isinstance(child, Mapping)
        else child
        for name, child in params.items()
    }
