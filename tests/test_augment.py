"""Random crops and mirrored images: each by brute force, their law, and where they are applied."""

import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import DATA, problem, runner

from configs import smoke
from experiments import networks, plain_training
from experiments import run as runs
from experiments.augment import HOLE, PAD, augment_of, crop_flip, crop_flip_cutout
from experiments.data import load
from experiments.settings import Config
from mrc_jax import train
from mrc_jax.compress import Progress
from mrc_jax.errors import UsageError
from mrc_jax.problem import private_key
from mrc_jax.vmap_members import vmap_members

SMOKE = Config.from_config_dict(smoke.get_config())


def test_each_image_is_one_of_its_162_forms_and_all_are_equally_likely() -> None:
    """Chi-squared with 161 degrees of freedom: above 240 by chance once in 20,000."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (5, 6, 2), np.uint8)
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
    forms = {}
    for i, j, mirrored in itertools.product(range(9), range(9), (False, True)):
        cut = padded[i : i + 5, j : j + 6]
        forms[(cut[:, ::-1] if mirrored else cut).tobytes()] = len(forms)
    assert len(forms) == 162
    count = 162 * 50
    batch = jnp.asarray(np.broadcast_to(image, (count, *image.shape)))
    found = np.asarray(jax.jit(crop_flip)(batch, jax.random.key(5)))
    assert found.shape == batch.shape and found.dtype == np.uint8
    seen = np.bincount([forms[x.tobytes()] for x in found], minlength=162)
    assert np.sum((seen - 50) ** 2 / 50) < 240


def test_images_of_a_batch_stay_where_they_are_in_it() -> None:
    """Image i has the value i everywhere; the middle row and column are never cut away."""
    batch = np.broadcast_to(np.arange(1, 41, dtype=np.uint8)[:, None, None, None], (40, 9, 9, 1))
    found = np.asarray(crop_flip(jnp.asarray(batch), jax.random.key(0)))
    np.testing.assert_array_equal(found[:, 4, 4, 0], np.arange(1, 41))


def test_a_square_around_any_pixel_is_hidden_by_the_image_s_mean() -> None:
    """Of images of 20 x 24 that are 200 but for what a crop leaves of the edge."""
    batch, half = jnp.full((2000, 20, 24, 1), 200, jnp.uint8), HOLE // 2
    found = np.asarray(jax.jit(crop_flip_cutout)(batch, jax.random.key(1)))[..., 0]
    assert found.dtype == np.uint8
    middles = set()
    for image in found:
        hidden = ~np.isin(image, (0, 200))  # no crop leaves a mean of 200, but for (PAD, PAD)
        if not hidden.any():
            continue
        rows, columns = (np.flatnonzero(hidden.any(axis)) for axis in (1, 0))
        assert hidden[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(np.unique(image[hidden])) == 1
        ends = []
        for side, size in ((rows, 20), (columns, 24)):
            first, last = int(side[0]), int(side[-1]) + 1
            middle = last - half if first == 0 else first + half
            assert (first, last) == (max(middle - half, 0), min(middle + half, size))
            ends.append(middle)
        middles.add(tuple(ends))
    assert {m for m, _ in middles} == set(range(20)) and {m for _, m in middles} == set(range(24))


def test_a_config_s_name_gives_the_function() -> None:
    assert augment_of("none") is None and augment_of("crop_flip") is crop_flip
    assert augment_of("crop_flip_cutout") is crop_flip_cutout


def test_each_step_has_a_key_of_its_own_by_its_number_alone() -> None:
    seen: list[bytes] = []

    def keep(inputs: Any, key: Any) -> Any:
        seen.append(np.asarray(jax.random.key_data(key)).tobytes())
        return inputs

    made, arrays, state = problem()
    made, batch = dataclasses.replace(made, augment=keep), (DATA[0][:4], DATA[1][:4])
    for step in (0, 1, 2, 1):
        train.train_step(
            made, arrays, dataclasses.replace(state, step=jnp.int32(step)), batch, False
        )
    assert len(set(seen)) == 3 and seen[1] == seen[3]
    key = jax.random.fold_in(private_key(state), 0)
    streams = [np.asarray(jax.random.key_data(k)).tobytes() for k in jax.random.split(key, 2)]
    assert seen[0] not in streams  # of the posterior and of dropout


def test_the_network_sees_the_changed_inputs_and_all_else_is_as_without() -> None:
    made, arrays, state = problem()
    doubled = dataclasses.replace(made, augment=lambda x, key: 2 * x)
    found, _ = runner(doubled)(arrays, state, DATA, steps=20)
    wanted, _ = runner(made)(arrays, state, (2 * DATA[0], DATA[1]), steps=20)
    other, _ = runner(made)(arrays, state, DATA, steps=20)
    np.testing.assert_allclose(found.params["mean"], wanted.params["mean"], rtol=1e-4, atol=1e-6)
    assert not np.allclose(found.params["mean"], other.params["mean"], rtol=1e-2, atol=1e-4)


def test_steps_in_two_calls_are_those_of_one() -> None:
    made, arrays, state = problem()
    noisy = dataclasses.replace(
        made, augment=lambda x, key: x + jax.random.normal(key, x.shape, x.dtype)
    )
    run = runner(noisy)
    once, _ = run(arrays, state, DATA, steps=10)
    half, _ = run(arrays, state, DATA, steps=5)
    twice, _ = run(arrays, half, DATA, steps=5)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_array_equal(a, b)


def test_members_of_other_augments_do_not_train_together() -> None:
    made, arrays, _ = problem()
    other = dataclasses.replace(made, augment=crop_flip)
    with pytest.raises(UsageError, match="other changes of the inputs"):
        vmap_members([made, other], [arrays, arrays], DATA)


def test_plain_training_sees_changed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are all black teach the biases alone."""
    monkeypatch.setattr(plain_training, "augment_of", lambda name: lambda x, key: jnp.zeros_like(x))
    dataset = load("digits", "")
    net = networks.network(SMOKE, dataset)
    start = networks.initial_weights(net, dataset, 0)
    run, data = plain_training.program(net, dataset.train, SMOKE)
    (after, _), _ = run(plain_training.start(start, SMOKE), data, jnp.arange(3))
    kernel, bias = (
        np.asarray(after["params"]["Dense_0"]["kernel"]), after["params"]["Dense_1"]["bias"]
    )  # fmt: skip
    np.testing.assert_array_equal(kernel, start["params"]["Dense_0"]["kernel"])
    assert np.all(np.asarray(bias) != 0)


