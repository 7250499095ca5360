"""Shows that the coder comes near to the fewest bits that are possible, where these are known:
linear models with Gaussian weights (mrc_jax.rate_distortion; Gao et al. 2019).

python -m experiments.linear_gaussian --most_bits=8
python -m experiments.linear_gaussian --results=out/linear.json --figure=out/linear.png

Each point draws a model's weights and its inputs' variances, takes the posteriors and the prior of
the test channel for a distortion D, codes blocks of weights by ordered random coding, writes the
indices as a file's field is written, reads and decodes it, and measures the distortion and the
bits, all of the field's bytes counted. The distortion is the expectation over all inputs, so no
inputs need be drawn. All points take half an hour of one core; those of 8 and 12 bits a few
minutes. Points that --results holds already are not measured again.
"""

import json
import math
import pathlib
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import linear_gaussian_figure, record
from experiments.command import run
from mrc_jax import rate_distortion as rd
from mrc_jax.blocks import Partition, slot_of_entry
from mrc_jax.errors import UsageError
from mrc_jax.index_codes import ORDERED, pack, unpack


class Point(NamedTuple):
    """What is measured.

    Attributes:
      kind: 'even': all weights add equally to the output's variance, by variances of their own and
        of their inputs that are log-normal. 'drawn': both are log-normal, so that weights take
        more or fewer bits, some none, and blocks have unequal shares of the bound.
      rate_bits: a block's share of the bound, mean over blocks.
      weights: sent by a block; where 'drawn', of all weights, a block's share.
      bits: log2 of the candidates of a block.
      blocks: how many are coded.
      codebook_blocks: blocks that share candidates, 1 for none.
    """

    kind: str
    rate_bits: float
    weights: int
    bits: int
    blocks: int
    codebook_blocks: int


# log2 K is the mean KL and 3 to 6 standard deviations of a block's, which keeps the distortion
# within some 3 % of D. Blocks share candidates where that is quicker: few weights find their index
# early (soon no candidate left can win), so that independent candidates cost less than K of them,
# but not at 20 bits. Blocks of 20 bits and 10 or more weights need 2**28 candidates or more, and
# are left out.
POINTS = (
    Point("even", 8, 2, 17, 16_384, 128),
    Point("even", 12, 3, 20, 4096, 128),
    Point("even", 16, 4, 26, 2048, 1),
    Point("even", 20, 5, 27, 1024, 64),
    Point("even", 8, 4, 17, 8192, 128),
    Point("even", 12, 6, 20, 4096, 128),
    Point("even", 16, 8, 26, 1024, 64),
    Point("even", 8, 8, 18, 8192, 128),
    Point("even", 12, 12, 22, 2048, 128),
    Point("even", 16, 16, 27, 1024, 64),
    Point("drawn", 12, 8, 23, 2048, 128),
)


class Model(NamedTuple):
    """A linear model's law: variances of weights and inputs, float64[weights], and D."""

    weight_variance: np.ndarray
    input_variance: np.ndarray
    distortion: float


def draw_model(point: Point, random: np.random.Generator) -> Model:
    """The model of a point, whose bound is rate_bits * blocks."""
    s2, lam = np.exp(random.normal(size=(2, point.weights * point.blocks)))
    if point.kind == "even":
        level = 2.0 ** (-2 * point.rate_bits / point.weights)
        return Model(s2, 1 / s2, level * len(s2))
    low, high = math.log(1e-12 * np.sum(s2 * lam)), math.log(np.sum(s2 * lam))
    for _ in range(60):
        middle = (low + high) / 2
        bits = np.sum(rd.rate_bits(s2, lam, math.exp(middle)))
        low, high = (middle, high) if bits > point.rate_bits * point.blocks else (low, middle)
    return Model(s2, lam, math.exp(high))


