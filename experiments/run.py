"""One run in its work directory: train, code, write, check, report."""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments import cost, distort, first_state, hosts, networks, plain_training, record
from experiments.data import Dataset, Split, load
from experiments.progress import Bar
from experiments.settings import Config
from experiments.stopping import stopping
from mrc_jax import api, files
from mrc_jax.checkpoint import Checkpoints, lock, plan_meta
from mrc_jax.compress import Progress, code_all, kl_of_blocks, train_to_budget
from mrc_jax.feed import steps_on
from mrc_jax.mesh import Placed, local, make_mesh, own_shards, replicated
from mrc_jax.problem import State
from mrc_jax.recode import recode_all
from mrc_jax.sharing import tree_of


class Run:
    """One run in its work directory; `go` does what is left of it."""

    def __init__(self, config: Config, dataset: Dataset, workdir: pathlib.Path) -> None:
        self.config, self.dataset, self.workdir = config, dataset, workdir
        self.source = pathlib.Path(config.start_from).expanduser()  # used where start_from is given
        self.stop = 0  # the number of the signal that asked for it
        self.plain: Any = None  # the plain network's weights, known after `data`
        self.net = networks.network(config, self.dataset)
        self.mesh = make_mesh(config.mesh)
        start = networks.initial_weights(self.net, self.dataset, config.seed)
        self.start = local(start, self.mesh)
        self.problem, self.arrays, self.state = networks.prepare(
            config, self.net, self.start, self.mesh
        )
        self.checkpoints = Checkpoints(workdir / "checkpoints")
        self.meta: dict[str, Any] = {"seconds": {}, "errors": {}, "lines": 0}
        restored = self.checkpoints.restore(self.state)
        if restored is not None:
            self.state, self.meta = restored
        self.metrics = record.Metrics(workdir, self.meta["lines"], config.tensorboard)
        self.bar = Bar()
        self._clock = self._saved = time.monotonic()

    def go(self) -> dict[str, Any]:
        """Runs to the end and returns the report."""
        data = Placed(networks.on_devices(self.data(), self.config))
        run_steps = steps_on(self.problem, self.arrays, data)
        self.state = train_to_budget(self.problem, self.state, run_steps, self.on_call)
        if "posterior_mean" not in self.meta["errors"]:
            self._after_training(self.state)
        self.state = code_all(self.problem, self.arrays, self.state, run_steps, self.on_call)
        self._spend("code")
        left = self.meta.get("recoded", {})
        self.state = recode_all(
            self.problem, self.arrays, self.state, data, on_call=self.on_call, **left
        )
        self.bar.close()
        return self._finish(self.state)

    def data(self) -> tuple[Any, Any]:
        """What the posterior is trained on, (inputs, targets), this process's shards one by one;
        trains the plain network, from which the posterior's means start where the config says so.
        """
        copies, strength = self.config.distorted_copies, self.config.distortion
        originals, seed = self.config.originals, self.config.seed
        examples = distort.of_shards(self.dataset, copies, seed, strength, originals)
        self.plain = self._plain(examples)
        if int(self.state.step) == 0:
            self._start(examples.inputs)
        targets = examples.labels
        if self.config.distil and self.config.augment != "none":
            self.problem = dataclasses.replace(self.problem, teacher=networks.Teacher(self.net))
            self.arrays = {**self.arrays, "teacher": replicated(self.plain, self.mesh)}
        elif self.config.distil:
            targets = networks.probabilities(self.net, self.plain, examples.inputs)
        return examples.inputs, targets

    def _start(self, inputs: Any) -> None:
        """Puts the posterior where the config says that it starts."""
        config = self.config
        if config.start_from:
            self.state, about = first_state.of_run(self.problem, self.state, self.source)
            self.meta["started_from"] = about
        elif config.start_from_plain:
            first = networks.prepare(config, self.net, self.plain, self.mesh)[2]
            self.state = first_state.of_plain(config, self.problem, self.arrays, first, inputs)

    def _plain(self, examples: Split) -> Any:
        """The plain network's weights, trained or from their checkpoint, this run's or that of the
        run from which it starts.
        """
        weights = first_state.plain_network(self.workdir, self.start)
        if weights is None:
            if self.config.start_from:
                weights = first_state.plain_network(self.source, self.start)
            weights = self._train_plain(examples) if weights is None else weights
            first_state.keep_plain_network(self.workdir, weights)
        return weights

    def _train_plain(self, examples: Split) -> Any:
        checkpoints = Checkpoints(self.workdir / "plain_training")
        start, total = self._plain_start(), self.config.plain_steps
        state, meta = checkpoints.restore(start) or (start, {"done": 0, "seconds": {}})
        self.meta["seconds"].update(meta["seconds"])
        self._clock = self._saved = time.monotonic()

        def on_call(state: Any, done: int, loss: float) -> None:
            self.bar.update("plain network", "steps", done, total, f"loss {loss:.4f}")
            self._spend("plain")
            kept = {"done": done, "seconds": self.meta["seconds"]}
            self._keep(lambda: checkpoints.save(state, kept))

        weights = plain_training.train(
            self.net, state, meta["done"], examples, self.config, on_call
        )
        checkpoints.close()
        return local(weights, self.mesh)

    def _plain_start(self) -> tuple[Any, Any]:
        plain = networks.plain_network(self.net)
        weights = networks.initial_weights(plain, self.dataset, self.config.seed)
        return plain_training.start(weights, self.config)

    def _after_training(self, state: State) -> None:
        """Measures the posterior mean, which coding is about to replace."""
        own, arrays = local((state.params, state.uncoded), self.mesh), local(self.arrays, self.mesh)
        params = self.problem.gaussian(own[0], arrays)
        variables = {"params": params, "sharing": arrays["sharing"], "uncoded": own[1]}
        self.meta["kl_nats"] = float(np.sum(kl_of_blocks(self.problem, arrays, own[0])))
        self.meta["errors"]["posterior_mean"] = self._errors(networks.Mean(self.problem), variables)
        first_state.keep(self.workdir, self.config, self.problem, state, self.meta)
        self.save(state)

    def _errors(self, net: Any, weights: Any) -> dict[str, float]:
        splits = {"validation": self.dataset.validation} if self.config.hold_out else {}
        if self.config.report_test:
            splits["test"] = self.dataset.test
        return {name: networks.error(net, weights, split) for name, split in splits.items()}

    def _finish(self, state: State) -> dict[str, Any]:
        done = api.result(self.problem, state, sum(self.meta["seconds"].values()))
        if hosts.is_first():
            files.write(self.workdir / "model.mrc", done.file)
            files.write(self.workdir / "model.manifest", done.manifest)
        errors = {
            "plain": self._errors(self.net, self.plain),
            "posterior_mean": self.meta["errors"]["posterior_mean"],
            "": self._errors(self.net, tree_of(done.weights, self.start)),
        }
        self._spend("evaluate")
        named = {
            "_".join(filter(None, (name, split, "error"))): value
            for name, values in errors.items()
            for split, value in values.items()
        }
        report = {
            "config": self.config.as_dict(),
            "config_hash": self.config.config_hash,
            "data_sha256": hosts.sha256(self.dataset),
            **record.origin(),
            "seed": self.config.seed,
            **done.report,
            "kl_nats": self.meta["kl_nats"],
            **named,
            "seconds": self.meta["seconds"],
            "trained_together": self.meta.get("trained_together", 1),
            "started_from": self.meta.get("started_from"),
        }
        if hosts.is_first():
            record.write_json(self.workdir / "report.json", report)
        return report

    def on_call(self, state: State, progress: Progress) -> None:
        """Tells and keeps what a call of a compiled program left behind."""
        unit = "steps" if progress.phase == "train" else "blocks"
        values = progress.metrics
        text = f"budget {progress.budget_nats:.2f} nats"
        if progress.phase == "recode":
            text = f"loss {values['loss']:.4f}"
            self.meta["recoded"] = {"done": progress.done, "damping": values["damping"]}
        elif values:
            text = f"loss {values['loss']:.4f}, KL {values['kl_nats']:.2f} of {text}"
        self.bar.update(progress.phase, unit, progress.done, progress.total, text)
        self.metrics.add(phase=progress.phase, done=progress.done, **values)
        self._spend(progress.phase)
        self._keep(lambda: self.save(state))

    def _keep(self, save: Callable[[], None]) -> None:
        """Saves where it is time to for a process; ends all where that was asked of one."""
        late = time.monotonic() - self._saved > self.config.checkpoint_every_s
        self.stop, late = hosts.most(self.stop, late)
        if self.stop or late:
            save()
            self._saved = time.monotonic()
        if self.stop:
            self.bar.close()
            print(_how_to_go_on(), file=sys.stderr)
            sys.exit(128 + self.stop)

    def save(self, state: State) -> None:
        """Writes a checkpoint."""
        plan = plan_meta(self.problem)
        self.checkpoints.save(state, {**self.meta, **plan, "lines": self.metrics.lines})

    def _spend(self, phase: str) -> None:
        """Adds the time since the last call to a phase's seconds."""
        now = time.monotonic()
        self.meta["seconds"][phase] = self.meta["seconds"].get(phase, 0.0) + now - self._clock
        self._clock = now