def test_means_start_from_the_plain_network(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(SMOKE, start_from_plain=True, hidden=(24, 12), augment="crop_flip")
    with runs.opened(config, tmp_path) as job:
        net, inputs = networks.Mean(job.problem), job.dataset.validation.inputs

        def means() -> Any:
            params = job.problem.gaussian(job.state.params, job.arrays)
            own = {"sharing": job.arrays["sharing"], "uncoded": job.state.uncoded}
            return np.asarray(net.apply({"params": params, **own}, inputs))

        at_random, key = means(), np.asarray(job.state.key)
        job.data()
        wanted = np.asarray(job.net.apply(job.plain, inputs))
        np.testing.assert_allclose(means(), wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(key, job.state.key)
        assert not np.allclose(at_random, wanted, atol=0.1)


def test_a_run_that_distils_learns_from_the_plain_network_and_not_from_labels(
    tmp_path: pathlib.Path,
) -> None:
    config = dataclasses.replace(SMOKE, distil=True, augment="crop_flip")
    with runs.opened(config, tmp_path) as job:
        inputs, targets = job.data()
        assert targets.ndim == 1
        assert job.problem.teacher is not None
        found = job.problem.teacher(job.arrays["teacher"], jnp.asarray(inputs[:50]))
        wanted = networks.probabilities(job.net, job.plain, inputs[:50])
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_run_that_is_stopped_ends_with_the_same_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        SMOKE, start_from_plain=True, augment="crop_flip", wave_blocks=40, codebook_blocks=40
    )
    whole = tmp_path / "whole"
    runs.compress(config, whole)
    on_call = runs.Run.on_call
    calls: list[int] = []

    def stops(job: runs.Run, state: Any, progress: Progress) -> None:
        calls.append(progress.done)
        job.stop = 15 * (len(calls) in (2, 6))
        on_call(job, state, progress)

    monkeypatch.setattr(runs.Run, "on_call", stops)
    parts = tmp_path / "parts"
    for _ in range(2):  # in training, then in coding
        with pytest.raises(SystemExit):
            runs.compress(config, parts)
    runs.compress(config, parts)
    for name in ("model.mrc", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert calls == [250, 500, 750, 1000, 40, 80, 120, 160, 164]
