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

    shapes = list(dict.fromkeys((r["D"], r["K"], r["blocks"]) for r in rows if r["D"]))
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axes, shape in zip(grid.flat, shapes, strict=True):
        own = [r for r in rows if (r["D"], r["K"], r["blocks"]) == shape]
        names = [name_of(row) for row in own]
        speeds = [row["candidate_lanes_per_s"] for row in own]
        colours = [_COLOURS.get(row["kernel"], "tab:green") for row in own]
        axes.barh(names, speeds, color=colours)
        for place, row in enumerate(own):
            ratio = f" {row['ratio_to_straightforward']:,.0f}x"
            axes.text(row["candidate_lanes_per_s"], place, ratio, va="center", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(min(speeds) / 4, 10 * max(speeds))
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


def name_of(row: dict[str, Any]) -> str:
    """What the row measures, in the picture and in tables."""
    if row["selection"] is None or row["kernel"] == "straightforward":
        return row["kernel"]
    cold = "cold"
    if row["cold_shared_by"] not in (None, row["blocks"]):
        cold += f" / {row['cold_shared_by']}"
    waves = f", {row['waves']} waves a call" if row.get("waves") else ""
    return f"{row['kernel']}, {row['selection']}, {'warm' if row['warm'] else cold}{waves}"
