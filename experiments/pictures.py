"""Draws the pictures of docs/how_it_works.md, and prints its table.

python -m experiments.pictures --out=docs/pictures

It takes two or three minutes of one core; with --quick, a few blocks and steps show that all of it
runs.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments import coding_cases as cases
from experiments import coding_pictures as pictures
from experiments import coding_run
from experiments.command import run
from mrc_jax.errors import UsageError

_ORDERED_BITS = 12


def draw_all(out: pathlib.Path, quick: bool) -> None:
    """Writes every picture into a folder, which is made if need be.

    Args:
      out: the folder.
      quick: few blocks and steps.
    """
    out.mkdir(parents=True, exist_ok=True)
    one = cases.weight(cases.ALONE.kl_bits)
    drawn = cases.draw_one(one, 6)
    _save(out / "one_weight.png", (9, 3.8), pictures.one_weight, one, drawn)
    counts = {cases.ALONE: 20_000, cases.LARGE: 4000}
    measured = {
        case: [
            cases.law(case, round(case.block_bits) + extra, 100 if quick else count)
            for extra in cases.EXTRA_BITS
        ]
        for case, count in counts.items()
    }
    print("\n".join(pictures.table(measured)))
    _save(out / "law.png", (9, 5), pictures.laws, measured)
    errors = {
        case: cases.errors_by_bits(case, round(case.block_bits) + 5, 20 if quick else 2000)
        for case in (cases.ALONE, cases.SMALL, cases.LARGE)
    }
    log2_weights = cases.many_log2_weights(cases.LARGE, 12 if quick else 18)
    _save(out / "index_bits.png", (9, 3.8), pictures.index_bits, cases.LARGE, log2_weights, errors)
    found = coding_run.train_and_code(**({"steps": 400, "refine_steps": 1} if quick else {}))
    _save(out / "budget.png", (9, 6), pictures.budget, found)
    _save(out / "refinement.png", (6.5, 3.6), pictures.refinement, found)
    positions = cases.ordered_positions(cases.LARGE, _ORDERED_BITS, 50 if quick else 4000)
    _save(out / "ordered.png", (9, 3.8), pictures.ordered, cases.LARGE, _ORDERED_BITS, positions)


def _save(path: pathlib.Path, inches: Any, draw: Callable[..., None], *numbers: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    figure = pyplot.figure(figsize=inches, dpi=110, layout="constrained")
    draw(figure, *numbers)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    few_colours = Image.fromarray(drawn).quantize(128, dither=Image.Dither.NONE)
    few_colours.save(path, optimize=True)  # a third of the bytes of all colours
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"{argv[1]}: is no flag; this command takes flags alone")
    draw_all(pathlib.Path(str(flags.FLAGS.out)), bool(flags.FLAGS.quick))


if __name__ == "__main__":
    flags.DEFINE_string("out", "docs/pictures", "The folder to write.")
    flags.DEFINE_bool("quick", False, "Few blocks and steps.")
    run(main)
