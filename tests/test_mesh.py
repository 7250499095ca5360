"""Work spread over a mesh of devices, and over processes: the same numbers, and less for each."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from fresh_process import QUICK, output_of

from mrc_jax import mesh
from mrc_jax.errors import UsageError

ROOT = pathlib.Path(__file__).parents[1]


def started(folder: pathlib.Path, devices: int, meshes: list[str], **more: str) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **more}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
    environment["XLA_FLAGS"] = f"{QUICK} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, str(ROOT / "tests" / "mesh_runs.py"), str(folder), *meshes]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def told(process: subprocess.Popen) -> list[dict]:
    out, errors = process.communicate(timeout=1000)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def losses(folder: pathlib.Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["phase"] == "train"]


@pytest.mark.timeout(1200)  # a minute of a core's time; far more where many tests share it
def test_two_processes_write_the_file_of_two_devices(tmp_path: pathlib.Path) -> None:
    """Refining included; one device trains to the same losses, and codes a checkpoint to the same
    file.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [
        started(tmp_path / "two", 1, ["data=2"], **cluster, JAX_PROCESS_ID=str(number))
        for number in range(2)
    ]
    both = [told(process) for process in processes]
    one, alone, *coded = told(started(tmp_path / "one", 2, ["data=2", "", "coded"]))
    for (said,) in both:  # each process has one device, and half of a batch and of a wave
        assert said["devices"] == 1 and said["shards"] == 1
        assert said["batch"] == [[16, 8, 8, 1], [8, 8, 8, 1]] and said["blocks"] == [32, 16]
        assert said["data_sha256"] == one["data_sha256"]
    assert sum(said["examples"] for (said,) in both) == one["examples"] == alone["examples"]
    assert alone["batch"][1][0] == 16 and one["devices"] == 2
    folders = [tmp_path / "two" / "data=2", tmp_path / "one" / "data=2"]
    assert len({(folder / "model.mrc").read_bytes() for folder in folders}) == 1
    assert losses(folders[0]) == losses(folders[1])
    np.testing.assert_allclose(losses(tmp_path / "one" / "one"), losses(folders[0]), atol=1e-4)
    assert coded[0]["files"][0] == coded[0]["files"][1] != 0


SPREAD = """
import sys
sys.path.insert(0, "tests")
import json, jax
from test_mesh import coding
from mrc_jax.mesh import make_mesh
print(json.dumps([coding(make_mesh(text)) for text in ("", "data=2", "data=8")]))
"""
SIZE, BITS, WAVE = 16, 8, 1024


def coding(devices):
    """Indices of a wave of blocks, the bytes that one device's program takes beside its share of
    the posterior, and that share's columns.
    """
    import jax.numpy as jnp

    from mrc_jax.encode import select_wave_on

    random = np.random.default_rng(0)
    mean = random.normal(0, 0.1, (SIZE, WAVE)).astype(np.float32)
    columns = [mean, np.full_like(mean, -5), np.full_like(mean, 0.1), np.ones(mean.shape, bool)]
    if devices is not None:
        where = mesh.spread(devices, mesh.axes_but(devices), 1)
        columns = [jax.device_put(x, where) for x in columns]
    options = {"bits": BITS, "codebook_blocks": WAVE, "selection": "sample", "together": WAVE}

    def code(key, *columns):
        block = jnp.arange(WAVE, dtype=jnp.uint32)
        return select_wave_on(devices, key, *columns, jnp.uint32(1), block, **options)

    compiled = jax.jit(code).lower(jax.random.key(1), *columns).compile()
    analysis = compiled.memory_analysis()
    found = compiled(jax.random.key(1), *columns)
    held = found.addressable_shards[0].data.shape[0]
    return [int(i) for i in found], analysis.temp_size_in_bytes, held


