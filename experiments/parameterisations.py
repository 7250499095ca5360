"""Compares finished runs of the posterior's parameterisations: loss against steps, error after
coding, and error when the smallest decoded weights are set to zero. Reads validation data only.

python -m experiments.parameterisations --picture=docs/mean_kl.png out/mean_kl/*
"""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import networks
from experiments.command import run
from experiments.data import load
from experiments.record import read_json, read_lines
from experiments.settings import Config
from mrc_jax import files
from mrc_jax.decode import decode
from mrc_jax.errors import UsageError
from mrc_jax.sharing import tree_of

ZEROED = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the decoded weights, the smallest
_NAMES = {"mean_variance": "mean-variance", "mean_kl": "Mean-KL"}
_AT_BUDGET = 1.01  # of the budget: a block's mean KL, above which the loss is dotted


class Finished(NamedTuple):
    """What a run left behind.

    Attributes:
      report: report.json.
      steps, loss, kl: of each training line of metrics.jsonl: steps done, mean loss in nats an
        example, and mean KL of a block as a share of its budget.
      errors: validation error, as a fraction, with each share of ZEROED of the weights zeroed.
    """

    report: dict[str, Any]
    steps: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    errors: list[float]

    @property
    def settings(self) -> tuple[str, int, float]:
        """All in which the runs compared differ, but for the seed."""
        config = self.report["config"]
        return config["parameterisation"], config["steps"], config["learning_rate"]


def finished(folder: pathlib.Path, data_dir: str = "") -> Finished:
    """Reads a run's work directory and evaluates its file."""
    report = read_json(folder / "report.json")
    lines = read_lines(folder / "metrics.jsonl")
    columns = [
        np.asarray([line[name] for line in lines if line["phase"] == "train"])
        for name in ("done", "loss", "kl_nats")
    ]
    config = held_out_config(report, data_dir)
    dataset = load(config.data, config.data_dir)
    net = networks.network(config, dataset)
    like = jax.eval_shape(lambda: networks.initial_weights(net, dataset, 0))
    weights = decode(files.read(folder / "model.mrc"), files.read(folder / "model.manifest"))
    errors = [
        networks.error(net, tree_of(zeroed(weights, share), like), dataset.validation)
        for share in ZEROED
    ]
    return Finished(report, columns[0], columns[1], columns[2] / report["budget_nats"], errors)


def held_out_config(report: dict[str, Any], data_dir: str) -> Config:
    """The config of a report, with its data's place; UsageError where it held nothing out."""
    config = Config.from_config_dict(ConfigDict({**report["config"], "data_dir": data_dir}))
    config.check_held_out()
    return config


def last_eighth(losses: Sequence[float] | np.ndarray) -> float:
    """Mean loss of the last eighth of training."""
    return float(np.mean(losses[-max(len(losses) // 8, 1) :]))


def zeroed(weights: dict[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """The weights with the smallest of them all, by magnitude, set to zero.

    Args:
      weights: arrays by path.
      share: of their number, 0 to 1; weights that tie with the last of them go too.
    """
    sizes = np.sort(np.concatenate([np.abs(w).ravel() for w in weights.values()]))
    count = round(share * len(sizes))
    if count == 0:
        return weights
    return {path: np.where(np.abs(w) > sizes[count - 1], w, 0) for path, w in weights.items()}


def table(runs: list[list[Finished]]) -> str:
    """A Markdown row for each list of runs of equal settings: means over the seeds, with the
    standard deviation of the error after coding.
    """
    shares = " | ".join(f"{share:.0%} zeroed" for share in ZEROED[1:])
    head = (
        "| parameterisation | steps | rate | seeds | loss at the end | posterior mean | decoded | "
    )
    out = [head + shares + " |", "|---" * (6 + len(ZEROED)) + "|"]
    for group in runs:
        form, steps, rate = group[0].settings
        loss = statistics.mean(last_eighth(r.loss) for r in group)
        mean = statistics.mean(r.report["posterior_mean_validation_error"] for r in group)
        errors = np.asarray([r.errors for r in group])
        spread = f" ± {np.std(errors[:, 0], ddof=1):.2%}" if len(group) > 1 else ""
        cells = [_NAMES[form], f"{steps:,}", f"{rate:g}", f"{len(group)}", f"{loss:.4f}"]
        cells += [f"{mean:.2%}", f"{errors[:, 0].mean():.2%}{spread}"]
        cells += [f"{x:.1%}" for x in errors[:, 1:].mean(axis=0)]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def draw(runs: list[list[Finished]], out: pathlib.Path) -> None:
    """Writes the picture: loss of the longest runs, errors after coding by steps, and errors of the
    longest runs by the share of weights zeroed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12.0, 3.8), layout="constrained")
    longest = max(group[0].settings[1] for group in runs)
    for color, form in zip(("tab:blue", "tab:orange"), _NAMES, strict=True):
        own = [group for group in runs if group[0].settings[0] == form]
        for group in own:
            if group[0].settings[1] == longest:
                _draw_longest(axes[0], axes[2], group, color)
        steps = [group[0].settings[1] for group in own]
        coded = [100 * np.mean([r.errors[0] for r in group]) for group in own]
        axes[1].plot(steps, coded, "o-", color=color, label=_NAMES[form])
        for group in own:
            each = [100 * r.errors[0] for r in group]
            axes[1].plot([group[0].settings[1]] * len(each), each, "_", color=color)
    axes[0].set(yscale="log", xlabel="training step", ylabel="loss, nats an example")
    axes[0].set_title("loss (dotted: KL above the budget)")
    axes[1].set(xlabel="training steps", ylabel="validation error, %", xscale="log")
    ticks = sorted({group[0].settings[1] for group in runs})
    axes[1].set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes[1].minorticks_off()
    axes[1].set_title("decoded file")
    axes[2].set(xlabel="smallest weights zeroed, %", ylabel="validation error, %")
    axes[2].set_title("decoded file, weights zeroed")
    for one in axes[:2]:
        one.legend(loc="upper right")
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def _draw_longest(loss: Any, zeroed: Any, group: list[Finished], color: str) -> None:
    steps, values = group[0].steps, np.mean([r.loss for r in group], axis=0)
    is_over = np.mean([r.kl for r in group], axis=0) > _AT_BUDGET
    rate = f"{_NAMES[group[0].settings[0]]}, rate {group[0].settings[2]:g}"
    loss.plot(steps, values, ":", color=color)
    loss.plot(steps, np.where(is_over, np.nan, values), "-", color=color, label=rate)
    errors = 100 * np.asarray([r.errors for r in group])
    zeroed.plot([100 * share for share in ZEROED], errors.mean(axis=0), "o-", color=color)
    zeroed.plot([100 * share for share in ZEROED], errors.T, "-", color=color, alpha=0.25)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) < 2:
        raise UsageError("give the work directories of finished runs")
    groups: dict[Any, list[Finished]] = {}
    for folder in argv[1:]:
        one = finished(pathlib.Path(folder), flags.FLAGS.data_dir)
        groups.setdefault(one.settings, []).append(one)
    runs = [groups[settings] for settings in sorted(groups)]
    print(table(runs))
    if flags.FLAGS.picture:
        draw(runs, pathlib.Path(flags.FLAGS.picture))


if __name__ == "__main__":
    flags.DEFINE_string("picture", "", "The picture to write, if any.")
    flags.DEFINE_string("data_dir", "", "Where the files of the runs' data set are.")
    run(main)
