"""A decoder that was written from docs/FORMAT.md alone gives the library's weights, bit for bit."""

import ast
import hashlib
import sys

import independent_decoder
import numpy as np
import pytest
from golden_files import FILES, TESTS, TURNED, golden

from mrc_jax import container
from mrc_jax.decode import builtin_manifests, decode
from mrc_jax.manifest import Manifest, Tensor

SECONDS_LONG = ("lenet5.mrc", "lenet5_plain.mrc")  # 431,080 parameters, one after the other


NAMES = [name for name in FILES if name not in TURNED]  # those are tested in test_rotation_doc.py


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SECONDS_LONG else ()) for n in NAMES]
)
def test_it_gives_the_golden_weights(name):
    data, supplied = golden(name)
    if supplied is None and not FILES[name]["embedded_manifest"]:
        (supplied,) = (m for m in builtin_manifests() if hashlib.sha256(m).digest()[:8] in data)
    decoded = independent_decoder.decode(data, supplied)
    digest = hashlib.sha256(b"".join(array for _, array in decoded)).hexdigest()
    assert digest == FILES[name]["sha256"]
    assert [path for path, _ in decoded] == list(decode(data, supplied))


def test_it_imports_the_standard_library_alone():
    tree = ast.parse((TESTS / "independent_decoder.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            imported.add(node.module.split(".")[0])
    assert imported and imported <= sys.stdlib_module_names - {"importlib", "runpy"}
    assert not {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & {"__import__", "exec"}


@pytest.mark.parametrize("index_code", sorted(container.VERSIONS))
@pytest.mark.parametrize("bits", range(1, container.MAX_BITS + 1))
def test_it_gives_the_library_s_weights_with_indices_of_any_number_of_bits(bits, index_code):
    """Blocks, the last of which is short, a tensor that shares, codebooks of three blocks."""
    network = Manifest((Tensor("a", (7, 3), "float32", 1), Tensor("b", (20,), "float32", 3)))
    fields = {"seed": bits, "bits": bits, "blocks": 13, "codebook_blocks": 1 + bits % 3}
    header = container.Header.of(network, True, **fields, index_code=index_code)
    assert header.entries % header.blocks != 0
    drawn = np.random.default_rng(bits).integers(0, 1 << bits, header.blocks)
    scales = np.asarray([0x3E80, 0x3DCD], np.uint16)
    data = container.pack(container.Container(header, scales, b"", drawn.astype(np.uint32)))
    decoded = independent_decoder.decode(data)
    assert decoded == [(path, array.tobytes()) for path, array in decode(data).items()]
