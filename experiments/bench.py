"""A comparison of methods in its work directory: members, one by one, a table and a plot."""

import dataclasses
import pathlib
import re
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments import networks, record
from experiments.bench_figure import draw
from experiments.bench_table import markdown, of_run, write_tables
from experiments.data import Dataset, load
from experiments.methods import METHODS, Subject, subject
from experiments.run import compress, opened
from experiments.settings import Config
from mrc_jax import files
from mrc_jax.centres.report import summary
from mrc_jax.checkpoint import lock
from mrc_jax.decode import decode, weights_sha256
from mrc_jax.errors import UsageError
from mrc_jax.sharing import make_sharing, tree_of
from mrc_jax.value_file import pack_values

MIRACLE = "miracle"  # a run of `compress`, with settings that are fields of its config
_ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Member:
    """A method with its settings.

    Attributes:
      method: of METHODS, or MIRACLE.
      settings: its own.
      folder: where it is kept.
    """

    method: str
    settings: Mapping[str, Any]
    folder: pathlib.Path

    @property
    def report(self) -> dict[str, Any] | None:
        """What it found, if it is done."""
        path = self.folder / "compared.json"
        return record.read_json(path) if path.exists() else None


class Bench:
    """A comparison; `go` does what is left of it, `write` makes its table and plot."""

    def __init__(self, config: Any, workdir: pathlib.Path) -> None:
        self.workdir = workdir
        try:
            self.base = Config.from_config_dict(config.base)
            self.members = [self._member(method, dict(own)) for method, own in config.members]
        except (AttributeError, TypeError, ValueError):
            raise UsageError(
                "a comparison's config has `base`, a run's config, and `members`, pairs of a "
                "method and its settings; see configs/compare/"
            ) from None
        self.runs = [_ROOT / folder for folder in config.get("runs", ())]
        self.base.check_held_out()
        if len({member.folder for member in self.members}) < len(self.members):
            raise UsageError("two members have the same method and settings")

    def _member(self, method: str, settings: dict[str, Any]) -> Member:
        if method not in (*METHODS, MIRACLE):
            names = ", ".join((*METHODS, MIRACLE))
            raise UsageError(f"there is no method {method!r}; there are {names}")
        text = "_".join([method, *(f"{name}={value}" for name, value in settings.items())])
        return Member(method, settings, self.workdir / re.sub(r"[^\w.,=-]+", ",", text)[:150])

    def go(self, is_new_run: bool = True) -> None:
        """Trains the network, runs the members that are not done unless that is not wanted, and
        measures again those whose test error is wanted and was not read.
        """
        with lock(self.workdir):
            todo = [member for member in self.members if not self._is_done(member.report)]
            todo = [member for member in todo if is_new_run or member.report is not None]
            if not todo:
                return
            dataset = load(self.base.data, self.base.data_dir)
            with opened(self.base, self.workdir / "plain") as job:
                inputs, labels = job.data()
                job.bar.close()
                own = subject(job.net, job.plain, (inputs, labels), self.base.seed)
            self.measure_plain(own, dataset)
            for number, member in enumerate(todo):
                print(f"{number + 1} of {len(todo)}: {member.folder.name}", flush=True)
                self.run(member, own, dataset)

    def run(self, member: Member, own: Subject, dataset: Dataset) -> dict[str, Any]:
        """Runs a member, or measures its file again where there is one; returns its report."""
        begin = time.monotonic()
        member.folder.mkdir(parents=True, exist_ok=True)
        if member.report is not None:
            report = self._again(member, own, dataset)
        else:
            made = self._miracle if member.method == MIRACLE else self._of_values
            report = made(member, own, dataset)
        said = f"{report['file_bytes']} bytes, {report['validation_error']:.2%} wrong"
        print(f"  {said}, {time.monotonic() - begin:.0f} s", flush=True)
        return report

    def measure_plain(self, own: Subject, dataset: Dataset) -> None:
        """Writes down the plain network's size and errors."""
        size = sum(4 * leaf.size for leaf in jax.tree.leaves(own.weights))
        found = {"file_bytes": size, **self._errors(own, own.weights, dataset)}
        record.write_json(self.workdir / "plain.json", {**found, **record.origin()})

    def _is_done(self, report: dict[str, Any] | None) -> bool:
        return report is not None and ("test_error" in report or not self.base.report_test)

    def _again(self, member: Member, own: Subject, dataset: Dataset) -> dict[str, Any]:
        """The errors of a member's file, measured now."""
        apart = member.folder / "model.manifest"
        manifest = (
            files.read(apart) if apart.exists() else make_sharing(own.weights, 0).manifest.data
        )
        weights = decode(files.read(member.folder / "model.mrc"), manifest)
        errors = self._errors(own, tree_of(weights, own.weights), dataset)
        facts = {} if member.method == MIRACLE else _facts(list(weights.values()))
        report = {**(member.report or {}), **errors, **facts}
        record.write_json(member.folder / "compared.json", report)
        return report

    def _of_values(self, member: Member, own: Subject, dataset: Dataset) -> dict[str, Any]:
        begin = time.monotonic()
        tree = METHODS[member.method](own, **member.settings)
        manifest = make_sharing(tree, 0).manifest
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        weights = dict(zip((t.path for t in manifest.tensors), leaves, strict=True))
        file = pack_values(weights, manifest, self.base.embed_manifest)
        seconds = time.monotonic() - begin
        facts = {**_facts(leaves), "compress_s": seconds}
        return self._keep(member, file, manifest.data, own, dataset, facts)

    def _miracle(self, member: Member, own: Subject, dataset: Dataset) -> dict[str, Any]:
        """A run of its own, which takes the plain network over."""
        trained = member.folder / "plain"
        if not trained.exists():
            shutil.copytree(self.workdir / "plain" / "plain", trained)
        config = dataclasses.replace(self.base, **member.settings)
        report = compress(config, member.folder)
        spent = sum(s for phase, s in report["seconds"].items() if phase in ("train", "code"))
        file = files.read(member.folder / "model.mrc")
        manifest = files.read(member.folder / "model.manifest")
        return self._keep(member, file, manifest, own, dataset, {"compress_s": spent})

    def _keep(
        self,
        member: Member,
        file: bytes,
        manifest: bytes,
        own: Subject,
        dataset: Dataset,
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        """Decodes a file, measures what it holds, and writes both down."""
        begin = time.perf_counter()
        weights = decode(file, manifest)
        seconds = time.perf_counter() - begin
        files.write(member.folder / "model.mrc", file)
        report = {
            "member": member.folder.name,
            "method": member.method,
            "settings": dict(member.settings),
            "file_bytes": len(file),
            "weights_sha256": weights_sha256(weights),
            **self._errors(own, tree_of(weights, own.weights), dataset),
            **facts,
            "decode_s": seconds,
            "seed": self.base.seed,
            "data": self.base.data,
            "model": self.base.model,
            **record.origin(),
        }
        record.write_json(member.folder / "compared.json", report)
        return report

    def _errors(self, own: Subject, weights: Any, dataset: Dataset) -> dict[str, float]:
        found = {
            "validation_error": networks.error(own.net, weights, dataset.validation),
            "validation_loss": networks.mean_loss(own.net, weights, dataset.validation),
        }
        if self.base.report_test:
            found["test_error"] = networks.error(own.net, weights, dataset.test)
            found["test_loss"] = networks.mean_loss(own.net, weights, dataset.test)
        return found

    def write(self) -> str:
        """Writes results.jsonl, results.csv and rate.png, and returns the table as text.

        Raises UsageError where no member is done.
        """
        found = [report for member in self.members if (report := member.report) is not None]
        found += [of_run(folder) for folder in self.runs]
        if not found:
            raise UsageError(f"no member is done in {self.workdir}")
        plain = record.read_json(self.workdir / "plain.json")
        write_tables(found, plain, self.workdir)
        draw(found, plain, self.workdir / "rate.png", self.base.name)
        return markdown(found, plain)


def _facts(leaves: list[np.ndarray]) -> dict[str, float]:
    """What is said of weights of few values."""
    said = summary(np.concatenate([leaf.ravel() for leaf in leaves]))
    return {
        "unique_values": said.unique_values,
        "entropy_bits": said.entropy_bits,
        "power_share": said.power_share,
        "zero_share": int(np.sum(said.counts[said.values == 0])) / said.weights,
    }
