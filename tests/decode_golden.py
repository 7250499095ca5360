"""Decodes every golden file, with the library and with its command, where NumPy may be alone.

python tests/decode_golden.py        (make test-numpy: with the oldest NumPy and the newest)
"""

import contextlib
import importlib.util
import os
import pathlib
import tempfile
import warnings

import numpy as np
from golden_files import FILES, GOLDEN, golden

from mrc_jax.cli import main
from mrc_jax.decode import decode, weights_sha256


def check(name: str, folder: pathlib.Path) -> None:
    """Raises AssertionError where a file does not become the recorded weights."""
    data, manifest = golden(name)
    weights = decode(data, manifest)
    assert weights_sha256(weights) == FILES[name]["sha256"], name
    more = ["--manifest", str(GOLDEN / FILES[name]["manifest"])] if manifest else []
    out = folder / "weights.npz"
    assert main(["decode", str(GOLDEN / name), "-o", str(out), *more]) == 0
    assert main(["inspect", str(GOLDEN / name), "--json", *more]) == 0
    assert main(["verify", str(GOLDEN / name), *more]) == 0
    with np.load(out) as loaded:
        assert weights_sha256({path: loaded[path] for path in weights}) == FILES[name]["sha256"]
    (folder / "damaged.mrc").write_bytes(data[:-1])
    assert main(["verify", str(folder / "damaged.mrc")]) == 5


if __name__ == "__main__":
    warnings.simplefilter("error")
    with (
        tempfile.TemporaryDirectory() as made,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        for file in FILES:
            check(file, pathlib.Path(made))
    jax = "with JAX" if importlib.util.find_spec("jax") else "without JAX"
    print(f"NumPy {np.__version__}, {jax}: {len(FILES)} golden files are decoded as recorded")
