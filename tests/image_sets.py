"""Small synthetic image sets in every form in which a data directory may hold them."""

import gzip
import io
import pathlib

import numpy as np
from PIL import Image

from experiments import image_files

TRAIN, TEST = 40, 12  # examples


def random_images(count: int, shape: tuple[int, ...], seed: int) -> image_files.Arrays:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count, dtype=np.int32) % 10


def idx(array: np.ndarray) -> bytes:
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder: pathlib.Path, dot: bool = False, zipped: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    for start, count in (("train", TRAIN), ("t10k", TEST)):
        images, labels = random_images(count, (28, 28), count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            stem = f"{start}-{kind.replace('-', '.') if dot else kind}-ubyte"
            content = idx(array)
            path = folder / (stem + (".gz" if zipped else ""))
            path.write_bytes(gzip.compress(content) if zipped else content)


def write_cifar10(folder: pathlib.Path) -> None:
    images, labels = random_images(TRAIN, (32, 32, 3), 1)
    test_images, test_labels = random_images(TEST, (32, 32, 3), 2)
    parts = [(f"data_batch_{i + 1}", images[8 * i : 8 * i + 8], labels[8 * i : 8 * i + 8])
             for i in range(5)]  # fmt: skip
    for name, x, y in [*parts, ("test_batch", test_images, test_labels)]:
        pixels = x.transpose(0, 3, 1, 2).reshape(len(y), -1)
        records = np.concatenate([y[:, None].astype(np.uint8), pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def prepare_as_tfds_does(folder: pathlib.Path) -> None:
    """MNIST as TensorFlow Datasets' own builder lays it out: PNG images in folder/mnist/VERSION."""
    import tensorflow_datasets as tfds

    def png(image: np.ndarray) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        return io.BytesIO(file.getvalue())

    with tfds.core.registered.skip_registration():

        class Mnist(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.1")

            def _info(self) -> tfds.core.DatasetInfo:
                features = {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager: object) -> dict[str, object]:
                return {"train": self._generate_examples(TRAIN),
                        "test": self._generate_examples(TEST)}  # fmt: skip

            def _generate_examples(self, count: int) -> object:
                images, labels = random_images(count, (28, 28), count)
                for i in range(count):
                    yield str(i), {"image": png(images[i]), "label": int(labels[i])}

    Mnist(data_dir=folder, file_format="array_record").download_and_prepare()
