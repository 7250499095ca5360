"""What training, coding and decoding take: bytes and seconds as functions of the sizes.

docs/scaling.md has the measurements that the numbers here were fitted to, and how well they fit.
"""

import dataclasses
import math
from typing import Any

import jax

from experiments.data import Split
from experiments.progress import duration
from mrc_jax.container import Header
from mrc_jax.manifest import Manifest
from mrc_jax.mesh import axes_but, devices_of
from mrc_jax.problem import Problem

PROCESS = 388 << 20  # of Python with JAX and its compiler at work
DECODER = 192 << 20  # of Python with what the measurement imports; NumPy alone takes less
STATE = 37  # bytes an entry: mean and log-variance with Adam's four, what is coded, the order
STEP = 52  # bytes an entry while a step is at work, however many parts its batch has
BLOCK = 8  # bytes a block: its beta and its index
SHARED = 12  # bytes a parameter that shares its entry: the two index arrays and the sign
VECTORS = 12  # bytes an entry that is coded: mean, log-variance and scale
DECODED = 6  # bytes an entry while NumPy decodes: the result, and int16 quantiles


@dataclasses.dataclass(frozen=True)
class Rates:
    """Of one device of a kind; seconds add up.

    Attributes:
      entry_s: of a training step, an entry: noise, KL and Adam, on every device.
      flops: of the network, a second; a step's are three times its forward pass's.
      lanes: of coding, numbers of candidates weighed a second where blocks share codebooks.
      own_lanes: the same where each block has candidates of its own.
      coded_entry_s: of coding, an entry, whatever the bits.
    """

    entry_s: float
    flops: float
    lanes: float
    own_lanes: float
    coded_entry_s: float


RATES = {  # of a core
    "cpu": Rates(entry_s=26e-9, flops=2.3e10, lanes=5.6e9, own_lanes=2.3e8, coded_entry_s=121e-9)
}


def training_bytes(manifest: Manifest, blocks: int, data_bytes: int, devices: int) -> int:
    """Memory of each device in training, without the network's activations.

    Args:
      manifest: of the network.
      blocks: of its file.
      data_bytes: of the training set.
      devices: that share the batches.
    """
    shared = sum(t.size for t in manifest.coded if t.factor > 1)
    network = 8 * shared  # the network's own weights and their gradient, where they are others
    own = (STATE + STEP) * manifest.entries + BLOCK * blocks
    return own + SHARED * shared + network + data_bytes // devices


def coding_bytes(entries: int) -> int:
    """Peak memory of a process that codes a vector, all blocks at once, on one device; every other
    device holds VECTORS * entries too.
    """
    return PROCESS + VECTORS * entries


def decoding_bytes(entries: int) -> int:
    """Peak memory of a process that decodes a file without sharing, by NumPy."""
    return DECODER + DECODED * entries


def step_s(rates: Rates, entries: int, forward_flops: float, devices: int) -> float:
    """Seconds of a training step.

    Args:
      rates: of a device.
      entries: that are trained.
      forward_flops: of the network for a whole batch.
      devices: that share it.
    """
    return entries * rates.entry_s + 3 * forward_flops / rates.flops / devices


def coding_s(rates: Rates, header: Header, devices: int) -> float:
    """Seconds of coding all blocks, without refining."""
    lanes = rates.lanes if header.codebook_blocks > 1 else rates.own_lanes
    return header.entries * (rates.coded_entry_s + 2.0**header.bits / lanes) / devices


def told(problem: Problem, split: Split, plain_steps: int) -> str:
    """Lines for people: the plan of a run, and what it will take.

    Args:
      problem: of the run.
      split: training examples.
      plain_steps: of the uncompressed network, each of which counts as one.
    """
    header, recipe, data = problem.header, problem.recipe, (split.inputs, split.labels)
    manifest = problem.posterior.sharing.manifest
    devices = devices_of(problem.mesh, axes_but(problem.mesh))
    waves = math.ceil(header.blocks / recipe.wave_blocks)
    refining = (waves - 1) * recipe.refine_steps
    data_bytes = sum(x.nbytes for x in jax.tree.leaves(data))
    held = training_bytes(manifest, header.blocks, data_bytes, devices)
    each = f"on each of {devices} devices" if devices > 1 else "on the device"
    text = (
        f"plan: {header.blocks:,} blocks of {header.bits} bits for {header.entries:,} entries; "
        f"{plain_steps:,} + {recipe.steps:,} + {refining:,} steps (plain network, posterior, "
        f"refining), {waves:,} waves\nestimate: {held / 1e6:,.1f} MB {each}, beside what the "
        "network's layers hold; "
    )
    kind = jax.devices()[0].platform
    if kind not in RATES:
        return text + f"no time: nothing was measured on a {kind}"
    forward = forward_flops(problem, data)
    seconds = coding_s(RATES[kind], header, devices)
    steps = plain_steps + recipe.steps + refining
    seconds += steps * step_s(RATES[kind], header.entries, forward, devices)
    return text + f"{duration(seconds)} at the speed of a core of docs/scaling.md's machine"


def forward_flops(problem: Problem, data: tuple[Any, Any]) -> float:
    """Operations of the network on a batch, as XLA counts them; nothing runs."""
    posterior, header = problem.posterior, problem.header
    shape = jax.ShapeDtypeStruct
    vectors = {name: shape((header.entries,), "float32") for name in ("mean", "log_variance")}
    scales = shape((header.groups,), "float32")
    sharing, uncoded = _others(problem)
    variables = {
        "params": {**vectors, "log_prior_scale": scales}, "sharing": sharing, "uncoded": uncoded
    }  # fmt: skip
    batch = jax.tree.map(lambda x: shape((problem.recipe.batch_size, *x.shape[1:]), x.dtype), data)
    apply = jax.jit(lambda v, x: posterior.apply(v, x, sample=False, **dict(problem.net_kwargs)))
    return float((apply.lower(variables, batch[0]).cost_analysis() or {}).get("flops", 0.0))


def _others(problem: Problem) -> tuple[Any, Any]:
    """Shapes of the posterior's 'sharing' and 'uncoded' collections."""
    shape, manifest = jax.ShapeDtypeStruct, problem.posterior.sharing.manifest
    sharing = {
        t.path: {
            "entry": shape((t.size,), "int32"),
            "sign": shape((t.size,), "float32"),
            "parameter": shape((t.factor, t.entries), "int32"),
        }
        for t in manifest.coded
        if t.factor > 1
    }
    uncoded = {t.path: shape(t.shape, t.dtype) for t in manifest.tensors if not t.factor}
    return sharing, uncoded
