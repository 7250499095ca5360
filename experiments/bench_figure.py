"""The picture of a comparison: error against bytes, a line for each method."""

import itertools
import pathlib
from collections import defaultdict
from statistics import fmean
from typing import Any

from experiments.bench_table import TITLES
from experiments.plot import published


def draw(
    reports: list[dict[str, Any]], plain: dict[str, Any], out: pathlib.Path, title: str
) -> None:
    """Writes a picture of error against file bytes, on log axes.

    Args:
      reports: of members; test errors are drawn where all have them, validation errors otherwise.
      plain: of the plain network, whose error is a line.
      out: the PNG file.
      title: above the axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    split = "test" if all("test_error" in r for r in (plain, *reports)) else "validation"
    error = f"{split}_error"
    figure, axes = pyplot.subplots(figsize=(9, 5.2), layout="constrained")
    size = plain["file_bytes"]
    axes.axhline(100 * plain[error], color="0.5", ls="--", label=f"plain network, {size:,} bytes")
    marks, lines = itertools.cycle("os^Dv<>PX"), defaultdict[str, list[tuple[float, float]]](list)
    for report in reports:
        objective = report["settings"].get("objective", "").replace("_", " ")
        name = TITLES[report["method"]] + (f", {objective}" if objective else "")
        lines[name].append((report["file_bytes"], max(100 * report[error], 0.01)))
    for name, points in sorted(lines.items()):
        axes.plot(*_by_size(points), next(marks) + "-", ms=5, label=name)
    whose = "" if split == "test" else ", test error"
    others = defaultdict[str, list[tuple[float, float]]](list)
    for p in published(reports[0]["data"], reports[0]["model"]).get("measured", []):
        others[p.name].append((p.file_bytes, p.mean))
    for mark, (name, points) in zip(itertools.cycle("+x1"), others.items(), strict=False):
        axes.plot(*_by_size(points), f"{mark}:", color="0.2", label=name + whose)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, at in ((axes.xaxis, (1, 3)), (axes.yaxis, (1, 1.5, 2, 3, 5, 7))):
        axis.set_major_locator(LogLocator(subs=at))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    axes.set_xlabel("bytes of the whole file")
    axes.set_ylabel(f"{split} error, %")
    axes.set_title(title)
    figure.legend(fontsize="small", loc="outside lower center", ncols=3)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def _by_size(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Sizes and errors of a line: points of one size, as seeds make them, are their mean."""
    sizes = sorted({size for size, _ in points})
    return sizes, [fmean(e for size, e in points if size == own) for own in sizes]
