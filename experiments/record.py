"""What a run leaves behind: its config, metrics.jsonl, report.json, and where and with what it
was made.
"""

import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from experiments.identity import differences
from experiments.settings import Config
from mrc_jax import files
from mrc_jax.errors import DataError, UsageError

_MAY_CHANGE = ("report_test", "mesh")
_PACKAGES = ("mrc_jax", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    files.write(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; DataError where it cannot be read."""
    try:
        return json.loads(files.read(path))
    except ValueError:
        raise DataError(f"{path}: is not JSON; remove it") from None


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def claim(path: pathlib.Path, wanted: dict[str, Any]) -> None:
    """Writes a run's config, or compares it with what is there.

    Raises:
      UsageError: there is another run's, but for fields that may change while a run goes on.
    """
    if not path.exists():
        write_json(path, wanted)
        return
    found = Config.with_defaults(read_json(path))
    if fields := [f for f in differences(found, wanted) if f not in _MAY_CHANGE]:
        raise UsageError(
            f"{path.parent} holds a run with other values of {', '.join(fields)}; give another "
            "--workdir, or the same config"
        )


def origin() -> dict[str, Any]:
    """The commit, versions, device and flags of this process."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "commit": commit(),
        "versions": versions,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def commit() -> str:
    """The commit of the checkout, with '+' where tracked files differ from it."""
    here = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return (head + ("+" if changed else "")) or "unknown"


class Metrics:
    """metrics.jsonl: one line for each call of a program; TensorBoard scalars if wanted."""

    def __init__(self, workdir: pathlib.Path, keep: int, tensorboard: bool = False) -> None:
        """Opens it with its first `keep` lines, those that the restored checkpoint knows.

        With several processes the first alone writes.

        Raises:
          UsageError: TensorBoard scalars are wanted and tensorboardX is not installed.
        """
        self._writes = jax.process_index() == 0
        self._board = _board(workdir / "tensorboard") if tensorboard and self._writes else None
        self._path = workdir / "metrics.jsonl"
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        self.lines = min(keep, len(lines))
        if self._writes:
            files.write(self._path, "".join(lines[: self.lines]).encode())

    def add(self, **values: Any) -> None:
        """Appends a line."""
        self.lines += 1
        if not self._writes:
            return
        try:
            with open(self._path, "a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise files.unwritable(self._path, error) from None
        if self._board is not None:
            phase = values.pop("phase")
            done = values.pop("done")
            for name, value in values.items():
                self._board.add_scalar(f"{phase}/{name}", value, done)
            self._board.flush()


def _board(folder: pathlib.Path) -> Any:
    try:
        return importlib.import_module("tensorboardX").SummaryWriter(str(folder))
    except ModuleNotFoundError:
        raise UsageError(
            "tensorboard = True needs tensorboardX: pip install tensorboardX, or leave it False"
        ) from None
