"""The command `mrc-jax`, as a user runs it: without JAX where none is needed, one line an error."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from golden_files import FILES, GOLDEN, TURNED, VALUES, golden

from mrc_jax.cli import main

ROOT = pathlib.Path(__file__).parents[1]
WITHOUT_JAX = """
import sys
sys.modules.update(dict.fromkeys(["jax", "flax", "optax", "orbax", "safetensors"]))
from mrc_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""
EXAMPLE = str(GOLDEN / "example.mrc")


def command(*arguments, code=WITHOUT_JAX, **options):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def fails(capsys, code, message, *arguments):
    """Asserts that the command says one line on standard error and nothing else."""
    assert main([str(a) for a in arguments]) == code
    said = capsys.readouterr()
    assert said.out == "" and message in said.err
    assert said.err.startswith("mrc-jax: error: ") and said.err.count("\n") == 1


def test_decode_inspect_and_verify_need_no_jax(tmp_path):
    out, report = tmp_path / "w.npz", tmp_path / "report.json"
    facts = FILES["lenet5.mrc"]
    file = GOLDEN / "lenet5.mrc"
    report.write_text(json.dumps({"weights_sha256": facts["sha256"], "file_bytes": 1846}))
    done = command("decode", file, "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "8 tensors, 431080 parameters" in done.stdout and facts["sha256"] in done.stdout
    assert "built-in" in command("inspect", file).stdout
    assert "the report's" in command("verify", file, "--report", report).stdout


def test_safetensors_that_is_not_installed_is_named(tmp_path):
    done = command("decode", EXAMPLE, "-o", tmp_path / "w.safetensors")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'mrc_jax[train]'" in done.stderr and ".npz" in done.stderr
    assert os.listdir(tmp_path) == []


def test_encode_without_jax_names_the_extra(tmp_path):
    done = command("encode", tmp_path, "-o", tmp_path / "m.mrc")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "mrc_jax[train]" in done.stderr


@pytest.mark.parametrize("name", FILES)
def test_every_golden_file_is_decoded_inspected_and_verified(name, tmp_path, capsys):
    data, manifest = golden(name)
    more = ["--manifest", str(GOLDEN / FILES[name]["manifest"])] if manifest else []
    file, out = str(GOLDEN / name), tmp_path / "weights.npz"
    assert main(["decode", file, "-o", str(out), *more]) == 0
    first = out.read_bytes()
    assert main(["decode", file, "-o", str(out), *more]) == 0
    assert out.read_bytes() == first
    capsys.readouterr()
    assert main(["inspect", file, "--json", *more]) == 0
    facts = json.loads(capsys.readouterr().out)
    with np.load(out) as weights:
        assert list(weights) == [t["path"] for t in facts["tensors"]]
        for tensor in facts["tensors"]:
            assert list(weights[tensor["path"]].shape) == tensor["shape"]
    assert sum(facts["parts_bytes"].values()) == facts["file_bytes"] == len(data)
    check_facts(name, facts, data)
    assert sum(t["entries"] for t in facts["tensors"]) == facts["entries"]
    assert facts["manifest"] == (
        "supplied" if more else "embedded" if FILES[name]["embedded_manifest"] else "built-in"
    )
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"weights_sha256": FILES[name]["sha256"]} | facts))
    assert main(["verify", file, "--report", str(report), "--json", *more]) == 0
    assert json.loads(capsys.readouterr().out)["weights_sha256"] == FILES[name]["sha256"]
    assert main(["inspect", file, *more]) == 0
    text = capsys.readouterr().out
    assert all(t["path"] in text for t in facts["tensors"]) and str(len(data)) in text


def check_facts(name, facts, data):
    """Of `inspect`, what depends on the payload."""
    if name in VALUES:
        assert facts["version"] == 4
        assert len(facts["table_of_tensor"]) == sum(t["factor"] > 0 for t in facts["tensors"])
        assert set(facts["table_of_tensor"]) == set(range(len(facts["tables"])))
        return
    if name in TURNED:
        assert facts["version"] == 5 and facts["entries"] == 0
        paths = [t["path"] for t in facts["tensors"]]
        assert all(path in paths for turn in facts["turns"] for path in turn["tensors"])
        return
    assert facts["index_code"] == ("ordered" if "ordered" in name else "fixed")
    has_ranges = name.startswith("ranges")
    assert facts["version"] == (3 if has_ranges else 2 if "ordered" in name else 1)
    assert (facts["ranges"] > 1) == has_ranges
    if facts["index_code"] == "ordered":
        field = data[-facts["parts_bytes"]["indices"] - 4 :]
        assert (facts["index_r"], facts["index_s"]) == (field[0], field[1])
    assert len(facts["group_scales"]) == sum(t["groups"] for t in facts["tensors"])


@pytest.mark.filterwarnings("ignore")
def test_safetensors_hold_the_same_weights(tmp_path):
    from safetensors.numpy import load_file

    both = [tmp_path / "w.npz", tmp_path / "w.safetensors"]
    for out in both:
        assert main(["decode", str(GOLDEN / "uncoded.mrc"), "-o", str(out)]) == 0
    loaded = load_file(both[1])
    with np.load(both[0]) as weights:
        assert loaded.keys() == set(weights)
        for path, array in loaded.items():
            assert array.dtype == weights[path].dtype
            np.testing.assert_array_equal(array, weights[path])


