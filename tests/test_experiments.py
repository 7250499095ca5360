"""The experiments as a user runs them: killed and resumed, refused, evaluated."""

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
from typing import Any

import numpy as np
import pytest
from image_sets import write_idx
from smoke_runs import COMMAND, FAST, ROOT, run

from configs import digits, smoke
from experiments.record import Metrics
from experiments.run import compress, opened
from experiments.settings import Config
from mrc_jax.checkpoint import Checkpoints, lock
from mrc_jax.container import parts, unpack
from mrc_jax.errors import BusyError, DataError, UsageError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An undisturbed run, with the checkpoints of a disturbed one."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    done = run(f"--workdir={workdir}", *FAST, "--config.report_test=true")
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_finished_run_leaves_a_file_and_a_report_that_fit(finished: pathlib.Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    data = (finished / "model.mrc").read_bytes()
    assert 0.97 * 250 <= len(data) == report["file_bytes"] <= 250
    assert report["parts_bytes"] == parts(unpack(data).header)
    for name in ("plain", "posterior_mean"):
        assert 0 <= report[f"{name}_validation_error"] <= 1
        assert 0 <= report[f"{name}_test_error"] <= 1
    assert report["validation_error"] < 0.5  # chance is 0.9
    assert set(report["seconds"]) == {"plain", "train", "code", "evaluate"}
    lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [x["done"] for x in lines if x["phase"] == "train"] == [250, 500, 750, 1000]
    assert [x["done"] for x in lines if x["phase"] == "code"][-1] == report["blocks"]


def test_a_run_that_is_stopped_and_then_killed_while_coding_ends_with_the_same_file(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arguments = [f"--workdir={tmp_path}", *FAST, "--config.report_test=true"]
    metrics = tmp_path / "metrics.jsonl"
    for how, blocks in ((signal.SIGTERM, 20), (signal.SIGKILL, 50)):
        command = [*COMMAND, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not (metrics.exists() and metrics.read_text().count('"code"') > blocks):
            assert process.poll() is None, "the run ended before it could be stopped"
            time.sleep(0.02)
        process.send_signal(how)
        _, errors = process.communicate(timeout=10)
        assert not (tmp_path / "model.mrc").exists()
        if how == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM
            assert f"experiments.compress --config=configs/smoke.py --workdir={tmp_path}" in errors
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    for name in ("model.mrc", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_work_directory_is_refused_to_another_config(finished: pathlib.Path) -> None:
    done = run(f"--workdir={finished}", *FAST, "--config.report_test=true", "--config.seed=3")
    assert done.returncode == 2
    assert "other values of seed;" in done.stderr and done.stderr.count("\n") == 1


def test_a_finished_run_is_reported_again_with_the_test_error_where_that_is_asked_for(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    for asked in ("false", "true"):
        done = run(f"--workdir={folder}", *FAST, f"--config.report_test={asked}")
        assert done.returncode == 0, done.stderr
        report = json.loads((folder / "report.json").read_text())
        assert ("test_error" in report) == (asked == "true")
        assert (folder / "model.mrc").read_bytes() == (finished / "model.mrc").read_bytes()
    assert report["test_error"] == json.loads((finished / "report.json").read_text())["test_error"]


def smaller(finished: pathlib.Path, **fields: Any) -> Config:
    """A run of fewer bytes that starts from the finished one's posterior."""
    given = {"file_bytes": 200, "steps": 500, "refine_steps": 0, "wave_blocks": 16}
    config = smoke.get_config().copy_and_resolve_references()
    config.update({**given, "start_from": str(finished), **fields})
    return Config.from_config_dict(config)


def test_a_smaller_run_starts_from_a_larger_ones_posterior_before_coding(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    restored = Checkpoints(finished / "trained").restore()
    assert restored is not None
    (params, _, log_beta), about = restored
    with opened(smaller(finished), tmp_path) as job:
        job.data()
        for name, value in job.state.params.items():
            np.testing.assert_array_equal(value, params[name])
        found = np.exp(log_beta)
        np.testing.assert_allclose(job.state.betas, max(found, job.config.beta_init), rtol=1e-6)
        blocks = json.loads((finished / "report.json").read_text())["blocks"]
        assert len(job.state.betas) < 0.8 * blocks
        assert int(job.state.step) == 0 and not np.any(job.state.coded.is_coded)
    report = compress(smaller(finished), tmp_path)
    assert report["file_bytes"] <= 200 and report["started_from"] == about
    larger = json.loads((finished / "report.json").read_text())
    assert about["config"] == larger["config"] | {"report_test": True} and about["seconds"] > 0
    assert "plain" not in report["seconds"]  # its network is the larger run's
    assert report["plain_validation_error"] == larger["plain_validation_error"]
    own, larger = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for folder in (tmp_path, finished)
    )
    assert own < 0.7 * larger  # the mean of the first 250 steps: this one does not start at random


def test_betas_start_at_the_configs_where_those_are_larger(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for number, beta in enumerate((1e-30, 1e3)):
        with opened(smaller(finished, beta_init=beta), tmp_path / str(number)) as job:
            job.data()
            assert np.all(job.state.betas == 1e3) == (beta == 1e3)
            assert np.all(job.state.betas > 1e-10)


@pytest.mark.parametrize("fields", [{"seed": 3}, {"sharing": (("Dense_0/kernel", 2),)}])
def test_no_run_starts_from_one_of_another_network_or_seed(
    finished: pathlib.Path, tmp_path: pathlib.Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(
        UsageError, match=f"start_from: .* has other values of {next(iter(fields))};"
    ):
        compress(smaller(finished, **fields), tmp_path)


def test_no_run_starts_from_one_that_has_not_trained(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "begun").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "begun")
    with pytest.raises(DataError, match="begun has no trained posterior; finish that run first"):
        compress(smaller(tmp_path / "begun"), tmp_path / "own")
    with pytest.raises(DataError, match="nowhere: no run there; give a run's work directory"):
        compress(smaller(tmp_path / "nowhere"), tmp_path / "own")


def test_a_run_that_has_begun_needs_its_source_no_more(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = shutil.copytree(finished, tmp_path / "source")
    with opened(smaller(source), tmp_path / "own") as job:
        job.data()
        job.save(dataclasses.replace(job.state, step=job.state.step + 1))
    shutil.rmtree(source)
    with opened(smaller(source), tmp_path / "own") as job:
        job.data()
        assert job.meta["started_from"]["seconds"] > 0


def test_a_work_directory_in_use_is_refused(tmp_path: pathlib.Path) -> None:
    with lock(tmp_path), pytest.raises(BusyError, match="another process works there"):
        compress(Config.from_config_dict(smoke.get_config()), tmp_path)


def test_an_impossible_size_is_refused_by_one_line(tmp_path: pathlib.Path) -> None:
    done = run(f"--workdir={tmp_path / 'w'}", "--config.file_bytes=9")
    assert done.returncode == 2
    assert "smallest possible file has" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("override", [[], ["--config.seed=3"]])
def test_a_missing_config_file_is_refused_by_one_line(
    tmp_path: pathlib.Path, override: list[str]
) -> None:
    done = run("--config=configs/nope.py", *override, f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 2 and not (tmp_path / "w").exists()
    assert "No such file or directory: 'configs/nope.py'" in done.stderr
    assert done.stderr.count("\n") == 1 and len(done.stderr) < 160


def test_a_missing_flag_is_refused_by_one_line(tmp_path: pathlib.Path) -> None:
    done = run(f"--workdir={tmp_path / 'w'}", "--no_such_flag")
    assert done.returncode == 2
    assert "no_such_flag" in done.stderr and done.stderr.count("\n") == 1


# Writes checkpoints until the limit stops one: of a file's size, which works as a full disk does.
FULL = """
import resource, sys
import numpy as np
from mrc_jax.checkpoint import Checkpoints
from mrc_jax.errors import DataError
checkpoints = Checkpoints(sys.argv[1])
state = {f"x{i}": np.random.default_rng(i).normal(size=2000) for i in range(8)}
checkpoints.save(state, {"value": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    checkpoints.save(state, {"value": 2})
except DataError as error:
    print(error)
found = checkpoints.restore(state)
print(found[1]["value"])
checkpoints.close()
"""


@pytest.mark.parametrize("limit", [100, 3000, 40000])
def test_a_full_disk_costs_one_line_and_no_checkpoint(tmp_path: pathlib.Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "c"), str(limit)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    wanted = f"{tmp_path / 'c'}: cannot write a checkpoint (File too large); free space and run"
    assert done.stdout == f"{wanted} the command again\n1\n" and done.stderr == ""
    again = Checkpoints(tmp_path / "c")
    again.save({"x0": np.zeros(3)}, {})
    again.close()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"1", "2"}


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: pathlib.Path) -> None:
    (tmp_path / "c" / "1.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.restore() is None
    checkpoints.save({"x": np.zeros(3)}, {})
    checkpoints.close()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]


def test_an_unknown_field_is_refused_with_the_nearest_name(tmp_path: pathlib.Path) -> None:
    done = run(f"--workdir={tmp_path / 'w'}", "--config.file_byte=9")
    assert done.returncode == 2
    assert "file_bytes" in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_evaluation_of_the_file_finds_the_reports_error(finished: pathlib.Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    command = [sys.executable, "-m", "experiments.evaluate", "--config=configs/smoke.py", "--json"]
    done = subprocess.run(
        [*command, f"--file={finished / 'model.mrc'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["error"] == report["validation_error"]
    assert found["weights_sha256"] == report["weights_sha256"]


def test_where_nothing_is_held_out_no_validation_error_is_told(tmp_path: pathlib.Path) -> None:
    write_idx(tmp_path / "data")
    fields = ["--config.data=mnist", f"--config.data_dir={tmp_path / 'data'}"]
    fields += ["--config.hold_out=false", "--config.report_test=true"]
    fields += ["--config.originals=2", "--config.distorted_copies=1", "--config.beta_step=3e-2"]
    done = run(f"--workdir={tmp_path / 'run'}", *fields)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    errors = {name for name in report if name.endswith("error")}
    assert errors == {"test_error", "plain_test_error", "posterior_mean_test_error"}
    command = [sys.executable, "-m", "experiments.evaluate", "--config=configs/smoke.py", *fields]
    command += [f"--file={tmp_path / 'run' / 'model.mrc'}", "--split=validation"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "hold_out" in refused.stderr.splitlines()[-1]


def test_encoding_a_checkpoint_without_data_gives_a_file_of_the_planned_size(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    code = "import sys; from mrc_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    out = tmp_path / "again.mrc"
    done = subprocess.run(
        [sys.executable, "-c", code, "encode", str(finished), "-o", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size == (finished / "model.mrc").stat().st_size


def test_a_damaged_checkpoint_is_left_for_the_one_before(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    for value in (1.0, 2.0):
        checkpoints.save({"x": np.full(4, value)}, {"value": value})
    newest = max((tmp_path / "c").glob("[0-9]*"), key=lambda p: int(p.name))
    for path in newest.rglob("*"):
        if path.is_file() and "state" in path.parts:
            path.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="going back to the one before"):
        restored = checkpoints.restore({"x": np.zeros(4)})
    assert restored is not None and restored[1]["value"] == 1.0
    checkpoints.close()


def test_the_digits_config_is_valid_and_small() -> None:
    config = Config.from_config_dict(digits.get_config())
    assert config.file_bytes <= 600 and not config.report_test
    with pytest.raises(UsageError, match="nonsense"):
        values = digits.get_config()
        values.nonsense = 1
        Config.from_config_dict(values)


def test_tensorboard_scalars_are_written_or_the_package_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []
    writer = types.SimpleNamespace(
        add_scalar=lambda name, value, step: written.append((name, value, step)),
        flush=lambda: None,
    )
    module = types.SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)  # type: ignore[arg-type]
    Metrics(tmp_path, 0, tensorboard=True).add(phase="train", done=5, loss=0.5)
    assert written == [("train/loss", 0.5, 5)]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="pip install tensorboardX"):
        Metrics(tmp_path, 0, tensorboard=True)
