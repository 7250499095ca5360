"""Measures the error of a file's weights on a split of the config's data.

python -m experiments.evaluate --file=out/digits/model.mrc --config=configs/digits.py --json
"""

import json
import pathlib

import jax
from absl import flags
from ml_collections import config_flags

from experiments import networks
from experiments.command import run
from experiments.data import load
from experiments.settings import Config
from mrc_jax import files
from mrc_jax.decode import decode, weights_sha256
from mrc_jax.errors import UsageError
from mrc_jax.sharing import tree_of


def evaluate(config: Config, file: str, manifest: str | None, split: str) -> dict[str, object]:
    """The error of the decoded weights, as a fraction, with the file's size and the weights'
    hash.
    """
    dataset = load(config.data, config.data_dir, hold_out=config.hold_out)
    net = networks.network(config, dataset)
    data = files.read(file)
    weights = decode(data, files.read(manifest) if manifest else None)
    like = jax.eval_shape(lambda: networks.initial_weights(net, dataset, 0))
    examples = getattr(dataset, split)
    if not len(examples.labels):
        raise UsageError(f"--split={split}: with hold_out = False there are none; take test")
    return {
        "file": pathlib.Path(file).name,
        "file_bytes": len(data),
        "weights_sha256": weights_sha256(weights),
        "split": split,
        "examples": len(examples.labels),
        "error": networks.error(net, tree_of(weights, like), examples),
    }


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    config = Config.from_config_dict(flags.FLAGS.config)
    found = evaluate(config, str(flags.FLAGS.file), flags.FLAGS.manifest, flags.FLAGS.split)
    if flags.FLAGS.json:
        print(json.dumps(found))
    else:
        print(f"{found['file_bytes']} bytes: {found['error']:.2%} of {found['examples']} wrong")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The config that the file was made with.")
    flags.DEFINE_string("file", None, "The .mrc file.")
    flags.DEFINE_string("manifest", None, "The network's manifest, if it is not in FILE.")
    flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "Which examples.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.mark_flags_as_required(["config", "file"])
    run(main)
