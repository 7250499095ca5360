"""What a sweep's members will take: bytes from the plan, hours from a short measurement."""

import dataclasses
import functools
import time
from functools import partial

import jax
import jax.numpy as jnp

from experiments import networks
from experiments.data import Dataset, load
from experiments.members import Member
from experiments.settings import Config
from mrc_jax import budget
from mrc_jax.compress import code_wave
from mrc_jax.container import Header
from mrc_jax.errors import UsageError
from mrc_jax.feed import steps_on
from mrc_jax.sharing import make_sharing
from mrc_jax.waves import waves

_STEPS = 25
# Members that differ in these alone run the same programs, but for the length of their blocks.
_SAME_PROGRAM = {
    "name": "any", "file_bytes": 1, "seed": 0, "plain_steps": 1, "steps": 1, "refine_steps": 0,
    "plain_learning_rate": 1.0, "learning_rate": 1.0, "final_learning_rate": 1.0,
    "refine_learning_rate": 1.0, "beta_init": 1.0, "beta_step": 1.0, "slack_nats": 0.0,
    "log_std_init": 0.0, "prior_scale_init": 1.0, "steps_per_call": 1, "checkpoint_every_s": 1.0,
    "report_test": False, "tensorboard": False, "embed_manifest": False,
    "data_shards": 0, "distorted_copies": 0, "originals": 1, "hold_out": True,
    "distil": False, "start_from_plain": False, "plain_noise": 0.0,
    "plain_label_smoothing": 0.0, "refine_beta_step": 0.0, "start_from": "",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a member before it runs.

    Attributes:
      header: of its file.
      file_bytes: of the whole file; expected, where indices are ordered.
      steps: of training, of the plain network and of the posterior, refining included.
      waves: in which its blocks are coded.
    """

    header: Header
    file_bytes: int
    steps: int
    waves: int


@dataclasses.dataclass(frozen=True)
class Speed:
    """Measured on this machine.

    Attributes:
      start_s: seconds from nothing to compiled programs.
      step_s: of a training step.
      wave_s: of a wave of blocks of block_size entries, without refining.
    """

    start_s: float
    step_s: float
    wave_s: float
    block_size: int

    def hours(self, plan: Plan) -> float:
        """Of a member; a wave takes time in proportion to the length of its blocks."""
        wave_s = self.wave_s * plan.header.partition.block_size / self.block_size
        return (self.start_s + plan.steps * self.step_s + plan.waves * wave_s) / 3600


_load = functools.cache(load)


def plans_of(members: list[Member]) -> dict[str, Plan]:
    """The plan of each member, by its name.

    Raises:
      UsageError: a member's size or network cannot be; its name is in the text.
    """
    plans = {}
    for member in members:
        try:
            plans[member.name] = _plan(member.config)
        except UsageError as error:
            raise UsageError(f"member {member.name}: {error}") from None
    return plans


def speed_key(config: Config) -> Config:
    """What a member's speed depends on; equal for members that run the same programs."""
    return dataclasses.replace(config, **_SAME_PROGRAM)


def measure(config: Config) -> Speed:
    """Times a few training steps and the coding of one wave on this machine's device."""
    first = time.monotonic()
    dataset = _load(config.data, config.data_dir)
    net = networks.network(config, dataset)
    start = networks.initial_weights(net, dataset, config.seed)
    problem, arrays, state = networks.prepare(config, net, start)
    run_steps = steps_on(problem, arrays, (dataset.train.inputs, dataset.train.labels))
    step_s = wave_s = 0.0
    for _ in range(2):  # the first call compiles
        begin = time.monotonic()
        state, _ = jax.block_until_ready(run_steps(state, _STEPS, False))
        step_s = (time.monotonic() - begin) / _STEPS
    code = jax.jit(partial(code_wave, problem))
    for done in range(2):
        begin = time.monotonic()
        ids, kept = next(waves(problem, state, done))
        jax.block_until_ready(code(arrays, state, jnp.asarray(ids), kept))
        wave_s = time.monotonic() - begin
    return Speed(time.monotonic() - first, step_s, wave_s, problem.header.partition.block_size)


def _plan(config: Config) -> Plan:
    dataset = _load(config.data, config.data_dir)
    manifest = make_sharing(_shapes(config, dataset), 0, config.sharing, config.uncoded).manifest
    header = budget.plan(manifest, config.file_bytes, config.recipe(), seed=0)
    waves = -(-header.blocks // config.wave_blocks)
    plain_steps = 0 if config.start_from else config.plain_steps
    steps = plain_steps + config.steps + (waves - 1) * config.refine_steps
    if (
        config.distil
    ):  # a third of a step's work for each example that the plain network is asked of
        examples = (config.originals + config.distorted_copies) * len(dataset.train.labels)
        if config.augment != "none":  # in every step of the posterior
            examples = (steps - plain_steps) * config.batch_size
        steps += examples // (3 * config.batch_size)
    return Plan(header, budget.planned_bytes(header, config.recipe()), steps, waves)


def _shapes(config: Config, dataset: Dataset) -> object:
    net = networks.network(config, dataset)
    return jax.eval_shape(lambda: networks.initial_weights(net, dataset, 0))
