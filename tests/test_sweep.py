"""Sweeps: members and their names, failures, stops, tables, dry runs and submitted jobs."""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import ml_collections
import pytest

from configs import smoke
from configs.sweeps import digits_rate, mnist_lenet5_rate
from experiments import cluster, table, workers
from experiments import sweep as job
from experiments.estimate import plans_of
from experiments.members import Member, check, claim, members_of
from mrc_jax.errors import MrcError, UsageError

ROOT = pathlib.Path(__file__).parents[1]
SMALL = {"hidden": (), "file_bytes": 150, "refine_steps": 0, "wave_blocks": 16}


def sweep_of(**fields: Any) -> ml_collections.ConfigDict:
    base = smoke.get_config()
    base.update(SMALL)
    return ml_collections.ConfigDict({"base": base, **fields})


@dataclasses.dataclass(frozen=True)
class Fake(Member):
    """A member whose process runs a snippet in its folder."""

    code: str = ""

    @property
    def command(self) -> list[str]:
        enter = f"import json, os, pathlib, signal, sys, time; os.chdir({str(self.folder)!r})\n"
        return [sys.executable, "-S", "-c", enter + self.code]


REPORT = """
member = json.loads(pathlib.Path("member.json").read_text())
report = {"file_bytes": 250, "validation_error": 0.1, "seconds": {"train": 1.0}}
pathlib.Path("report.json").write_text(json.dumps({**member, **report}))
"""
FAIL = """
if pathlib.Path("../broken").exists():
    print("on its way"); sys.exit("the data are gone\\n")
"""


def fakes(workdir: pathlib.Path, codes: list[str]) -> list[Member]:
    real = members_of(sweep_of(grid={"seed": tuple(range(len(codes)))}), workdir)
    return [Fake(m.name, m.config, m.folder, code=c) for m, c in zip(real, codes, strict=True)]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_members_are_the_cases_by_the_grid_and_differ_in_name(tmp_path: pathlib.Path) -> None:
    grid = {"seed": (0, 1), "learning_rate": (1e-3, 1e-4)}
    cases = ({"hidden": (8, 4)}, {"file_bytes": 300, "uncoded": ("*bias", "x")})
    members = members_of(sweep_of(grid=grid, cases=cases), tmp_path)
    names = [member.name for member in members]
    assert names[:2] == [
        "hidden=8-4,learning_rate=0.001,seed=0",
        "hidden=8-4,learning_rate=0.001,seed=1",
    ]
    assert names[4].startswith("file_bytes=300,uncoded=bias-x~") and len(set(names)) == 8
    assert [member.config.seed for member in members] == [0, 1] * 4
    assert members[0].config.hidden == (8, 4) and members[4].config.hidden == ()
    assert [m.name for m in members_of(sweep_of(), tmp_path)] == ["base"]


def test_each_case_of_a_chain_starts_from_the_one_before_with_its_seed(
    tmp_path: pathlib.Path,
) -> None:
    cases = ({"file_bytes": 300}, {"file_bytes": 250, "steps": 10}, {"file_bytes": 200})
    members = members_of(sweep_of(grid={"seed": (0, 1)}, cases=cases, chained=True), tmp_path)
    after = {member.name: member.after for member in members}
    assert after == {
        "file_bytes=300,seed=0": "",
        "file_bytes=300,seed=1": "",
        "file_bytes=250,steps=10,seed=0": "file_bytes=300,seed=0",
        "file_bytes=250,steps=10,seed=1": "file_bytes=300,seed=1",
        "file_bytes=200,seed=0": "file_bytes=250,steps=10,seed=0",
        "file_bytes=200,seed=1": "file_bytes=250,steps=10,seed=1",
    }
    assert all(m.config.start_from == (str(tmp_path / m.after) if m.after else "") for m in members)
    assert not any(member.after for member in members_of(sweep_of(cases=cases), tmp_path))


