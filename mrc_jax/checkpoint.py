"""A run's work directory: its lock, its Orbax checkpoints, and a file straight from one of them."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mrc_jax import mean_kl
from mrc_jax.coded_file import encode_file
from mrc_jax.container import Header
from mrc_jax.errors import BusyError, DataError
from mrc_jax.files import unwritable
from mrc_jax.manifest import parse
from mrc_jax.objective import slot_order
from mrc_jax.posterior import prior_scale
from mrc_jax.problem import Problem
from mrc_jax.sharing import Sharing


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds a work directory, creating it; the system frees it when the process ends, however it
    ends.

    Raises:
      BusyError: another process holds it.
      DataError: it cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / "lock", "w")  # noqa: SIM115 held until the end
    except OSError as error:
        raise DataError(
            f"{workdir}: cannot use it as a work directory ({error.strerror})"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(
                f"{workdir}: another process works there; wait for it or give another --workdir"
            ) from None
        yield


class Checkpoints:
    """The last checkpoints of a run, the newest sound one of which is restored."""

    def __init__(self, folder: pathlib.Path, keep: int = 2) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises its errors as well
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(os.path.abspath(folder), options=options)

    def save(self, state: Any, meta: dict[str, Any]) -> None:
        """Saves a pytree of arrays and a JSON object; complete, or not there at all. With several
        processes all call it; the JSON object is the first one's.

        After an error the object is of no further use; what the error left is removed then or,
        where late writes bring it back, before the next save.

        Raises:
          DataError: it cannot be written.
        """
        meta = {**meta, "sha256": _digest(state, meta)}
        parts = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        where = pathlib.Path(self._manager.directory)
        if jax.process_index() == 0:
            _remove_torn(where)
        hook, sys.unraisablehook = sys.unraisablehook, _ignore_late_writes
        try:
            self._manager.save((self._manager.latest_step() or 0) + 1, args=parts)
        except (OSError, ValueError) as error:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of the other writes that fail
            if jax.process_index() == 0:
                _remove_torn(where)
            code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's way to say it
            cause = OSError(int(code[1]), "") if code else error
            raise unwritable(where, cause, "a checkpoint") from None
        sys.unraisablehook = hook  # after an error TensorStore's other writes may yet fail

    def restore(self, like: Any = None) -> tuple[Any, dict[str, Any]] | None:
        """The newest sound checkpoint and its JSON object, or None.

        Args:
          like: a pytree of the same structure; None gives nested dicts.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                target = ocp.args.StandardRestore(like)
                parts = ocp.args.Composite(state=target, meta=ocp.args.JsonRestore())
                found: Any = self._manager.restore(step, args=parts)
                told = found.meta.pop("sha256")
                if _digest(found.state, found.meta) == told:
                    return found.state, found.meta
                reason = "its contents changed"
            except Exception as error:  # whatever Orbax makes of a torn file
                reason = str(error).splitlines()[0]
            warnings.warn(
                f"checkpoint {self._manager.directory / str(step)} is damaged ({reason}); "
                "going back to the one before",
                stacklevel=2,
            )
        return None

    def close(self) -> None:
        """Frees Orbax's threads."""
        self._manager.close()


def plan_meta(problem: Problem) -> dict[str, Any]:
    """What `encode` needs of a run's plan, as JSON."""
    header, fields = problem.header, ("seed", "blocks", "bits", "codebook_blocks", "ranges")
    return {
        "manifest": problem.posterior.sharing.manifest.data.hex(),
        "budget_nats": problem.budget_nats,
        "embed": header.manifest is not None,
        "header": {name: getattr(header, name) for name in fields},
        "selection": problem.recipe.selection,
        "file_bytes": problem.file_bytes,
    }


def encode(
    path: str | os.PathLike[str],
    selection: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> bytes:
    """The file of a trained posterior, all its blocks coded at once, without refining and without
    data.

    Args:
      path: a run's work directory, or its `checkpoints` folder.
      selection: see Recipe; the run's own where None.
      mesh: of devices that share the blocks; the file is the same for any.

    Raises:
      DataError: there is no sound checkpoint of a posterior.
    """
    folder = pathlib.Path(path)
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    restored = None
    if folder.is_dir():
        checkpoints = Checkpoints(folder)
        restored = checkpoints.restore()
        checkpoints.close()
    if restored is None or "header" not in restored[1]:
        raise DataError(f"{path}: no checkpoint of a posterior there; give a run's work directory")
    try:
        return _encode(*restored, selection, mesh)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: its checkpoint is not of a posterior ({reason})") from None


def _encode(state: Any, meta: dict[str, Any], selection: str | None, mesh: Any) -> bytes:
    manifest = parse(bytes.fromhex(meta["manifest"]))
    header = Header.of(manifest, meta["embed"], **meta["header"])
    key = jax.random.wrap_key_data(jnp.asarray(state["key"]), impl="threefry2x32")
    params = {name: jnp.asarray(value) for name, value in state["params"].items()}
    sharing = Sharing(manifest, header.seed, ranges=header.ranges)
    uncoded = state.get("uncoded") or {}
    if "share_logit" in params:  # in units of the prior scales that the file will hold
        params["log_prior_scale"] = jnp.log(prior_scale(params, sharing))
        partition, order = header.partition, slot_order(header.partition, header.seed)
        params = mean_kl.gaussian(params, sharing, partition, order, meta["budget_nats"])
    chosen, limit = selection or meta.get("selection", "sample"), meta.get("file_bytes")
    return encode_file(key, params, uncoded, sharing, header, chosen, mesh=mesh, file_bytes=limit)


def _remove_torn(folder: pathlib.Path) -> None:
    """Removes what saves that did not end left behind."""
    for torn in folder.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(torn, ignore_errors=True)


def _ignore_late_writes(unraisable: Any) -> None:
    """Leaves out TensorStore's complaints of writes that nobody waits for any more."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _digest(state: Any, meta: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
    return digest.hexdigest()
