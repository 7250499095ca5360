"""The tutorial runs from a clean namespace, and is committed with what it printed and drew."""

import base64
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tutorial.ipynb").read_text()
CELLS = json.loads(TEXT)["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_has_its_outputs_and_no_path_of_a_machine() -> None:
    outputs = [out for cell in CELLS for out in cell.get("outputs", [])]
    printed = "".join(line for out in outputs for line in out.get("text", []))
    assert printed.count(" x smaller: ") >= 3 and "Error" not in printed
    (png,) = [out["data"]["image/png"] for out in outputs if "data" in out]
    picture = base64.b64decode(png)
    assert picture.startswith(b"\x89PNG") and len(picture) < 80_000
    assert not any(out["output_type"] == "error" for out in outputs)
    for word in ("/home", "/root", "/tmp", "/work", "/Users", "site-packages"):
        assert word not in TEXT


@pytest.mark.slow
def test_the_notebook_runs_from_a_clean_namespace(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(ROOT / "docs")  # where Jupyter runs it
    names: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(CODE):
        exec(compile(source, f"tutorial.ipynb, program {number}", "exec"), names)
    files, errors = names["files"], names["errors"]
    assert isinstance(files, dict) and isinstance(errors, dict) and len(files) >= 3
    for size, file in files.items():
        assert 0.97 * size <= len(file) <= size
    assert errors[max(files)] < errors[min(files)] < 0.5  # a guess of ten classes errs in 0.9
    assert errors[max(files)] < 0.08
    assert float(names["plain_error"]) < 0.06  # type: ignore[arg-type]
