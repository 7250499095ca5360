"""The largest network that a file may have without a larger limit: in how much memory and time."""

import os

import numpy as np
import pytest
from golden_files import GOLDEN
from hostile_files import header_alone, limited_memory, limited_time, sealed, survives

from mrc_jax.cli import main
from mrc_jax.container import Header
from mrc_jax.decode import MAX_PARAMETERS
from mrc_jax.manifest import Manifest, Tensor

FORMS = [  # factor, blocks, codebook_blocks: one block, many, shared codebooks, shared entries
    (1, 1, 1),
    (1, 99_999, 1),
    (1, 99_999, 99_999),
    (2, 1, 1),
    (3, 77_777, 77),
    (MAX_PARAMETERS, 1, 1),
]


def largest(factor: int, blocks: int, share: int) -> bytes:
    """A file of MAX_PARAMETERS parameters whose indices are zero and have one bit."""
    network = Manifest((Tensor("w", (MAX_PARAMETERS,), "float32", factor),))
    fields = {"seed": 1, "bits": 1, "blocks": blocks, "codebook_blocks": share}
    header = Header.of(network, True, **fields)
    return sealed(header.data + b"\x80\x3e" + bytes(-(-blocks // 8)))


def test_memory_beyond_the_limit_is_noticed():
    with limited_memory(), pytest.raises(MemoryError):
        np.empty(600 << 20, np.uint8)
    np.empty(600 << 20, np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "blocks", "share"), FORMS)
def test_the_largest_network_is_decoded_in_512_mib_and_two_seconds(factor, blocks, share):
    with limited_memory():
        assert survives(largest(factor, blocks, share))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_the_command_writes_the_largest_network_in_512_mib(suffix, tmp_path):
    file, out = tmp_path / "bomb.mrc", tmp_path / f"weights.{suffix}"
    file.write_bytes(largest(1, 1, 1))
    example = str(GOLDEN / "example.mrc")
    assert main(["decode", example, "-o", str(out)]) == 0  # what is imported once is not counted
    with limited_memory():
        assert main(["decode", str(file), "-o", str(out)]) == 0
    assert out.stat().st_size > 4 * MAX_PARAMETERS


def test_one_parameter_more_is_refused_by_every_command_that_would_expand_it(tmp_path, capsys):
    network = Manifest((Tensor("w", (MAX_PARAMETERS + 1,), "float32", 1),))
    file, report = tmp_path / "bomb.mrc", tmp_path / "report.json"
    file.write_bytes(header_alone(network, True))
    report.write_text('{"file_bytes": 1, "weights_sha256": ""}')
    with limited_memory(), limited_time():
        assert main(["decode", str(file), "-o", str(tmp_path / "w.npz")]) == 5
        assert main(["verify", str(file), "--report", str(report)]) == 5
        assert main(["inspect", str(file)]) == 0
    assert capsys.readouterr().err.count("--max_parameters") == 2
    assert sorted(os.listdir(tmp_path)) == ["bomb.mrc", "report.json"]
