"""Data sets as uint8 arrays."""

import dataclasses
import gzip
import hashlib
import pathlib

import numpy as np

from mrc_jax.shared_random import Stream, permute


@dataclasses.dataclass(frozen=True)
class Split:
    inputs: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    scale: float

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(np.ascontiguousarray(split.inputs).tobytes())
            digest.update(split.labels.astype("<i4").tobytes())
        return digest.hexdigest()


def _idx(path: pathlib.Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    dims = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(dims)).reshape(dims)


def load(name: str, data_dir: str) -> Dataset:
    folder = pathlib.Path(data_dir)
    x, xt = (_idx(folder / f"{s}-images-idx3-ubyte.gz")[..., None] for s in ("train", "t10k"))
    y, yt = (_idx(folder / f"{s}-labels-idx1-ubyte.gz").astype(np.int32) for s in ("train", "t10k"))
    order = permute(np.arange(len(y), dtype=np.uint32), len(y), np.uint32(0), Stream.BATCHES)
    held, rest = np.sort(order[:5000]), np.sort(order[5000:])
    return Dataset(
        name, Split(x[rest], y[rest]), Split(x[held], y[held]), Split(xt, yt), 10, 255.0
    )
