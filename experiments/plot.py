"""Draws error against file bytes from the reports of runs, on log axes.

python -m experiments.plot --out=rate.png out/sweep
"""

import csv
import dataclasses
import itertools
import json
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from absl import flags

from experiments.command import run
from experiments.record import read_json
from experiments.settings import Config
from experiments.table import run_folders
from mrc_jax.errors import UsageError

_TABLES = pathlib.Path(__file__).parent / "published"
_SAME_CURVE = ("file_bytes", "seed", "checkpoint_every_s", "report_test", "tensorboard", "name")
_LEAST = 0.01  # per cent, of a test set of 10,000; a log axis has no place for none


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a plot.

    Attributes:
      file_bytes: of the whole file.
      errors: in per cent, of each seed.
      name: of the system, where it is another's.
      source: who says so, where it is another's.
    """

    file_bytes: float
    errors: tuple[float, ...]
    name: str = ""
    source: str = ""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(self.errors)


def published(data: str, model: str) -> dict[str, list[Point]]:
    """Other systems' points on a data set and network, by series; none where no table is kept."""
    path, series = _TABLES / f"{data}_{model}.csv", defaultdict[str, list[Point]](list)
    if path.exists():
        for row in csv.DictReader(path.read_text().splitlines()):
            errors = (float(row["error_percent"]),)
            point = Point(float(row["file_bytes"]), errors, row["name"], row["source"])
            series[row["series"]].append(point)
    return dict(series)


def curves(
    reports: list[dict[str, Any]], error: str, by: Sequence[str] = ()
) -> dict[str, list[Point]]:
    """The points of runs, those of a curve that share a size as one, by curves' labels: as few
    fields as tell their configs apart, and '...' where they differ in more.

    Args:
      reports: of runs.
      error: which field of them, a fraction.
      by: the fields by which curves are told apart; none given: all but size, seed and names.
    """
    configs = [
        {k: json.dumps(v) for k, v in found.items() if (k in by if by else k not in _SAME_CURVE)}
        for found in (Config.with_defaults(r["config"]) for r in reports)
    ]
    apart, more = _apart(configs)
    if not all(error in report for report in reports):
        raise UsageError(
            f"not every run tells its {error.replace('_', ' ')}: one that held no images out has "
            "test errors alone, once it is run again with --config.report_test=true"
        )
    points = defaultdict[str, dict[int, list[dict[str, Any]]]](lambda: defaultdict(list))
    for config, report in zip(configs, reports, strict=True):
        label = ", ".join([*(f"{name} = {config.get(name, 'unset')}" for name in apart), *more])
        points[label][report["config"]["file_bytes"]].append(report)
    return {
        label: [
            Point(fmean([r["file_bytes"] for r in same]), tuple(100 * r[error] for r in same))
            for _, same in sorted(sizes.items())
        ]
        for label, sizes in points.items()
    }


