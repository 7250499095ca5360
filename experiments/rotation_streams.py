"""What bits back from rotations of residual streams save on a small transformer with RMSNorm, in
float16: trained on 8 x 8 digits, then sliced as SliceGPT does, so that each stream may turn.

python -m experiments.rotation_streams --results=experiments/results/rotation/streams.json

Biases of the readers, which do not turn, lie below everything else in the stream of bits.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from experiments import record
from experiments.command import run
from experiments.data import load
from experiments.float16_code import coded_bytes
from experiments.sliced import Shape, Sliced, cut, error, logits, patches, train
from mrc_jax import files
from mrc_jax.errors import UsageError
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.heads import PairBits
from mrc_jax.rotation.residual import decode_streams, encode_streams


@dataclasses.dataclass(frozen=True)
class Saving:
    """What was written.

    Attributes:
      bits: of each stream.
      stream: all weights' bytes.
      net: the network that was decoded from them, float16.
    """

    bits: list[PairBits]
    stream: bytes
    net: Sliced


def rounded(net: Sliced) -> Sliced:
    """The network in float16."""
    parts = ([x.astype(np.float16) for x in part] for part in _parts(net))
    return Sliced(*parts)


def _parts(net: Sliced) -> tuple[list[np.ndarray], ...]:
    return net.writers, net.readers, net.biases, net.skips


def tensors(net: Sliced) -> dict[str, np.ndarray]:
    """Its weights by name."""
    names = ("writers", "readers", "biases", "skips")
    return {
        f"{name}/{i}": x
        for name, part in zip(names, _parts(net), strict=True)
        for i, x in enumerate(part)
    }


def save(net: Sliced) -> Saving:
    """Writes a network's streams one after the other, each turned by bits of what lies below it,
    and reads them again.

    Raises UsageError where what was read is not what was written, or the stack is not as before.
    """
    below = b"".join(x.astype("<f2").tobytes() for x in net.biases)
    stack = Stack.holding(below)
    pairs = [np.concatenate(p, axis=1) for p in zip(net.writers, net.readers, strict=True)]
    sent = encode_streams(stack, pairs, net.skips)
    stream = stack.to_bytes()
    back = Stack.from_bytes(stream)
    found = decode_streams(back, [(len(p), p.shape[1]) for p in pairs])
    same = all(a.tobytes() == b.weights.tobytes() for a, b in zip(found, sent, strict=True))
    if not same or bytes(back.content()) != below:
        raise UsageError("the streams do not decode")
    writers, readers, skips = [], [], []
    for i, (weights, own) in enumerate(zip(found, net.writers, strict=True)):
        end = pairs[i].shape[1]
        writers.append(weights[:, : own.shape[1]])
        readers.append(weights[:, own.shape[1] : end])
        if i:
            skips.append(weights[:, end:])
    biases = [x.astype(np.float16) for x in net.biases]
    return Saving([t.bits for t in sent], stream, Sliced(writers, readers, biases, skips))


def table(bits: list[PairBits]) -> str:
    """A line for each stream, and one for all, in bytes."""
    fields = ("weight_bits", "ideal_bits", "rotation_bits", "correction_bits", "grid_bits")
    lines = ["| stream | weights | ideal | rotations | corrections | grids | net | of ideal |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, some in [*((str(i), [b]) for i, b in enumerate(bits)), ("all", bits)]:
        sums = [sum(getattr(b, field) for b in some) / 8 for field in (*fields, "net_bits")]
        cells = " | ".join(f"{x:,.0f}" for x in sums)
        lines.append(f"| {name} | {cells} | {sums[-1] / sums[1]:.1%} |")
    return "\n".join(lines)


def measured(width: int, steps: int, seed: int, shape: Shape) -> tuple[dict[str, Any], str]:
    """What a network's streams save, and the table.

    Args:
      width: of the streams that are kept.
      steps: of training.
      seed: of everything random.
      shape: of the network.
    """
    data = load("digits", "")
    x, valid = patches(data.train.inputs), patches(data.validation.inputs)
    begin = time.monotonic()
    whole, loss = train(x, data.train.labels, shape, steps, seed)
    seconds = time.monotonic() - begin
    net = cut(whole, x, shape, width)
    plain, saving = rounded(net), save(net)
    nets = {"trained": whole, "sliced": net, "float16": plain, "turned": saving.net}
    labels = data.validation.labels
    found = {
        **dataclasses.asdict(shape),
        **{"kept_width": width, "steps": steps, "seed": seed, "data": "digits"},
        **{"train_s": seconds, "train_loss": loss},
        "validation_errors": {k: error(_float32(n), valid, labels, shape) for k, n in nets.items()},
        "outputs_float16": _difference(plain, net, valid, shape),
        "outputs_turned": _difference(saving.net, plain, valid, shape),
        **_sizes(plain, saving),
        **record.origin(),
    }
    return found, table(saving.bits)


def _sizes(plain: Sliced, saving: Saving) -> dict[str, Any]:
    coded = [coded_bytes(tensors(n)) for n in (plain, saving.net)]
    return {
        "float16_bytes": sum(x.nbytes for x in tensors(plain).values()),
        "stream_bytes": len(saving.stream),
        "net_bytes": sum(b.net_bits for b in saving.bits) / 8,
        "ideal_bytes": sum(b.ideal_bits for b in saving.bits) / 8,
        "first_bytes": saving.bits[0].rotation_bits / 8,
        "entropy_coded_bytes": coded[0],
        "turned_entropy_coded_bytes": coded[1],
        "streams": [dataclasses.asdict(b) for b in saving.bits],
    }


def _float32(net: Sliced) -> Sliced:
    return Sliced(*([x.astype(np.float32) for x in part] for part in _parts(net)))


def _difference(one: Sliced, other: Sliced, x: np.ndarray, shape: Shape) -> float:
    """Of two networks' outputs, relative to the other's."""
    found, wanted = (np.asarray(logits(_float32(n), x, shape)[0]) for n in (one, other))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def said(found: Mapping[str, Any]) -> str:
    """What is printed beside the table."""
    errors = ", ".join(f"{name} {e:.2%}" for name, e in found["validation_errors"].items())
    raw, net, coded = (found[k] for k in ("float16_bytes", "net_bytes", "entropy_coded_bytes"))
    return (
        f"validation errors: {errors}\n"
        f"outputs of the float16 network: {found['outputs_float16']:.1e} from the sliced one's; "
        f"of the turned one: {found['outputs_turned']:.1e} from the float16 one's\n"
        f"float16 {raw:,} bytes, stream {found['stream_bytes']:,}: {net / raw:.2%} net\n"
        f"entropy-coded {coded:,} bytes ({found['turned_entropy_coded_bytes']:,} turned): "
        f"the net saving is {net / coded:.2%} of them"
    )


def main(argv: list[str]) -> None:
    """The command."""
    given = flags.FLAGS
    if len(argv) > 1:
        raise UsageError(f"unknown argument {argv[1]!r}; see --help")
    found, text = measured(given.width, given.steps, given.seed, Shape())
    print(text + "\n" + said(found))
    if given.results:
        files.write(given.results, json.dumps(found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    flags.DEFINE_integer("width", 48, "Of the streams that are kept, of 64.", 2, 64)
    flags.DEFINE_integer("steps", 1500, "Of training.", 1)
    flags.DEFINE_integer("seed", 0, "Of everything random.")
    flags.DEFINE_string("results", None, "Where what is found is written, JSON.")
    run(main)
