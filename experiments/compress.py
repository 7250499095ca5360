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

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run keeps everything it writes.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes that do the run together (docs/scaling.md)."
)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"unknown argument {argv[1]!r}; fields are --config.FIELD=VALUE")
    config = Config.from_config_dict(_CONFIG.value)
    if _DISTRIBUTED.value:
        hosts.start()
    report = compress(config, pathlib.Path(str(_WORKDIR.value)))
    if hosts.is_first():
        print(summary(report))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    run(main)
