"""Networks for CIFAR-10 in widths of a few channels: trained, folded, coded, decoded."""

import dataclasses
import importlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_sets import write_cifar10

from experiments import networks, plain_training
from experiments import run as runs
from experiments.data import Dataset, Split, load
from experiments.settings import Config
from mrc_jax import budget
from mrc_jax.container import unpack
from mrc_jax.decode import decode
from mrc_jax.errors import UsageError
from mrc_jax.models.folding import fold
from mrc_jax.sharing import make_sharing, tree_of

NAMES = ("resnet20", "vgg16", "vgg8")


def config_of(name: str, **fields: Any) -> Config:
    values = importlib.import_module(f"configs.cifar10_{name}").get_config()
    return dataclasses.replace(Config.from_config_dict(values), **fields)


def tiny(name: str, folder: pathlib.Path) -> Config:
    """The config with another width, size and number of steps; all programs run once or twice."""
    return config_of(
        name,
        data_dir=str(folder),
        width=1 if name == "resnet20" else 2,
        file_bytes=220,
        bits=6,
        selection="sample",  # so that a file's size is that of its plan
        plain_steps=4,
        steps=300,
        steps_per_call=100,
        batch_size=4,
        refine_steps=0,
        beta_init=1.0,
        beta_step=0.05,
    )


def random_images(count: int = 12, side: int = 32) -> Dataset:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    split = Split(inputs, np.arange(count, dtype=np.int32) % 10)
    return Dataset("cifar10", split, split, split, 10, 255.0)


@pytest.mark.parametrize(
    ("name", "parameters", "shared"),
    [
        ("resnet20", 269_034, 0),
        ("vgg8", 574_218, 0),
        ("vgg16", 15_245_130, 0),
        ("vgg16", 15_245_130, 5 * 9 * 512 * 512),
    ],
)
def test_the_config_s_file_holds_the_network(name: str, parameters: int, shared: int) -> None:
    """As it is, and with entries that stand for eight weights of VGG-16's five widest convolutions
    each, as in the paper.
    """
    widest = tuple((f"Conv_{number}/kernel", 8) for number in range(8, 13))
    config, dataset = config_of(name, sharing=widest if shared else ()), random_images()
    net = networks.network(config, dataset)
    shapes = jax.eval_shape(lambda: networks.initial_weights(net, dataset, 0))
    manifest = make_sharing(shapes, 0, config.sharing, config.uncoded).manifest
    header = budget.plan(manifest, config.file_bytes, config.recipe(), seed=0)
    assert manifest.parameters == parameters
    assert header.entries == parameters - shared + shared // 8
    assert not [t.path for t in manifest.tensors if not t.factor]  # nothing is left uncoded
    size = budget.planned_bytes(header, config.recipe())
    assert 0.97 * config.file_bytes <= size <= config.file_bytes
    assert header.codebook_blocks == config.codebook_blocks >= config.wave_blocks


@pytest.mark.parametrize("model", NAMES)
def test_images_of_another_size_are_refused(model: str) -> None:
    with pytest.raises(UsageError, match=f"model = '{model}' takes images of 32 x 32; cifar10 has"):
        networks.network(config_of(model), random_images(side=28))


def test_plain_training_moves_the_statistics_and_adam_has_no_part_of_them() -> None:
    config = config_of("resnet20", width=1, batch_size=4, plain_optimizer="adam")
    dataset = random_images()
    net = networks.network(config, dataset)
    start = networks.initial_weights(networks.plain_network(net), dataset, 0)
    state = plain_training.start(start, config)
    run, data = plain_training.program(net, dataset.train, config)
    once, losses = run(state, data, jnp.arange(4, 8))
    again, _ = run(state, data, jnp.arange(4, 8))
    jax.tree.map(np.testing.assert_array_equal, once, again)
    assert np.all(np.isfinite(losses))
    changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), once[0], start)
    assert set(changed) == {"params", "batch_stats"}
    assert all(jax.tree.leaves(changed["batch_stats"]))
    assert changed["params"]["Conv_0"]["kernel"] and changed["params"]["Dense_0"]["bias"]
    moments = state[1][0]
    assert jax.tree.structure(moments.mu) == jax.tree.structure({"params": start["params"]})


def test_weights_decay_by_the_rate_times_the_decay_beside_adam_s_step() -> None:
    """Loshchilov and Hutter (2019), algorithm 2: the first step's rate is the whole rate."""
    data = random_images()
    fields = {"model": "mlp", "hidden": (4,), "augment": "none", "width": 0}
    fields |= {"plain_optimizer": "adam"}
    plain = config_of("resnet20", plain_learning_rate=0.01, plain_weight_decay=0.0, **fields)
    net = networks.network(plain, data)
    start = networks.initial_weights(net, data, 0)

    def after(config: Config) -> Any:
        run, arrays = plain_training.program(net, data.train, config)
        return run(plain_training.start(start, config), arrays, jnp.arange(1))[0][0]

    decayed = after(dataclasses.replace(plain, plain_weight_decay=0.5))
    jax.tree.map(
        lambda a, b, w: np.testing.assert_allclose(a, b - 0.01 * 0.5 * w, rtol=0, atol=1e-6),
        decayed,
        after(plain),
        start,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_network_goes_from_images_to_a_file_that_decodes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_cifar10(tmp_path)
    config, last = tiny(name, tmp_path), []
    dataset = load("cifar10", config.data_dir)
    train_plain = plain_training.train

    def keeps(net: Any, start: Any, done: int, split: Any, config: Any, on_call: Any) -> Any:
        def also(state: Any, done: int, loss: float) -> None:
            last.append(state[0])
            on_call(state, done, loss)

        return train_plain(net, start, done, split, config, also)

    monkeypatch.setattr(plain_training, "train", keeps)
    report = runs.compress(config, tmp_path / "run")
    file = (tmp_path / "run" / "model.mrc").read_bytes()
    assert 0.97 * 220 <= len(file) == report["file_bytes"] <= 220
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    net = networks.network(config, dataset)
    like = jax.eval_shape(lambda: networks.initial_weights(net, dataset, 0))
    manifest = (tmp_path / "run" / "model.manifest").read_bytes()
    header = unpack(file).header
    assert report["entries"] == header.entries and report["parts_bytes"].get("uncoded", 0) == 0
    weights = tree_of(decode(file, manifest), like)
    assert networks.error(net, weights, dataset.validation) == report["validation_error"]
    checkpoints = runs.Checkpoints(tmp_path / "run" / "plain")
    restored = checkpoints.restore(like)
    checkpoints.close()
    assert restored is not None
    jax.tree.map(np.testing.assert_array_equal, restored[0], fold(last[-1]))
    assert networks.error(net, restored[0], dataset.validation) == report["plain_validation_error"]
