"""The table of `objectives`: losses beside those of the baseline at equal size."""

from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any

import numpy as np

Line = dict[str, Any]


def at_size(lines: list[Line], size: float) -> float:
    """The validation loss of networks of few values at a size, between those that were measured:
    linear in the logarithms of both; nan outside, and where none was measured.

    Args:
      lines: of one network and one objective, with `size` and `validation_loss`.
      size: share of float32's bits.
    """
    pairs = sorted((line["size"], line["validation_loss"]) for line in lines)
    sizes, losses = np.log(np.asarray(pairs).reshape(-1, 2)).T
    if not pairs or not sizes[0] <= np.log(size) <= sizes[-1]:
        return float("nan")
    return float(np.exp(np.interp(np.log(size), sizes, losses)))


def markdown(lines: list[Line]) -> str:
    """Two tables: of pruning at equal shares, and of few values at the baseline's sizes. Means over
    seeds, standard deviations, and in how many of them it is below the baseline's.
    """
    seeds = sorted({line["seed"] for line in lines})
    objectives = list(dict.fromkeys(line["objective"] for line in lines))
    shares = sorted({line["pruned"] for line in lines if "pruned" in line})
    values = sorted({line["values"] for line in lines if "values" in line})

    def of(field: str, seed: int, objective: str) -> list[Line]:
        own = (x for x in lines if x["seed"] == seed and x["objective"] == objective)
        return [x for x in own if field in x]

    def pruned(seed: int, objective: str, share: float) -> float:
        found = [x for x in of("pruned", seed, objective) if x["pruned"] == share]
        return found[0]["validation_loss"] if found else float("nan")

    def quantised(seed: int, objective: str, k: float) -> float:
        (size,) = (x["size"] for x in of("values", seed, "baseline") if x["values"] == k)
        return at_size(of("values", seed, objective), size)

    sizes = [
        fmean(x["size"] for x in lines if x["objective"] == "baseline" and x.get("values") == k)
        for k in values
    ]
    heads = [f"{k} values, {size:.1%}" for k, size in zip(values, sizes, strict=True)]
    return "\n\n".join(
        (
            _table("pruned", [f"{s:.0%}" for s in shares], shares, objectives, seeds, pruned),
            _table("size", heads, values, objectives, seeds, quantised),
        )
    )


def _table(
    name: str,
    heads: list[str],
    points: list[Any],
    objectives: list[str],
    seeds: list[int],
    loss: Callable[[int, str, Any], float],
) -> str:
    rows = [f"| {name} | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for objective in objectives:
        cells = []
        for point in points:
            own = [loss(seed, objective, point) for seed in seeds]
            base = [loss(seed, "baseline", point) for seed in seeds]
            pairs = [(x, b) for x, b in zip(own, base, strict=True) if x == x]
            spread = f" ± {stdev(x for x, _ in pairs):.3g}" if len(pairs) > 1 else ""
            wins = sum(x < b for x, b in pairs)
            mean = f"{fmean(x for x, _ in pairs):.3g}{spread}" if pairs else "outside"
            beats = f" ({wins}/{len(pairs)})" if pairs and objective != "baseline" else ""
            cells.append(mean + beats)
        rows.append(f"| {objective.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(rows)
