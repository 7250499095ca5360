"""A variational LeNet-5 step against the plain one of the same network and batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import mnist_lenet5
from experiments import networks, plain_training
from experiments.benchmark.measure import in_turns
from experiments.data import Dataset, Split
from experiments.settings import Config
from mrc_jax import api
from mrc_jax.feed import steps_on
from mrc_jax.objective import block_kl_nats, penalty_nats
from mrc_jax.problem import Problem, State
from mrc_jax.samples import sample_entries
from mrc_jax.sharing import expand
from mrc_jax.vmap_members import vmap_members

BATCH_SIZE = 128
MEMBERS = 8
_SHARING = (("Conv_1/kernel", 2), ("Dense_0/kernel", 50))  # of kernels as they are
_STEPS, _REPETITIONS = 20, 7  # of a call; calls of each kind, in turns


def rows() -> list[dict[str, Any]]:
    """Seconds of a step of each kind, with their ratio, and of what the variational step does
    beyond the plain one; images are random.
    """
    config = Config.from_config_dict(mnist_lenet5.get_config())
    config = dataclasses.replace(config, batch_size=BATCH_SIZE, factored=False, sharing=_SHARING)
    calls = _calls(config)
    found = {name: s / _STEPS for name, s in in_turns(calls, _REPETITIONS).items()}
    return [
        {"step": n, "batch_size": BATCH_SIZE, "seconds": s, "ratio": s / found["plain"]}
        for n, s in found.items()
    ]


def _calls(config: Config) -> dict[str, Callable[[], Any]]:
    """What runs _STEPS steps of the plain network, of the posterior, and of each part that the
    posterior adds, and waits for them.
    """
    dataset = random_images("mnist", (28, 28, 1))
    net = networks.network(config, dataset)
    weights = networks.initial_weights(net, dataset, config.seed)
    run, data = plain_training.program(net, dataset.train, config)
    plain_state = plain_training.start(weights, config)
    key, recipe = jax.random.key(config.seed), config.recipe()
    loss, size = networks.loss, config.file_bytes
    problem, arrays, state = api.prepare(net, weights, loss, size, key, recipe)
    parts = _parts(problem, arrays, jax.tree.map(jnp.copy, state))  # a step's call takes its state
    run_steps = steps_on(problem, arrays, (dataset.train.inputs, dataset.train.labels))

    def plain() -> None:
        nonlocal plain_state
        plain_state, losses = run(plain_state, data, jnp.arange(_STEPS))
        jax.block_until_ready(losses)

    def variational() -> None:
        nonlocal state
        state, metrics = run_steps(state, _STEPS, False)
        jax.block_until_ready(metrics)

    together = f"variational, {MEMBERS} members by one program"
    members = _members(config, weights, net, dataset)
    return {"plain": plain, "variational": variational, together: members, **parts}


def _members(config: Config, weights: Any, net: Any, dataset: Dataset) -> Callable[[], Any]:
    """What runs _STEPS steps of members of other seeds that are trained together."""
    size, recipe = config.file_bytes, config.recipe()
    keys = [jax.random.key(seed) for seed in range(MEMBERS)]
    made = [api.prepare(net, weights, networks.loss, size, key, recipe) for key in keys]
    problems, arrays, states = (list(kind) for kind in zip(*made, strict=True))
    run = vmap_members(problems, arrays, (dataset.train.inputs, dataset.train.labels))

    def members() -> None:
        nonlocal states
        states, metrics = run(states, _STEPS)
        jax.block_until_ready(metrics)

    return members


def _parts(problem: Problem, arrays: Any, state: State) -> dict[str, Callable[[], Any]]:
    """Each part alone, with its gradient, as often as in _STEPS steps."""
    sharing, partition = problem.posterior.sharing, problem.header.partition

    def noise(params: Any, number: jax.Array) -> Any:
        key = jax.random.fold_in(jax.random.key(1), number)
        return {**params, "mean": sample_entries(params, key)}

    def shared(params: Any, _: jax.Array) -> Any:
        tree, back = jax.vjp(lambda x: expand(sharing, arrays["sharing"], x, []), params["mean"])
        return {**params, "mean": back(tree)[0]}

    def kl(params: Any, _: jax.Array) -> Any:
        def penalty(params: Any) -> jax.Array:
            blocks = block_kl_nats(params, sharing, partition, arrays["order"])
            return penalty_nats(state.betas, blocks)

        return jax.tree.map(jnp.subtract, params, jax.grad(penalty)(params))

    parts = {"noise alone": noise, "sharing alone": shared, "KL alone": kl}
    return {name: _repeated(part, state.params) for name, part in parts.items()}


def _repeated(part: Callable[[Any, jax.Array], Any], params: Any) -> Callable[[], Any]:
    def step(params: Any, number: jax.Array) -> tuple[Any, None]:
        return part(params, number), None

    def run(params: Any) -> Any:
        return jax.lax.scan(step, params, jnp.arange(_STEPS))[0]

    program = jax.jit(run)
    return lambda: jax.block_until_ready(program(params))


def random_images(name: str, shape: tuple[int, ...]) -> Dataset:
    """A data set of that name in place of its own: 2,000 images [H, W, channels] of ten classes."""
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (2000, *shape), np.uint8)
    split = Split(inputs, random.integers(0, 10, 2000).astype(np.int32))
    return Dataset(name, split, split, split, 10, 255.0)
