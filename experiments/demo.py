"""The demonstration: the digits network at several sizes, each decoded by a process without JAX,
in a table and a plot.

python -m experiments.demo --workdir=out/demo
"""

import dataclasses
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

from absl import flags

from configs import digits
from experiments import plot
from experiments.command import run
from experiments.run import compress
from experiments.settings import Config
from mrc_jax.errors import FormatError

SIZES = (300, 600, 1200)  # bytes; the middle one is the config's
_WITHOUT_JAX = """
import sys
sys.modules["jax"] = sys.modules["flax"] = None
from mrc_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def check(folder: pathlib.Path) -> None:
    """Decodes a run's file with NumPy alone, in a process that cannot import JAX.

    Raises:
      FormatError: the weights are not those that the run evaluated.
    """
    command = ["verify", str(folder / "model.mrc"), "--report", str(folder / "report.json")]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_JAX, *command], capture_output=True, text=True
    )
    if done.returncode:
        raise FormatError(f"{folder / 'model.mrc'}: {(done.stderr or done.stdout).strip()}")


def table(reports: list[dict[str, Any]]) -> str:
    """Bytes and test errors of the plain network, the posterior mean and the decoded file."""
    lines = [f"{'':34}{'bytes':>8}  {'smaller':>8}  {'test error':>10}"]
    dense = 4 * reports[0]["parameters"]
    lines.append(f"{'plain network, float32':34}{dense:>8}  {'':>8}  "
                 f"{reports[0]['plain_test_error']:>10.2%}")  # fmt: skip
    for report in reports:
        size = report["file_bytes"]
        lines.append(f"{f'posterior mean for {size} bytes':34}{'not coded':>8} {'':>8}  "
                     f"{report['posterior_mean_test_error']:>10.2%}")  # fmt: skip
        lines.append(f"{'  decoded file, checked without JAX':34}{size:>8}  "
                     f"{f'{dense / size:.0f} x':>8}  {report['test_error']:>10.2%}")  # fmt: skip
    return "\n".join(lines)


def demonstrate(workdir: pathlib.Path) -> None:
    """Does what is left of the demonstration, and prints its table."""
    start = time.monotonic()
    config = Config.from_config_dict(digits.get_config())
    reports = []
    for size in SIZES:
        folder = workdir / "runs" / str(size)
        one = dataclasses.replace(config, file_bytes=size, report_test=True)
        print(f"compressing the digits network to {size} bytes", file=sys.stderr, flush=True)
        reports.append(compress(one, folder))
        check(folder)
        if size == config.file_bytes:
            for name in ("model.mrc", "report.json"):
                shutil.copy(folder / name, workdir / name)
    plot.draw(reports, workdir / "rate.png", "Handwritten digits (UCI), 64-128-64-10 network")
    print(table(reports))
    print(f"{time.monotonic() - start:.0f} s; files, reports and rate.png are in {workdir}")


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    demonstrate(pathlib.Path(flags.FLAGS.workdir))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "out/demo", "Where the demonstration writes.")
    run(main)