def _apart(configs: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """The fields that tell configs apart, and '...' if there are more in which they differ."""

    def kinds(names: list[str]) -> int:
        return len({tuple(config.get(name) for name in names) for config in configs})

    names = sorted({name for config in configs for name in config})
    names = differing = [name for name in names if kinds([name]) > 1]
    for name in differing:
        fewer = [other for other in names if other != name]
        names = fewer if kinds(fewer) == kinds(differing) else names
    return names, ["..."] * (names != differing)


def draw(
    reports: list[dict[str, Any]],
    out: pathlib.Path,
    title: str,
    others: dict[str, list[Point]] | None = None,
    by: Sequence[str] = (),
) -> None:
    """Writes a picture of error against file bytes, with the plain network's error as a line; with
    several if the networks differ in their number of parameters.

    A point is the mean over seeds, its bar reaches from the least error of a seed to the largest.

    Args:
      reports: of runs; test errors are drawn where all have them, validation errors otherwise.
      out: the PNG file.
      title: above the axes.
      others: other systems' points, test errors all, by series.
      by: see `curves`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    split = "test" if all("test_error" in r for r in reports) else "validation"
    figure, axes = pyplot.subplots(figsize=(7.0, 4.2), layout="constrained")
    _plain_lines(axes, reports, f"plain_{split}_error")
    coded = curves(reports, f"{split}_error", by)
    for label, points in coded.items():
        _curve(axes, points, f"decoded from the file, {split} error" + f"\n{label}" * bool(label))
    of_mean = f"posterior_mean_{split}_error"  # unknown where a run was asked for tests too late
    if len(coded) == 1 and not others and all(of_mean in r for r in reports):
        mean = curves(reports, of_mean)
        _curve(axes, mean[""], "posterior mean, not coded", ":")
        for point in coded[""]:
            _say(axes, point)
    _others(axes, others or {})
    _log_axes(axes, [p for series in (coded, others or {}) for c in series.values() for p in c])
    axes.set_title(title)
    if others:
        figure.set_size_inches(10.0, 5.0)
        figure.legend(fontsize="small", loc="outside right upper")
    else:
        axes.legend(fontsize="small")
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def _plain_lines(axes: Any, reports: list[dict[str, Any]], error: str) -> None:
    """A line for each size of network; none where plain networks were not kept."""
    sizes = sorted({r["parameters"] for r in reports if error in r})
    lines = itertools.cycle(("--", "-.", ":", (0, (8, 2, 1, 2, 1, 2))))
    for size, line in zip(sizes, lines, strict=False):
        mean = 100 * fmean(r[error] for r in reports if r["parameters"] == size and error in r)
        axes.axhline(mean, color="0.5", linestyle=line, label=f"plain network, {4 * size:,} B")


def _curve(axes: Any, points: list[Point], label: str, line: str = "-") -> None:
    means = [max(point.mean, _LEAST) for point in points]
    down = [m - max(min(p.errors), _LEAST) for p, m in zip(points, means, strict=True)]
    up = [max(p.errors) - p.mean for p in points]
    sizes = [point.file_bytes for point in points]
    if any(len(point.errors) > 1 for point in points):
        label += "\n(mean and range over seeds)"
    axes.errorbar(sizes, means, (down, up), fmt=f"o{line}", capsize=3, label=label, zorder=3)


def _others(axes: Any, series: dict[str, list[Point]]) -> None:
    """Published points, a mark for each system, and measured fronts as lines."""
    marks = itertools.cycle("sv^DPX<>*hdp")
    for name, points in series.items():
        for system in dict.fromkeys(point.name for point in points):
            same = [point for point in points if point.name == system]
            sizes, errors = [p.file_bytes for p in same], [p.mean for p in same]
            line, color = ("", "0.4") if name == "published" else ("--", None)
            label = f"{system}, {name} test error"
            axes.plot(sizes, errors, next(marks) + line, color=color, label=label, alpha=0.8)


def _say(axes: Any, point: Point) -> None:
    place = point.file_bytes, max(point.mean, _LEAST)
    text = f"{point.file_bytes:,.0f} B, {point.mean:.1f} %"
    axes.annotate(text, place, (4, 5), textcoords="offset points", fontsize="small")


def _log_axes(axes: Any, points: list[Point]) -> None:
    """Log axes around the points, with plain numbers at round values."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = [point.file_bytes for point in points]
    span = max(sizes) / min(sizes)
    at_sizes = (1,) if span > 3000 else (1, 3) if span > 100 else (1, 2, 3, 5)
    for axis, at in ((axes.xaxis, at_sizes), (axes.yaxis, (1, 1.5, 2, 3, 5, 7))):
        axis.set_major_locator(LogLocator(subs=at))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.6)
    axes.set_xlabel("bytes of the whole file")
    axes.set_ylabel("error, %")


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) < 2:
        raise UsageError("give the work directories of finished runs, or of sweeps")
    folders = [folder for name in argv[1:] for folder in run_folders(pathlib.Path(name))]
    reports = [read_json(f / "report.json") for f in folders if (f / "report.json").exists()]
    if not reports:
        raise UsageError(f"no run is finished in {', '.join(argv[1:])}; finish one first")
    configs = [report["config"] for report in reports]
    others = defaultdict[str, list[Point]](list)
    for data, model in sorted({(config["data"], config["model"]) for config in configs}):
        for series, points in published(data, model).items() if flags.FLAGS.published else ():
            others[series] += points
    title = ", ".join(dict.fromkeys(config["name"] for config in configs))
    draw(reports, pathlib.Path(str(flags.FLAGS.out)), title, others, flags.FLAGS.by or ())


if __name__ == "__main__":
    flags.DEFINE_string("out", "rate.png", "The picture to write.")
    flags.DEFINE_bool("published", True, "Draw the published points of the same network.")
    flags.DEFINE_list("by", [], "Config fields that tell curves apart; all but sizes and seeds.")
    run(main)
