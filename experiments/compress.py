"""Trains, codes, writes and checks one network as a config says.

python -m experiments.compress --config=configs/digits.py --workdir=out/digits
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from experiments import hosts
from experiments.command import run
from experiments.run import compress, summary
from experiments.settings import Config
from mrc_jax.errors import UsageError


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"unknown argument {argv[1]!r}; fields are --config.FIELD=VALUE")
    config = Config.from_config_dict(flags.FLAGS.config)
    if flags.FLAGS.distributed:
        hosts.start()
    report = compress(config, pathlib.Path(str(flags.FLAGS.workdir)))
    if hosts.is_first():
        print(summary(report))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The run's config file.")
    flags.DEFINE_string("workdir", None, "Where the run keeps everything it writes.")
    flags.DEFINE_bool(
        "distributed", False, "One of several processes that do the run together (docs/scaling.md)."
    )
    flags.mark_flags_as_required(["config", "workdir"])
    run(main)
