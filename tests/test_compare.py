"""The comparison of methods: each gives a file that decodes; it resumes; it names mistakes."""

import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import smoke
from configs.compare import cifar10_small, digits, mnist_lenet5
from experiments import networks
from experiments.bench import MIRACLE, Bench
from experiments.bench_table import markdown
from experiments.data import Dataset, Split
from experiments.methods import METHODS, OBJECTIVES
from experiments.settings import Config
from mrc_jax.decode import decode, weights_sha256
from mrc_jax.errors import UsageError

FEW = {"steps": 20, "batch_size": 32}
MEMBERS = (
    ("miracle", {"file_bytes": 150}),
    ("deep_compression", {"kept": 0.3, "values": 4, "rounds": 2, **FEW}),
    ("weight_fixing", {"shares": (0.5, 1.0), "learning_rate": 1e-3, **FEW}),
    ("probabilistic_fixing", {"shares": (0.5, 1.0), "most_powers": 2, **FEW}),
    ("rate_distortion", {"objective": "fisher", "pruned": 0.5, "values": 4, "examples": 40}),
)


def config(members: Any = MEMBERS, report_test: bool = True) -> ml_collections.ConfigDict:
    base = smoke.get_config()
    base.update({"hidden": (), "refine_steps": 0, "wave_blocks": 16, "report_test": report_test})
    return ml_collections.ConfigDict({"base": base, "members": members})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a comparison that is done."""
    workdir = tmp_path_factory.mktemp("compare")
    bench = Bench(config(), workdir)
    bench.go()
    bench.write()
    return workdir


def test_every_member_has_a_file_that_is_decoded_and_counted(done: pathlib.Path) -> None:
    found = [json.loads(line) for line in (done / "results.jsonl").read_text().splitlines()]
    plain, *members = found
    assert plain["file_bytes"] == 4 * 650 and len(members) == len(MEMBERS)
    for report in members:
        folder = done / report["member"]
        file = (folder / "model.mrc").read_bytes()
        weights = decode(file)
        assert report["file_bytes"] == len(file) < plain["file_bytes"]
        assert report["weights_sha256"] == weights_sha256(weights)
        assert 0 <= report["test_error"] <= 1 and report["validation_loss"] > 0
        if report["method"] != "miracle":
            values = {v for array in weights.values() for v in np.unique(array).tolist()}
            assert report["unique_values"] == len(values)
    by_method = {report["method"]: report for report in members}
    pruned = decode((done / by_method["rate_distortion"]["member"] / "model.mrc").read_bytes())
    kernel = pruned["params/Dense_0/kernel"]
    assert np.sum(kernel == 0) == kernel.size // 2 and len(np.unique(kernel)) == 5


def test_what_is_done_is_not_run_again(
    done: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    lost = Bench(config(), tmp_path).members[1].folder
    before = (lost / "model.mrc").read_bytes()
    shutil.rmtree(lost)
    Bench(config(), tmp_path).go()
    said = capsys.readouterr().out
    assert "1 of 1: deep_compression" in said and "plain network" not in said
    assert (lost / "model.mrc").read_bytes() == before
    Bench(config(), tmp_path).go()
    assert capsys.readouterr().out == ""


def test_a_test_error_that_was_not_read_is_read_from_the_file(
    done: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    members = Bench(config(), tmp_path).members
    wanted = [member.report for member in members]
    for member, report in zip(members, wanted, strict=True):
        assert report is not None
        kept = {k: v for k, v in report.items() if not k.startswith("test_")}
        (member.folder / "compared.json").write_text(json.dumps(kept))
    shutil.rmtree(members[2].folder)
    Bench(config(), tmp_path).go(is_new_run=False)
    assert [m.report for m in members] == [*wanted[:2], None, *wanted[3:]]
    assert capsys.readouterr().out.count(" of 4: ") == 4
    Bench(config(report_test=False), tmp_path).go(is_new_run=False)
    assert capsys.readouterr().out == ""


def test_a_comparison_without_held_out_images_is_refused_before_anything_is_read(
    tmp_path: pathlib.Path,
) -> None:
    asked = config()
    asked.base.update({"data": "mnist", "hold_out": False})
    with pytest.raises(UsageError, match="hold_out = False"):
        Bench(asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_finished_runs_of_miracle_and_other_systems_are_in_the_table(
    tmp_path: pathlib.Path,
) -> None:
    made = mnist_lenet5.get_config()
    bench = Bench(made, tmp_path)
    (tmp_path / "plain.json").write_text(
        json.dumps({"file_bytes": 1_724_320, "validation_error": 0.01, "test_error": 0.008})
    )
    text = bench.write()
    report = json.loads((bench.runs[0] / "report.json").read_text())
    line = next(x for x in text.splitlines() if "run factored 1140 seed0" in x)
    assert line.startswith(
        "| MIRACLE | run factored 1140 seed0 | 1,138 | 1515 x | 1.36% | 1.09% | |"
    )
    assert (report["validation_error"], report["test_error"]) == (0.0136, 0.0109)
    assert "| NNCodec 2.1.3, measured apart | | 5,136 | 336 x | | 0.90% | | |" in text


def test_the_table_says_what_members_of_a_method_differ_in_and_what_their_values_are() -> None:
    def report(kept: float, zeros: float, powers: float) -> dict[str, Any]:
        return {
            "method": "deep_compression", "settings": {"kept": kept, "values": 8}, "compress_s": 3,
            "file_bytes": 25, "validation_error": 0.5, "unique_values": 4, "entropy_bits": 1.25,
            "power_share": powers, "zero_share": zeros,
        }  # fmt: skip

    both = [report(0.1, 0.5, 0.875), report(0.2, 1.0, 1.0)]
    lines = markdown(both, {"file_bytes": 100, "validation_error": 0.1}).splitlines()
    # 3 in 8 of all, and so 3 in 4 of those that are not 0, are powers of two
    start = "| Deep Compression | kept 0.1 | 25 | 4 x | 50.00% | 4 | 1.25 | 87.5% (75%) | 3 | |"
    assert start in lines
    assert "| Deep Compression | kept 0.2 | 25 | 4 x | 50.00% | 4 | 1.25 | 100.0% | 3 | |" in lines


def test_the_table_has_a_line_for_each_and_the_picture_is_there(done: pathlib.Path) -> None:
    text = Bench(config(), done).write()
    assert text.count("\n") == 2 + len(MEMBERS) and "| test error |" in text
    assert (done / "results.csv").read_text().count("\n") == 1 + len(MEMBERS)
    assert (done / "rate.png").read_bytes()[:4] == b"\x89PNG"
    reports = [{**Bench(config(), done).members[1].report, "validation_error": 0.25}]  # type: ignore[dict-item]
    del reports[0]["test_error"]
    assert "| validation error |" in markdown(reports, {"file_bytes": 10, "validation_error": 0.1})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((("zip", {}),), "there is no method 'zip'; there are deep_compression"),
        ((("miracle", {}), ("miracle", {})), "two members have the same"),
        (3, "a comparison's config has `base`"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    members: Any, message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UsageError, match=message):
        Bench(config(members), tmp_path)


def test_a_comparison_without_a_member_done_has_no_table(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="no member is done"):
        Bench(config(), tmp_path).write()


def test_the_small_network_for_cifar10_has_half_of_resnet20s_channels() -> None:
    compare: Any = cifar10_small.get_config()
    split = Split(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int32))
    dataset = Dataset("cifar10", split, split, split, num_classes=10, scale=255.0)
    base = Config.from_config_dict(compare.base)
    net, images = networks.network(base, dataset), jnp.zeros((1, 32, 32, 3))
    weights = jax.eval_shape(net.init, jax.random.key(0), images)
    # Conv_0, then six convolutions of 8, 16 and 32 channels, the first of a stage from half as many
    squares = 3 * 8 + 6 * 8 * 8 + (8 * 16 + 5 * 16 * 16) + (16 * 32 + 5 * 32 * 32)
    biases = 7 * 8 + 6 * 16 + 6 * 32
    assert sum(x.size for x in jax.tree.leaves(weights)) == 9 * squares + biases + 32 * 10 + 10
    members = list(compare.members)
    sizes = [own["file_bytes"] for method, own in members if method == "miracle"]
    methods = [method for method, _ in members]
    assert len(set(sizes)) >= 2 and set(methods) == {*METHODS, MIRACLE}
    assert all(methods.count(method) >= 2 for method in methods)


def test_the_configs_name_methods_and_objectives_that_there_are() -> None:
    for made in (cifar10_small.get_config(), digits.get_config(), mnist_lenet5.get_config()):
        members = Bench(made, pathlib.Path("unused")).members
        assert len({member.method for member in members}) >= 4
        named = {m.settings["objective"] for m in members if "objective" in m.settings}
        assert named <= set(OBJECTIVES)
