"""The members of a sweep: what each is called, where it lies, and how far it is."""

import dataclasses
import difflib
import hashlib
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from experiments import record
from experiments.identity import differences
from experiments.settings import PLACES, Config
from mrc_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parents[1]
_FIELDS = ("base", "grid", "cases", "chained", "cluster")
_BESIDE = (*PLACES, "data_sha256", "started_from")  # the config, in a run's files
_MAX_NAME = 150  # a file system allows 255 bytes


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
      name: of its folder: the fields in which it differs from the base, and their values.
      config: of the run.
      folder: its work directory.
      after: the name of the member from which it starts, or ''.
    """

    name: str
    config: Config
    folder: pathlib.Path
    after: str = ""

    @property
    def command(self) -> list[str]:
        """The ordinary main job, which resumes by itself, on the config in the folder."""
        config = f"--config={ROOT / 'configs/sweeps/member.py'}:{self.folder / 'member.json'}"
        return [sys.executable, "-m", "experiments.compress", config, f"--workdir={self.folder}"]

    @property
    def status(self) -> str:
        """'done', 'failed', 'started' or 'waiting'."""
        return status(self.folder)


def status(folder: pathlib.Path) -> str:
    """How far the member in a folder is: 'done', 'failed', 'started' or 'waiting'."""
    marks = {"done": "report.json", "failed": "failure.json", "started": "config.json"}
    return next((name for name, file in marks.items() if (folder / file).exists()), "waiting")


def members_of(sweep: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Member]:
    """Every case of a sweep with every combination of its grid.

    Args:
      sweep: a config with the fields of configs/sweeps/digits_rate.py.
      workdir: the folder of the members' folders.

    Raises:
      UsageError: a field is unknown or a value impossible, in the sweep or in a member, or two
        members are the same.
    """
    for name in sweep:
        if name not in _FIELDS:
            near = difflib.get_close_matches(str(name), _FIELDS, 1) or _FIELDS
            raise UsageError(f"unknown field {name!r} of the sweep; did you mean {near[0]}?")
    base = sweep.get("base")
    if not isinstance(base, ml_collections.ConfigDict):
        raise UsageError("a sweep needs a config as its base, see configs/sweeps/digits_rate.py")
    members: dict[Config, Member] = {}
    for overrides, before in _overrides(sweep):
        after = ""
        try:
            if before is not None:
                after = _name(_config(base, before), before)
                config = _config(base, {**overrides, "start_from": str(workdir / after)})
            else:
                config = _config(base, overrides)
        except UsageError as error:
            raise UsageError(f"member {overrides}: {error}") from None
        name = _name(config, overrides)
        if config in members:
            raise UsageError(f"members {members[config].name} and {name} are the same; list one")
        if name in {member.name for member in members.values()}:
            raise UsageError(f"member {name} stands twice in the chain; list it once")
        members[config] = Member(name, config, workdir / name, after)
    return list(members.values())


def _config(base: ml_collections.ConfigDict, overrides: dict[str, Any]) -> Config:
    return Config.from_config_dict(ml_collections.ConfigDict({**dict(base.items()), **overrides}))


def claim(member: Member) -> None:
    """Makes a member's folder and writes its config there.

    Raises:
      UsageError: the folder holds a run of another config.
    """
    check(member)
    member.folder.mkdir(parents=True, exist_ok=True)
    path = member.folder / "member.json"
    places = {name: getattr(member.config, name) for name in PLACES}
    if path.exists():
        found = record.read_json(path)
        found["config"] |= places  # which may have moved
    else:
        about = {"config_hash": member.config.config_hash, "commit": record.commit()}
        found = {"config": {**member.config.as_dict(), **places}, **about}
    record.write_json(path, found)


def check(member: Member) -> None:
    """Raises UsageError where a member's folder holds a run of another config."""
    wanted = member.config.as_dict()
    for file in ("member.json", "config.json", "report.json"):
        path = member.folder / file
        if not path.exists():
            continue
        read = record.read_json(path)
        found = read if file == "config.json" else read["config"]
        starts = bool(member.config.start_from)
        if file != "member.json" and bool(read.get("started_from")) != starts:
            raise UsageError(
                f"{path} is of a run that {'did not start' if starts else 'started'} from another; "
                "give another --workdir"
            )
        found = {k: v for k, v in found.items() if k not in _BESIDE}
        if fields := differences(Config.with_defaults(found), wanted):
            raise UsageError(
                f"{path} is of a run with other values of {', '.join(fields)}; give another "
                "--workdir, or the same sweep"
            )


def _overrides(
    sweep: ml_collections.ConfigDict,
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """What each member changes of the base, and the same of the one from which it starts."""
    grid: Any = sweep.get("grid") or {}
    cases: Any = sweep.get("cases") or ({},)
    for name, values in grid.items():
        if not isinstance(values, list | tuple) or not values:
            raise UsageError(f"grid: {name} = {values!r}: give a tuple of values")
    for number, case in enumerate(cases):
        if not isinstance(case, Mapping | ml_collections.ConfigDict):
            raise UsageError(f"cases: {case!r} where fields and their values belong")
        if twice := sorted(set(case) & set(grid)):
            raise UsageError(f"{twice[0]} stands in the grid and in the cases; leave it in one")
        before = cases[number - 1] if sweep.get("chained") and number else None
        for values in itertools.product(*grid.values()):
            own = dict(zip(grid, values, strict=True))
            yield (
                {**dict(case.items()), **own},
                None if before is None else {**dict(before.items()), **own},
            )


def _name(config: Config, overrides: dict[str, Any]) -> str:
    """A folder's name, which no other values give."""
    name = ",".join(f"{field}={_text(getattr(config, field))}" for field in overrides) or "base"
    if len(name) > _MAX_NAME:
        name = f"{name[:_MAX_NAME]}~{config.config_hash[:8]}"
    return name


def _text(value: Any) -> str:
    """A value in letters that a path may have, with a hash where that leaves something out."""
    if isinstance(value, tuple) and value and all(type(item) is int for item in value):
        return "-".join(map(str, value))
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", text):
        return text
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-")[:40] + f"~{digest}"
