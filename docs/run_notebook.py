"""Runs the code of a notebook without Jupyter, and keeps what its cells printed and drew.

python docs/run_notebook.py docs/tutorial.ipynb
"""

import base64
import contextlib
import io
import json
import pathlib
import sys
from typing import Any


def run_cells(notebook: dict[str, Any], names: dict[str, Any]) -> None:
    """Executes the code cells in their order and replaces their outputs.

    Args:
      notebook: the parsed JSON, of format 4; changed in place.
      names: the namespace that cells run in.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        cell["outputs"] = []
        if text := printed.getvalue():
            lines = text.splitlines(keepends=True)
            cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": lines})
        for figure in map(pyplot.figure, pyplot.get_fignums()):
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=80, metadata={"Software": None})
            data = {"image/png": base64.b64encode(png.getvalue()).decode() + "\n"}
            cell["outputs"].append({"data": data, "metadata": {}, "output_type": "display_data"})
        pyplot.close("all")


def main(path: pathlib.Path) -> None:
    """The command.

    Args:
      path: of the notebook, which is written again.
    """
    notebook = json.loads(path.read_text())
    run_cells(notebook, {"__name__": "__main__"})
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
