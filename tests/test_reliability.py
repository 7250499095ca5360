"""docs/reliability.md names tests that are there."""

import ast
import pathlib
import re

TESTS = pathlib.Path(__file__).parent


def test_every_test_that_a_promise_names_is_there() -> None:
    text = (TESTS.parent / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(\w+)`( \(slow\))?", text)
    assert len(named) > 20
    for file, name, slow in named:
        nodes = ast.walk(ast.parse((TESTS / file).read_text()))
        found = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == name]
        assert len(found) == 1, f"{file}::{name}"
        marks = list(map(ast.unparse, found[0].decorator_list))
        assert ("pytest.mark.slow" in marks) == bool(slow), f"{file}::{name}"
