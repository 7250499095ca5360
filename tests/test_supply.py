"""What is installed: pinned, hashed, licensed; and what the CI job may do."""

import configparser
import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
PYTHONS = ("py311", "py312")
COPYLEFT = re.compile(r"GPL|EUPL|SSPL|CC-BY-(NC|SA)")


def name_of(requirement: str) -> str:
    """A requirement's project, spelled as package indexes do."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0].lower())


def pins(python: str) -> dict[str, str]:
    """The lines of each pinned project."""
    text = (ROOT / f"constraints/{python}.txt").read_text()
    lines = "".join(line for line in text.splitlines(True) if not line.startswith("#"))
    return {name_of(pin): pin for pin in re.split(r"\n(?=\S)", lines.strip())}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_is_one_version_with_hashes(python: str) -> None:
    assert len(pins(python)) > 50
    for pin in pins(python).values():
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( \\\n +--hash=sha256:[0-9a-f]{64})+", pin), pin


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_of_the_project_is_pinned(python: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = dict(config["options.extras_require"])
    extras.pop("fuzz", None)  # installed by hand, see CONTRIBUTING.md
    wanted = "\n".join([config["options"]["install_requires"], *extras.values()]).split()
    assert {name_of(requirement) for requirement in wanted} <= set(pins(python))


def test_every_pin_s_licence_is_listed_and_asks_nothing_of_this_project() -> None:
    rows = re.findall(
        r"^\| ([\w-]+) \| (.+) \|$", (ROOT / "docs/dependencies.md").read_text(), re.M
    )
    licences = dict(rows[1:])
    assert set(licences) == {name for python in PYTHONS for name in pins(python)}
    assert not [name for name, licence in licences.items() if COPYLEFT.search(licence)]


def test_the_ci_job_may_read_and_nothing_else() -> None:
    (workflow,) = (ROOT / ".github/workflows").iterdir()
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {"contents": "read"}
    for job in content["jobs"].values():
        assert "permissions" not in job
        checkouts = [s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout")]
        assert [s["with"]["persist-credentials"] for s in checkouts] == [False]
