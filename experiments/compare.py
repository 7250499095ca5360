"""Compares methods on one trained network, in bytes of files that are decoded again.

python -m experiments.compare --config=configs/compare/digits.py --workdir=out/compare

Each member of the config is a method with its settings; what is finished is not run again, so the
same command goes on with a comparison that was stopped. Settings are chosen by validation errors;
then `--measure --config.base.report_test=True` reads the test set for the files that are there.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from experiments.bench import Bench
from experiments.command import run
from mrc_jax.errors import UsageError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The comparison's config file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is kept that it writes.")
_TABLE = flags.DEFINE_bool("table", False, "Make the table again from the folders; run nothing.")

_MEASURE = flags.DEFINE_bool(
    "measure", False, "Read the test set for what is done, with report_test; run nothing."
)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"unknown argument {argv[1]!r}; fields are --config.FIELD=VALUE")
    bench = Bench(_CONFIG.value, pathlib.Path(str(_WORKDIR.value)))
    if not _TABLE.value:
        bench.go(is_new_run=not _MEASURE.value)
    print(bench.write())


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    run(main)
