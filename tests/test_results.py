"""Every committed file decodes, with NumPy alone, to the weights that its report measured."""

import json
import pathlib

import pytest

from mrc_jax.container import parts, unpack
from mrc_jax.decode import decode, weights_sha256

RESULTS = pathlib.Path(__file__).parents[1] / "experiments" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.rglob("model.mrc"))


def test_there_are_results() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: str(f.relative_to(RESULTS)))
def test_a_committed_file_has_the_size_and_weights_of_its_report(folder: pathlib.Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    data = (folder / "model.mrc").read_bytes()
    assert len(data) == report["file_bytes"] <= report["config"]["file_bytes"]
    assert sum(parts(unpack(data).header).values()) == len(data)
    assert weights_sha256(decode(data)) == report["weights_sha256"]
