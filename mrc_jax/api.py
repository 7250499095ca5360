"""The one high-level call: a network, a loss, data and a size in bytes to a file."""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import numpy as np

from mrc_jax import budget, codelength, container, index_codes
from mrc_jax.compress import OnCall, code_all, file_of, train_to_budget
from mrc_jax.decode import decode, weights_sha256
from mrc_jax.errors import UsageError
from mrc_jax.feed import on_devices, steps_on
from mrc_jax.laplace import budget_start
from mrc_jax.mesh import Placed, everywhere, local, replicated
from mrc_jax.posterior import Posterior, init_variables
from mrc_jax.problem import Augment, Loss, Problem, State, init_state
from mrc_jax.recipe import Recipe
from mrc_jax.recode import recode_all
from mrc_jax.sharing import make_sharing


class Compressed(NamedTuple):
    """What `compress_network` returns.

    Attributes:
      file: the bytes of the .mrc file.
      manifest: its manifest, which the decoder needs where the file does not hold it.
      weights: the decoded weights, as `decode` gives them.
      report: file_bytes with its parts, payload_bits, bits, blocks, block_size, weights_sha256,
        seconds.
    """

    file: bytes
    manifest: bytes
    weights: dict[str, np.ndarray]
    report: dict[str, Any]


def compress_network(
    net: Any,
    loss: Loss,
    data: Any,
    file_bytes: int,
    key: chex.PRNGKey,
    *,
    params: Any = None,
    trained: bool = False,
    recipe: Recipe | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    augment: Augment | None = None,
    on_call: OnCall | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Compressed:
    """Trains a posterior over a network's weights and codes a sample of it in at most
    `file_bytes` bytes.

    Args:
      net: a linen module, or a pure function `apply(params, inputs)`.
      loss: of (outputs, targets), in nats: a mean, or one value per example.
      data: (inputs, targets) as a tuple of arrays [examples, ...], or an iterable of such tuples,
        one a batch, that can be iterated again and again.
      file_bytes: the whole file's size; the file has at most that many bytes and at least 97 % of
      it.
      key: all randomness comes from it.
      params: initial weights, as `net` takes them; a module makes its own where None.
      trained: whether params are of a trained network that gives logits, and data are arrays: then
        blocks start at their KL budgets around it (`laplace.budget_start`), and few steps do.
      recipe: the settings; Recipe() where None.
      net_kwargs: keyword arguments of the network in training, such as {'train': True}.
      augment: a pure function (inputs of a batch, key) -> inputs, applied in every step.
      on_call: called with (state, progress) after every call of a compiled program.
      mesh: of `mesh.make_mesh`: the devices that share the work, whose number divides
        recipe.data_shards.

    Raises:
      UsageError: before training, for a size or setting that cannot be.
      NumericsError: the loss is not finite, or the budget was not reached.
    """
    start = time.monotonic()
    init_key, run_key = jax.random.split(key)
    if params is None:
        params = _initial(net, data, init_key, net_kwargs or {})
    problem, arrays, state = prepare(
        net, params, loss, file_bytes, run_key, recipe or Recipe(), net_kwargs, augment, mesh
    )
    if trained:
        data = _placed(problem, data)
        start_around = jax.jit(partial(budget_start, problem), out_shardings=everywhere(mesh))
        state = start_around(arrays, state, data.arrays[0])
    run_steps = steps_on(problem, arrays, data)
    state = train_to_budget(problem, state, run_steps, on_call)
    state = code_all(problem, arrays, state, run_steps, on_call)
    state = recode_all(problem, arrays, state, data, on_call=on_call)
    return result(problem, state, time.monotonic() - start)


def prepare(
    net: Any,
    params: Any,
    loss: Loss,
    file_bytes: int,
    key: chex.PRNGKey,
    recipe: Recipe,
    net_kwargs: Mapping[str, Any] | None = None,
    augment: Augment | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Problem, Any, State]:
    """Everything before the first step: the problem, its constant arrays and the initial state.

    Args: as in `compress_network`; `params` is needed. With a mesh every device has all of what is
    returned.
    """
    seed_key, state_key = jax.random.split(key)
    seed = int(jax.random.bits(seed_key, (), "uint32"))
    sharing = make_sharing(params, seed, recipe.sharing, recipe.uncoded, recipe.scale_ranges)
    header = budget.plan(sharing.manifest, file_bytes, recipe, seed)
    posterior = Posterior(net, sharing, recipe.log_std_init, recipe.prior_scale_init)
    variables = init_variables(sharing, params, recipe.log_std_init, recipe.prior_scale_init)
    pairs = tuple(sorted((net_kwargs or {}).items()))
    problem = Problem(posterior, loss, header, recipe, file_bytes, pairs, augment, mesh)
    arrays = problem.index_arrays(variables["sharing"])
    state = init_state(problem, arrays, variables, state_key)
    return problem, replicated(arrays, mesh), replicated(state, mesh)


def result(problem: Problem, state: State, seconds: float) -> Compressed:
    """The file of a finished state, with its report."""
    state = local(state, problem.mesh)
    file = file_of(problem, state)
    header = container.unpack(file).header
    parts = container.parts_of_file(header, len(file))
    is_fixed = header.index_code == index_codes.FIXED
    manifest = problem.posterior.sharing.manifest.data
    weights = decode(file, manifest, max_parameters=1 << 34)
    report = {
        "file_bytes": len(file),
        "parts_bytes": parts,
        "index_code": index_codes.NAMES[header.index_code],
        "payload_bits": codelength.payload_bits(header) if is_fixed else 8 * parts["indices"],
        "bits": header.bits,
        "blocks": header.blocks,
        "block_size": header.partition.block_size,
        "entries": header.entries,
        "parameters": problem.posterior.sharing.manifest.parameters,
        "budget_nats": problem.budget_nats,
        "weights_sha256": weights_sha256(weights),
        "seconds": seconds,
    }
    return Compressed(file, manifest, weights, report)


def _placed(problem: Problem, data: Any) -> Placed:
    """The arrays on the devices that a start around trained weights needs."""
    if problem.recipe.parameterisation == "mean_kl":
        raise UsageError("trained: the parameterisation must be 'mean_variance', not 'mean_kl'")
    if not isinstance(data, tuple | Placed):
        raise UsageError("trained: data must be a tuple (inputs, targets) of arrays")
    return Placed(on_devices(problem, data))


def _initial(net: Any, data: Any, key: chex.PRNGKey, net_kwargs: Mapping[str, Any]) -> Any:
    if not isinstance(net, nn.Module):
        raise UsageError("net is a function, so its initial weights are needed: give params")
    if not isinstance(data, Iterable):
        raise UsageError("data must be a tuple (inputs, targets) of arrays or an iterable of them")
    inputs = data[0] if isinstance(data, tuple) else next(iter(data))[0]
    one = jax.tree.map(lambda x: x[:1], inputs)
    params_key, dropout_key = jax.random.split(key)
    return net.init({"params": params_key, "dropout": dropout_key}, one, **net_kwargs)
