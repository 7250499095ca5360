"""Data sets arrive whole and unchanged, in fixed splits, or are refused in one line."""

import gzip
import hashlib
import os
import pathlib
import time

import numpy as np
import pytest
from image_sets import (
    TEST,
    TRAIN,
    idx,
    prepare_as_tfds_does,
    random_images,
    write_cifar10,
    write_idx,
)

from experiments import data, image_files
from experiments.data import Dataset, load
from mrc_jax.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def _places(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def together(dataset: Dataset) -> set[tuple[bytes, int]]:
    """The training and validation examples."""
    return {
        (image.tobytes(), int(label))
        for split in (dataset.train, dataset.validation)
        for image, label in zip(split.inputs, split.labels, strict=True)
    }


def check(dataset: Dataset, train: image_files.Arrays, test: image_files.Arrays) -> None:
    assert (len(dataset.train.labels), len(dataset.validation.labels)) == (TRAIN - 4, 4)
    assert together(dataset) == {
        (image.tobytes(), int(label)) for image, label in zip(*train, strict=True)
    }
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.inputs.dtype == np.uint8
        assert split.inputs.ndim == 4
        assert split.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.test.inputs, test[0])
    np.testing.assert_array_equal(dataset.test.labels, test[1])
    assert (dataset.scale, dataset.num_classes) == (255.0, 10)