def test_eight_devices_choose_what_one_does_and_take_less_memory_each() -> None:
    one, two, eight = json.loads(output_of(SPREAD, "eight_devices"))
    assert one[0] == two[0] == eight[0]
    assert [x[2] for x in (one, two, eight)] == [WAVE, WAVE // 2, WAVE // 8]
    assert two[1] < 0.7 * one[1] and eight[1] < 0.5 * two[1]


DIVIDED = """
import sys
sys.path.insert(0, "tests")
import json
from test_mesh import far_from_convolution, work
print(json.dumps([work("data=2", 1), work("data=2", 2), far_from_convolution()]))
"""


def work(text, parts):
    """Of two steps of ResNet-20's plain and variational training, on images moved at random: the
    share of all operations that a device does, and what it is sent beside sums.
    """
    import re
    from functools import partial

    from test_large_networks import config_of, random_images

    from experiments import networks, plain_training
    from mrc_jax import train

    fields = {"width": 4, "plain_batch_size": 8, "batch_size": 8 * parts, "batch_parts": parts}
    fields |= {"file_bytes": 400, "bits": 8}
    config, dataset = config_of("resnet20", mesh=text, **fields), random_images(16)
    net, devices = networks.network(config, dataset), mesh.make_mesh(text)
    start = networks.initial_weights(networks.plain_network(net), dataset, 0)
    plain, data = plain_training.program(net, dataset.train, config)
    start = plain_training.start(start, config)
    lowered = [plain.lower(start, data, np.arange(2, dtype=np.int32))]
    start = networks.initial_weights(net, dataset, 0)
    problem, arrays, state = networks.prepare(config, net, start, devices)
    steps = jax.jit(partial(train.train_on_arrays, problem, steps=2))
    lowered.append(steps.lower(arrays, state, data))
    compiled = [program.compile() for program in lowered]
    sent = r" (all-gather|all-to-all|collective-permute)\("
    shares = [
        part.cost_analysis()["flops"] / whole.cost_analysis()["flops"]
        for part, whole in zip(compiled, lowered, strict=True)
    ]
    return shares, [re.findall(sent, x.as_text()) for x in compiled]


def far_from_convolution():
    """How far a convolution by parts is from XLA's, of eight devices and 12 or 5 images."""
    from mrc_jax.models.convolution import _by_tiles, _convolve, _shift_and_multiply

    random, furthest = np.random.default_rng(0), 0.0
    for batch, stride, padding in ((12, 1, 0), (12, 2, 1), (5, 1, 1)):
        images = random.normal(size=(3, 9, 8, batch)).astype(np.float32)
        kernel = random.normal(size=(3, 2, 3, 4)).astype(np.float32)
        found = _shift_and_multiply(images, kernel, stride, padding)
        wanted = _convolve(images, kernel, stride, padding)
        assert found.shape == wanted.shape
        furthest = max(furthest, float(np.max(np.abs(found - wanted))))
        images, kernel = images[:, :6], np.pad(kernel, ((0, 0), (0, 1), (0, 0), (0, 0)))
        apart = _by_tiles(images, kernel) - _convolve(images, kernel, 1, 1)
        furthest = max(furthest, float(np.max(np.abs(apart))))
    return furthest


def test_layers_and_moved_images_are_divided_with_the_batch() -> None:
    """What belongs to weights (noise, KL, Adam) every device does; the rest is halved, and only
    sums are sent.
    """
    *batches, furthest = json.loads(output_of(DIVIDED, "eight_devices_quick"))
    assert len(batches) == 2 and furthest < 1e-5
    for (plain, variational), sent in batches:  # of a whole batch, and of one in two parts
        assert sent == [[], []]
        assert 0.4 < plain < 0.6 and 0.4 < variational < 0.8


TOGETHER = """
import sys
sys.path.insert(0, "tests")
import json
from test_mesh import members
print(json.dumps([members(text) for text in ("", "members=2", "members=2,data=2")]))
"""


def members(text):
    """What three members of other rates and numbers of blocks have after twelve steps together on
    a mesh, with the shapes of what is divided and of a device's part of it.
    """
    from test_train import DATA, problem

    from mrc_jax import vmap_members

    made = [
        problem(file_bytes, data_shards=2, learning_rate=rate)
        for rate, file_bytes in ((0.02, 44), (0.01, 60), (0.005, 44))
    ]
    problems = [dataclasses.replace(p, mesh=mesh.make_mesh(text)) for p, _, _ in made]
    place, held = vmap_members._placed, []

    def placed(tree, *arguments):
        tree = place(tree, *arguments)
        x = jax.tree.leaves(tree)[0]
        held.append([list(x.shape), list(x.sharding.shard_shape(x.shape))])
        return tree

    vmap_members._placed = placed
    data = jax.tree.map(lambda x: x.reshape(2, 48, -1), DATA)
    run = vmap_members.vmap_members(problems, [arrays for _, arrays, _ in made], data)
    states, metrics = run([state for *_, state in made], 12)
    vmap_members._placed = place
    values = [np.asarray(s.params["mean"]).tolist() for s in states]
    return values, [float(m["loss"]) for m in metrics], [len(s.betas) for s in states], held


def test_members_together_are_divided_over_devices_and_have_the_same_numbers() -> None:
    """Three over two devices: the fourth place is filled, and left out of what comes back."""
    one, two, four = json.loads(output_of(TOGETHER, "eight_devices_quick"))
    for values, losses_of, blocks, _ in (two, four):
        np.testing.assert_allclose(values, one[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(losses_of, one[1], rtol=1e-5)
        assert blocks == one[2] and len(set(blocks)) == 2 and len(blocks) == 3
    assert np.ptp([x[0] for x in one[0]]) > 1e-3  # other rates
    for held, members_held, rows in ((one[3], 3, 2), (two[3], 2, 2), (four[3], 2, 1)):
        assert held[0][1][0] == held[-1][1][0] == members_held  # constants; states
        assert any(whole[:2] == [2, 48] and part[:2] == [rows, 48] for whole, part in held)


@pytest.mark.parametrize(
    "text", ["data", "data=0", "data=2,data=2", "rows=2", "data=2;", "data=-1"]
)
def test_a_mesh_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="AXIS=DEVICES"):
        mesh.axes_of(text)


@pytest.mark.parametrize("kind", [tuple, lambda data: [data]])  # arrays; an iterable of batches
def test_shards_that_the_devices_cannot_share_are_refused(kind: Any) -> None:
    from test_train import DATA, problem

    from mrc_jax.feed import steps_on

    made, arrays, _ = problem(data_shards=2)
    devices: Any = jax.sharding.AbstractMesh((4,), ("data",))
    with pytest.raises(UsageError, match="data_shards = 2: must be a multiple of the mesh's 4"):
        steps_on(dataclasses.replace(made, mesh=devices), arrays, kind(DATA))


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="has 4096 devices, and there are"):
        mesh.make_mesh("data=4096")


def test_shards_are_of_equal_length_and_share_no_example() -> None:
    shards = mesh.by_shards(23, 4)
    assert shards.shape == (4, 5) and shards[1].tolist() == [1, 5, 9, 13, 17]
    assert len(np.unique(shards)) == 20
    with pytest.raises(UsageError, match="3 examples are too few for 4 shards"):
        mesh.by_shards(3, 4)
