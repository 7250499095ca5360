"""Faults while writing and damage afterwards leave the old file or the new, and a sound state."""

import builtins
import errno
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mrc_jax import files
from mrc_jax.checkpoint import Checkpoints
from mrc_jax.errors import DataError

CODES = [errno.ENOSPC, errno.EIO, errno.EACCES]
CHANGING = ["chmod", "fsync", "mkdir", "open", "rename", "replace", "rmdir", "unlink"]


class Faults:
    """Makes the n-th call that changes something on the disk fail."""

    def __init__(self, patch: pytest.MonkeyPatch, code: int) -> None:
        self.code, self.left = code, 0
        self.seen: list[str] = []
        for name in CHANGING:
            patch.setattr(os, name, self._failing(name, getattr(os, name)))
        patch.setattr(builtins, "open", self._failing("open a file", open))
        patch.setattr(tempfile, "NamedTemporaryFile", self._file(tempfile.NamedTemporaryFile))

    def _failing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            reads = name == "open a file" and not set(str((*arguments, "r")[1])) & set("wax+")
            if not reads:
                self._count(name)
            return function(*arguments, **named)

        return call

    def _file(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._count("make a file")
            file = make(*arguments, **named)
            for name in ("write", "flush", "close"):
                setattr(file, name, self._failing(name, getattr(file, name)))
            return file

        return call

    def _count(self, name: str) -> None:
        if self.left:
            self.left -= 1
            if not self.left:
                self.seen.append(name)
                raise OSError(self.code, os.strerror(self.code))

    def each(self) -> Iterator[int]:
        """Numbers of calls, until one was not reached."""
        for call in range(1, 100):
            self.left, found = call, len(self.seen)
            yield call
            if len(self.seen) == found:
                self.left = 0
                return


@pytest.mark.parametrize("code", CODES)
def test_a_fault_at_any_call_of_a_write_leaves_the_old_file_or_the_new_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    faults = Faults(monkeypatch, code)
    for _ in faults.each():
        path.write_bytes(b"old")
        found = len(faults.seen)
        try:
            files.write(path, b"new")
            assert path.read_bytes() == b"new"
        except DataError as error:
            assert str(path) in str(error) and os.strerror(code) in str(error)
            assert path.read_bytes() in (b"old", b"new") and len(faults.seen) == found + 1
        faults.left = 0
        assert os.listdir(tmp_path) == ["file"]
    writing = ["make a file", "open", "write", "flush", "fsync"]
    wanted = [*writing, "chmod", "replace", "open", "fsync"]
    assert [name for name in faults.seen if name != "close"] == wanted


def state_of(value: float) -> dict[str, Any]:
    return {"x": np.full(2000, value), "y": np.arange(3)}


def saved(folder: pathlib.Path, *values: float) -> None:
    checkpoints = Checkpoints(folder)
    for value in values:
        checkpoints.save(state_of(value), {"value": value})
    checkpoints.close()


def restored(folder: pathlib.Path) -> float:
    """The value of the newest sound checkpoint, which must be one that was saved."""
    checkpoints = Checkpoints(folder)
    found = checkpoints.restore(state_of(0.0))
    checkpoints.close()
    assert found is not None
    state, meta = found
    assert set(meta) == {"value"} and np.all(state["x"] == meta["value"])
    assert np.all(state["y"] == np.arange(3))
    return meta["value"]


def check_saves(tmp_path: pathlib.Path, patch: pytest.MonkeyPatch, codes: list[int]) -> None:
    """Fails each call of a save in turn, the n-th with the n-th code, in a circle."""
    before = tmp_path / "before"
    saved(before, 1.0, 2.0)
    faults = Faults(patch, 0)
    for call in faults.each():
        faults.left, folder = 0, tmp_path / str(call)
        shutil.copytree(before, folder)
        checkpoints = Checkpoints(folder)
        faults.left, faults.code = call, codes[call % len(codes)]
        try:
            checkpoints.save(state_of(3.0), {"value": 3.0})
            allowed = {3.0}
        except DataError as error:
            assert str(folder) in str(error)
            allowed = {2.0, 3.0}
        left, faults.left = faults.left, 0
        checkpoints.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # no torn checkpoint is to be seen
            assert restored(folder) in allowed, faults.seen[-1]
            saved(folder, 4.0)
            assert restored(folder) == 4.0
        faults.left = left
    assert len(faults.seen) > 10 and {"mkdir", "open a file", "rename"} <= set(faults.seen)


def test_a_fault_at_any_call_of_a_save_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_saves(tmp_path, monkeypatch, CODES)


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_so_does_any_fault(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    check_saves(tmp_path, monkeypatch, [code])


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(path: pathlib.Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [cut, alter, zero, pathlib.Path.unlink])
def test_damage_to_any_file_of_a_checkpoint_is_noticed_or_does_no_harm(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    whole = tmp_path / "whole"
    saved(whole, 1.0, 2.0)
    paths = [x.relative_to(whole) for x in (whole / "2").rglob("*") if x.is_file()]
    assert len(paths) > 8
    gone_back = 0
    for path in paths:
        folder = shutil.copytree(whole, tmp_path / "damaged")
        damage(folder / path)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            value = restored(folder)
        told = [x for x in told if "going back to the one before" in str(x.message)]
        assert (value, len(told)) in ((2.0, 0), (1.0, 1)), (path, value, list(map(str, told)))
        gone_back += value == 1.0
        shutil.rmtree(folder)
    assert gone_back >= 3  # Orbax keeps some of what it writes twice
