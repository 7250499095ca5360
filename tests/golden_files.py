"""The golden files, for the tests that read them."""

import json
import pathlib

TESTS = pathlib.Path(__file__).parent
GOLDEN = TESTS / "golden"
FILES = json.loads((GOLDEN / "golden.json").read_text())


def golden(name: str) -> tuple[bytes, bytes | None]:
    """A golden file and, where it is in a file beside it, its manifest."""
    beside = FILES[name].get("manifest")
    return (GOLDEN / name).read_bytes(), (GOLDEN / beside).read_bytes() if beside else None


VALUES = [name for name in FILES if name.startswith("values")]  # of version 4
TURNED = [name for name in FILES if name.startswith("turned")]  # of version 5
BLOCKS = [name for name in FILES if name not in (*VALUES, *TURNED)]  # of versions 1 to 3
