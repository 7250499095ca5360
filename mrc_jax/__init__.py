"""mrc_jax compresses neural networks by minimal random coding (MIRACLE) into small complete files.

Decoding needs NumPy alone. The names of training are imported when they are first used, and with
them JAX and Flax.
"""

import importlib
from typing import Any

from mrc_jax.decode import decode, weights_sha256
from mrc_jax.errors import (
    BusyError,
    DataError,
    FormatError,
    MrcError,
    NumericsError,
    UsageError,
)
from mrc_jax.recipe import Recipe

__version__ = "0.1.0"

_TRAINING = {
    "compress_network": "api",
    "Compressed": "api",
    "prepare": "api",
    "result": "api",
    "Posterior": "posterior",
    "Coded": "posterior",
    "init_variables": "posterior",
    "make_sharing": "sharing",
    "tree_of": "sharing",
    "block_kl_nats": "objective",
    "penalty_nats": "objective",
    "slot_order": "objective",
    "plan": "budget",
    "budget_nats": "budget",
    "update_betas": "budget",
    "encode_blocks": "encode",
    "encode_file": "coded_file",
    "decode_blocks": "decode_jax",
    "decode_tree": "decode_jax",
    "Progress": "compress",
}

__all__ = [
    "BusyError",
    "DataError",
    "FormatError",
    "MrcError",
    "NumericsError",
    "Recipe",
    "UsageError",
    "decode",
    "weights_sha256",
    *_TRAINING,
]


def __getattr__(name: str) -> Any:
    if name not in _TRAINING:
        raise AttributeError(f"module 'mrc_jax' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"mrc_jax.{_TRAINING[name]}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"mrc_jax.{name} needs {error.name}: install the extra with "
            "pip install 'mrc_jax[train]'"
        ) from None
