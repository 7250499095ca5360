"""What the objectives of Gao et al. 2019 (arXiv 1810.06401) are worth on trained networks: the
cross-entropy after pruning and after k centroids a tensor, nothing trained after.

python -m experiments.objectives --config=configs/mnist_lenet5.py --config.data_dir=DIR \
    --workdir=out/objectives

Each seed is a network of its own; what is done is not done again. Losses are of the validation
split, and sizes are counted as the paper does (`mrc_jax.centres.k_centroids.quantised_bits`).
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import networks
from experiments.command import run
from experiments.data import Dataset, load
from experiments.methods import OBJECTIVES, Subject, few_values, importance_of, subject
from experiments.objectives_table import markdown
from experiments.run import opened
from experiments.settings import Config
from mrc_jax import files
from mrc_jax.centres import importance
from mrc_jax.centres.k_centroids import quantised_bits
from mrc_jax.errors import UsageError

PRUNED = (0.5, 0.6, 0.7, 0.8, 0.9)
VALUES = (2, 3, 4, 6, 8, 16)


def measured(own: Subject, dataset: Dataset, objective: str, examples: int) -> Iterator[Any]:
    """A line for each share that is pruned and each number of values.

    Args:
      own: the network.
      dataset: of which the validation split is used.
      objective: one of OBJECTIVES.
      examples: of the training data, by which it is estimated.
    """
    found = jax.tree.map(np.asarray, importance_of(own, objective, examples))
    weights, whole = jax.tree.map(np.asarray, own.weights), {"seed": own.seed}
    size = sum(leaf.size for leaf in jax.tree.leaves(weights))
    for share in PRUNED:
        tree, said = importance.prune(weights, found, share), {"pruned": share}
        yield {**whole, "objective": objective, **said, **_errors(own, tree, dataset)}
    for values in VALUES:
        tree = few_values(weights, found, values, is_pruned=False)
        counts = [np.unique(leaf, return_counts=True)[1] for leaf in jax.tree.leaves(tree)]
        bits = sum(quantised_bits(each) for each in counts)
        said = {"values": values, "size": bits / (32 * size)}
        yield {**whole, "objective": objective, **said, **_errors(own, tree, dataset)}


def _errors(own: Subject, weights: Any, dataset: Dataset) -> dict[str, float]:
    return {
        "validation_loss": networks.mean_loss(own.net, weights, dataset.validation),
        "validation_error": networks.error(own.net, weights, dataset.validation),
    }


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines that are there."""
    path = workdir / "objectives.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(workdir: pathlib.Path, own: Subject, dataset: Dataset, examples: int) -> None:
    """Measures a network by the objectives that are not there, and writes them down."""
    for objective in OBJECTIVES:
        lines = read(workdir)
        if not any(x["seed"] == own.seed and x["objective"] == objective for x in lines):
            lines += measured(own, dataset, objective, examples)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            files.write(workdir / "objectives.jsonl", text.encode())
            print(f"seed {own.seed}: {objective}", flush=True)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"unknown argument {argv[1]!r}; fields are --config.FIELD=VALUE")
    given = flags.FLAGS
    config, workdir = given.config, pathlib.Path(str(given.workdir))
    for seed in range(0 if given.table else given.seeds):
        config.seed = seed
        base = dataclasses.replace(Config.from_config_dict(config), factored=False)
        base.check_held_out()
        with opened(base, workdir / f"seed{seed}" / "plain") as job:
            data = job.data()
            job.bar.close()
            own = subject(job.net, job.plain, data, seed)
        add(workdir, own, load(base.data, base.data_dir), given.examples)
    print(markdown(read(workdir)))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The config of the plain networks.")
    flags.DEFINE_string("workdir", None, "Where everything is kept that it writes.")
    flags.DEFINE_integer("seeds", 3, "Networks, of seeds 0, 1, ...")
    flags.DEFINE_integer("examples", 2000, "By which objectives are estimated.")
    flags.DEFINE_bool("table", False, "Make the table again from what is there; run nothing.")
    flags.mark_flags_as_required(["config", "workdir"])
    run(main)
