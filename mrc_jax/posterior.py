"""The Gaussian posterior around any network: a Flax module that holds it, its starts and its prior
scales.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import sharing as sharing_lib
from mrc_jax.container import (
    MAX_RANGE_SCALE,
    MAX_SCALE,
    MIN_RANGE_SCALE,
    MIN_SCALE,
    RANGE_SCALE_BITS,
)
from mrc_jax.errors import UsageError
from mrc_jax.samples import Coded, Parameters, sample_entries
from mrc_jax.sharing import Sharing


class Posterior(nn.Module):
    """q over the weights of `net`; applying it applies the network with one sample of them.

    Variables: 'params' holds mean and log_variance [entries] and log_prior_scale [groups];
    'sharing' the index arrays of the sharing; 'uncoded' the leaves that are not coded, by path, the
    network's collections other than 'params' among them (make 'uncoded' mutable to let batch
    statistics move). Samples draw from the rng stream 'posterior'; all other streams go on to the
    network.

    Attributes:
      net: a linen module, or a pure function `apply(tree, *args, **kwargs)`.
      sharing: of the tree that `net` takes: a module's variables, a function's first argument.
      log_std_init, prior_scale_init: see Recipe.
    """

    net: Any
    sharing: Sharing
    log_std_init: float = -5.0
    prior_scale_init: float = 0.1353352832366127

    @nn.compact
    def __call__(
        self, *args: Any, coded: Coded | None = None, sample: bool = True, **kwargs: Any
    ) -> Any:
        """Applies the network.

        Args:
          *args, **kwargs: of the network.
          coded: entries that are fixed already.
          sample: whether to draw the weights, or use the mean, which is then all that 'params'
            needs to hold.

        Returns:
          What the network returns.
        """
        net = self.net.clone(parent=None) if isinstance(self.net, nn.Module) else self.net
        if self.is_initializing():
            self._create(net, args, kwargs)
        get = self.get_variable
        entries = sample_entries(
            self._parameters(), self.make_rng("posterior") if sample else None, coded
        )
        uncoded = [get("uncoded", t.path) for t in self.sharing.manifest.tensors if not t.factor]
        index_arrays = self.variables.get("sharing", {})
        tree = sharing_lib.expand(self.sharing, index_arrays, entries, uncoded)
        if not isinstance(net, nn.Module):
            return net(tree, *args, **kwargs)
        streams = self.scope.rngs if self.scope else {}
        rngs = {name: self.make_rng(name) for name in streams if name not in _OWN_STREAMS}
        others = [name for name in tree if name != "params"]
        if not others or not self.is_mutable_collection("uncoded"):
            return net.apply(tree, *args, rngs=rngs, **kwargs)
        out, updated = net.apply(tree, *args, rngs=rngs, mutable=others, **kwargs)
        if not self.is_initializing():  # as batch norm itself has it: a start is no step
            self._store_uncoded({**tree, **updated})
        return out

    def sample_key(self) -> chex.PRNGKey:
        """What `__call__` gives `sample_entries`."""
        return self.make_rng("posterior")

    def _parameters(self) -> Parameters:
        names = ("mean", "log_variance", "log_prior_scale")
        return {name: self.get_variable("params", name) for name in names}

    def _create(self, net: Any, args: Any, kwargs: Any) -> None:
        if not isinstance(net, nn.Module):
            raise UsageError(
                "a pure apply function has no init: make the variables with init_variables"
            )
        tree = net.init(self.make_rng("params"), *args, **kwargs)
        variables = init_variables(self.sharing, tree, self.log_std_init, self.prior_scale_init)
        for collection, values in variables.items():
            for name, value in values.items():
                self.put_variable(collection, name, value)

    def _store_uncoded(self, tree: Any) -> None:
        leaves = sharing_lib.uncoded_leaves(self.sharing, tree)
        tensors = [t for t in self.sharing.manifest.tensors if not t.factor]
        for tensor, leaf in zip(tensors, leaves, strict=True):
            self.put_variable("uncoded", tensor.path, leaf)


_LEAST_RMS = 1e-3  # of a group's means that its first scale is taken from
_OWN_STREAMS = ("posterior", "params")


def init_variables(
    sharing: Sharing,
    tree: Any,
    log_std_init: float = -5.0,
    prior_scale_init: float = 0.1353352832366127,
) -> dict[str, Any]:
    """The variables of `Posterior` with its means at a parameter tree.

    Args:
      sharing: of the tree.
      tree: initial weights, as `net` takes them.
      log_std_init: log of every standard deviation.
      prior_scale_init: prior scale of a tensor that is one group; where it has more, theirs go from
        twice to an eighth of it.
    """
    manifest, maps = sharing.manifest, sharing_lib.maps(sharing)
    maps = jax.tree.map(jnp.asarray, maps)
    leaves = sharing_lib.uncoded_leaves(sharing, tree)
    tensors = [t for t in manifest.tensors if not t.factor]
    params = {
        "mean": sharing_lib.collapse(sharing, maps, tree),
        "log_variance": jnp.full(manifest.entries, 2 * log_std_init, jnp.float32),
        "log_prior_scale": jnp.asarray(_first_scales(sharing) + np.log(prior_scale_init)),
    }
    uncoded = {t.path: jnp.asarray(x) for t, x in zip(tensors, leaves, strict=True)}
    return {"params": params, "sharing": maps, "uncoded": uncoded}


def scaled_start(params: Parameters, sharing: Sharing, noise: float) -> dict[str, chex.Array]:
    """A start for means that are trained already. The standard deviations of a group are `noise`
    times the root mean square of its means, or of 1e-3 where that is more; its prior scale is that
    root mean square, in a tensor of several groups times sqrt(2) for the first, sqrt(1/8) for the
    last and in between for the others, which part as at a random start.

    Args:
      params: of the posterior.
      sharing: gives the groups.
      noise: positive; an entry of a tensor in one group then has a KL of noise^2 / 2 - ln(noise)
        nats on average.

    Returns:
      The parameters, with the means as they are.
    """
    edges = np.cumsum(sharing.group_sizes)[:-1]
    squares = [jnp.mean(jnp.square(part)) for part in jnp.split(params["mean"], edges)]
    log_rms = 0.5 * jnp.log(jnp.maximum(jnp.stack(squares), jnp.float32(_LEAST_RMS**2)))
    spread = jnp.asarray(_first_scales(sharing) * np.float32(0.5))
    scales = {"mean": params["mean"], "log_prior_scale": log_rms}
    log_scale = log_prior_scale_of_entries(scales, sharing)
    return {
        "mean": params["mean"],
        "log_variance": 2 * (log_scale + jnp.log(jnp.float32(noise))),
        "log_prior_scale": log_rms + spread,
    }


def _first_scales(sharing: Sharing) -> np.ndarray:
    """float32[groups]: log of the prior scales at the start, over that of a tensor in one group.

    A tensor in several begins with one for large weights, one for noise and others between them:
    from equal ones they would part slowly.
    """
    spread = np.linspace(np.log(2), -np.log(8), sharing.ranges)
    groups = [len(tensor.group_sizes(sharing.ranges)) for tensor in sharing.manifest.coded]
    pieces = [spread if count > 1 else np.zeros(1) for count in groups]
    return np.concatenate(pieces).astype(np.float32)


def prior_scale(parameters: Parameters, sharing: Sharing) -> chex.Array:
    """The prior scales, float32[groups], rounded and bounded as the file holds them."""
    scale = jnp.exp(parameters["log_prior_scale"])
    if sharing.ranges > 1:
        return _rounded(jnp.clip(scale, MIN_RANGE_SCALE, MAX_RANGE_SCALE), RANGE_SCALE_BITS)
    return round_scale(jnp.clip(scale, MIN_SCALE, MAX_SCALE))


def round_scale(scale: chex.Array) -> chex.Array:
    """Rounds to the nearest bfloat16."""
    return _rounded(scale, 16)


def _rounded(values: chex.Array, kept_bits: int) -> chex.Array:
    """Rounds to the nearest float32 that uses its upper bits alone; by integers, so that no
    compiler can leave it out.
    """
    dropped = 32 - kept_bits
    bits = jax.lax.bitcast_convert_type(jnp.asarray(values, jnp.float32), jnp.uint32)
    half, last = jnp.uint32((1 << dropped - 1) - 1), (bits >> dropped) & jnp.uint32(1)
    kept = jnp.uint32(0xFFFFFFFF >> dropped << dropped)
    return jax.lax.bitcast_convert_type((bits + half + last) & kept, jnp.float32)


def log_prior_scale_of_entries(parameters: Parameters, sharing: Sharing) -> chex.Array:
    """float32[entries]: the log prior scale of each entry."""
    sizes = sharing.group_sizes
    scale = parameters["log_prior_scale"]
    pieces = [jnp.broadcast_to(scale[g], (size,)) for g, size in enumerate(sizes)]
    return jnp.concatenate(pieces)