def test_a_file_whose_manifest_is_unknown_is_inspected_and_verified_but_not_decoded(
    tmp_path, capsys
):
    file = str(GOLDEN / "external.mrc")
    assert main(["inspect", file]) == 0
    assert "--manifest" in capsys.readouterr().out
    assert main(["inspect", file, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tensors"] == [] and facts["manifest"] == "none"
    assert sum(facts["parts_bytes"].values()) == facts["file_bytes"] == 48
    assert main(["verify", file]) == 0
    capsys.readouterr()
    fails(capsys, 5, "54456fe70b31e72e", "decode", file, "-o", tmp_path / "w.npz")
    assert os.listdir(tmp_path) == []


def test_wrong_reports_are_refused(tmp_path, capsys):
    report = tmp_path / "report.json"
    good = {"weights_sha256": FILES["example.mrc"]["sha256"], "file_bytes": 47}
    for contents, code, message in (
        (json.dumps(good | {"weights_sha256": "0" * 64}), 5, "its weights_sha256 is 27f3b59e"),
        (json.dumps(good | {"file_bytes": 48}), 5, "its file_bytes is 47"),
        ("{}", 1, "not a report"),
        ("[]", 1, "not a report"),
        ("nonsense", 1, "is not JSON"),
        ("[" * 100_000, 1, "is not JSON"),
    ):
        report.write_text(contents)
        fails(capsys, code, message, "verify", EXAMPLE, "--report", report)
    fails(capsys, 1, "cannot read it", "verify", EXAMPLE, "--report", tmp_path / "none.json")


def test_each_mistake_has_its_exit_code_and_one_line(tmp_path, capsys):
    damaged = tmp_path / "damaged.mrc"
    damaged.write_bytes((GOLDEN / "example.mrc").read_bytes()[:-1])
    other = GOLDEN / "one_weight.manifest"
    out = tmp_path / "w.npz"
    for code, message, *arguments in (
        (2, "COMMAND"),
        (2, "invalid choice: 'frobnicate'", "frobnicate"),
        (2, "FILE", "inspect"),
        (2, "--output", "decode", EXAMPLE),
        (2, "unrecognized", "env", "--frobnicate"),
        (2, "positive integer", "decode", EXAMPLE, "-o", out, "--max_parameters", "0"),
        (2, "must end in .npz or .safetensors", "decode", EXAMPLE, "-o", tmp_path / "w.txt"),
        (1, "cannot read it", "inspect", tmp_path / "missing.mrc"),
        (1, "cannot read it", "inspect", tmp_path),
        (1, "cannot read it", "inspect", EXAMPLE, "--manifest", tmp_path / "missing"),
        (1, "cannot write it", "decode", EXAMPLE, "-o", tmp_path / "missing" / "w.npz"),
        (5, f"{damaged}: the file is damaged", "inspect", damaged),
        (5, f"{damaged}: the file is damaged", "verify", damaged),
        (5, f"{damaged}: the file is damaged", "decode", damaged, "-o", out),
        (5, "not this file's", "inspect", EXAMPLE, "--manifest", other),
        (5, f"{damaged}: ", "inspect", EXAMPLE, "--manifest", damaged),
        (5, "--max_parameters", "decode", EXAMPLE, "-o", out, "--max_parameters", "9"),
        (1, "two lines", "inspect", "missing\ntwo lines"),
    ):
        fails(capsys, code, message, *arguments)
    assert os.listdir(tmp_path) == ["damaged.mrc"]


@pytest.mark.parametrize("name", ["", "decode", "inspect", "verify", "encode", "env"])
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([*name.split(), "--help"])
    assert done.value.code == 0
    assert f"example: mrc-jax {name}" in capsys.readouterr().out


@pytest.mark.parametrize("without", [True, False])
def test_env_says_versions_and_devices(without):
    code = WITHOUT_JAX if without else WITHOUT_JAX.replace("sys.modules.update", "list")
    facts = json.loads(command("env", "--json", code=code).stdout)
    assert facts["numpy"] == np.__version__ and facts["kernels"].startswith("codebook")
    assert facts["python"] == sys.version.split()[0]
    assert facts["devices"].startswith("none" if without else "cpu")


def test_a_full_disk_leaves_no_half_written_file(tmp_path):
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    out = tmp_path / "w.npz"
    out.write_bytes(b"old")
    done = command("decode", GOLDEN / "lenet5.mrc", "-o", out, code=code + WITHOUT_JAX)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("mrc-jax: error: ") and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["w.npz"] and out.read_bytes() == b"old"


def test_output_that_nobody_takes_is_one_error():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_JAX, "inspect", EXAMPLE],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "mrc-jax: error: cannot write the output (No space left on device)\n"


def test_paths_print_where_the_terminal_has_ascii_alone():
    file, manifest = GOLDEN / "external.mrc", GOLDEN / "external.manifest"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = command("inspect", file, "--manifest", manifest, env=environment)
    assert done.returncode == 0 and "Gr\\xf6" in done.stdout


def test_encode_writes_what_the_checkpoint_gives(tmp_path, capsys, monkeypatch):
    checkpoint = pytest.importorskip("mrc_jax.checkpoint")
    monkeypatch.setattr(checkpoint, "encode", lambda path, _: f"the file of {path}".encode())
    out = tmp_path / "model.mrc"
    assert main(["encode", "run", "-o", str(out)]) == 0
    assert out.read_bytes() == b"the file of run"
    assert capsys.readouterr().out == f"{out}: 15 bytes\n"
