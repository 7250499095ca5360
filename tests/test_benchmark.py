"""The benchmark measures what it says, and its document says what was measured."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import cifar10_vgg8
from experiments.benchmark import decode, kernels, limit, measure, parts, tables, tiles, train
from mrc_jax.gaussian import kl_nats

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments/results/benchmarks"
NAMES = {
    "kernel", "D", "K", "blocks", "candidate_lanes_per_s", "warm", "ratio_to_straightforward",
    "ratio_to_matmul", "peak_bytes",
}  # fmt: skip


def test_rows_of_small_shapes_have_every_field(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "SHAPES", ((4, 8, 1), (4, 8, 3)))
    monkeypatch.setattr(limit, "_LIMIT_BITS", {"cpu": (7,)})
    monkeypatch.setattr(kernels, "in_fresh_process", lambda function, *args: function(*args))
    rows = list(kernels.rows())
    assert rows[-1]["kernel"] == "matrix peak, float32" and rows[-1]["flop_per_s"] > 0
    assert {r["kernel"] for r in rows[:-1]} == {
        "straightforward", "limit", "reference", "codebook",
    }  # fmt: skip
    assert all(set(row) >= NAMES for row in rows)
    for row in rows[:-1]:
        lanes = row["D"] * row["K"] * row["blocks"]
        assert row["candidate_lanes_per_s"] == pytest.approx(lanes / row["seconds"])
    shared = [row["cold_shared_by"] for row in rows if row["kernel"] == "codebook"]
    assert shared == 2 * [1, kernels.SHARED_BY, None] + 2 * [3, None]
    spread = [row for row in rows if "codebook_seconds" in row]
    assert [row["cold_shared_by"] for row in spread] == 2 * [kernels.SHARED_BY]
    assert all(r["seconds"] > r["codebook_seconds"] / r["cold_shared_by"] for r in spread)


def _peak_of_a_big_array() -> int:
    np.ones(100_000_000, np.uint8)  # gone again: not of the call that is measured
    return measure.seconds_and_peak(lambda: jnp.asarray(np.ones(50_000_000, np.uint8)) + 1)[1]


def test_a_fresh_process_is_another_one_and_memory_is_seen() -> None:
    assert measure.in_fresh_process(_pid) != _pid()
    peak = measure.in_fresh_process(_peak_of_a_big_array)
    assert 45_000_000 < peak < 300_000_000


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


@pytest.mark.parametrize("bits", [8, 20])
def test_the_posteriors_have_the_kl_that_an_index_pays_for(bits) -> None:
    mean, log_variance, scale = kernels._posterior(45, bits, 500)
    kl = np.sum(kl_nats(mean, log_variance, np.log(scale)), axis=1) / np.log(2)
    assert np.mean(kl) == pytest.approx(bits, rel=0.03)


def test_what_is_timed_of_the_straightforward_encoder_is_scaled(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "_TIMED_BITS", 6)
    call, scale = kernels._straightforward_call(3, 8, 10)
    assert call().shape == (2,) and scale == 5 * 4


def test_the_parts_of_a_step_are_timed_beside_it(monkeypatch) -> None:
    monkeypatch.setattr(train, "_STEPS", 1)
    monkeypatch.setattr(train, "_REPETITIONS", 1)
    monkeypatch.setattr(train, "BATCH_SIZE", 2)
    monkeypatch.setattr(train, "MEMBERS", 2)
    rows = {row["step"]: row["seconds"] for row in train.rows()}
    assert list(rows)[:3] == ["plain", "variational", "variational, 2 members by one program"]
    assert all(rows[f"{part} alone"] > 0 for part in ("noise", "sharing", "KL"))


def test_tiles_are_timed_beside_shifted_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "LAYERS", ((3, 2, 4),))
    monkeypatch.setattr(tiles, "BATCH_SIZE", 2)
    (row,) = tiles.rows()
    assert row["channels"] == (3, 2) and row["size"] == 4
    assert row["ratio"] == pytest.approx(row["seconds"] / row["shifted_seconds"])
    assert row["seconds"] > 0


@pytest.mark.slow
def test_parts_of_a_batch_are_timed_and_take_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = cifar10_vgg8.get_config()
    narrow.update({"width": 4, "batch_size": 128, "budget_start": False})
    narrow.update({"file_bytes": 400, "bits": 8})
    monkeypatch.setattr(parts.cifar10_resnet20, "get_config", lambda: narrow)
    monkeypatch.setattr(parts, "_STEPS", 1)
    monkeypatch.setattr(parts, "_REPETITIONS", 1)
    monkeypatch.setattr(parts, "PARTS", (1, 32))
    whole, of_four = parts.rows()
    assert (whole["examples"], of_four["examples"], whole["ratio"]) == (128, 4, 1)
    assert of_four["seconds"] > 0 and of_four["working_bytes"] < whole["working_bytes"] / 10


def test_the_committed_lenet5_is_timed_on_one_core() -> None:
    row = measure.in_fresh_process(decode._row, "LeNet-5")
    assert row["weights"] == 431_080 and row["cores"] == 1
    phases = ("parsing", "candidates", "permutation")
    assert 0 < sum(row[f"{phase}_seconds"] for phase in phases) < row["first_seconds"]


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_benchmark_that_does_not_exist_is_refused_by_one_line_and_help_has_examples() -> None:
    done = _command("nonsense")
    assert done.returncode == 2 and "kernels, train, tiles, parts, decode" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "python -m experiments.benchmark kernels" in _command("--help").stdout


def test_the_document_is_what_the_command_writes_from_the_rows() -> None:
    found = {what: json.loads((RESULTS / f"{what}.json").read_text()) for what in tables.WHAT}
    told = {what: tables.told(one) for what, one in found.items()}
    rows = {what: one["rows"] for what, one in found.items()}
    assert tables.document(rows, told) == tables.DOCUMENT.read_text()
    for row in rows["kernels"]:
        assert set(row) >= NAMES and row["peak_bytes"] >= 0
