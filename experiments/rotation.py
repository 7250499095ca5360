"""What bits back from rotations save on a BERT encoder's attention heads, in float16.

python -m experiments.rotation WEIGHTS.safetensors --heads=12

All other tensors are written first, then the heads, layer by layer, each pair turned by bits of
what was written before it; then all is decoded and compared, and the turned network is applied.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from safetensors import SafetensorError
from safetensors.numpy import load

from experiments.command import run
from mrc_jax import files
from mrc_jax.errors import DataError, UsageError
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.heads import (
    PairBits,
    decode_pair,
    encode_pair,
    from_head_pairs,
    head_pairs,
)

_HEADS = flags.DEFINE_integer("heads", 12, "Attention heads of a layer.", lower_bound=1)

Weights = dict[str, np.ndarray]
_PAIRS = (("key", "query"), ("value", "output"))  # readers of a pair, and the others


@dataclasses.dataclass(frozen=True)
class Saving:
    """What was written.

    Attributes:
      layers: bits of each pair, in order of layers.
      file_bytes: of the whole stream.
      plain_bytes: of all tensors in float16.
      weights: those that were decoded, float16; equal to those that were sent.
    """

    layers: list[list[PairBits]]
    file_bytes: int
    plain_bytes: int
    weights: Weights


def read(path: str) -> Weights:
    """The float tensors of a .safetensors file.

    Raises:
      DataError: if it cannot be read.
      UsageError: if it is not a BERT encoder's.
    """
    try:
        tensors = load(files.read(path))
    except SafetensorError as error:
        raise DataError(f"{path}: {error}; give a .safetensors file") from error
    floats = {name: x for name, x in tensors.items() if x.dtype.kind == "f"}
    if not _layers(floats):
        raise UsageError(f"{path}: no tensor is named as a BERT encoder's layers are")
    return floats


def _layers(weights: Weights) -> int:
    return len({n.split("layer.")[1].split(".")[0] for n in weights if ".attention.self.key." in n})


def _prefix(layer: int) -> str:
    return f"encoder.layer.{layer}.attention."


def _names(layer: int, name: str) -> tuple[str, str | None]:
    """A kernel's name and its bias's, where that turns too."""
    prefix = _prefix(layer)
    if name == "output":
        return f"{prefix}output.dense.weight", None
    return f"{prefix}self.{name}.weight", f"{prefix}self.{name}.bias"


def _head_names(layers: int) -> set[str]:
    names = [n for i in range(layers) for pair in _PAIRS for name in pair for n in _names(i, name)]
    return {name for name in names if name}


def _kernel(weights: Weights, layer: int, name: str, heads: int) -> np.ndarray:
    """float[width (+ 1), heads, d]"""
    kernel, bias = _names(layer, name)
    if bias is None:  # [width, heads * d] as it is: what the heads add to each output
        rows = weights[kernel]
    else:
        rows = np.concatenate([weights[kernel].T, weights[bias][None]])
    return rows.reshape(len(rows), heads, -1)


def _store(weights: Weights, layer: int, name: str, rows: np.ndarray) -> None:
    kernel, bias = _names(layer, name)
    rows = rows.reshape(len(rows), -1)
    if bias is None:
        weights[kernel] = rows
    else:
        weights[kernel], weights[bias] = np.ascontiguousarray(rows[:-1].T), rows[-1]


def save(weights: Weights, heads: int) -> Saving:
    """Encodes a network, decodes it, and checks that all came back.

    Args:
      weights: float16, of a BERT encoder.
      heads: of a layer.
    """
    layers = _layers(weights)
    turned_names = _head_names(layers)
    others = {name: x for name, x in sorted(weights.items()) if name not in turned_names}
    stack = Stack(b"".join(x.tobytes() for x in others.values()))
    bits, sent = [], []
    for layer in range(layers):
        for reader, other in _PAIRS:
            kernels = (_kernel(weights, layer, name, heads) for name in (reader, other))
            pairs = [encode_pair(stack, pair) for pair in head_pairs(*kernels)]
            bits.append([pair.bits for pair in pairs])
            sent.append([pair.weights for pair in pairs])
    coded = stack.to_bytes()
    stack = Stack.from_bytes(coded)
    found: Weights = {}
    for i in reversed(range(2 * layers)):
        pairs = [decode_pair(stack, *pair.shape) for pair in reversed(sent[i])][::-1]
        if any(a.tobytes() != b.tobytes() for a, b in zip(pairs, sent[i], strict=True)):
            raise DataError("a pair came back as another")
        reader, other = _PAIRS[i % 2]
        width = weights[_names(0, "key")[0]].shape[1] + 1
        for name, rows in zip((reader, other), from_head_pairs(pairs, width, heads), strict=True):
            _store(found, i // 2, name, rows)
    if stack.to_bytes() != Stack(b"".join(x.tobytes() for x in others.values())).to_bytes():
        raise DataError("the tensors below the heads came back as others")
    joined = [bits[2 * i] + bits[2 * i + 1] for i in range(layers)]
    plain_bytes = sum(x.nbytes for x in weights.values())
    return Saving(joined, len(coded), plain_bytes, others | found)


def outputs(weights: Weights, tokens: np.ndarray, heads: int) -> np.ndarray:
    """The encoder's outputs in float32, [tokens, width].

    Args:
      weights: of a BERT encoder.
      tokens: int[tokens], one sentence's.
      heads: of a layer.
    """
    w: Any = {name: jnp.asarray(x, jnp.float32) for name, x in weights.items()}

    def dense(name: str, x: Any) -> Any:
        return jnp.matmul(x, w[f"{name}.weight"].T, precision="highest") + w[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    embeddings = "embeddings.{}_embeddings.weight"
    x = w[embeddings.format("word")][tokens] + w[embeddings.format("token_type")][0]
    x = norm("embeddings", x + w[embeddings.format("position")][: len(tokens)])
    for layer in range(_layers(weights)):
        prefix = _prefix(layer)
        q, k, v = (
            dense(f"{prefix}self.{name}", x).reshape(len(x), heads, -1)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("qhd,khd->hqk", q, k, precision="highest") / jnp.sqrt(q.shape[-1])
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v, precision="highest")
        x = norm(f"{prefix}output", x + dense(f"{prefix}output.dense", mixed.reshape(x.shape)))
        block = f"encoder.layer.{layer}."
        y = jax.nn.gelu(dense(f"{block}intermediate.dense", x), approximate=False)
        x = norm(f"{block}output", x + dense(f"{block}output.dense", y))
    return np.asarray(x)


def table(saving: Saving) -> str:
    """A line for each layer, and one for all."""
    lines = [
        "| layer | heads' weights | ideal | rotations | corrections | grids | net | of ideal |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    whole = [bits for layer in saving.layers for bits in layer]
    for name, layer in [*enumerate(saving.layers), ("all", whole)]:
        parts = [
            sum(getattr(b, field) for b in layer) / 8
            for field in ("weight_bits", "ideal_bits", "rotation_bits", "correction_bits")
        ]
        grids, net = sum(b.grid_bits for b in layer) / 8, sum(b.net_bits for b in layer) / 8
        cells = [f"{x:,.0f}" for x in (*parts, grids, net)]
        lines.append(f"| {name} | {' | '.join(cells)} | {net / parts[1]:.1%} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) != 2:
        raise UsageError("give one .safetensors file of a BERT encoder")
    exact = read(argv[1])
    weights = {name: x.astype(np.float16) for name, x in exact.items()}
    saving = save(weights, _HEADS.value)
    print("Bytes:\n" + table(saving))
    print(
        f"whole stream: {saving.file_bytes:,} bytes, {saving.plain_bytes:,} without rotations; "
        f"{saving.layers[0][0].rotation_bits / 8:,.0f} bytes must lie below the first pair"
    )
    tokens = np.random.default_rng(0).integers(len(weights[_WORDS]), size=64)
    plain, turned, wanted = (
        outputs(w, tokens, _HEADS.value) for w in (weights, saving.weights, exact)
    )
    for name, a, b in (("float16", plain, wanted), ("turned float16", turned, plain)):
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        print(f"outputs of the {name} network: {error:.1e} from those of the one it was made from")


_WORDS = "embeddings.word_embeddings.weight"

if __name__ == "__main__":
    run(main)
