"""Compares a sweep's finished runs: what each does without, or has in another way. Reads validation
data only, as they are and distorted.

python -m experiments.ablation --data_dir=DIR out/ablation
"""

import pathlib
import re
from statistics import fmean, stdev
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import distort, networks
from experiments.command import run
from experiments.data import Dataset, Split, load
from experiments.parameterisations import held_out_config, last_eighth
from experiments.record import read_json, read_lines
from experiments.settings import Config
from experiments.table import run_folders
from mrc_jax import files
from mrc_jax.decode import decode
from mrc_jax.errors import UsageError
from mrc_jax.sharing import tree_of

COPIES = 15  # distorted ones of each validation image
_SEED = 1 << 20  # of their distortions, which no run's training images have
_NOTHING = "nothing"
_HEAD = (
    "differs in", "seeds", "bytes", "loss before coding", "posterior mean", "decoded",
    "decoded, distorted images", "loss on these", "seconds",
)  # fmt: skip


class Line(NamedTuple):
    """What is compared of a run; losses in nats an example, errors as fractions.

    Attributes:
      case: what its folder's name says but for the seed.
      file_bytes: of its file.
      loss: mean of the last eighth of training, before coding.
      mean_error, error: on the validation examples, of the posterior's mean and as decoded.
      distorted_error, distorted_loss: on distorted copies of them, as decoded.
      seconds: of training the posterior and coding.
    """

    case: str
    file_bytes: int
    loss: float
    mean_error: float
    error: float
    distorted_error: float
    distorted_loss: float
    seconds: float


def line(folder: pathlib.Path, config: Config, dataset: Dataset, copies: Split) -> Line:
    """Reads a finished run's work directory and evaluates its file.

    Args:
      folder, config: of the run.
      dataset: the config's.
      copies: distorted ones of its validation examples.
    """
    report = read_json(folder / "report.json")
    train = [x["loss"] for x in read_lines(folder / "metrics.jsonl") if x["phase"] == "train"]
    net = networks.network(config, dataset)
    like = jax.eval_shape(lambda: networks.initial_weights(net, dataset, 0))
    weights = decode(files.read(folder / "model.mrc"), files.read(folder / "model.manifest"))
    tree = tree_of(weights, like)
    shares = networks.probabilities(net, tree, copies.inputs)
    return Line(
        re.sub(r",?seed=\d+$", "", folder.name) or _NOTHING,
        report["file_bytes"],
        last_eighth(train),
        report["posterior_mean_validation_error"],
        networks.error(net, tree, dataset.validation),
        float(np.mean(np.argmax(shares, axis=1) != copies.labels)),
        networks.loss_of_shares(shares, copies.labels),
        sum(report["seconds"][phase] for phase in ("train", "code")),
    )


def markdown(lines: list[Line]) -> str:
    """A row for each case: means over its seeds; ± is the standard deviation of a seed."""
    groups: dict[str, list[Line]] = {}
    for one in sorted(lines, key=lambda one: (one.case != _NOTHING, one.case)):
        groups.setdefault(one.case, []).append(one)
    rows = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for case, group in groups.items():
        cells: list[Any] = [case, len(group), f"{round(fmean(x.file_bytes for x in group)):,}"]
        cells += [f"{fmean(x.loss for x in group):.4f}"]
        cells += [f"{fmean(x.mean_error for x in group):.2%}"]
        cells += [f"{_spread([100 * x.error for x in group], 2)} %"]
        cells += [f"{_spread([100 * x.distorted_error for x in group], 2)} %"]
        cells += [_spread([x.distorted_loss for x in group], 4)]
        cells += [f"{fmean(x.seconds for x in group):.0f}"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def _spread(values: list[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) != 2:
        raise UsageError("give one sweep's work directory")
    folders = [x for x in run_folders(pathlib.Path(argv[1])) if (x / "report.json").exists()]
    if not folders:
        raise UsageError(f"{argv[1]}: no run there is finished")
    lines, dataset, copies = [], None, None
    for folder in folders:
        config = held_out_config(read_json(folder / "report.json"), flags.FLAGS.data_dir)
        if dataset is None or copies is None:
            dataset = load(config.data, config.data_dir)
            copies = distort.with_copies(dataset.validation, COPIES, _SEED, originals=0)
        lines.append(line(folder, config, dataset, copies))
    print(markdown(lines))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", "", "Where the files of the runs' data set are.")
    run(main)
