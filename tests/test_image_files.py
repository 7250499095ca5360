"""Damaged, short and foreign image files are refused by name, in one line."""

import gzip
import pathlib

import numpy as np
import pytest
from image_sets import TRAIN, idx, random_images, write_cifar10, write_idx

from experiments.data import load
from mrc_jax.errors import DataError


@pytest.fixture(autouse=True)
def _places(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def damaged_idx() -> dict[str, tuple[str, bytes, str]]:
    """Name -> (file, content, what the error says)."""
    images, labels = random_images(TRAIN, (28, 28), TRAIN)
    good = idx(images)
    files = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    many = np.array([0, 0, 8, 3] + [255] * 12, np.uint8).tobytes() + good[16:]
    cut, flipped = gzip.compress(good)[:-3000], bytearray(gzip.compress(good))
    flipped[len(flipped) // 2] ^= 0xFF
    zipped = {
        "not gzip": (files[0], good, "damaged gzip"),
        "cut gzip": (files[0], cut, "damaged gzip"),
        "flipped gzip": (files[0], bytes(flipped), "damaged gzip"),
        "empty": (files[0], b"", "IDX magic"),
    }
    contents = {
        "magic": (files[0], b"\1" + good[1:], "IDX magic 00000803"),
        "type": (files[0], good[:2] + b"\x0d" + good[3:], "IDX magic"),
        "dimensions": (files[0], idx(labels), "IDX magic"),
        "header cut": (files[0], good[:9], "IDX magic"),
        "short": (files[0], good[:-1], "31359 bytes of data where its header says 31360"),
        "long": (files[0], good + b"\0", "31361 bytes of data where its header says 31360"),
        "huge": (files[0], many, "its header says"),
        "size": (files[0], idx(images[:, :27]), r"images of \(27, 28, 1\)"),
        "none": (files[0], idx(images[:0]), "0 images"),
        "count": (files[1], idx(labels[:-1]), "39 labels for 40 images"),
        "label": (files[1], idx(np.minimum(labels + 9, 10)), "label 10"),
    }
    return zipped | {
        name: (file, gzip.compress(content), text)
        for name, (file, content, text) in contents.items()
    }


@pytest.mark.parametrize("case", damaged_idx())
def test_a_damaged_idx_file_is_refused_by_name(case: str, tmp_path: pathlib.Path) -> None:
    write_idx(tmp_path)
    name, content, text = damaged_idx()[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        load("mnist", str(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "0 bytes"),
        (bytes(3072), "3072 bytes"),
        (bytes(3074), "3074 bytes"),
        (b"\x0a" + bytes(3072), "label 10"),
    ],
)
def test_a_damaged_cifar10_file_is_refused(
    content: bytes, text: str, tmp_path: pathlib.Path
) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=text):
        load("cifar10", str(tmp_path))
