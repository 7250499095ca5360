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


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"unknown argument {argv[1]!r}; fields are --config.FIELD=VALUE")
    bench = Bench(flags.FLAGS.config, pathlib.Path(str(flags.FLAGS.workdir)))
    if not flags.FLAGS.table:
        bench.go(is_new_run=not flags.FLAGS.measure)
    print(bench.write())


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The comparison's config file.")
    flags.DEFINE_string("workdir", None, "Where everything is kept that it writes.")
    flags.DEFINE_bool("table", False, "Make the table again from the folders; run nothing.")
    flags.DEFINE_bool(
        "measure", False, "Read the test set for what is done, with report_test; run nothing."
    )
    flags.mark_flags_as_required(["config", "workdir"])
    run(main)
