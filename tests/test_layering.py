"""The walls between the rooms: who may import whom, who may know JAX, how large each may be."""

import ast
import graphlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mrc_jax"

# Decoding, inspecting and verifying need these alone, and NumPy.
NUMPY_ONLY = {
    "__init__",
    "budget",
    "blocks",
    "cli",
    "codelength",
    "container",
    "decode",
    "description",
    "errors",
    "files",
    "identity",
    "index_codes",
    "index_room",
    "manifest",
    "ordered_code",
    "rate_distortion",
    "recipe",
    "rotation",
    "rotation.ans",
    "rotation.corrections",
    "rotation.heads",
    "rotation.orthogonal",
    "rotation.residual",
    "rotation.turned_file",
    "rotation.turns",
    "shared_random",
    "value_code",
    "value_file",
}
# These have a half in JAX beside the NumPy half, and import it inside functions.
JAX_INSIDE_FUNCTIONS = {"blocks", "budget", "cli", "export", "shared_random", "sharing"}
TRAINING_PACKAGES = (
    "absl",
    "chex",
    "flax",
    "jax",
    "jaxlib",
    "matplotlib",
    "ml_collections",
    "optax",
    "orbax",
    "safetensors",
    "tensorflow_datasets",
)
BANNED_NAMES = {"utils", "helpers", "common", "misc", "base"}
MAX_FILE_LINES = 280
MAX_FUNCTION_LINES = 60


def _module_name(path: pathlib.Path) -> str:
    """models/lenet5.py -> models.lenet5, models/__init__.py -> models, __init__.py -> __init__."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def _modules() -> dict[str, ast.Module]:
    return {
        _module_name(path.relative_to(PACKAGE)): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = _modules()


def _imported(node: ast.AST) -> Iterator[str]:
    """The full dotted names that a statement imports, and the package for its attributes."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        assert node.module is not None
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full.removeprefix("mrc_jax.") in MODULES else node.module


def _inner_imports(module: str) -> set[str]:
    """The modules of the package that a module imports anywhere, inside functions included."""
    names = {name for node in ast.walk(MODULES[module]) for name in _imported(node)}
    inner = {name for name in names if name.split(".")[0] == "mrc_jax"}
    return {name.removeprefix("mrc_jax.") if "." in name else "__init__" for name in inner}


def _at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported, so not those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _at_module_level(child)


def _outer_packages(nodes: Iterator[ast.AST]) -> set[str]:
    """The packages imported that are neither this one nor the standard library's."""
    packages = {name.split(".")[0] for node in nodes for name in _imported(node)}
    return packages - sys.stdlib_module_names - {"mrc_jax"}


def _listed() -> dict[str, set[str]]:
    """The table of docs/architecture.md whose columns are module, job and may import."""
    rows: dict[str, set[str]] = {}
    inside = False
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if [cell.lower() for cell in cells] == ["module", "job", "may import"]:
            inside = True
        elif inside and not line.startswith("|"):
            break
        elif inside and not set(line) <= set("|-: "):
            module, _, imports = cells
            name = _module_name(pathlib.Path(module.strip("`")))
            assert name not in rows, f"{name} has two rows"
            rows[name] = (
                set() if imports == "—" else {part.strip(" `") for part in imports.split(",")}
            )
    assert rows, "docs/architecture.md has no table with the columns module, job, may import"
    return rows


def test_the_architecture_table_has_a_row_for_each_module() -> None:
    assert sorted(_listed()) == sorted(MODULES)


def test_each_module_imports_exactly_what_the_architecture_table_lists() -> None:
    listed = _listed()
    wrong = {
        module: {"imports": sorted(_inner_imports(module)), "table": sorted(listed[module])}
        for module in MODULES.keys() & listed.keys()
        if _inner_imports(module) != listed[module]
    }
    assert not wrong


def test_imports_go_one_way() -> None:
    graph = {module: _inner_imports(module) for module in MODULES}
    assert set().union(*graph.values()) <= MODULES.keys()
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("module", sorted(NUMPY_ONLY | JAX_INSIDE_FUNCTIONS))
def test_the_decoder_side_imports_only_numpy_at_module_level(module: str) -> None:
    nodes = list(_at_module_level(MODULES[module]))
    assert _outer_packages(iter(nodes)) <= {"numpy"}
    inner = {name for node in nodes for name in _imported(node) if name.startswith("mrc_jax.")}
    assert {name.removeprefix("mrc_jax.") for name in inner} <= NUMPY_ONLY | JAX_INSIDE_FUNCTIONS


@pytest.mark.parametrize("module", sorted(NUMPY_ONLY - JAX_INSIDE_FUNCTIONS))
def test_the_decoder_itself_never_imports_jax(module: str) -> None:
    assert _outer_packages(ast.walk(MODULES[module])) <= {"numpy"}


def test_the_decoder_and_the_command_line_import_with_jax_unimportable() -> None:
    code = "import sys\n"
    code += f"sys.modules.update(dict.fromkeys({TRAINING_PACKAGES!r}))\n"
    code += "import mrc_jax, mrc_jax.decode, mrc_jax.cli\n"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_training_name_without_jax_names_the_extra_to_install() -> None:
    code = "import sys\n"
    code += f"sys.modules.update(dict.fromkeys({TRAINING_PACKAGES!r}))\n"
    code += "import mrc_jax\n"
    code += "try:\n    mrc_jax.Posterior\nexcept ImportError as error:\n    print(error)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "mrc_jax[train]" in done.stdout


def test_commands_define_their_flags_only_when_they_run() -> None:
    """absl's flags are of a whole process: two modules that defined the same one on import could
    not be imported together.
    """
    early = {
        str(path.relative_to(ROOT)): [ast.unparse(call.func) for call in calls]
        for path in sorted((ROOT / "experiments").rglob("*.py"))
        if (calls := _definitions_of_flags(ast.parse(path.read_text())))
    }
    assert not early


def _definitions_of_flags(module: ast.Module) -> list[ast.Call]:
    """The calls of DEFINE_.. outside `if __name__ == "__main__"`."""
    guarded = "__name__ == '__main__'"
    rest = [
        s for s in module.body if not (isinstance(s, ast.If) and ast.unparse(s.test) == guarded)
    ]
    return [
        node
        for statement in rest
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ".DEFINE_" in ast.unparse(node.func)
    ]


def test_a_flag_defined_on_import_is_found() -> None:
    early = ast.parse("X = flags.DEFINE_bool('x', 1, '')\nif __name__ == '__main__':\n    run()")
    late = ast.parse("if __name__ == '__main__':\n    flags.DEFINE_bool('x', 1, '')")
    assert len(_definitions_of_flags(early)) == 1 and not _definitions_of_flags(late)


@pytest.mark.parametrize("folder", ["mrc_jax", "experiments"])
def test_files_and_functions_stay_small(folder: str) -> None:
    too_long = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text()
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            too_long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not too_long


def test_no_room_has_a_name_that_says_nothing() -> None:
    for folder in ("mrc_jax", "experiments", "configs", "tests"):
        names = {path.stem for path in (ROOT / folder).rglob("*")}
        assert not names & BANNED_NAMES