@contextlib.contextmanager
def opened(config: Config, workdir: pathlib.Path) -> Iterator[Run]:
    """A run, or what an earlier process left of it, with its work directory locked.

    `report_test` may be another than before: a run that was chosen by its validation error is
    reported again with its test error. So may `mesh`, as long as the shards of the data stay: a run
    goes on where there are other devices, and its losses then agree with theirs to rounding.

    Raises:
      BusyError: another process runs there.
      UsageError: the work directory holds a run of another config.
    """
    own = own_shards(config.shards, make_mesh(config.mesh))
    dataset = load(config.data, config.data_dir, config.shards, own, config.hold_out)
    wanted = {**config.as_dict(), "data_sha256": hosts.sha256(dataset)}
    if config.start_from:
        source = pathlib.Path(config.start_from).expanduser()
        wanted["started_from"] = first_state.origin(workdir, source, wanted)
    with lock(workdir) if hosts.is_first() else contextlib.nullcontext():
        if hosts.is_first():
            record.claim(workdir / "config.json", wanted)
        hosts.meet("opened")
        job = Run(config, dataset, workdir)
        try:
            yield job
        finally:
            job.checkpoints.close()


def compress(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Does a run, or what an earlier process left of it, and returns its report.

    Raises: as `opened`.
    """
    with (
        opened(config, workdir) as job,
        stopping(lambda number: setattr(job, "stop", number), _how_to_go_on),
    ):
        if hosts.is_first():
            plain_steps = 0 if config.start_from else config.plain_steps
            text = cost.told(job.problem, job.dataset.train, plain_steps)
            print(text, file=sys.stderr, flush=True)
        return job.go()


def _how_to_go_on() -> str:
    command = f"{pathlib.Path(sys.executable).name} -m experiments.compress"
    return f"stopped; go on with: {command} {' '.join(sys.argv[1:])}"


def summary(report: dict[str, Any]) -> str:
    """One line for people."""
    errors = [f"{k.replace('_', ' ')} {v:.2%}" for k, v in report.items() if k.endswith("_error")]
    return f"{report['file_bytes']} bytes; " + ", ".join(errors)
