"""The picture of `linear_gaussian`."""

import pathlib
from typing import Any

import numpy as np


def draw(rows: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Writes the picture: bits a block beside the bounds, bits a weight over the bound's, and
    distortion over D.

    Args:
      rows: of `linear_gaussian.measure`.
      out: the PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12.5, 3.9), layout="constrained")
    rate = np.linspace(min(r["rate_bits"] for r in rows) - 1, max(r["rate_bits"] for r in rows) + 1)
    above = rate + np.log2(rate + 1) + 1
    axes[0].plot(rate, rate, "k-", label="R, the lower bound")
    axes[0].plot(rate, above, "k--", label="R + log2(R + 1) + 1")
    axes[1].plot(rate, np.ones_like(rate), "k-")
    axes[1].plot(rate, above / rate, "k--")
    axes[2].axhline(1, color="k")
    axes[2].axhline(1.03, color="0.6", linestyle=":", label="1.03")
    for mark, (label, own) in zip("os^Dvp", _families(rows).items(), strict=False):
        x = np.asarray([r["rate_bits"] for r in own])
        coded = np.asarray([r["coded_bits"] for r in own])
        axes[0].plot(x, coded, mark, label=label)
        axes[1].plot(x, coded / x, f"{mark}-", label=label)
        ratio, error = ([r[k] for r in own] for k in ("distortion_ratio", "standard_error"))
        shift = 0.12 * ("os^Dvp".index(mark) - 1.5)
        axes[2].errorbar(x + shift, ratio, error, fmt=mark, capsize=3, label=label)
    labels = ("coded bits a block", "coded bits a weight over the bound's", "distortion / D")
    for one, label in zip(axes, labels, strict=True):
        one.set(xlabel="R, a block's share of the bound, bits", ylabel=label)
        one.legend(fontsize="small")
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def _families(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by their bits a weight, in order of their bits a block."""
    out: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: r["rate_bits"]):
        each = row["rate_bits"] / row["weights"]
        even = f"{each:g} bit{'s' * (each != 1)} a weight"
        label = even if row["kind"] == "even" else "weights of unequal bits"
        out.setdefault(label, []).append(row)
    return out
