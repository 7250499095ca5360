"""A small transformer with RMSNorm for 8 x 8 digits, and the same network sliced: each of its
residual streams in a basis of its own, of which the directions that matter least are left out, with
matrices between streams (Ashkboos et al. 2024, arXiv 2401.15024).

An image is 16 patches of 2 x 2 pixels. Layers are attention of heads, then two dense layers with
GELU; the mean of the last stream's tokens is read.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

PATCHES, PIXELS, CLASSES = 16, 4, 10
_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a network.

    Attributes:
      width: of its residual streams before they are sliced.
      heads: of a layer.
      hidden: of its dense layers.
      layers: their number.
    """

    width: int = 64
    heads: int = 4
    hidden: int = 256
    layers: int = 2


@dataclasses.dataclass(frozen=True)
class Sliced:
    """A network as what stands at its streams: one before every attention and every pair of dense
    layers, and one before what is read.

    Attributes:
      writers: [width, columns] of each stream, its bias the last column.
      readers: [width, outputs] of each stream, norms' gains in them.
      biases: [outputs] of each stream's readers.
      skips: [width, width], the matrices between streams.
    """

    writers: list[np.ndarray]
    readers: list[np.ndarray]
    biases: list[np.ndarray]
    skips: list[np.ndarray]


def patches(images: np.ndarray) -> np.ndarray:
    """float32[images, PATCHES, PIXELS], 0 to 1, of float[images, 64] or [images, 8, 8, 1]."""
    x = np.asarray(images, np.float32).reshape(-1, 4, 2, 4, 2)
    return x.transpose(0, 1, 3, 2, 4).reshape(-1, PATCHES, PIXELS) / max(1.0, float(x.max()))


def initial(key: chex.PRNGKey, shape: Shape) -> Any:
    """Weights before training: of each stream writers and gain, readers and their biases."""
    d, hidden = shape.width, shape.hidden
    written = [PIXELS + PATCHES] + [d, hidden] * shape.layers
    outputs = [3 * d, hidden] * shape.layers + [CLASSES]
    streams = []
    for i, (inputs, read) in enumerate(zip(written, outputs, strict=True)):
        of_writers, of_readers = jax.random.split(jax.random.fold_in(key, i))
        size = 1.0 if i == 0 else 0.5
        writers = size * jax.random.normal(of_writers, (d, inputs + 1)) / np.sqrt(inputs)
        streams.append(
            {
                "writers": writers.at[:, -1].set(0),
                "gain": jnp.ones(d),
                "readers": jax.random.normal(of_readers, (d, read)) / np.sqrt(d),
                "bias": jnp.zeros(read),
            }
        )
    return streams


def sliced_of(streams: Any) -> Sliced:
    """A network with nothing left out, of float64: matrices between streams are the identity."""
    return _sliced(jax.tree.map(lambda x: np.asarray(x, np.float64), streams))


def _sliced(streams: Any) -> Sliced:
    return Sliced(
        [s["writers"] for s in streams],
        [s["gain"][:, None] * s["readers"] for s in streams],
        [s["bias"] for s in streams],
        [np.eye(len(streams[0]["gain"]))] * (len(streams) - 1),
    )


def logits(net: Sliced, x: Any, shape: Shape) -> tuple[Any, list[Any]]:
    """float[images, CLASSES], and what stands in each stream, [images, PATCHES, width]."""
    count = x.shape[0]
    places = jnp.broadcast_to(jnp.eye(PATCHES), (count, PATCHES, PATCHES))
    y: Any = jnp.concatenate([x, places], axis=-1)
    stream: Any = 0.0
    seen = []
    for i, (writers, readers) in enumerate(zip(net.writers, net.readers, strict=True)):
        skipped = stream @ jnp.asarray(net.skips[i - 1]).T if i else 0.0
        stream = skipped + y @ writers[:, :-1].T + writers[:, -1]
        seen.append(stream)
        squares = jnp.sum(jnp.square(stream), axis=-1, keepdims=True) / shape.width
        y = stream / jnp.sqrt(squares + _EPSILON) @ readers + net.biases[i]
        if i < len(net.writers) - 1:
            y = jax.nn.gelu(y) if i % 2 else _attention(y, shape)
    return y.mean(axis=1), seen


def _attention(y: Any, shape: Shape) -> Any:
    count = y.shape[0]
    q, k, v = jnp.split(y.reshape(count, PATCHES, 3 * shape.heads, -1), 3, axis=2)
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(q.shape[-1])
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)
    return mixed.reshape(count, PATCHES, -1)


def error(net: Sliced, x: np.ndarray, labels: np.ndarray, shape: Shape) -> float:
    """Share of the images that it calls something else."""
    return float(np.mean(np.argmax(logits(net, x, shape)[0], axis=-1) != labels))


def train(
    x: np.ndarray, labels: np.ndarray, shape: Shape, steps: int, seed: int
) -> tuple[Sliced, float]:
    """A trained network, and the mean loss of its last tenth of steps, nats an image.

    Args:
      x: float32[images, PATCHES, PIXELS].
      labels: int[images].
      shape: of the network.
      steps: of Adam in batches of 64; the rate falls from 2e-3 to 0.
      seed: of everything random.
    """
    key = jax.random.key(seed)
    streams, optimiser = initial(key, shape), optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    images, classes = jnp.asarray(x), jnp.asarray(labels)

    def loss(streams: Any, key: chex.PRNGKey) -> chex.Array:
        chosen = jax.random.randint(key, (64,), 0, len(x))
        found, _ = logits(_sliced(streams), images[chosen], shape)
        nats = optax.softmax_cross_entropy_with_integer_labels(found, classes[chosen])
        return nats.mean()

    def step(state: Any, number: Any) -> Any:
        streams, moments = state
        value, slopes = jax.value_and_grad(loss)(streams, jax.random.fold_in(key, number))
        updates, moments = optimiser.update(slopes, moments)
        return (optax.apply_updates(streams, updates), moments), value

    scan = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(steps)))
    (trained, _), losses = scan((streams, optimiser.init(streams)))
    return sliced_of(trained), float(np.mean(losses[-max(1, steps // 10) :]))


def cut(net: Sliced, x: np.ndarray, shape: Shape, width: int) -> Sliced:
    """The network with streams of fewer dimensions: those in which the given images' tokens have
    the most power; each stream has a basis of its own.

    Args:
      net: as `sliced_of` gives it.
      x: float32[images, PATCHES, PIXELS].
      shape: of the network.
      width: of the streams, at most shape.width.
    """
    bases = []
    for stream in logits(net, x, shape)[1]:
        flat = np.asarray(stream, np.float64).reshape(-1, shape.width)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True) + _EPSILON
        bases.append(np.linalg.eigh(flat.T @ flat)[1][:, ::-1][:, :width])
    return Sliced(
        [basis.T @ writers for basis, writers in zip(bases, net.writers, strict=True)],
        [basis.T @ readers for basis, readers in zip(bases, net.readers, strict=True)],
        net.biases,
        [
            after.T @ skip @ before
            for before, skip, after in zip(bases, net.skips, bases[1:], strict=False)
        ],
    )
