"""The benchmark measures what it says, and its document says what was measured."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.benchmark import kernels, measure

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments/results/benchmarks"
NAMES = {
    "kernel", "D", "K", "blocks", "candidate_lanes_per_s", "warm", "ratio_to_straightforward",
    "ratio_to_matmul", "peak_bytes",
}  # fmt: skip


def test_rows_of_small_shapes_have_every_field(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "SHAPES", ((4, 8, 1),))
    monkeypatch.setattr(kernels, "_LIMIT_BITS", (7,))
    monkeypatch.setattr(kernels, "in_fresh_process", lambda function, *args: function(*args))
    rows = list(kernels.rows())
    assert rows[-1]["kernel"] == "matrix peak" and rows[-1]["float32_flop_per_s"] > 0
    assert {r["kernel"] for r in rows[:-1]} == {
        "straightforward", "limit", "reference", "codebook",
    }  # fmt: skip
    for row in rows[:-1]:
        assert set(row) >= NAMES
        lanes = row["D"] * row["K"] * row["blocks"]
        assert row["candidate_lanes_per_s"] == pytest.approx(lanes / row["seconds"])
    one = [r for r in rows if r.get("blocks") == 1 and r["kernel"] == "codebook" and not r["warm"]]
    assert one and all(r["seconds"] > r["codebook_seconds"] / r["cold_shared_by"] for r in one)


def _big_array() -> int:
    before = measure._resident_bytes()
    array = np.ones(50_000_000, np.uint8)
    return measure._resident_bytes() - before + 0 * int(array[0])


def test_a_fresh_process_is_another_one_and_memory_is_seen() -> None:
    assert measure.in_fresh_process(_pid) != _pid()
    assert measure.in_fresh_process(_big_array) > 45_000_000


def _pid() -> int:
    import os

    return os.getpid()


def test_the_straightforward_encoder_samples_the_posterior() -> None:
    """4,000 blocks of one lane with 2^10 candidates: the sample's law is near the posterior's
    (Kolmogorov-Smirnov, false alarm 1e-3), and not near the prior's.
    """
    draws, K = 4000, 1 << 10
    keys = jax.random.split(jax.random.key(3), draws)
    mean, log_variance, scale = (jnp.full(1, x, jnp.float32) for x in (0.4, -1.0, 1.0))

    def value(key):
        index = kernels.straightforward(key, mean, log_variance, scale, K)
        return jax.random.normal(jax.random.split(key)[0], (K, 1))[index, 0]

    w = np.asarray(jax.jit(lambda keys: jax.lax.map(value, keys, batch_size=500))(keys))
    assert stats.kstest(w, stats.norm(0.4, np.exp(-0.5)).cdf).pvalue > 1e-3
    assert stats.kstest(w, stats.norm(0, 1).cdf).pvalue < 1e-12


def test_the_document_has_the_measured_figures() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text()
    rows = json.loads((RESULTS / "kernels.json").read_text())["rows"]
    for row in rows[:-1]:
        cells = f"{row['candidate_lanes_per_s']:.2g} | {row['ratio_to_straightforward']:.3g} x | "
        assert cells + f"{100 * row['ratio_to_matmul']:.0f} %" in text
    train = json.loads((RESULTS / "train.json").read_text())["rows"]
    assert f"{train[1]['ratio']:.2f} times as long" in text
    for row in json.loads((RESULTS / "decode.json").read_text())["rows"]:
        assert f"{1e3 * row['whole_seconds']:.3g} ms" in text
