"""What bits back from rotations save on a BERT encoder's attention heads, in float16.

python -m experiments.rotation WEIGHTS.safetensors --heads=12 --output=turned.mrc

The file holds all other tensors first, then the heads, layer by layer, each pair turned by bits of
what was written before it; then all is decoded, and the turned network is applied.
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
from experiments.float16_code import coded_bytes
from mrc_jax import files
from mrc_jax.decode import decode
from mrc_jax.errors import DataError, UsageError
from mrc_jax.manifest import UNCODED, Manifest, Tensor
from mrc_jax.rotation.heads import PairBits
from mrc_jax.rotation.turned_file import pack_turned
from mrc_jax.rotation.turns import Turn, turn_of

Weights = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Saving:
    """What was written.

    Attributes:
      layers: bits of each pair, in order of layers.
      file: the bytes of the file.
      plain_bytes: of a file in which nothing turns.
      weights: those that were decoded, float16.
    """

    layers: list[list[PairBits]]
    file: bytes
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


def _turns(manifest: Manifest, weights: Weights, heads: int) -> list[Turn]:
    """Two for each layer: keys with queries, values with outputs."""
    turns = []
    for layer in range(_layers(weights)):
        prefix = _prefix(layer)
        query, key, value = (f"{prefix}self.{name}." for name in ("query", "key", "value"))
        rows = [(key, "weight"), (key, "bias"), (query, "weight"), (query, "bias")]
        of_value = [(f"{value}{kind}", heads, False) for kind in ("weight", "bias")]
        output = f"{prefix}output.dense.weight"
        dimensions = len(weights[output]) // heads
        both = ([(a + b, heads, False) for a, b in rows], [*of_value, (output, heads, True)])
        turns += [turn_of(manifest, members, dimensions) for members in both]
    return turns


def save(weights: Weights, heads: int) -> Saving:
    """Makes the file of a network, and decodes it.

    Args:
      weights: float16, of a BERT encoder.
      heads: of a layer.
    """
    tensors = (Tensor(n, weights[n].shape, "float16", UNCODED) for n in sorted(weights))
    manifest = Manifest(tuple(tensors))
    file, bits = pack_turned(weights, manifest, _turns(manifest, weights, heads))
    found = decode(file, max_parameters=1 << 34)
    joined = [bits[2 * i] + bits[2 * i + 1] for i in range(_layers(weights))]
    return Saving(joined, file, len(pack_turned(weights, manifest, [])[0]), found)


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


def of_both(weights: Weights, saving: Saving) -> str:
    """The net saving over all weights in float16 and over the same entropy-coded, and what they
    take entropy-coded once they are turned.
    """
    net = sum(b.net_bits for layer in saving.layers for b in layer) / 8
    raw, coded = sum(x.nbytes for x in weights.values()), coded_bytes(weights)
    turned = coded_bytes(saving.weights)
    return (
        f"net saving: {net:,.0f} bytes, {net / raw:.2%} of float16's {raw:,}, {net / coded:.2%} of "
        f"the {coded:,} that they take entropy-coded ({turned:,} once they are turned)"
    )


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) != 2:
        raise UsageError("give one .safetensors file of a BERT encoder")
    exact = read(argv[1])
    weights = {name: x.astype(np.float16) for name, x in exact.items()}
    saving = save(weights, flags.FLAGS.heads)
    print("Bytes:\n" + table(saving))
    if flags.FLAGS.output:
        files.write(flags.FLAGS.output, saving.file)
    print(
        f"file: {len(saving.file):,} bytes, {saving.plain_bytes:,} without rotations; "
        f"{saving.layers[0][0].rotation_bits / 8:,.0f} bytes must lie below the first pair"
    )
    print(of_both(weights, saving))
    tokens = np.random.default_rng(0).integers(len(weights[_WORDS]), size=64)
    plain, turned, wanted = (
        outputs(w, tokens, flags.FLAGS.heads) for w in (weights, saving.weights, exact)
    )
    for name, a, b in (("float16", plain, wanted), ("turned float16", turned, plain)):
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        print(f"outputs of the {name} network: {error:.1e} from those of the one it was made from")


_WORDS = "embeddings.word_embeddings.weight"

if __name__ == "__main__":
    flags.DEFINE_integer("heads", 12, "Attention heads of a layer.", lower_bound=1)
    flags.DEFINE_string("output", None, "Where the .mrc file is written.")
    run(main)
