"""Decoded weights as the bytes of a file that other programs read: .npz or .safetensors."""

import io
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from mrc_jax.errors import UsageError

Weights = dict[str, np.ndarray]  # arrays by tensor path, as `decode` returns them
SUFFIXES = (".npz", ".safetensors")


def writer(path: str) -> Callable[[Weights], bytes]:
    """The function from weights to the bytes of a file of this name.

    Raises:
      UsageError: the name ends in neither of SUFFIXES, or safetensors is not installed.
    """
    suffix = pathlib.Path(path).suffix
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: the output's name must end in {' or '.join(SUFFIXES)}")
    if suffix == ".npz":
        return npz
    try:
        from safetensors.numpy import save
    except ImportError:
        raise UsageError(
            f"{path}: needs the package safetensors: pip install 'mrc_jax[train]', or write .npz"
        ) from None

    def safetensors(weights: Weights) -> bytes:
        if "__metadata__" in weights:  # the format's own word; nobody could read the file
            raise UsageError("no .safetensors file holds a tensor named __metadata__; write .npz")
        return save(weights)

    return safetensors


def npz(weights: Weights) -> bytes:
    """An .npz file, which depends on the weights alone, not on the time.

    Raises:
      UsageError: NumPy would give one tensor in place of another that is named so and '.npy'.
    """
    for path in weights:
        if f"{path}.npy" in weights:
            raise UsageError(
                f"no .npz file holds both {path!r} and {path + '.npy'!r}; write .safetensors"
            )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, array in weights.items():
            with archive.open(zipfile.ZipInfo(f"{path}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return out.getvalue()
