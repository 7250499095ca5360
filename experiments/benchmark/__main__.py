"""Speed and memory on this machine: of the candidate kernels, a training step, the decoder.

python -m experiments.benchmark kernels
python -m experiments.benchmark train --json
python -m experiments.benchmark decode
python -m experiments.benchmark kernels --out=experiments/results/benchmarks

Some minutes for `kernels`, each of whose rows is measured in a process of its own.
"""

import importlib
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from absl import flags

from experiments import record
from experiments.benchmark import figure
from experiments.benchmark.measure import in_fresh_process, origin
from experiments.command import run
from mrc_jax.errors import UsageError

_JSON = flags.DEFINE_bool("json", False, "Print one list of objects.")
_OUT = flags.DEFINE_string("out", "", "A folder to write WHAT.json and a picture to.")
WHAT = ("kernels", "train", "decode", "precision")


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) != 2 or argv[1] not in WHAT:
        raise UsageError(f"say what to measure: one of {', '.join(WHAT)}")
    what = argv[1]
    where = in_fresh_process(origin)
    rows = _told(importlib.import_module(f"experiments.benchmark.{what}").rows())
    if _OUT.value:
        folder = pathlib.Path(_OUT.value)
        folder.mkdir(parents=True, exist_ok=True)
        command = f"python -m experiments.benchmark {what}"
        record.write_json(folder / f"{what}.json", {"command": command, **where, "rows": rows})
        if what == "kernels":
            title = f"{where['device']}, {where['machine']}; labels: times the straightforward"
            figure.draw(rows, folder / "kernels.png", title)
    if _JSON.value:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{where['device']}, {where['machine']}, jax {where['versions']['jax']}")
        print(table(rows))


def _told(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    out = []
    for row in rows:
        out.append(row)
        print(f"\r{len(out)} rows measured", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return out


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text; a column for each field that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    padded = ([c.rjust(w) for c, w in zip(line, widths, strict=True)] for line in cells)
    return "\n".join("  ".join(line) for line in padded)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)
