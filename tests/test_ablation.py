"""The table of a sweep's runs that do without an ingredient each."""

import json
import pathlib
import shutil

import pytest

from configs import smoke
from experiments import ablation, distort, networks
from experiments.data import load
from experiments.run import compress
from experiments.settings import Config
from mrc_jax import files
from mrc_jax.decode import decode
from mrc_jax.errors import UsageError
from mrc_jax.sharing import tree_of


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A sweep's folder: the base with two seeds of equal results, and a case beside it."""
    workdir = tmp_path_factory.mktemp("sweep")
    compress(Config.from_config_dict(smoke.get_config()), workdir / "seed=0")
    for name in ("seed=1", "refine_steps=0,seed=0"):
        shutil.copytree(workdir / "seed=0", workdir / name)
    return workdir


def test_a_line_has_what_the_file_and_the_log_say(sweep: pathlib.Path) -> None:
    dataset, config = load("digits", ""), Config.from_config_dict(smoke.get_config())
    copies = distort.with_copies(dataset.validation, 2, ablation._SEED, originals=0)
    one = ablation.line(sweep / "refine_steps=0,seed=0", config, dataset, copies)
    report = json.loads((sweep / "seed=0" / "report.json").read_text())
    assert one.case == "refine_steps=0"
    assert one.file_bytes == (sweep / "seed=0" / "model.mrc").stat().st_size
    assert one.error == report["validation_error"]
    assert one.seconds == report["seconds"]["train"] + report["seconds"]["code"]
    net = networks.network(config, dataset)
    file, manifest = (files.read(sweep / "seed=0" / f"model.{x}") for x in ("mrc", "manifest"))
    arrays = decode(file, manifest)
    tree = tree_of(arrays, networks.initial_weights(net, dataset, 0))
    assert one.distorted_error == networks.error(net, tree, copies)
    assert one.distorted_loss == pytest.approx(networks.mean_loss(net, tree, copies), rel=1e-5)


def test_rows_are_means_over_seeds_and_the_config_itself_comes_first() -> None:
    lines = [
        ablation.Line("bits=9", 100, 0.5, 0.02, 0.03, 0.05, 0.2, 7),
        ablation.Line("nothing", 100, 0.5, 0.02, 0.03, 0.05, 0.2, 7),
        ablation.Line("bits=9", 102, 0.7, 0.04, 0.05, 0.07, 0.4, 9),
    ]
    rows = ablation.markdown(lines).splitlines()
    assert rows[2] == "| nothing | 1 | 100 | 0.5000 | 2.00% | 3.00 % | 5.00 % | 0.2000 | 7 |"
    spread = "4.00 ± 1.41 % | 6.00 ± 1.41 % | 0.3000 ± 0.1414"
    assert rows[3] == f"| bits=9 | 2 | 101 | 0.6000 | 3.00% | {spread} | 8 |"


def test_the_command_prints_the_table_of_what_is_finished(
    sweep: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "COPIES", 1)
    monkeypatch.setattr(ablation.flags, "FLAGS", type("Flags", (), {"data_dir": ""}))
    (sweep / "bits=9,seed=0").mkdir()
    (sweep / "bits=9,seed=0" / "member.json").write_text("{}")
    ablation.main(["", str(sweep)])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["nothing", "refine_steps=0"]
    assert rows[2].split("|")[2].strip() == "2"
    with pytest.raises(UsageError, match="is finished"):
        ablation.main(["", str(sweep / "bits=9,seed=0")])
    with pytest.raises(UsageError, match="one sweep's work directory"):
        ablation.main([""])
