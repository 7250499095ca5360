"""Data sets as uint8 arrays in three splits; nothing is ever downloaded."""

import dataclasses
import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from experiments import image_files
from mrc_jax.errors import DataError, UsageError
from mrc_jax.mesh import by_shards
from mrc_jax.shared_random import Stream, permute

NAMES = ("digits", "mnist", "cifar10")
_DIGITS = pathlib.Path(__file__).parent / "digits" / "digits.npz"
_HELD_OUT = 5000  # validation examples, or a tenth of a small training set


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples.

    Attributes:
      inputs: pixels, uint8[N, H, W, C].
      labels: classes, int32[N].
    """

    inputs: np.ndarray
    labels: np.ndarray

    def divided(self, count: int) -> "list[Split]":
        """As `count` parts of equal length, in their order."""
        pairs = zip(np.split(self.inputs, count), np.split(self.labels, count), strict=True)
        return [Split(*pair) for pair in pairs]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
      name: one of NAMES.
      train, validation, test: the splits; no two share an example. validation is empty where
        nothing was held out.
      num_classes: labels are below it.
      scale: the largest pixel value; a network's input is pixel / scale and nothing else.
      shards: which shards of the training set `train` holds, one after the other, all of equal
        length; () where it is whole and in its own order.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    scale: float
    shards: tuple[int, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the pixels and labels of all splits, in their order."""
        return _digest(self.train, self.validation, self.test).hex()

    @property
    def shard_digests(self) -> np.ndarray:
        """SHA-256 of each shard that is here with the other splits, uint8[shards, 32]."""
        rest = (self.validation, self.test)
        digests = [_digest(part, *rest) for part in self.train.divided(len(self.shards))]
        return np.stack([np.frombuffer(digest, np.uint8) for digest in digests])


def _digest(*splits: Split) -> bytes:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.inputs).tobytes())
        digest.update(split.labels.astype("<i4").tobytes())
    return digest.digest()


def load(
    name: str,
    data_dir: str,
    shards: int = 1,
    own: tuple[int, ...] = (0,),
    hold_out: bool = True,
) -> Dataset:
    """A data set of the repository ('digits') or of a directory that the user names.

    'mnist' and 'cifar10' are read from their original files in data_dir, which TensorFlow Datasets
    prepares once (in TFDS_DATA_DIR if that is set, else in data_dir/tfds, else in the user's cache
    directory), or else from data_dir/NAME/VERSION where TensorFlow Datasets has prepared them as
    array_record files. The validation split is a fixed pseudorandom choice of positions in the
    training set, so it differs between those two sources, whose orders differ.

    Args:
      name: one of NAMES; 'mnist' is any set of 28 x 28 images and ten classes in IDX files.
      data_dir: the directory; unused for 'digits'.
      shards: of the training set, by `mrc_jax.mesh.by_shards`.
      own: the shards that are wanted; the examples of others are not read.
      hold_out: False trains on the validation examples too ('digits' has them apart, always).

    Raises:
      UsageError: an unknown name, or no data_dir.
      DataError: the data are missing or damaged.
    """
    if name not in NAMES:
        raise UsageError(f"data = {name!r}: must be one of {', '.join(NAMES)}")
    if name == "digits":
        found = _digits()
        kept = _kept(np.arange(len(found.train.labels)), shards, own)
        part = Split(found.train.inputs[kept], found.train.labels[kept])
        return dataclasses.replace(found, train=part, shards=own if shards > 1 else ())
    wanted = image_files.WANTED[name]
    if not data_dir:
        raise UsageError(f"data = {name!r} needs data_dir: give a directory with {wanted}")

    def positions_of(size: int) -> dict[str, np.ndarray]:
        held_out, rest = _hold_out(size) if hold_out else (np.arange(0), np.arange(size))
        return {"validation": held_out, "train": _kept(rest, shards, own)}

    arrays = _arrays(name, pathlib.Path(data_dir).expanduser(), positions_of)
    return Dataset(
        name=name,
        train=Split(*arrays["train"]),
        validation=Split(*arrays["validation"]),
        test=Split(*arrays["test"]),
        num_classes=image_files.NUM_CLASSES,
        scale=255.0,
        shards=own if shards > 1 else (),
    )


def _kept(positions: np.ndarray, shards: int, own: tuple[int, ...]) -> np.ndarray:
    """Those of the positions that are in own shards, shard after shard."""
    if shards == 1:
        return positions
    return positions[by_shards(len(positions), shards)[list(own)].ravel()]


def _arrays(
    name: str, folder: pathlib.Path, positions_of: Callable[[int], dict[str, np.ndarray]]
) -> dict[str, image_files.Arrays]:
    """The arrays that a folder holds in either form, see `prepared.read`."""
    files = image_files.find(name, folder)
    if files is None and not any((folder / name).glob("*/dataset_info.json")):
        raise DataError(
            f"{folder}: no {name} there; put {image_files.WANTED[name]} in it, or name another "
            "data_dir"
        )
    from experiments import prepared  # takes a second to import

    if files is None:
        done = prepared.find(name, folder)
        if done is None:
            raise DataError(f"{folder / name}: no directory there is named by a version like 3.0.1")
    else:
        done = prepared.prepare(
            name,
            image_files.digest(files),
            _places(folder),
            lambda: {split: image_files.parse(name, paths) for split, paths in files.items()},
        )
    return prepared.read(name, done, positions_of)


def _places(folder: pathlib.Path) -> list[pathlib.Path]:
    """Where the prepared form of a folder's files may be, the best first."""
    if chosen := os.environ.get("TFDS_DATA_DIR"):
        return [pathlib.Path(chosen).expanduser()]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [folder / "tfds", pathlib.Path(cache).expanduser() / "mrc_jax" / "tfds"]


def _hold_out(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the validation examples and of the others, both ascending."""
    if size < 2:
        raise DataError("the training set has fewer than two examples; put the whole set there")
    order = permute(np.arange(size, dtype=np.uint32), size, np.uint32(0), Stream.BATCHES)
    count = min(_HELD_OUT, max(1, size // 10))
    return np.sort(order[:count]), np.sort(order[count:])


def digits_split(labels: np.ndarray) -> np.ndarray:
    """Which split each of the digits is in: 0 training, 1 validation, 2 test (uint8[N]).

    The images of a class are ordered by the SHA-256 of their number and, class after class, dealt
    out in fives: one for validation, one for the test, three for training.
    """
    ranks = [hashlib.sha256(f"mrc_jax digits {i}".encode()).digest() for i in range(len(labels))]
    order = sorted(range(len(labels)), key=lambda i: (labels[i], ranks[i]))
    split = np.empty(len(labels), np.uint8)
    split[order] = np.resize([1, 2, 0, 0, 0], len(labels))
    return split


def _digits() -> Dataset:
    try:
        with np.load(_DIGITS, allow_pickle=False) as file:
            images, labels = file["images"][..., None], file["labels"].astype(np.int32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{_DIGITS}: cannot read it ({error}); check the file out again") from None
    split = digits_split(labels)
    train, validation, test = (Split(images[split == i], labels[split == i]) for i in range(3))
    return Dataset("digits", train, validation, test, 10, 16.0)
