"""Image sets as TensorFlow Datasets prepares them (array_record), without TensorFlow.

Imported only where such a set is asked for: TensorFlow Datasets takes a second to import.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.image_files import NUM_CLASSES, SHAPES, Arrays
from mrc_jax.errors import DataError

SPLITS = ("train", "test")
_READ_AT_ONCE = 1000  # examples


class LocalImages(tfds.core.GeneratorBasedBuilder):
    """Prepares arrays that are at hand; it knows no address and downloads nothing."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, splits: dict[str, Arrays], **kwargs: Any) -> None:
        self._splits = splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = self._splits["train"][0].shape[1:]
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(num_classes=NUM_CLASSES)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images and labels from files on this machine, in their order.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {name: self._generate_examples(*arrays) for name, arrays in self._splits.items()}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}


def find(name: str, folder: pathlib.Path) -> pathlib.Path | None:
    """The newest version that TensorFlow Datasets has prepared in folder/name, or None."""
    found = [path.parent for path in (folder / name).glob("*/dataset_info.json")]
    versions = [path for path in found if all(p.isdigit() for p in path.name.split("."))]
    return max(versions, key=lambda path: [int(p) for p in path.name.split(".")], default=None)


def prepare(
    name: str, digest: str, places: list[pathlib.Path], splits: Callable[[], dict[str, Arrays]]
) -> pathlib.Path:
    """The directory of a set in prepared form, made where no earlier call has made it.

    Args:
      name: of the data set.
      digest: of the files it comes from; other files are prepared in another directory.
      places: where it may be, the best first; it is made in the first that can be written.
      splits: gives the arrays of 'train' and 'test'; called only when it is made.

    Raises:
      DataError: no place can be written.
    """
    key = f"{name}_{digest[:16]}"
    inside = pathlib.Path(key, LocalImages.name, str(LocalImages.VERSION))
    for place in places:
        if (place / inside / "dataset_info.json").is_file():
            return place / inside
    place = next(filter(_writable, places), None)
    if place is None:
        raise DataError(
            f"cannot write to {places[0]}: set TFDS_DATA_DIR to a directory to write in"
        )
    arrays = splits()
    print(f"preparing {name} in {place} (once)", file=sys.stderr, flush=True)
    try:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), _no_bars():
            builder = LocalImages(splits=arrays, data_dir=place / key, file_format="array_record")
            builder.download_and_prepare()
    except OSError as error:
        # Another process may have prepared the same files in the meantime.
        if not (place / inside / "dataset_info.json").is_file():
            raise DataError(f"{place}: cannot prepare {name} there ({error})") from None
    return place / inside


def _writable(place: pathlib.Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    tfds.display_progress_bar(False)
    try:
        yield
    finally:
        tfds.display_progress_bar(True)


def read(
    name: str, folder: pathlib.Path, positions_of: Callable[[int], dict[str, np.ndarray]]
) -> dict[str, Arrays]:
    """The 'test' arrays of a prepared directory, in its order, and parts of its 'train' arrays.

    Args:
      name: of the data set.
      folder: the directory.
      positions_of: gives for the number of training examples the parts by name: the positions of
        their examples. Others are not read.

    Raises:
      DataError: it is damaged, not of array_record files, or holds something else.
    """
    try:
        builder: Any = tfds.builder_from_directory(folder)
        train, test = (builder.as_data_source(split=split) for split in SPLITS)
        parts = {part: (train, where) for part, where in positions_of(len(train)).items()}
        parts["test"] = (test, np.arange(len(test)))
        return {part: _examples(*places, SHAPES[name]) for part, places in parts.items()}
    except NotImplementedError:
        raise DataError(
            f"{folder}: not array_record files; prepare it with file_format='array_record'"
        ) from None
    except Exception as error:  # the readers of protobuf, PNG and array_record share no class
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{folder}: cannot read {name} there ({type(error).__name__}: {reason}); remove it"
        ) from None


def _examples(source: Any, positions: np.ndarray, shape: tuple[int, int, int]) -> Arrays:
    images = np.empty((len(positions), *shape), np.uint8)
    labels = np.empty(len(positions), np.int32)
    for start in range(0, len(positions), _READ_AT_ONCE):
        examples = source.__getitems__(positions[start : start + _READ_AT_ONCE].tolist())
        for i, example in enumerate(examples, start):
            if example["image"].shape != shape or not 0 <= example["label"] < NUM_CLASSES:
                raise ValueError(f"image {i} is {example['image'].shape}, label {example['label']}")
            images[i], labels[i] = example["image"], example["label"]
    return images, labels
