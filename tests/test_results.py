"""Every committed file decodes, with NumPy alone, to the weights that its report measured."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import image_files, table
from experiments.data import load
from mrc_jax.container import parts_of_file, unpack
from mrc_jax.decode import decode, weights_sha256

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.rglob("report.json"))
COMPARED = sorted(path.parent for path in RESULTS.rglob("compared.json"))


def test_there_are_results() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: str(f.relative_to(RESULTS)))
def test_a_committed_file_has_the_size_and_weights_of_its_report(folder: pathlib.Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    data = (folder / "model.mrc").read_bytes()
    assert len(data) == report["file_bytes"] <= report["config"]["file_bytes"]
    assert parts_of_file(unpack(data).header, len(data)) == report["parts_bytes"]
    assert weights_sha256(decode(data)) == report["weights_sha256"]


@pytest.mark.parametrize("name", sorted({folder.parent.name for folder in FOLDERS}))
def test_a_committed_table_is_what_the_folders_say(name: str, tmp_path: pathlib.Path) -> None:
    """`python -m experiments.sweep --table --workdir=experiments/results/NAME` makes it again."""
    for folder in FOLDERS:
        if folder.parent.name == name:
            (tmp_path / folder.name).symlink_to(folder)
    table.write(tmp_path)
    for file in ("results.csv", "results.jsonl"):
        assert (tmp_path / file).read_text() == (RESULTS / name / file).read_text()


@pytest.mark.parametrize("folder", COMPARED, ids=lambda f: str(f.relative_to(RESULTS))[:60])
def test_a_file_of_a_comparison_has_the_size_and_weights_of_its_report(
    folder: pathlib.Path,
) -> None:
    """Files of few kilobytes are kept."""
    report = json.loads((folder / "compared.json").read_text())
    path = folder / "model.mrc"
    assert path.exists() or report["file_bytes"] > 8192
    if path.exists():
        assert path.stat().st_size == report["file_bytes"]
        assert weights_sha256(decode(path.read_bytes())) == report["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: str(f.relative_to(RESULTS)))
def test_a_committed_file_has_the_errors_of_its_report(folder: pathlib.Path) -> None:
    """Measured again from the file. Another machine rounds sums otherwise: two examples' grace;
    one in 1,000 for CIFAR-10, measured on a GPU whose float32 convolutions may round factors to
    TF32 (found: up to one in 1,600).
    """
    report = json.loads((folder / "report.json").read_text())
    data = report["config"]["data"]
    root = os.environ.get("MRC_DATA", "")
    places = [place for place in (pathlib.Path(root), pathlib.Path(root) / data) if root]
    found = [str(place) for place in places if image_files.find(data, place) is not None]
    if not found:
        pytest.skip(f"no {data} in MRC_DATA: {image_files.WANTED[data]}")
    hold_out = report["config"].get("hold_out", True)
    if load(data, found[0], hold_out=hold_out).sha256 != report["data_sha256"]:
        pytest.skip(f"the data in {found[0]} are others than the report's")
    config = f"--config=configs/sweeps/member.py:{folder / 'report.json'}"
    command = [sys.executable, "-m", "experiments.evaluate", "--json", config]
    command += [f"--config.data_dir={found[0]}", f"--file={folder / 'model.mrc'}"]
    for split in ("validation", "test"):
        if (wanted := report.get(f"{split}_error")) is not None:
            done = subprocess.run(
                [*command, f"--split={split}"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=3600,
            )
            assert done.returncode == 0, done.stderr
            measured = json.loads(done.stdout)
            grace = measured["examples"] / 1000 if data == "cifar10" else 2
            assert abs(measured["error"] - wanted) * measured["examples"] <= grace + 0.001
            assert measured["weights_sha256"] == report["weights_sha256"]
