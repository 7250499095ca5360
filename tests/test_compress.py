"""The high-level call: its promises, and its refusals."""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mrc_jax
from mrc_jax.api import prepare
from mrc_jax.checkpoint import Checkpoints, encode, plan_meta
from mrc_jax.container import scales_to_float, unpack
from mrc_jax.decode import decode

INPUTS = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
LABELS = INPUTS[:, :3].argmax(axis=1)
LOSS = optax.softmax_cross_entropy_with_integer_labels
NET = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(3)])
RECIPE = mrc_jax.Recipe(
    bits=8, steps=1200, beta_init=1e-3, beta_step=5e-3, log_std_init=-3.0, batch_size=64,
    learning_rate=1e-2, final_learning_rate=3e-3, refine_steps=2,
)  # fmt: skip


MEAN_KL = dataclasses.replace(RECIPE, parameterisation="mean_kl")


class Noisy(nn.Module):
    """Dropout and batch norm around two layers, the second with bfloat16 parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        return nn.Dense(3, param_dtype=jnp.bfloat16)(x).astype(jnp.float32)


def test_dropout_and_batch_statistics_go_through_and_are_counted() -> None:
    done = mrc_jax.compress_network(
        Noisy(), LOSS, (INPUTS, LABELS), 300, jax.random.key(0), recipe=RECIPE,
        net_kwargs={"train": True},
    )  # fmt: skip
    assert 0.97 * 300 <= len(done.file) <= 300
    assert done.report["parts_bytes"]["uncoded"] == 2 * 8 * 4
    assert sum(done.report["parts_bytes"].values()) == len(done.file)
    like = jax.eval_shape(Noisy().init, jax.random.key(0), INPUTS)
    weights = mrc_jax.tree_of(decode(done.file), like)
    assert np.abs(weights["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0.01
    assert weights["params"]["Dense_1"]["kernel"].dtype == jnp.bfloat16
    assert (Noisy().apply(weights, INPUTS).argmax(1) == LABELS).mean() > 0.8


def test_batches_from_an_iterable_train_too_and_one_that_ends_is_refused() -> None:
    batches = [(INPUTS[i : i + 64], LABELS[i : i + 64]) for i in range(0, 256, 64)]
    net = NET
    calls: list[mrc_jax.Progress] = []
    done = mrc_jax.compress_network(
        net, LOSS, batches, 150, jax.random.key(0), recipe=RECIPE,
        on_call=lambda _, progress: calls.append(progress),
    )  # fmt: skip
    weights = mrc_jax.tree_of(done.weights, jax.eval_shape(net.init, jax.random.key(0), INPUTS))
    assert (net.apply(weights, INPUTS).argmax(1) == LABELS).mean() > 0.8
    assert calls[-1].phase == "code" and calls[-1].done == calls[-1].total == done.report["blocks"]
    with pytest.raises(mrc_jax.UsageError, match="gave no batch"):
        mrc_jax.compress_network(
            net, LOSS, iter(batches), 150, jax.random.key(0), recipe=RECIPE,
            params=net.init(jax.random.key(0), INPUTS),
        )  # fmt: skip


@pytest.mark.parametrize("selection", ["sample", "ordered"])
def test_a_tensor_in_ranges_has_a_prior_scale_for_each_in_the_file(selection: str) -> None:
    net = nn.Sequential([nn.Dense(70), nn.relu, nn.Dense(3)])
    recipe = dataclasses.replace(RECIPE, scale_ranges=2, selection=selection)
    done = mrc_jax.compress_network(
        net, LOSS, (INPUTS, LABELS), 200, jax.random.key(0), recipe=recipe
    )
    parsed = unpack(done.file)
    assert 0.95 * 200 <= len(done.file) <= 200 and parsed.header.version == 3
    assert parsed.header.groups == done.report["parts_bytes"]["scales"] == 5  # 70, 280, 280, 3, 210
    assert parsed.scales[1] != parsed.scales[2]
    weights = mrc_jax.tree_of(
        decode(done.file), jax.eval_shape(net.init, jax.random.key(0), INPUTS)
    )
    assert (net.apply(weights, INPUTS).argmax(1) == LABELS).mean() > 0.8


def test_a_checkpoint_of_a_posterior_in_ranges_is_encoded_with_its_scales(
    tmp_path: pathlib.Path,
) -> None:
    net, recipe = nn.Dense(80), dataclasses.replace(RECIPE, scale_ranges=2)
    start = net.init(jax.random.key(0), INPUTS)
    problem, _, state = prepare(net, start, LOSS, 200, jax.random.key(1), recipe)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state, plan_meta(problem))
    checkpoints.close()
    parsed = unpack(encode(tmp_path))
    assert parsed.header == problem.header and parsed.header.ranges == 2
    assert scales_to_float(parsed.scales).tolist() == pytest.approx([0.135, 0.27, 0.017], rel=0.06)


def test_mean_kl_codes_in_waves_blocks_at_their_budget_and_refuses_a_budget_of_nothing() -> None:
    recipe = dataclasses.replace(
        RECIPE, parameterisation="mean_kl", codebook_blocks=20, wave_blocks=8, steps=300,
        learning_rate=5e-2, final_learning_rate=2e-2, slack_nats=0.5,
    )  # fmt: skip
    calls: list[mrc_jax.Progress] = []
    done = mrc_jax.compress_network(
        NET, LOSS, (INPUTS, LABELS), 150, jax.random.key(0), recipe=recipe,
        on_call=lambda _, progress: calls.append(progress),
    )  # fmt: skip
    weights = mrc_jax.tree_of(done.weights, jax.eval_shape(NET.init, jax.random.key(0), INPUTS))
    assert (NET.apply(weights, INPUTS).argmax(1) == LABELS).mean() > 0.8
    coding = [p for p in calls if p.phase == "code" and p.metrics]
    assert len(coding) > 3 and coding[0].budget_nats == 8 * np.log(2) + 0.5
    for progress in calls:
        if progress.metrics:
            assert progress.metrics["kl_nats"] == pytest.approx(progress.budget_nats, rel=1e-5)
            assert abs(progress.metrics["over_budget_nats"]) < 1e-4
    none = dataclasses.replace(recipe, slack_nats=-6.0)
    with pytest.raises(mrc_jax.UsageError, match="slack_nats"):
        mrc_jax.compress_network(NET, LOSS, (INPUTS, LABELS), 150, jax.random.key(0), recipe=none)


def test_the_same_key_gives_the_same_file_and_another_key_another() -> None:
    files = [
        mrc_jax.compress_network(
            NET, LOSS, (INPUTS, LABELS), 150, jax.random.key(seed), recipe=RECIPE
        ).file
        for seed in (0, 0, 1)
    ]
    assert files[0] == files[1] != files[2]


def test_a_trained_network_starts_at_its_budgets() -> None:
    """A linear classifier that is right on all is so on most in 60 bytes after 50 small steps; as
    other weights start its blocks are over their budgets by far.
    """
    net = nn.Dense(3)
    weights = {"params": {"kernel": 4 * jnp.eye(8, 3), "bias": jnp.zeros(3)}}
    recipe = dataclasses.replace(
        RECIPE, steps=50, steps_per_call=25, learning_rate=1e-3, final_learning_rate=3e-4
    )
    calls: list[mrc_jax.Progress] = []
    done = mrc_jax.compress_network(
        net, LOSS, (INPUTS, LABELS), 60, jax.random.key(0), params=weights, trained=True,
        recipe=recipe, on_call=lambda _, progress: calls.append(progress),
    )  # fmt: skip
    assert calls[0].metrics["kl_nats"] == pytest.approx(calls[0].budget_nats, rel=0.1)
    found = mrc_jax.tree_of(done.weights, weights)
    assert (net.apply(found, INPUTS).argmax(1) == LABELS).mean() > 0.8
    with pytest.raises(mrc_jax.NumericsError, match="over their KL budget"):
        mrc_jax.compress_network(
            net, LOSS, (INPUTS, LABELS), 60, jax.random.key(0), params=weights, recipe=recipe
        )
    sharded = dataclasses.replace(recipe, data_shards=2)
    mrc_jax.compress_network(
        net, LOSS, (INPUTS, LABELS), 60, jax.random.key(0), params=weights, trained=True,
        recipe=sharded,
    )  # fmt: skip
    for data, other in (([(INPUTS, LABELS)], recipe), ((INPUTS, LABELS), MEAN_KL)):
        with pytest.raises(mrc_jax.UsageError, match="trained: "):
            mrc_jax.compress_network(
                net, LOSS, data, 60, jax.random.key(0), params=weights, trained=True, recipe=other
            )


def test_integer_and_half_precision_leaves_keep_their_dtypes() -> None:
    params = {
        "deep": [{"w": jnp.ones((8, 3), jnp.float16)}, jnp.ones((24, 8), jnp.float32)],
        "count": jnp.arange(4, dtype=jnp.int32),
    }
    done = mrc_jax.compress_network(
        lambda p, x: x @ p["deep"][0]["w"].astype(jnp.float32), LOSS, (INPUTS, LABELS), 150,
        jax.random.key(0), params=params, recipe=RECIPE,
    )  # fmt: skip
    weights = mrc_jax.tree_of(decode(done.file), params)
    assert weights["deep"][0]["w"].dtype == np.float16
    np.testing.assert_array_equal(weights["count"], np.arange(4))


def test_an_impossible_size_is_refused_before_training() -> None:
    with pytest.raises(mrc_jax.UsageError, match="smallest possible file has"):
        mrc_jax.compress_network(nn.Dense(3), LOSS, (INPUTS, LABELS), 5, jax.random.key(0))


def test_a_function_without_weights_is_refused() -> None:
    with pytest.raises(mrc_jax.UsageError, match="give params"):
        mrc_jax.compress_network(lambda p, x: x, LOSS, (INPUTS, LABELS), 90, jax.random.key(0))


def test_a_loss_that_is_not_finite_stops_with_step_and_rate() -> None:
    with pytest.raises(mrc_jax.NumericsError, match=r"step 500, at learning rate 0\.01"):
        mrc_jax.compress_network(
            NET, lambda o, t: jnp.log(-jnp.abs(o[:, 0])), (INPUTS, LABELS), 150,
            jax.random.key(0), recipe=RECIPE,
        )  # fmt: skip


def test_a_budget_that_was_not_reached_is_not_coded_silently() -> None:
    recipe = mrc_jax.Recipe(bits=8, steps=10)
    with pytest.raises(mrc_jax.NumericsError, match=r"over their KL budget by [\d.]+ bits"):
        mrc_jax.compress_network(NET, LOSS, (INPUTS, LABELS), 150, jax.random.key(0), recipe=recipe)
