"""Files, manifests, configs and checkpoints are data: nothing in them is run or leads elsewhere."""

import ast
import io
import pathlib
import zipfile
from typing import Any

import ml_collections
import numpy as np
import pytest
from golden_files import TESTS
from hostile_files import header_alone, sealed

from configs import default
from configs.sweeps import member as sweep_member
from experiments.members import claim, members_of
from experiments.settings import Config
from mrc_jax import export
from mrc_jax.checkpoint import Checkpoints
from mrc_jax.cli import main
from mrc_jax.decode import decode
from mrc_jax.errors import UsageError
from mrc_jax.manifest import Manifest, Tensor, varint

SOURCES = sorted(
    path for folder in ("mrc_jax", "experiments") for path in (TESTS.parent / folder).rglob("*.py")
)
RUNS_DATA = {
    "cloudpickle", "code", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve", "yaml"
}  # fmt: skip
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "system", "popen"}
MAY_UNPICKLE = {"load", "write_array", "read_array"}  # of NumPy, where it is not told otherwise


def dangers(source: str) -> set[str]:
    """What in a module could run something that it reads."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & RUNS_DATA
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).split(".")[0]} & RUNS_DATA
        elif isinstance(node, ast.Call):
            given = {
                k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)
            }
            name = ast.unparse(node.func)
            last = name.split(".")[-1]
            compiled = last == "compile" and not (node.args or node.keywords)  # of XLA's programs
            if (last in RUNS_TEXT and not compiled and not name.startswith("re.")) or given.get(
                "shell"
            ):
                found.add(name)
            numpy = name.startswith(("np.", "numpy."))
            if numpy and last in MAY_UNPICKLE and given.get("allow_pickle") is not False:
                found.add(name)
    return found


def test_no_source_could_run_what_it_reads():
    assert len(SOURCES) > 50
    assert {path.name: dangers(path.read_text()) for path in SOURCES} == {
        path.name: set() for path in SOURCES
    }


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from yaml import load",
        "import os.path, marshal",
        "eval(x)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "builtins.exec(x)",
    ],
)
def test_what_could_run_is_noticed(source):
    assert dangers(source)


LEADS_ELSEWHERE = [
    "../../escaped", "/etc/escaped", "a/../../escaped", "..", ".", "", "a//b", "a/", "/", "./a",
    "..\\escaped", "C:\\escaped", "a\0b", "a\nb", "a\rb", "a\tb", "\x1b[2J", "a\x7f", "\x85",
    "a\u202egnp", "\u2028", "\ufeff",
]  # fmt: skip


def file_of_path(path: str) -> bytes:
    """A file of one tensor with any path."""
    text = path.encode()
    manifest = b"\1\0" + varint(len(text)) + text + b"\1\3\1"
    body = b"MRC\1\1" + varint(len(manifest)) + manifest + b"\1\0\0\0\x08\1\1"
    return sealed(body + b"\x80\x3e\0")


def tree(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("path", LEADS_ELSEWHERE, ids=ascii)
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_path_that_leads_elsewhere_is_refused_and_nothing_written(path, suffix, tmp_path, capsys):
    (tmp_path / "a" / "b").mkdir(parents=True)
    file = tmp_path / "a" / "b" / "hostile.mrc"
    file.write_bytes(file_of_path(path))
    before = tree(tmp_path)
    assert main(["decode", str(file), "-o", str(tmp_path / "a" / "b" / f"w.{suffix}")]) == 5
    said = capsys.readouterr().err
    assert said.endswith("\n") and said[:-1].isprintable()
    assert tree(tmp_path) == before


ODD = ["C:/x", "~/x", "-rf", "$(id)", "a b", "%2e%2e/x", "...", "NUL", "w'\"", "Größe", "a.npy/b"]


@pytest.mark.parametrize("path", ODD)
def test_an_odd_path_is_a_name_like_any_other(path, tmp_path, capsys):
    folder, file = tmp_path / "a" / "b", tmp_path / "odd.mrc"
    folder.mkdir(parents=True)
    file.write_bytes(file_of_path(path))
    for suffix in ("npz", "safetensors"):
        assert main(["decode", str(file), "-o", str(folder / f"w.{suffix}")]) == 0
    wanted = decode(file.read_bytes())
    from safetensors.numpy import load_file

    with np.load(folder / "w.npz", allow_pickle=False) as weights:
        assert list(weights) == list(load_file(folder / "w.safetensors")) == [path]
        np.testing.assert_array_equal(weights[path], wanted[path])
    with zipfile.ZipFile(folder / "w.npz") as archive:
        archive.extractall(folder)
    assert {name.split("/")[0] for name in tree(tmp_path)} == {"a", "odd.mrc"}
    assert {name.split("/")[1] for name in tree(tmp_path) if name.count("/")} == {"b"}


def test_no_tensor_of_an_npz_file_stands_for_another(tmp_path, capsys):
    """NumPy gives the member w.npy, which is tensor w, to whoever asks for tensor w.npy."""
    pair = {"w": np.float32([1]), "w.npy": np.float32([2])}
    out, file = tmp_path / "weights.npz", tmp_path / "pair.mrc"
    file.write_bytes(
        header_alone(Manifest(tuple(Tensor(n, (1,), "float32", 1) for n in pair)), True)
    )
    assert main(["decode", str(file), "-o", str(out)]) == 2
    assert "write .safetensors" in capsys.readouterr().err and not out.exists()
    assert main(["decode", str(file), "-o", str(out.with_suffix(".safetensors"))]) == 0
    with np.load(io.BytesIO(export.npz({"w.npy": pair["w"]}))) as weights:
        assert list(weights) == ["w.npy"]


def test_no_safetensors_file_is_written_that_nobody_can_read(tmp_path, capsys):
    out, file = tmp_path / "weights.safetensors", tmp_path / "word.mrc"
    file.write_bytes(file_of_path("__metadata__"))
    assert main(["decode", str(file), "-o", str(out)]) == 2
    assert "write .npz" in capsys.readouterr().err and not out.exists()
    assert main(["decode", str(file), "-o", str(out.with_suffix(".npz"))]) == 0


GOOD_HEADER = {"seed": 1, "blocks": 1, "bits": 8, "codebook_blocks": 1}
NETWORK = Manifest((Tensor("w", (3,), "float32", 1),)).data.hex()


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({"manifest": "../../etc/passwd"}, 1),
        ({"manifest": "/etc/passwd"}, 1),
        ({"manifest": 7}, 1),
        ({"manifest": file_of_path("../x")[6:20].hex()}, 5),
        ({"header": {"__class__": "os.system"}}, 1),
        ({"header": {**GOOD_HEADER, "blocks": "__import__('os').abort()"}}, 1),
        ({"header": {**GOOD_HEADER, "ranges": 0}}, 1),
        ({"header": "../../escaped"}, 1),
        ({"selection": "os.system('true')"}, 1),
        ({}, 1),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_checkpoint_says_is_read_as_numbers_or_refused(meta, code, tmp_path, capsys):
    said = {"manifest": NETWORK, "embed": True, "header": GOOD_HEADER, "file_bytes": 100}
    state: dict[str, Any] = {"key": np.zeros(2, np.uint32), "params": {"mean": np.zeros(3)}}
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(state, {**said, **meta})
    checkpoints.close()
    before = tree(tmp_path)
    assert main(["encode", str(tmp_path / "run"), "-o", str(tmp_path / "out.mrc")]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert tree(tmp_path) == before


HOSTILE_TEXT = ["../../escaped", "/etc/escaped", "__import__('os').abort()", "$(touch x)", "a/../b"]


@pytest.mark.parametrize("text", HOSTILE_TEXT)
def test_no_text_of_a_config_takes_a_member_of_a_sweep_out_of_its_folder(text, tmp_path):
    base = {**default.get_config().to_dict(), "name": text}
    grid = {"name": [text, ".."], "uncoded": [(text,), (text, text)]}
    sweep = ml_collections.ConfigDict({"base": base, "grid": grid})
    members = members_of(sweep, tmp_path / "work")
    assert {member.config.name for member in members} == {text, ".."}
    for member in members:
        claim(member)
        assert member.folder.resolve().parent == (tmp_path / "work").resolve()
        again = sweep_member.get_config(str(member.folder / "member.json"))
        assert Config.from_config_dict(again) == member.config
    assert {pathlib.Path(name).parts[0] for name in tree(tmp_path)} == {"work"}


@pytest.mark.parametrize("field", ["file_bytes", "hidden", "learning_rate", "sharing", "distil"])
def test_a_config_s_text_is_no_expression(field):
    values = {**default.get_config().to_dict(), field: "1 + 1"}
    with pytest.raises(UsageError, match=field):
        Config.from_config_dict(ml_collections.ConfigDict(values))
