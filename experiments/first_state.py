"""Where a run's posterior starts: at a plain network, or where another run's stood before its first
block was coded.

A run of a smaller size that starts from a larger one's has the training of that behind it, and
comes down to its own budgets in a fraction of the steps.
"""

import dataclasses
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments import networks, record
from experiments.identity import differences, hash_of
from experiments.settings import Config
from mrc_jax.checkpoint import Checkpoints
from mrc_jax.errors import DataError, UsageError
from mrc_jax.laplace import budget_start
from mrc_jax.mesh import everywhere, local, replicated
from mrc_jax.posterior import scaled_start
from mrc_jax.problem import Problem, State

_TRAINED, _PLAIN = "trained", "plain"  # folders
_MAY_DIFFER = {  # what the posterior and the data do not depend on
    "name", "file_bytes", "mesh", "bits", "block_size", "codebook_blocks",
    "codebook_bytes", "embed_manifest", "selection", "slack_nats", "wave_blocks", "refine_steps",
    "recode_sweeps", "recode_examples", "steps", "batch_size", "batch_parts", "learning_rate",
    "final_learning_rate", "refine_learning_rate", "beta_init", "beta_step", "refine_beta_step",
    "steps_per_call", "start_from_plain", "plain_noise", "budget_start", "checkpoint_every_s",
    "report_test", "tensorboard", "started_from",
}  # fmt: skip


def of_plain(config: Config, problem: Problem, arrays: Any, state: State, inputs: Any) -> State:
    """A first state whose means are a plain network's, with scales or at budgets to match where
    the config says so.

    Args:
      config: of the run.
      problem, arrays: of `networks.prepare`.
      state: of the same, with the plain network as the weights.
      inputs: of the training data.
    """
    if not config.plain_noise:
        return state
    noise, mesh = config.plain_noise, problem.mesh
    if config.budget_start:
        start = jax.jit(partial(budget_start, problem), out_shardings=everywhere(mesh))
        return start(arrays, state, networks.on_devices(inputs, config), noise)
    scaled = jax.jit(scaled_start, static_argnums=1)
    params = scaled(state.params, problem.posterior.sharing, noise)
    return dataclasses.replace(state, params=replicated(params, mesh))


def keep(
    workdir: pathlib.Path, config: Config, problem: Problem, state: State, meta: dict[str, Any]
) -> None:
    """Keeps what another run may start from, and what the reports of such runs say of this one.

    Args:
      workdir, config, problem: of this run.
      state: after training, before coding.
      meta: its seconds by phase, and what it started from itself.
    """
    about = {
        "config": config.as_dict(),
        "config_hash": config.config_hash,
        **record.origin(),
        "seconds": sum(meta["seconds"].values()),
        "started_from": meta.get("started_from"),
    }
    _save(workdir / _TRAINED, _kept(problem, state), about)


def origin(workdir: pathlib.Path, source: pathlib.Path, wanted: dict[str, Any]) -> str:
    """The hash of the config of the run from which another starts; a run that has begun needs that
    one no more.

    Args:
      workdir: of the run that starts.
      source: of the run from which it does.
      wanted: the config and data of the run that starts, as its config.json will have them.

    Raises:
      UsageError: the source is of another network or other data, or the two differ in more than the
        size, the coding and the schedule.
      DataError: there is no source, or it has not trained to its end.
    """
    if not (source / "config.json").exists():
        own = workdir / "config.json"
        begun = record.read_json(own).get("started_from") if own.exists() else None
        if begun is None:
            raise DataError(f"start_from: {source}: no run there; give a run's work directory")
        return begun
    found = record.read_json(source / "config.json")
    others = differences(Config.with_defaults(found), wanted)
    if fields := [field for field in others if field not in _MAY_DIFFER]:
        raise UsageError(
            f"start_from: the run in {source} has other values of {', '.join(fields)}; start from "
            "a run that differs in its size, coding and schedule alone"
        )
    if not (source / _TRAINED).is_dir():
        raise DataError(
            f"start_from: {source} has no trained posterior; finish that run first (those of "
            "earlier versions kept none)"
        )
    return hash_of(found)


def of_run(problem: Problem, state: State, workdir: pathlib.Path) -> tuple[State, dict[str, Any]]:
    """A run's first state with the posterior that another run had trained, and what that one says
    of itself. All betas start at the geometric mean of that one's, for its blocks are others, or at
    the config's if that is more: at a low rate's last betas a new start at a high one is over its
    budgets for long.

    Raises:
      DataError: what that run kept is damaged.
    """
    restored = _restored(workdir / _TRAINED, _kept(problem, state))
    if restored is None:
        raise DataError(f"start_from: no sound checkpoint is left in {workdir / _TRAINED}")
    (params, uncoded, log_beta), about = restored
    betas = jnp.maximum(state.betas, jnp.exp(log_beta))
    placed = replicated({"params": params, "uncoded": uncoded, "betas": betas}, problem.mesh)
    return dataclasses.replace(state, **placed), about


def plain_network(workdir: pathlib.Path, like: Any) -> Any:
    """The plain network's weights that a work directory has, or None.

    Args:
      workdir: of a run.
      like: weights of the same network.
    """
    restored = _restored(workdir / _PLAIN, like)
    return None if restored is None else restored[0]


def keep_plain_network(workdir: pathlib.Path, weights: Any) -> None:
    """Keeps the plain network's weights."""
    _save(workdir / _PLAIN, weights, {})


def _kept(problem: Problem, state: State) -> Any:
    parts = state.params, state.uncoded, state.betas
    params, uncoded, betas = local(parts, problem.mesh)
    return jax.device_get((params, uncoded, jnp.mean(jnp.log(jnp.asarray(betas)))))


def _save(folder: pathlib.Path, tree: Any, about: dict[str, Any]) -> None:
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(tree, about)
    checkpoints.close()


def _restored(folder: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    checkpoints = Checkpoints(folder)
    restored = checkpoints.restore(like)
    checkpoints.close()
    return restored
