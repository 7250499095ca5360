"""The picture of the kernels' speeds."""

import pathlib
from typing import Any


def draw(rows: list[dict[str, Any]], out: pathlib.Path, title: str) -> None:
    """Writes a PNG file: candidate-lanes a second of each kernel at each shape, on a log scale.

    Args:
      rows: of `kernels.rows`.
      out: the file.
      title: above all.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = list(dict.fromkeys((r["D"], r["K"], r["blocks"]) for r in rows if "D" in r))
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 6), layout="constrained", sharex=True)
    for axes, shape in zip(grid.flat, shapes, strict=True):
        own = [r for r in rows if (r.get("D"), r.get("K"), r.get("blocks")) == shape]
        names = [_name(row) for row in own]
        speeds = [row["candidate_lanes_per_s"] for row in own]
        colours = [_COLOURS.get(row["kernel"], "tab:green") for row in own]
        axes.barh(names, speeds, color=colours)
        for place, row in enumerate(own):
            ratio = f" {row['ratio_to_straightforward']:,.0f}x"
            axes.text(row["candidate_lanes_per_s"], place, ratio, va="center", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(1e7, 2e11)
        axes.invert_yaxis()
        D, K, blocks = shape
        what = "block" if blocks == 1 else "blocks"
        axes.set_title(f"D = {D}, K = 2^{K.bit_length() - 1}, {blocks} {what}", fontsize=10)
    for axes in grid[1]:
        axes.set_xlabel("candidate-lanes a second")
    figure.suptitle(title)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


_COLOURS = {"straightforward": "0.6", "limit": "tab:orange", "reference": "tab:blue"}


def _name(row: dict[str, Any]) -> str:
    if row["selection"] is None or row["kernel"] == "straightforward":
        return row["kernel"]
    return f"{row['kernel']}, {row['selection']}, {'warm' if row['warm'] else 'cold'}"
