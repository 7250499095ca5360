"""The README's own code blocks run as they stand."""

import pathlib
import re

import pytest

TEXT = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def _run(number: int, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), names)
    return names


def test_the_readme_has_three_programs() -> None:
    assert len(BLOCKS) == 3
    assert len(BLOCKS[0].strip().splitlines()) <= 24  # nine of them are imports and blank


def test_compressing_any_network_gives_a_file_that_works(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _run(0, tmp_path, monkeypatch)
    assert 0.97 * 250 <= (tmp_path / "model.mrc").stat().st_size <= 250
    assert float(names["accuracy"]) > 0.95  # type: ignore[arg-type]


def test_an_nnx_network_is_a_pure_function_of_its_tree(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _run(1, tmp_path, monkeypatch)
    assert 0.97 * 90 <= len(names["done"].file) <= 90  # type: ignore[attr-defined]
    predicted = names["apply"](names["weights"], names["inputs"])  # type: ignore[operator]
    assert (predicted.argmax(axis=1) == names["labels"]).mean() > 0.8


def test_a_loop_of_the_users_own_trains_and_codes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _run(2, tmp_path, monkeypatch)
    assert len(names["file"]) <= 60  # type: ignore[arg-type]
    outputs = names["net"].apply(names["weights"], names["inputs"])  # type: ignore[attr-defined]
    assert ((outputs - names["targets"]) ** 2).mean() < 0.3  # the targets' own variance is 8
