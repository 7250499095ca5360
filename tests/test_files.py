"""Files are read within bounds, and written whole or not at all."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from mrc_jax import files
from mrc_jax.errors import DataError, FormatError

ROOT = pathlib.Path(__file__).parents[1]


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "file"
    for data in (b"old", b"new"):
        files.write(path, data)
        assert files.read(path) == data
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_read_or_written_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "file"):
        with pytest.raises(DataError, match=str(path)):
            files.read(path)
        with pytest.raises(DataError, match=str(path)):
            files.write(path, b"data")
    assert os.listdir(tmp_path) == []


def test_a_file_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    with pytest.raises(FormatError, match="larger than"):
        files.read(path)


@pytest.mark.parametrize("how", ["limit", "signal"])
def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, how):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = "import os, resource, signal, sys\nfrom mrc_jax import files\n"
    if how == "limit":
        code += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    else:
        code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # if it was ignored
        code += f"os.fsync = lambda _: os.kill(os.getpid(), {int(signal.SIGINT)})\n"
    code += "files.write(sys.argv[1], bytes(5000))\n"
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True)
    assert done.returncode != 0
    assert os.listdir(tmp_path) == ["file"] and path.read_bytes() == b"old"
