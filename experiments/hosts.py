"""Several processes, on one host or many, that do one run together.

Every process runs the same calls; the first alone writes, but for Orbax, in which all take part.
"""

import hashlib
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.data import Dataset
from mrc_jax.errors import UsageError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start() -> None:
    """Joins the other processes; comes before anything that asks JAX for a device.

    Where they are is read from the variables JAX_COORDINATOR_ADDRESS (HOST:PORT of the first),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else, on a TPU pod or under Slurm, found by JAX.

    Raises:
      UsageError: they cannot be found, or do not come.
    """
    values = [os.environ.get(name) for name in _VARIABLES]
    if any(values) and not all(values):
        raise UsageError(f"--distributed: set all of {', '.join(_VARIABLES)}, or none")
    address, count, number = values
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if address is None or count is None or number is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(address, int(count), int(number))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--distributed: {' '.join(str(error).split())}") from None


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def most(*values: int) -> list[int]:
    """The largest that any process gives of each; all call it together, and all get it."""
    if jax.process_count() == 1:
        return list(values)
    found = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return [int(value) for value in np.max(np.asarray(found), axis=0)]


def meet(where: str) -> None:
    """Waits for all processes."""
    multihost_utils.sync_global_devices(where)


def sha256(dataset: Dataset) -> str:
    """Of a data set, whichever processes hold its shards."""
    if not dataset.shards:
        return dataset.sha256
    digests: Any = dataset.shard_digests
    numbers: Any = np.asarray(dataset.shards, np.int32)
    if jax.process_count() > 1:
        numbers, digests = multihost_utils.process_allgather((numbers, digests), tiled=True)
    return hashlib.sha256(np.asarray(digests)[np.argsort(numbers)].tobytes()).hexdigest()