def test_the_digits_have_fixed_stratified_splits() -> None:
    dataset = load("digits", "")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split.labels) for split in splits] == [1077, 360, 360]
    total = np.bincount(np.concatenate([split.labels for split in splits]), minlength=10)
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for split, share in zip(splits, (0.6, 0.2, 0.2), strict=True):
        assert np.abs(np.bincount(split.labels, minlength=10) - share * total).max() < 1.21
        assert split.inputs.shape[1:] == (8, 8, 1)
        assert (split.inputs.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert split.inputs.max() == dataset.scale == 16


def test_the_digits_and_their_split_have_their_golden_hashes() -> None:
    with np.load(pathlib.Path(data.__file__).parent / "digits" / "digits.npz") as file:
        split = data.digits_split(file["labels"].astype(np.int32))
    assert hashlib.sha256(split.tobytes()).hexdigest() == (
        "cc1be170d748322b26f428aabe56a0eb4789ecb5bd924af100020e2a508c92a2"
    )
    assert load("digits", "").sha256 == (
        "ba59b48e0871ac72b90ed280c45b9e7dae39679a2e4fe168016ab982d00b422c"
    )


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_of_every_name_arrive_unchanged(
    tmp_path: pathlib.Path, dot: bool, zipped: bool
) -> None:
    write_idx(tmp_path, dot, zipped)
    images, labels = random_images(TRAIN, (28, 28), TRAIN)
    test_images, test_labels = random_images(TEST, (28, 28), TEST)
    check(
        load("mnist", str(tmp_path)),
        (images[..., None], labels),
        (test_images[..., None], test_labels),
    )


def test_cifar10_files_arrive_unchanged(tmp_path: pathlib.Path) -> None:
    write_cifar10(tmp_path)
    check(
        load("cifar10", str(tmp_path)),
        random_images(TRAIN, (32, 32, 3), 1),
        random_images(TEST, (32, 32, 3), 2),
    )


def test_a_set_is_prepared_once_and_anew_when_its_files_change(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_idx(tmp_path)
    first = load("mnist", str(tmp_path))
    assert capsys.readouterr() == ("", f"preparing mnist in {tmp_path / 'tfds'} (once)\n")
    assert load("mnist", str(tmp_path)).sha256 == first.sha256
    assert capsys.readouterr() == ("", "")
    images, _ = random_images(TEST, (28, 28), 5)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    np.testing.assert_array_equal(load("mnist", str(tmp_path)).test.inputs[..., 0], images)


def test_the_validation_split_is_fixed_and_apart_from_training() -> None:
    held_out, rest = data._hold_out(60_000)
    assert len(held_out) == 5000
    assert sorted([*held_out, *rest]) == list(range(60_000))
    assert hashlib.sha256(held_out.astype("<u4").tobytes()).hexdigest() == (
        "2561e8f1005177e6978519987d15d327dc049e5a7910eb9322d0ca34aaa97c76"
    )


def test_nothing_is_held_out_where_that_is_said(tmp_path: pathlib.Path) -> None:
    write_idx(tmp_path)
    images, labels = random_images(TRAIN, (28, 28), TRAIN)
    whole = load("mnist", str(tmp_path), hold_out=False)
    np.testing.assert_array_equal(whole.train.inputs[..., 0], images)
    np.testing.assert_array_equal(whole.train.labels, labels)
    assert whole.validation.inputs.shape == (0, 28, 28, 1)
    first = load("mnist", str(tmp_path), 4, (2, 0), hold_out=False)
    assert len(first.train.labels) == TRAIN // 2 and not len(first.validation.labels)


def test_a_named_directory_takes_the_prepared_form(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "data")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    load("mnist", str(tmp_path / "data"))
    assert list((tmp_path / "prepared").iterdir())
    assert not (tmp_path / "data" / "tfds").exists()


def test_the_cache_takes_it_where_the_data_cannot_be_written(tmp_path: pathlib.Path) -> None:
    write_idx(tmp_path / "data")
    (tmp_path / "data" / "tfds").write_text("a file, so that no directory can be made")
    load("mnist", str(tmp_path / "data"))
    assert list((tmp_path / "cache" / "mrc_jax" / "tfds").iterdir())


def test_nowhere_to_write_names_the_setting(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set TFDS_DATA_DIR to a directory"):
        load("mnist", str(tmp_path))


def test_a_directory_that_tensorflow_datasets_prepared_is_read_at_once(
    tmp_path: pathlib.Path,
) -> None:
    prepare_as_tfds_does(tmp_path)
    dataset = load("mnist", str(tmp_path))
    images, labels = random_images(TRAIN, (28, 28), TRAIN)
    assert together(dataset) == {
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    }
    assert dataset.sha256 == load("mnist", str(tmp_path)).sha256
    assert len(dataset.test.labels) == TEST


def test_a_prepared_directory_of_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    prepare_as_tfds_does(tmp_path)
    info = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="not array_record files; prepare it with"):
        load("mnist", str(tmp_path))


def test_a_prepared_directory_that_is_damaged_is_refused(tmp_path: pathlib.Path) -> None:
    write_idx(tmp_path)
    load("mnist", str(tmp_path))
    (path,) = (tmp_path / "tfds").rglob("*train.array_record*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read mnist there .*; remove it") as caught:
        load("mnist", str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_data_are_refused_at_once_with_the_remedy(
    name: str, tmp_path: pathlib.Path
) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"no {name} there; put .* in it") as caught:
        load(name, str(tmp_path / "nowhere"))
    assert time.monotonic() - start < 1
    assert "\n" not in str(caught.value)


def test_no_directory_and_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="needs data_dir"):
        load("mnist", "")
    with pytest.raises(UsageError, match="must be one of digits, mnist, cifar10"):
        load("svhn", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_real_files_arrive_unchanged(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pathlib.Path(os.environ.get("MRC_DATA") or tmp_path)
    found = [folder for folder in (root / name, root) if image_files.find(name, folder)]
    if not found:
        pytest.skip(f"no {name} in MRC_DATA: {image_files.WANTED[name]}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    dataset = load(name, str(found[0]))
    files = image_files.find(name, found[0])
    assert files is not None
    images, labels = image_files.parse(name, files["train"])
    held_out, rest = data._hold_out(len(labels))
    test_images, test_labels = image_files.parse(name, files["test"])
    for split, wanted_images, wanted_labels in (
        (dataset.train, images[rest], labels[rest]),
        (dataset.validation, images[held_out], labels[held_out]),
        (dataset.test, test_images, test_labels),
    ):
        np.testing.assert_array_equal(split.inputs, wanted_images)
        np.testing.assert_array_equal(split.labels, wanted_labels)
