"""The pictures and the table of docs/how_it_works.md, a function each, of numbers of
`coding_cases` and `coding_run`.
"""

from typing import Any

import numpy as np

from experiments.coding_cases import Case, Draw, Law, Ordered, Weight
from experiments.coding_run import Run
from mrc_jax.codelength import (
    likely_variance_nats2,
    lower_bound_bits,
    ordered_bucket_probabilities,
)

PRIOR, POSTERIOR, CHOSEN = "0.55", "tab:blue", "tab:red"


def one_weight(figure: Any, one: Weight, drawn: Draw) -> None:
    """Prior, posterior and candidates of one weight; the probability of each candidate."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    w = np.linspace(-3.2, 3.2, 1001)
    left.fill_between(w, _normal(w, 0, 1), color=PRIOR, alpha=0.35, label="prior p = N(0, 1)")
    label = f"posterior q = N({one.mean:.2f}, {one.deviation:.2f}²)"
    left.plot(w, _normal(w, one.mean, one.deviation), color=POSTERIOR, label=label)
    K, chosen = len(drawn.values), drawn.chosen
    label = f"K = {K} candidates, drawn from p"
    left.plot(drawn.values, np.full(K, -0.1), "|", color="k", ms=9, label=label)
    at = drawn.values[chosen]
    left.plot(at, -0.1, "v", color=CHOSEN, ms=8, label=f"the chosen one, k = {chosen}")
    left.axhline(0, color="k", lw=0.6)
    left.set(xlabel="value of the weight, w", ylabel="density", ylim=(-0.25, None))
    left.legend(fontsize="small", loc="upper left")
    right.vlines(np.arange(K), 0, drawn.shares, color="k", lw=2)
    right.vlines(chosen, 0, drawn.shares[chosen], color=CHOSEN, lw=3)
    said = f"drawn by these\nprobabilities: k = {chosen}"
    right.text(0.04, 0.96, said, transform=right.transAxes, va="top", color=CHOSEN)
    right.set(xlabel="index of the candidate, k", ylim=(0, None))
    right.set_ylabel("probability of being chosen,\nq(w) / p(w) over its sum")


def laws(figure: Any, measured: dict[Case, list[Law]]) -> None:
    """Histograms of coded weights beside the posterior, a row for each case."""
    rows = figure.subplots(len(measured), 3, sharex=True, sharey=True, squeeze=False)
    x, edges = np.linspace(-6, 4, 401), np.linspace(-6, 4, 51)
    for row, (case, found) in zip(rows, measured.items(), strict=True):
        for axes, law in zip(row, found, strict=True):
            weights = np.full(len(law.standard), 1 / len(law.standard) / (edges[1] - edges[0]))
            axes.hist(law.standard, edges, weights=weights, color=CHOSEN, alpha=0.45, label="coded")
            axes.plot(x, _normal(x, 0, 1), color=POSTERIOR, label="posterior q")
            extra = law.bits - round(case.block_bits)
            axes.set_title(f"{case.label}: K = 2^(KL + {extra})", fontsize="medium")
            said = f"mean {law.standard.mean():+.2f}\ndeviation {law.standard.std():.2f}"
            outside = np.mean((law.standard < edges[0]) | (law.standard > edges[-1]))
            said += f"\noutside {outside:.1%}" * bool(outside >= 0.001)
            axes.text(0.03, 0.95, said, transform=axes.transAxes, va="top", fontsize="small")
        row[0].set_ylabel("density")
        row[-1].legend(fontsize="small", loc="upper right")
    for axes in rows[-1]:
        axes.set_xlabel("(w - mean of q) / deviation of q")


def index_bits(
    figure: Any, case: Case, log2_weights: np.ndarray, errors: dict[Case, np.ndarray]
) -> None:
    """How rare candidates are that look like a sample of q, and the error left by too few."""
    left, right = figure.subplots(1, 2)
    least = np.arange(-10, np.ceil(log2_weights.max()) + 1, 0.5)
    above = [log2_weights >= x for x in least]
    of_prior = np.asarray([np.mean(kept) for kept in above])
    of_q = np.asarray([np.mean(np.exp2(log2_weights) * kept) for kept in above])
    KL = case.block_bits
    left.plot(least, of_q, color=POSTERIOR, lw=1.8, label="samples of q")
    left.plot(least, of_prior, color=PRIOR, lw=1.8, label="candidates, drawn from p")
    left.plot(least, np.exp2(-least), "k--", lw=0.8, label="2^-x")
    left.axvline(KL, color="k", ls=":", label=f"x = KL = {KL:g} bits")
    left.set(yscale="log", ylim=(2e-5, 2), xlabel="x, bits")
    left.set_ylabel("share with log2 q(w) / p(w) of at least x")
    left.set_title(f"a block of {case.label}", fontsize="medium")
    left.legend(fontsize="small", loc="lower left")
    for mark, (one, found) in zip("os^", errors.items(), strict=True):
        extra = np.arange(len(found)) - one.block_bits
        right.plot(extra, found, mark + "-", ms=4, label=f"{one.label}: KL = {one.block_bits:g}")
    right.axhline(1, color="k", lw=0.8)
    right.axvline(0, color="k", ls=":")
    right.set(yscale="log", xlabel="bits of the index - KL, bits")
    right.set_ylabel("mean squared distance from q's mean,\nover q's variance")
    right.legend(fontsize="small")


def budget(figure: Any, run: Run) -> None:
    """Where three blocks' weights lie in a kernel; KL and betas of all blocks in training."""
    from matplotlib.colors import ListedColormap

    top, bottom = list(figure.subfigures(2, 1, height_ratios=(4, 5)))
    axes = top.subplots()
    shown = np.zeros_like(run.block_of_kernel)
    for number in range(3):
        shown[run.block_of_kernel == number] = number + 1
    axes.pcolormesh(
        shown.T, cmap=ListedColormap(["0.92", "tab:red", "tab:blue", "tab:green"]), edgecolor="w"
    )
    inputs, units = run.block_of_kernel.shape[:2]
    axes.set(xlabel="input", ylabel="unit")
    blocks = run.kl_bits.shape[1]
    axes.set_title(
        f"weights of blocks 0 (red), 1 (blue) and 2 (green) of {blocks} in a kernel of "
        f"{inputs} x {units}",
        fontsize="medium",
    )
    left, right = bottom.subplots(1, 2)
    for one, values in ((left, run.kl_bits), (right, run.betas)):
        low, high = np.min(values, axis=1), np.max(values, axis=1)
        one.fill_between(run.steps, low, high, color=POSTERIOR, alpha=0.25, label="all blocks")
        one.plot(run.steps, np.median(values, axis=1), color=POSTERIOR, label="median block")
        one.set_xlabel("training step")
    left.axhline(run.budget_bits, color=CHOSEN, ls="--", label="budget")
    left.set(ylabel="KL of a block, bits", ylim=(0, None))
    right.set(ylabel="beta of a block", yscale="log")
    left.legend(fontsize="small")
    right.legend(fontsize="small")


