"""Speed and memory on this machine: of the candidate kernels, a training step, layers of 3 x 3
kernels, a step that takes its batch in parts, the decoder; and what the precision of the candidate
kernels' product does to the law of the coder.

python -m experiments.benchmark kernels
python -m experiments.benchmark train --json
python -m experiments.benchmark tiles
python -m experiments.benchmark parts
python -m experiments.benchmark decode
python -m experiments.benchmark all --out=experiments/results/benchmarks

Some minutes for `kernels`, each of whose rows is measured in a process of its own. `all` measures
everything and writes docs/benchmarks.md again; `document` writes it from the files in --out.
"""

import importlib
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from absl import flags

from experiments import record
from experiments.benchmark import figure, tables
from experiments.benchmark.measure import in_fresh_process, origin
from experiments.command import run
from mrc_jax import files
from mrc_jax.errors import UsageError

_ALSO = ("all", "document")


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) != 2 or argv[1] not in tables.WHAT + _ALSO:
        raise UsageError(f"say what to measure: one of {', '.join(tables.WHAT + _ALSO)}")
    what = argv[1]
    if what in _ALSO and not flags.FLAGS.out:
        raise UsageError(f"{what} needs a folder: give --out")
    for one in tables.WHAT if what == "all" else (what,):
        if one in tables.WHAT:
            _measure(one)
    if what in _ALSO:
        _document(pathlib.Path(flags.FLAGS.out))


def _measure(what: str) -> None:
    where = in_fresh_process(origin)
    print(tables.told(where), file=sys.stderr if flags.FLAGS.json else sys.stdout)
    rows = _counted(what, importlib.import_module(f"experiments.benchmark.{what}").rows())
    if flags.FLAGS.out:
        folder = pathlib.Path(flags.FLAGS.out)
        folder.mkdir(parents=True, exist_ok=True)
        command = f"python -m experiments.benchmark {what}"
        record.write_json(folder / f"{what}.json", {"command": command, **where, "rows": rows})
        if what == "kernels":
            title = f"{where['device']}, {where['machine']}; labels: times the straightforward"
            figure.draw(rows, folder / "kernels.png", title)
    print(json.dumps(rows, indent=1) if flags.FLAGS.json else tables.table(what, rows))


def _document(folder: pathlib.Path) -> None:
    found = {what: record.read_json(folder / f"{what}.json") for what in tables.WHAT}
    rows = {what: one["rows"] for what, one in found.items()}
    text = tables.document(rows, {what: tables.told(one) for what, one in found.items()})
    files.write(tables.DOCUMENT, text.encode())


def _counted(what: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    out = []
    for row in rows:
        out.append(row)
        print(f"{what}: {len(out)} rows measured", file=sys.stderr, flush=True)
    return out


if __name__ == "__main__":
    flags.DEFINE_bool("json", False, "Print one list of objects.")
    flags.DEFINE_string("out", "", "A folder to write WHAT.json and a picture to.")
    run(main)