def test_a_member_waits_for_the_one_from_which_it_starts(tmp_path: pathlib.Path) -> None:
    first, second, third = fakes(tmp_path, ["time.sleep(1);" + REPORT, "", REPORT])
    waits = "assert pathlib.Path('../seed=0/report.json').exists()\n" + REPORT
    second = dataclasses.replace(second, after=first.name, code=waits)
    job.sweep([first, second, third], tmp_path, workers.starter(2), 2)
    ends = {m.name: (m.folder / "report.json").stat().st_mtime for m in (first, second, third)}
    assert ends[third.name] < ends[first.name] < ends[second.name]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grids": {}}, "unknown field 'grids' of the sweep; did you mean grid"),
        ({"grid": {"file_byte": (300,)}}, "unknown config field 'file_byte'; did you mean file_by"),
        ({"grid": {"seed": ("a",)}}, "member {'seed': 'a'}: config field seed: 'a' where"),
        ({"grid": {"seed": 3}}, "grid: seed = 3: give a tuple of values"),
        ({"grid": {"seed": (1, 1)}}, "members seed=1 and seed=1 are the same"),
        ({"grid": {"seed": (1,)}, "cases": ({"seed": 2},)}, "seed stands in the grid and in"),
        ({"cases": ({"bits": 9},) * 2, "chained": True}, "member bits=9 stands twice in the chain"),
        ({"cases": (3,)}, "cases: 3 where fields and their values belong"),
        ({"grid": {"bits": (31,)}}, "member {'bits': 31}: bits = 31: an index has at most 30"),
        ({"base": 1}, "needs a config as its base"),
    ],
)
def test_a_sweep_is_checked_before_it_starts(
    fields: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UsageError) as error:
        members_of(sweep_of(**fields), tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_sweeps_of_the_repository_are_valid(tmp_path: pathlib.Path) -> None:
    assert len(members_of(digits_rate.get_config(), tmp_path)) == 9
    members = members_of(mnist_lenet5_rate.get_config(), tmp_path)
    assert len(members) == 18 and not any(member.config.report_test for member in members)
    sizes = [member.config.file_bytes for member in members]
    assert sizes == sorted(sizes, reverse=True)  # each has its larger one's training behind it


def test_a_member_whose_size_cannot_be_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    members = members_of(sweep_of(grid={"file_bytes": (250, 9)}), tmp_path)
    with pytest.raises(UsageError, match="member file_bytes=9: file_bytes = 9 is too small"):
        plans_of(members)


@pytest.mark.parametrize("file", ["member.json", "config.json", "report.json"])
def test_a_folder_of_another_config_is_refused(tmp_path: pathlib.Path, file: str) -> None:
    (member,) = members_of(sweep_of(), tmp_path)
    claim(member)
    check(member)
    found = json.loads((member.folder / "member.json").read_text())
    found["config"]["steps"] += 1
    value = found["config"] if file == "config.json" else found
    (member.folder / file).write_text(json.dumps(value))
    with pytest.raises(UsageError, match=rf"{file} is of a run with other values of steps;"):
        check(member)


def test_a_member_of_a_chain_and_one_alone_do_not_pass_for_each_other(
    tmp_path: pathlib.Path,
) -> None:
    cases = ({"file_bytes": 300}, {"file_bytes": 250})
    alone = members_of(sweep_of(cases=cases), tmp_path)[1]
    chained = members_of(sweep_of(cases=cases, chained=True), tmp_path)[1]
    assert alone.folder == chained.folder
    claim(alone)
    claim(chained)  # nothing has begun: it may still start from the other
    written = json.loads((alone.folder / "member.json").read_text())["config"]
    assert written["start_from"] == str(tmp_path / "file_bytes=300")
    for origin, other, message in (("0" * 64, alone, "started"), (None, chained, "did not start")):
        begun = {**alone.config.as_dict(), **({"started_from": origin} if origin else {})}
        (alone.folder / "config.json").write_text(json.dumps(begun))
        check(chained if origin else alone)
        with pytest.raises(UsageError, match=f"of a run that {message} from another"):
            check(other)


@pytest.mark.slow
def test_a_chain_goes_down_through_the_sizes(tmp_path: pathlib.Path) -> None:
    cases = ({"file_bytes": 200}, {"file_bytes": 150})
    members = members_of(sweep_of(cases=cases, chained=True, grid={"seed": (0, 1)}), tmp_path)
    job.sweep(members, tmp_path, workers.starter(2), 2)
    for member in members[2:]:
        report = json.loads((member.folder / "report.json").read_text())
        larger = json.loads((tmp_path / member.after / "report.json").read_text())
        assert report["started_from"]["config"] == larger["config"]
        assert "plain" not in report["seconds"]
    lines = (tmp_path / "results.csv").read_text().splitlines()
    rows = {row["member"]: row for row in csv.DictReader(lines)}
    for member in members[2:]:
        before, own = rows[member.after], rows[member.name]
        assert own["started_from"] == before["config_hash"] and not before["started_from"]
        assert float(own["seconds"]) > 0.5 * float(before["seconds"])  # that training is told


def test_a_failed_member_is_reported_and_tried_again_alone(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").touch()
    members = fakes(tmp_path, [REPORT, FAIL + REPORT, REPORT])
    with pytest.raises(MrcError, match="1 of 3 members failed; the same command tries"):
        job.sweep(members, tmp_path, workers.starter(2), 2)
    text = capsys.readouterr().out
    assert "[0/3] members are done" in text and "seed=0: done, 250 bytes, 10.00% wrong" in text
    assert "failed:\n  seed=1: exit code 1, the data are gone" in text
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert (rows[1]["exit_code"], rows[1]["error"]) == ("1", "the data are gone")
    assert [row["config.seed"] for row in rows] == ["0", "1", "2"]
    assert all(len(row["config_hash"]) == 64 and row["commit"] for row in rows)
    stamps = [(m.folder / "report.json").stat().st_mtime_ns for m in (members[0], members[2])]
    (tmp_path / "broken").unlink()
    job.sweep(members, tmp_path, workers.starter(2), 2)
    text = capsys.readouterr().out
    assert "[2/3] members are done" in text and "[3/3] seed=1: done" in text
    assert "seed=0" not in text and "seed=2" not in text
    assert stamps == [(m.folder / "report.json").stat().st_mtime_ns for m in members[::2]]
    assert {r["status"] for r in table.records(tmp_path)} == {"done"}


def test_the_table_is_made_again_from_the_folders_alone(tmp_path: pathlib.Path) -> None:
    members = fakes(tmp_path, [REPORT, REPORT])
    job.sweep(members, tmp_path, workers.starter(1), 1)
    names = ("results.csv", "results.jsonl")
    before = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", "--table", f"--workdir={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    lines = [json.loads(line) for line in before["results.jsonl"].decode().splitlines()]
    assert [line["config"]["seed"] for line in lines] == [0, 1]
    assert lines[0]["config_hash"] == members[0].config.config_hash


def test_members_at_work_are_stopped_and_after_a_second_signal_killed(
    tmp_path: pathlib.Path,
) -> None:
    polite = "open('ready', 'w'); time.sleep(60)"
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" + polite
    members = fakes(tmp_path, [polite, deaf, REPORT])
    for member in members:
        claim(member)
    events: list[tuple[str, str]] = []
    stop: Any = types.SimpleNamespace(signals=0)

    def signals() -> None:
        while not all((member.folder / "ready").exists() for member in members[:2]):
            time.sleep(0.01)
        stop.signals = 1
        while ("seed=0", "stopped") not in events:
            time.sleep(0.01)
        stop.signals = 2

    thread = threading.Thread(target=signals)
    thread.start()
    workers.run_all(
        members,
        2,
        workers.starter(2),
        stop,
        lambda member, event: events.append((member.name, event)),
    )
    thread.join()
    assert events == [
        ("seed=0", "start"), ("seed=1", "start"), ("seed=0", "stopped"), ("seed=1", "stopped"),
    ]  # fmt: skip
    assert [member.status for member in members] == ["waiting"] * 3


def test_a_member_that_is_killed_has_failed(tmp_path: pathlib.Path) -> None:
    (member,) = fakes(tmp_path, ["os.kill(os.getpid(), signal.SIGKILL)"])
    with pytest.raises(MrcError):
        job.sweep([member], tmp_path, workers.starter(1), 1)
    failure = json.loads((member.folder / "failure.json").read_text())
    assert failure["exit_code"] == -9 and failure["error"] == "ended by SIGKILL"


def test_each_worker_has_its_share_of_the_cores(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert workers.shares(3) == [[0, 1], [2, 3], [4, 5]]
    assert workers.shares(1) == [list(range(8))]
    assert workers.shares(9)[7:] == [[7], [0]]
    monkeypatch.undo()
    before = os.sched_getaffinity(0)
    (member,) = fakes(tmp_path, ["print(sorted(os.sched_getaffinity(0)))"])
    claim(member)
    one = [min(before)]
    process = workers.Process(member, one, 1)
    while process.poll() is None:
        time.sleep(0.01)
    assert workers.last_line(member.folder / "log.txt") == str(one)
    assert os.sched_getaffinity(0) == before


def test_a_dry_run_lists_bytes_and_hours_and_writes_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"file_bytes": (150, 300), "seed": (0, 1)}
    members = members_of(sweep_of(grid=sizes), tmp_path / "w")
    job.dry_run(members, 2)
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "w").exists()
    for member, line in zip(members, lines[1:5], strict=True):
        name, size, blocks, bits, hours, status = line.split()
        assert (name, bits, status) == (member.name, "8", "waiting")
        assert 0.97 * member.config.file_bytes <= int(size) <= member.config.file_bytes
        assert int(blocks) > 0 and 0 < float(hours) < 1
    assert "with 2 at a time" in lines[5] and "measured now on this machine" in lines[6]


def test_a_cluster_without_submitit_names_the_extra(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"--cluster=local: .*nonsense"):
        cluster.starter("local", tmp_path, {"nonsense": 1})
    monkeypatch.setitem(sys.modules, "submitit", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"mrc_jax\[slurm\]"):
        cluster.starter("local", tmp_path, {})


def test_a_job_whose_time_is_up_saves_its_state_and_is_queued_again(
    tmp_path: pathlib.Path,
) -> None:
    save = "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w'), sys.exit(143)))\n"
    (member,) = fakes(tmp_path, [save + "open('ready', 'w')\ntime.sleep(60)"])
    claim(member)
    codes: list[int] = []
    task = cluster.MemberTask(member)
    thread = threading.Thread(target=lambda: codes.append(task()))
    thread.start()
    while not (member.folder / "ready").exists():
        time.sleep(0.01)
    again = task.checkpoint()
    thread.join()
    assert (member.folder / "saved").exists() and codes == [143]
    assert again.function.member == member


CONFIG = f"""
import ml_collections
from configs import smoke
def get_config():
    base = smoke.get_config()
    base.update({SMALL})
    grid, cluster = {{"seed": (0,)}}, {{"timeout_min": 5}}
    return ml_collections.ConfigDict({{"base": base, "grid": grid, "cluster": cluster}})
"""


def test_a_sweep_that_is_stopped_goes_on_as_submitted_jobs(tmp_path: pathlib.Path) -> None:
    (tmp_path / "one.py").write_text(CONFIG)
    command = [sys.executable, "-m", "experiments.sweep", f"--config={tmp_path / 'one.py'}"]
    command.append(f"--workdir={tmp_path / 'sweep'}")
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "sweep" / "seed=0"
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and '"train"' in metrics.read_text()):
        assert process.poll() is None, "the sweep ended before it could be stopped"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    text, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert "seed=0: stopped" in text and not (folder / "model.mrc").exists()
    assert f"stopped; go on with: {pathlib.Path(sys.executable).name} -m" in errors
    done = subprocess.run(
        [*command, "--cluster=local"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] seed=0: done" in done.stdout
    (row,) = csv.DictReader((tmp_path / "sweep" / "results.csv").read_text().splitlines())
    assert row["status"] == "done" and int(row["file_bytes"]) <= 150
    log = (folder / "log.txt").read_text()
    assert "stopped; go on with:" in log and log.count("plain network:") == 1