def measure(point: Point, seed: int) -> dict[str, Any]:
    """Codes and decodes a model's weights: a row of the results."""
    number = np.random.SeedSequence([seed, *(int(x) for x in point[1:])]).generate_state(2)
    random, shared_seed = np.random.default_rng(number[0]), int(number[1])
    model = draw_model(point, random)
    weights = random.normal(size=len(model.weight_variance)) * np.sqrt(model.weight_variance)
    sent = rd.channel(weights, *model)
    start = time.perf_counter()
    data, decoded = _coded(point, sent, shared_seed)
    seconds = time.perf_counter() - start
    errors = model.input_variance * np.square(weights - decoded)
    block = _blocks(point, sent.is_sent, shared_seed)
    expected = model.input_variance * rd.distortions(*model)
    ratio, standard_error = _ratio(errors, expected, block // point.codebook_blocks)
    where = block[sent.is_sent]
    kl_bits = np.bincount(where, rd.kl_nats(sent)[sent.is_sent]) / math.log(2)
    share = np.bincount(where, rd.rate_bits(*model)[sent.is_sent])
    measured = rd.rate_bits(model.weight_variance, model.input_variance, float(np.sum(errors)))
    return {
        **point._asdict(),
        "sent_weights": int(np.sum(sent.is_sent)),
        "mean_kl_bits": float(np.mean(kl_bits)),
        "kl_deviation_bits": float(np.std(kl_bits)),
        "distortion_ratio": ratio,
        "standard_error": standard_error,
        "field_bytes": len(data),
        "coded_bits": 8 * len(data) / point.blocks,
        "bound_bits": float(np.mean(share + np.log2(share + 1) + 1)),
        "rate_at_measured_bits": float(np.sum(measured)) / point.blocks,
        "seconds": round(seconds, 1),
    }


def _coded(point: Point, sent: rd.Channel, seed: int) -> tuple[bytes, np.ndarray]:
    """The indices' field, and the weights that it decodes to: 0 where nothing is sent."""
    import jax
    import jax.numpy as jnp

    from mrc_jax.decode_jax import decode_blocks
    from mrc_jax.encode import encode_vector

    is_sent, entries = sent.is_sent, int(np.sum(sent.is_sent))
    scale = jnp.asarray(np.sqrt(sent.prior_variance[is_sent]), jnp.float32)
    encode = jax.jit(
        encode_vector, static_argnames=("partition", "bits", "codebook_blocks", "selection")
    )
    indices = encode(
        jax.random.key(seed),
        jnp.asarray(sent.mean[is_sent], jnp.float32),
        jnp.asarray(np.log(sent.variance[is_sent]), jnp.float32),
        scale,
        jnp.uint32(seed),
        partition=Partition(entries, point.blocks),
        bits=point.bits,
        codebook_blocks=point.codebook_blocks,
        selection="ordered",
    )
    data = pack(ORDERED, np.asarray(indices), point.bits, seed)
    found = unpack(ORDERED, data, point.blocks, point.bits, seed)
    shared, decoded = point.codebook_blocks, np.zeros(len(is_sent))
    decoded[is_sent] = decode_blocks(
        jnp.asarray(found), scale, jnp.uint32(seed), entries=entries, codebook_blocks=shared
    )
    return data, decoded


def _blocks(point: Point, is_sent: np.ndarray, seed: int) -> np.ndarray:
    """Each weight's block; those that are not sent are dealt to the blocks in turn."""
    partition = Partition(int(np.sum(is_sent)), point.blocks)
    entry = np.arange(partition.entries, dtype=np.uint32)
    block = np.zeros(len(is_sent), np.int64)
    block[is_sent] = slot_of_entry(partition, np.uint32(seed), entry) % point.blocks
    block[~is_sent] = np.arange(len(is_sent) - partition.entries) % point.blocks
    return block


def _ratio(errors: np.ndarray, expected: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Distortion over D and its standard error, from the spread of groups of weights that are
    independent of one another: the blocks of a codebook are one.
    """
    found, wanted = np.bincount(group, errors), np.bincount(group, expected)
    ratio, count = found.sum() / wanted.sum(), len(found)
    spread = np.sum(np.square(found - ratio * wanted)) * count / (count - 1)
    return float(ratio), float(math.sqrt(spread) / wanted.sum())


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the results."""
    head = "| weights | a block | bound, bits | log2 K | blocks | distortion / D | coded, bits | "
    head += "bound + log2(bound + 1) + 1 | coded, bits a weight | over the bound |"
    out = [head, "|---" * 10 + "|"]
    for row in rows:
        size, rate, coded = row["sent_weights"] / row["blocks"], row["rate_bits"], row["coded_bits"]
        spreads = (row["bits"] - rate) / row["kl_deviation_bits"]
        cells = [row["kind"], f"{size:.3g}", f"{rate:g}", f"{row['bits']} (KL + {spreads:.1f} s)"]
        cells += [f"{row['blocks']:,}"]
        cells += [f"{row['distortion_ratio']:.3f} ± {row['standard_error']:.3f}", f"{coded:.2f}"]
        cells += [f"{row['bound_bits']:.2f}", f"{coded / size:.3f}", f"{coded / rate - 1:.1%}"]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _kept(path: str) -> dict[str, Any]:
    """The results of earlier calls with the same seed."""
    if not path or not pathlib.Path(path).exists():
        return {"seed": flags.FLAGS.seed, "rows": []}
    found = record.read_json(pathlib.Path(path))
    if found["seed"] != flags.FLAGS.seed:
        raise UsageError(f"{path} holds seed {found['seed']}: give --seed={found['seed']}")
    return found


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UsageError(f"{argv[1]!r} is no flag: see --help")
    points = [point for point in POINTS if point.rate_bits <= flags.FLAGS.most_bits]
    if not points:
        raise UsageError(
            f"most_bits = {flags.FLAGS.most_bits:g}: no block has so few, 8 are the fewest"
        )
    kept = _kept(flags.FLAGS.results)
    for point in points:
        if any(all(row[k] == v for k, v in point._asdict().items()) for row in kept["rows"]):
            continue
        print(f"{tuple(point)}", file=sys.stderr, flush=True)
        origin = {"commit": record.commit()}
        kept["rows"].append({**measure(point, flags.FLAGS.seed), **origin})
        if flags.FLAGS.results:
            pathlib.Path(flags.FLAGS.results).parent.mkdir(parents=True, exist_ok=True)
            record.write_json(pathlib.Path(flags.FLAGS.results), kept)
    names = Point._fields
    by_point = {tuple(row[name] for name in names): row for row in kept["rows"]}
    rows = [by_point[tuple(point)] for point in points]
    print(json.dumps(rows, indent=1) if flags.FLAGS.json else table(rows))
    if flags.FLAGS.figure:
        linear_gaussian_figure.draw(rows, pathlib.Path(flags.FLAGS.figure))


if __name__ == "__main__":
    flags.DEFINE_bool("json", False, "Print one list of objects.")
    flags.DEFINE_string("figure", "", "The picture to write, if any.")
    flags.DEFINE_string("results", "", "A JSON file to keep the points in, if any.")
    flags.DEFINE_float("most_bits", 20, "Leave out blocks with a larger share of the bound.")
    flags.DEFINE_integer("seed", 0, "Of the models, the candidates and the private noise.")
    run(main)
