"""The command that measures rotations: a small network of random weights, and MiniLM if given."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments import rotation
from experiments.float16_code import coded_bytes
from mrc_jax.decode import parsed
from mrc_jax.errors import DataError, UsageError

WIDTH, HEADS, LAYERS, WORDS = 24, 3, 2, 70


def random_bert(seed):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return (0.2 * random.normal(size=shape)).astype(np.float32)

    weights = {
        "embeddings.position_ids": np.arange(64),
        "embeddings.word_embeddings.weight": normal(WORDS, WIDTH),
        "embeddings.position_embeddings.weight": normal(64, WIDTH),
        "embeddings.token_type_embeddings.weight": normal(2, WIDTH),
    }
    norms = ["embeddings"]
    for layer in range(LAYERS):
        block = f"encoder.layer.{layer}"
        names = [f"attention.self.{n}" for n in ("query", "key", "value")]
        for name in (*names, "attention.output.dense", "intermediate.dense", "output.dense"):
            inputs = 2 * WIDTH if name == "output.dense" else WIDTH
            size = 2 * WIDTH if name == "intermediate.dense" else WIDTH
            weights[f"{block}.{name}.weight"] = normal(size, inputs)
            weights[f"{block}.{name}.bias"] = normal(size)
        norms += [f"{block}.attention.output", f"{block}.output"]
    for name in norms:
        weights[f"{name}.LayerNorm.weight"] = 1 + normal(WIDTH)
        weights[f"{name}.LayerNorm.bias"] = normal(WIDTH)
    return weights


def check(exact, heads, least):
    weights = {name: x.astype(np.float16) for name, x in exact.items()}
    saving = rotation.save(weights, heads)
    bits = [b for layer in saving.layers for b in layer]
    net = sum(b.net_bits for b in bits)
    turns = parsed(saving.file).parts_bytes["turns"]
    wanted = saving.plain_bytes + turns - 1 - net / 8
    assert len(saving.file) == pytest.approx(wanted, abs=2)
    assert net > least * sum(b.ideal_bits for b in bits)
    key = "encoder.layer.0.attention.self.key.weight"
    assert saving.weights.keys() == weights.keys()
    assert np.mean(np.abs(saving.weights[key].astype(float) - weights[key])) > 0.01
    tokens = np.random.default_rng(0).integers(70, size=40)
    plain, turned, wanted = (
        rotation.outputs(w, tokens, heads) for w in (weights, saving.weights, exact)
    )
    assert np.std(turned - plain) < 2 * np.std(plain - wanted)
    wrong = {**saving.weights, key: weights[key]}
    assert np.std(rotation.outputs(wrong, tokens, heads) - plain) > 10 * np.std(turned - plain)
    return saving


def test_a_network_s_turned_heads_save_bits_and_give_its_outputs(tmp_path):
    save_file(random_bert(0), tmp_path / "bert.safetensors")
    saving = check(rotation.read(tmp_path / "bert.safetensors"), HEADS, 0.6)
    bits = [b for layer in saving.layers for b in layer]
    assert len(saving.layers) == LAYERS and len(bits) == 2 * HEADS * LAYERS
    assert sum(b.ideal_bits for b in bits) == 2 * HEADS * LAYERS * 16 * 8 * 7 // 2
    weights = {
        name: x.astype(np.float16) for name, x in random_bert(0).items() if "ids" not in name
    }
    net, raw = sum(b.net_bits for b in bits) / 8, sum(x.nbytes for x in weights.values())
    text = rotation.of_both(weights, saving)
    assert f"net saving: {net:,.0f} bytes, {net / raw:.2%} of float16's {raw:,}, " in text
    assert f"{net / coded_bytes(weights):.2%} of the {coded_bytes(weights):,} that" in text
    lines = rotation.table(saving).splitlines()
    assert len(lines) == 2 + LAYERS + 1 and lines[-1].startswith("| all | 9,")


def test_files_of_something_else_are_refused(tmp_path):
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(DataError, match=r"give a \.safetensors"):
        rotation.read(tmp_path / "text")
    save_file({"a": np.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="BERT"):
        rotation.read(tmp_path / "other.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MRC_MINILM"), reason="MRC_MINILM names no weights")
def test_minilm_s_heads_save_over_70_percent_of_the_ideal():
    check(rotation.read(os.environ["MRC_MINILM"]), 12, 0.7)