def refinement(figure: Any, run: Run) -> None:
    """The loss while blocks are coded, with and without refinement."""
    axes = figure.subplots()
    done = np.arange(len(run.refined))
    axes.plot(done, run.alone, color="0.4", ls="--", label="no steps between blocks")
    axes.plot(done, run.refined, color=POSTERIOR, label="the other blocks refined after each")
    axes.axhline(run.refined[0], color="k", ls=":", lw=0.9, label="before coding")
    axes.set(xlabel="blocks coded", ylabel="training loss, nats an example", ylim=(0, None))
    axes.legend(fontsize="small", loc="upper left")


def ordered(figure: Any, case: Case, bits: int, found: Ordered) -> None:
    """Which positions are chosen, and what an index then costs."""
    left, right = figure.subplots(1, 2)
    bucket = np.arange(bits + 1)
    left.bar(bucket - 0.2, found.fixed, 0.4, color=PRIOR, label="sample: any index alike")
    left.bar(bucket + 0.2, found.ordered, 0.4, color=CHOSEN, label="ordered")
    nats = case.block_bits * np.log(2)
    variance = likely_variance_nats2(nats, case.size)
    model = ordered_bucket_probabilities(nats, bits, variance)
    left.plot(bucket, model, "k.:", label="ordered, the planner's model")
    left.set(xlabel="binary digits of the position", ylabel="share of blocks")
    left.legend(fontsize="small")
    right.plot(bucket, found.cost_bits, "o-", color=CHOSEN, label="ordered, by position")
    right.axhline(bits, color=PRIOR, lw=2, label=f"fixed: {bits} bits")
    label = f"ordered, mean of the field: {found.field_bits:.1f} bits"
    right.axhline(found.field_bits, color=CHOSEN, ls="--", label=label)
    bound = lower_bound_bits(nats)
    right.axhline(bound, color="k", ls=":", label=f"KL: {bound:.1f} bits")
    right.set(xlabel="binary digits of the position", ylabel="bits in the file")
    right.legend(fontsize="small")


def table(measured: dict[Case, list[Law]]) -> list[str]:
    """The table of docs/how_it_works.md, line by line."""
    lines = [
        "| block | KL, bits | K | mean | deviation | squared distance | mean log2 q / p, bits |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, laws in measured.items():
        for law in laws:
            numbers = (law.standard.mean(), law.standard.std(), law.error, law.log2_weight)
            cells = [case.label, f"{case.block_bits:g}", f"2^{law.bits}"]
            lines.append(f"| {' | '.join([*cells, *(f'{x:.2f}' for x in numbers)])} |")
    return lines


def _normal(x: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))
