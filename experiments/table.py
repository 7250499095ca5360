"""The results of runs as a table, made from nothing but their folders."""

import csv
import io
import json
import pathlib
from typing import Any

from experiments import record
from experiments.members import status
from experiments.settings import PLACES
from mrc_jax import files
from mrc_jax.errors import DataError

_ORIGIN = ("config_hash", "data_sha256", "commit", "device", "exit_code", "error")
_SIZES = ("file_bytes", "bits", "blocks", "block_size", "kl_nats", "weights_sha256")


def run_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folder itself if a run is in it, or else the folders of runs and members inside it."""
    if _is_run(folder):
        return [folder]
    found = sorted(path for path in folder.glob("*/") if _is_run(path))
    if not found:
        raise DataError(f"{folder}: no run there; give a run's or a sweep's work directory")
    return found


def records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """What is known of each run in a folder: its name, status, config and, if it is done, report.

    Raises:
      DataError: there are none, or a file of one cannot be read.
    """
    found = []
    for folder in run_folders(workdir):
        values: dict[str, Any] = {"member": folder.name, "status": status(folder)}
        for name in ("member.json", "failure.json", "report.json"):
            if (folder / name).exists() and (
                name != "failure.json" or values["status"] == "failed"
            ):
                values.update(record.read_json(folder / name))
        for name in PLACES:
            values["config"].pop(name, None)
        found.append(values)
    return found


def write(workdir: pathlib.Path) -> None:
    """Writes results.jsonl, which has everything, and results.csv, a row of figures for each run.

    The fields in which the configs differ are columns named config.FIELD; `seconds` are of all
    phases, with those of training the runs that a run started from, and errors fractions.
    """
    found = records(workdir)
    lines = "".join(json.dumps(values) + "\n" for values in found)
    rows = [_row(values) for values in found]
    names = sorted({name for values in found for name in values["config"]})
    swept = [f"config.{n}" for n in names if len({row.get(f"config.{n}") for row in rows}) > 1]
    errors = sorted({name for values in found for name in values if name.endswith("_error")})
    origin = ["started_from"] if any("started_from" in row for row in rows) else []
    columns = [
        "member",
        "status",
        *swept,
        *_SIZES[:1],
        *errors,
        *_SIZES[1:],
        "seconds",
        *origin,
        *_ORIGIN,
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(workdir / "results.jsonl", lines.encode())
    files.write(workdir / "results.csv", text.getvalue().encode())


def _row(values: dict[str, Any]) -> dict[str, Any]:
    row = dict(values)
    for name, value in values["config"].items():
        row[f"config.{name}"] = json.dumps(value) if isinstance(value, list) else value
    before = row.pop("started_from", None)
    if before:
        row["started_from"] = before["config_hash"]
    if "seconds" in values:
        row["seconds"] = sum(values["seconds"].values())
        while before:
            row["seconds"] += before["seconds"]
            before = before["started_from"]
        row["seconds"] = round(row["seconds"], 1)
    return row


def _is_run(folder: pathlib.Path) -> bool:
    return (folder / "member.json").exists() or (folder / "report.json").exists()
