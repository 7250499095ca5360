"""The measured rows as tables, for a terminal and for docs/benchmarks.md."""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from experiments.benchmark.figure import name_of

Row = dict[str, Any]
WHAT = ("kernels", "train", "tiles", "parts", "decode", "precision")
DOCUMENT = pathlib.Path(__file__).parents[2] / "docs/benchmarks.md"


def told(where: dict[str, Any]) -> str:
    """Machine and commit in a line."""
    machine = f"{where['processor']}, {where['machine']}, {where['device']}"
    commit = where["commit"][:7] + "+" * where["commit"].endswith("+")
    return f"{machine}; jax {where['versions']['jax']}; commit {commit}"


def table(what: str, rows: Sequence[Row]) -> str:
    """The rows of a benchmark as a table in Markdown, with units."""
    columns = _COLUMNS.get(what) or {name: _plain(name) for name in dict.fromkeys(_names(rows))}
    return _markdown(list(columns), [[text(row) for text in columns.values()] for row in rows])


def bars(found: dict[str, Sequence[Row]]) -> str:
    """What was asked for beside what was measured.

    Args:
      found: the rows of 'kernels', 'train', 'decode' and more.
    """
    rows = [
        _bar("one block, D = 45, K = 2^20, cold / 100", _ratio(found, 1, 100), 15),
        _bar("64 blocks, D = 45, K = 2^20, warm", _ratio(found, 64, None), 150),
        _bar("64 blocks, D = 45, K = 2^20, cold", _ratio(found, 64, 64), 30),
    ]
    limit = _kernel(found, 45, 64, None)["ratio_to_matmul"]
    rows.append(
        ["64 blocks, warm, of the limit", "at least 40 %", f"{limit:.0%}", _met(limit >= 0.4)]
    )
    peak = _kernel(found, 64, 1, 1)["peak_bytes"]
    rows.append(
        ["peak at K = 2^24", "below 1.5 GiB", f"{peak / 2**20:,.0f} MiB", _met(peak < 1.5 * 2**30)]
    )
    step = next(r["ratio"] for r in found["train"] if r["step"] == "variational")
    rows.append(
        [
            "variational LeNet-5 step, of the plain one",
            "at most 1.2 x",
            f"{step:.2f} x",
            _met(step <= 1.2),
        ]
    )
    large, lenet5 = found["decode"]
    for name, seconds, most in (
        ("decoding 15 million weights, one core", large["whole_seconds"], 0.8),
        ("decoding LeNet-5, first call after imports", lenet5["first_seconds"], 0.05),
    ):
        rows.append([name, f"at most {1e3 * most:.0f} ms", _ms(seconds), _met(seconds <= most)])
    return _markdown(["", "asked for", "measured", ""], rows)


def document(found: dict[str, Sequence[Row]], told: dict[str, str]) -> str:
    """The text of docs/benchmarks.md with these rows' tables in their places.

    Args:
      found: rows by benchmark.
      told: commit and machine of each, in a line.
    """
    text = DOCUMENT.read_text()
    made = {what: f"{told[what]}\n\n{table(what, rows)}" for what, rows in found.items()}
    for what, body in {**made, "bars": bars(found)}.items():
        pattern = rf"(<!-- {what} -->\n).*?(<!-- end of {what} -->)"
        text, count = re.subn(
            pattern, lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL
        )
        assert count == 1, f"{DOCUMENT} has no place for {what}"
    return text


def _bar(name: str, ratio: float, least: float) -> list[str]:
    return [name, f"at least {least} x", f"{ratio:.0f} x", _met(ratio >= least)]


def _met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def _ratio(found: dict[str, Sequence[Row]], blocks: int, shared_by: int | None) -> float:
    return _kernel(found, 45, blocks, shared_by)["ratio_to_straightforward"]


def _kernel(found: dict[str, Sequence[Row]], D: int, blocks: int, shared_by: int | None) -> Row:
    """The row of importance sampling by the codebook kernel."""
    wanted = ("codebook", "sample", D, blocks, shared_by)
    names = ("kernel", "selection", "D", "blocks", "cold_shared_by")
    return next(r for r in found["kernels"] if tuple(r[n] for n in names) == wanted)


def _names(rows: Sequence[Row]) -> list[str]:
    return [name for row in rows for name in row]


def _plain(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    return text


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    widths = [max(3, *map(len, column)) for column in zip(heads, *lines, strict=True)]
    rows = [heads, ["-" * w for w in widths], *lines]
    padded = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def _shape(row: Row) -> str:
    return f"{row['D']}, 2^{row['K'].bit_length() - 1}, {row['blocks']}" if row["D"] else ""


def _share(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else format(row[name], form)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _ms_of(name: str) -> Callable[[Row], str]:
    return lambda row: _ms(row[f"{name}_seconds"])


_COLUMNS: dict[str, dict[str, Callable[[Row], str]]] = {
    "kernels": {
        "D, K, blocks": _shape,
        "kernel": name_of,
        "candidate-lanes / s": lambda row: f"{row['candidate_lanes_per_s']:.2g}",
        "x straightforward": _share("ratio_to_straightforward", ",.3g"),
        "of the limit": _share("ratio_to_matmul", ".0%"),
        "peak, MiB": lambda row: f"{row['peak_bytes'] / 2**20:,.0f}",
    },
    "train": {
        "step": lambda row: row["step"],
        "ms": lambda row: f"{1e3 * row['seconds']:.3g}",
        "of the plain step": lambda row: f"{row['ratio']:.3g}",
    },
    "tiles": {
        "channels": lambda row: " to ".join(map(str, row["channels"])),
        "image": lambda row: f"{row['size']} x {row['size']}",
        "ms": lambda row: f"{1e3 * row['seconds']:.3g}",
        "ms by shifted copies": lambda row: f"{1e3 * row['shifted_seconds']:.3g}",
        "ratio": lambda row: f"{row['ratio']:.2f}",
    },
    "parts": {
        "parts of a batch": lambda row: str(row["batch_parts"]),
        "images of a part": lambda row: str(row["examples"]),
        "s a step": lambda row: f"{row['seconds']:.3g}",
        "of the whole batch's": lambda row: f"{row['ratio']:.3g}",
        "working memory, MB": lambda row: f"{row['working_bytes'] / 1e6:,.0f}",
    },
    "decode": {
        "file": lambda row: row["file"],
        "weights": lambda row: f"{row['weights']:,}",
        "bytes": lambda row: f"{row['file_bytes']:,}",
        "first call": _ms_of("first"),
        "whole": _ms_of("whole"),
        "parsing": _ms_of("parsing"),
        "candidates": _ms_of("candidates"),
        "permutation": _ms_of("permutation"),
        "scales and sharing": _ms_of("scales_and_sharing"),
    },
}
