"""The original files of MNIST-like sets (IDX) and of CIFAR-10, parsed and checked.

Formats: http://yann.lecun.com/exdb/mnist and https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import hashlib
import math
import pathlib
import zlib

import numpy as np

from mrc_jax.errors import DataError

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}  # height, width, channels
NUM_CLASSES = 10
WANTED = {
    "mnist": "the four IDX files (train-images-idx3-ubyte.gz and so on)",
    "cifar10": "data_batch_1.bin to data_batch_5.bin and test_batch.bin",
}
_UBYTE = 0x08  # the IDX code of unsigned bytes
Arrays = tuple[np.ndarray, np.ndarray]  # images uint8[N, H, W, C] and labels int32[N]
Files = dict[str, list[pathlib.Path]]  # the files of each split


def find(name: str, folder: pathlib.Path) -> Files | None:
    """The files of 'train' and 'test' in a folder, or None where one is missing."""
    if name == "cifar10":
        files = {
            "train": [folder / f"data_batch_{i}.bin" for i in range(1, 6)],
            "test": [folder / "test_batch.bin"],
        }
    else:
        files = {
            split: [_variant(folder, start, kind) for kind in ("images-idx3", "labels-idx1")]
            for split, start in (("train", "train"), ("test", "t10k"))
        }
    found = all(path.is_file() for paths in files.values() for path in paths)
    return files if found else None


def _variant(folder: pathlib.Path, start: str, kind: str) -> pathlib.Path:
    """The first that exists of the names under which an IDX file is known."""
    stems = (f"{start}-{kind}-ubyte", f"{start}-{kind.replace('-', '.')}-ubyte")
    paths = [folder / (stem + end) for stem in stems for end in ("", ".gz")]
    return next((path for path in paths if path.is_file()), paths[-1])


def digest(files: Files) -> str:
    """SHA-256 of the content of all files, in order."""
    total = hashlib.sha256()
    for paths in files.values():
        for path in paths:
            total.update(hashlib.sha256(_bytes(path)).digest())
    return total.hexdigest()


def parse(name: str, paths: list[pathlib.Path]) -> Arrays:
    """The images and labels of one split.

    Raises:
      DataError: a file is damaged, short, or of another format.
    """
    if name == "cifar10":
        parts = [_cifar10(path) for path in paths]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    else:
        images, labels = _idx(paths[0], 3)[..., None], _idx(paths[1], 1)
        if len(images) != len(labels):
            raise DataError(
                f"{paths[1]}: {len(labels)} labels for {len(images)} images; put a matching pair"
            )
    if images.shape[1:] != SHAPES[name]:
        raise DataError(
            f"{paths[0]}: images of {images.shape[1:]}; data = {name!r} takes {SHAPES[name]}"
        )
    if not len(labels):
        raise DataError(f"{paths[0]}: holds no images; put the whole file there")
    if labels.max() >= NUM_CLASSES:
        raise DataError(
            f"{paths[-1]}: label {labels.max()}; labels must be below {NUM_CLASSES}; copy it again"
        )
    return images, labels.astype(np.int32)


def _idx(path: pathlib.Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file: 0, 0, type, dimensions; big-endian sizes; the data."""
    data = _bytes(path)
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file ({error}); copy it again") from None
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, _UBYTE, dimensions])
    if data[:4] != magic or len(data) < header:
        raise DataError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}, not the IDX magic {magic.hex()}; "
            "put the original file there"
        )
    shape = [int(size) for size in np.frombuffer(data[4:header], ">u4")]
    if len(data) - header != math.prod(shape):
        raise DataError(
            f"{path}: {len(data) - header} bytes of data where its header says "
            f"{math.prod(shape)}; copy it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _cifar10(path: pathlib.Path) -> Arrays:
    """Records of a label and a channel-first image."""
    data = np.frombuffer(_bytes(path), np.uint8)
    height, width, channels = SHAPES["cifar10"]
    record = 1 + height * width * channels
    if len(data) % record or not len(data):
        raise DataError(
            f"{path}: {len(data)} bytes are not whole records of {record}; copy it again"
        )
    records = data.reshape(-1, record)
    images = records[:, 1:].reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return images, records[:, 0]


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from None
