"""Draws error against file bytes from the reports of runs.

python -m experiments.plot --out=rate.png out/demo/runs/*
"""

import pathlib
from typing import Any

from absl import flags

from experiments.command import run
from experiments.record import read_json
from mrc_jax.errors import UsageError

_OUT = flags.DEFINE_string("out", "rate.png", "The picture to write.")


def draw(reports: list[dict[str, Any]], out: pathlib.Path, title: str) -> None:
    """Writes a picture of error against file bytes, with the plain network's error as a line.

    Args:
      reports: of runs; test errors are drawn where all have them, validation errors otherwise.
      out: the PNG file.
      title: above the axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    split = "test" if all("test_error" in r for r in reports) else "validation"
    reports = sorted(reports, key=lambda r: r["file_bytes"])
    sizes = [r["file_bytes"] for r in reports]
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    plain = 100 * sum(r[f"plain_{split}_error"] for r in reports) / len(reports)
    dense = 4 * reports[0]["parameters"]
    axes.axhline(plain, color="0.5", linestyle="--", label=f"plain network, {dense:,} B")
    mean = [100 * r[f"posterior_mean_{split}_error"] for r in reports]
    axes.plot(sizes, mean, "o:", color="tab:green", label="posterior mean, not coded")
    coded = [100 * r[f"{split}_error"] for r in reports]
    axes.plot(sizes, coded, "o-", color="tab:blue", label="decoded from the file")
    for size, value in zip(sizes, coded, strict=True):
        axes.annotate(f"{size} B, {value:.1f} %", (size, value), (4, 6), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.minorticks_off()
    axes.set_xlim(min(sizes) / 1.2, max(sizes) * 1.5)
    axes.set_ylim(0, 1.25 * max(*coded, *mean, plain))
    axes.set_xlabel("bytes of the whole file")
    axes.set_ylabel(f"{split} error, %")
    axes.set_title(title)
    axes.legend(loc="upper right")
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) < 2:
        raise UsageError("give the work directories of finished runs")
    reports = [read_json(pathlib.Path(folder) / "report.json") for folder in argv[1:]]
    draw(reports, pathlib.Path(_OUT.value), reports[0]["config"]["name"])


if __name__ == "__main__":
    run(main)
