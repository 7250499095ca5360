"""The wheel that is built decodes a golden file where nothing but NumPy is installed."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


def _run(*command: str | pathlib.Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel, built from a copy so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "mrc_jax", source / "mrc_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    _run(*pip, "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The scripts folder of a fresh environment with the wheel and this environment's NumPy."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=True)
    bases = {"base": str(folder), "platbase": str(folder)}
    packages = pathlib.Path(sysconfig.get_path("purelib", "venv", bases))
    for found in pathlib.Path(np.__file__).parents[1].glob("numpy*"):
        (packages / found.name).symlink_to(found)
    python = pathlib.Path(sysconfig.get_path("scripts", "venv", bases)) / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    _run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel)
    return python.parent


def test_the_wheel_holds_every_file_of_the_package(wheel: pathlib.Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mrc_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert held == expected


def test_numpy_is_the_only_hard_dependency(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:")]
    hard = [line.split()[1] for line in required if "extra ==" not in line]
    assert [name.split(">")[0] for name in hard] == ["numpy"]


def test_the_installed_command_decodes_a_golden_file_with_numpy_alone(
    scripts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    golden = json.loads((GOLDEN / "golden.json").read_text())
    name = next(name for name, facts in golden.items() if facts["embedded_manifest"])
    output = tmp_path / "weights.npz"
    _run(scripts / "mrc-jax", "decode", GOLDEN / name, "-o", output)
    described = json.loads(_run(scripts / "mrc-jax", "inspect", "--json", GOLDEN / name))
    digest = hashlib.sha256()
    with np.load(output) as weights:
        for tensor in described["tensors"]:
            array = weights[tensor["path"]]
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    assert digest.hexdigest() == golden[name]["sha256"]


def test_the_fresh_environment_has_no_jax(scripts: pathlib.Path) -> None:
    code = "import importlib.util as u; print(u.find_spec('jax'), u.find_spec('mrc_jax') is None)"
    assert _run(scripts / "python", "-c", code).split() == ["None", "False"]
