"""Distorted copies of images: where nothing moves, how far things move, and their labels."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from experiments import distort
from experiments.data import Split, load


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every distortion switched off."""
    for name in ("ROTATION", "LOG_SCALE", "SHEAR", "SHIFT", "BEND"):
        monkeypatch.setattr(distort, name, 0.0)
    jax.clear_caches()
    yield monkeypatch
    jax.clear_caches()


def _blobs(count: int, size: int = 28) -> Split:
    """Images of one smooth blob near the middle."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    blob = 255 * np.exp(-(y**2 + (x / 1.5) ** 2) / 12)
    images = np.tile(np.rint(blob).astype(np.uint8)[None, ..., None], (count, 1, 1, 1))
    return Split(images, np.arange(count, dtype=np.int32) % 10)


def _middles(images: np.ndarray) -> np.ndarray:
    return np.array([ndimage.center_of_mass(image[..., 0]) for image in images])


def test_without_distortions_copies_are_the_images(still) -> None:
    split = _blobs(3)
    split.inputs[:] = np.random.default_rng(0).integers(0, 256, split.inputs.shape)
    done = distort.with_copies(split, 2, 0)
    assert np.array_equal(done.inputs, np.tile(split.inputs, (3, 1, 1, 1)))


def test_copies_follow_the_images_with_their_labels_and_depend_on_the_seed() -> None:
    split = load("digits", "").train
    done = distort.with_copies(split, 2, 5)
    n = len(split.labels)
    assert done.inputs.dtype == np.uint8 and len(done.inputs) == len(done.labels) == 3 * n
    assert np.array_equal(done.inputs[:n], split.inputs)
    assert np.array_equal(done.labels, np.tile(split.labels, 3))
    assert not np.array_equal(done.inputs[n : 2 * n], done.inputs[2 * n :])
    assert np.array_equal(done.inputs, distort.with_copies(split, 2, 5).inputs)
    more = distort.with_copies(split, 2, 5, originals=3)
    assert np.array_equal(more.inputs[2 * n :], done.inputs)
    assert np.array_equal(more.inputs[: 2 * n], np.tile(split.inputs, (2, 1, 1, 1)))
    assert np.array_equal(more.labels, np.tile(split.labels, 5))
    assert not np.array_equal(done.inputs, distort.with_copies(split, 2, 6).inputs)
    assert np.array_equal(distort.with_copies(split, 0, 5).inputs, split.inputs)


def test_shifts_are_as_far_as_they_say(still) -> None:
    still.setattr(distort, "SHIFT", 0.1)  # 2.8 pixels at most
    done = distort.with_copies(_blobs(300), 1, 0).inputs[300:]
    moved = _middles(done) - 13.5
    assert np.all(np.abs(moved) < 2.85) and np.all(np.max(moved, axis=0) > 2.5)
    assert np.all(np.min(moved, axis=0) < -2.5)


def test_rotations_turn_the_image_and_leave_its_middle(still) -> None:
    still.setattr(distort, "ROTATION", 1.0)
    done = (
        distort.with_copies(_blobs(300), 1, 0, strength=0.5).inputs[300:, ..., 0].astype(np.float64)
    )
    assert np.abs(_middles(done[..., None]) - 13.5).max() < 0.1
    y, x = np.mgrid[:28, :28] - 13.5
    mass = done.sum(axis=(1, 2))
    yy, xx, xy = ((done * f).sum(axis=(1, 2)) / mass for f in (y * y, x * x, x * y))
    angles = 0.5 * np.arctan2(2 * xy, xx - yy)
    assert 0.47 < angles.max() < 0.51 and -0.51 < angles.min() < -0.47


def test_bends_have_their_standard_deviation(still) -> None:
    still.setattr(distort, "BEND", 0.4 / 28)
    keys = jax.random.split(jax.random.key(0), 2000)
    y, x = jax.vmap(lambda key: distort._places(key, 28, 28, 2.0))(keys)
    rows, columns = np.mgrid[:28, :28].reshape(2, -1)
    for moved in (np.asarray(y) - rows, np.asarray(x) - columns):
        assert np.std(moved, axis=0) == pytest.approx(np.full(784, 0.8), rel=0.1)
        near = moved.reshape(-1, 28, 28)
        assert np.corrcoef(near[:, 10, 10], near[:, 10, 11])[0, 1] > 0.95
