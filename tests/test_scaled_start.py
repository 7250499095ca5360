"""A posterior that takes its first scales from a trained network, against its closed form."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import smoke
from experiments import run as runs
from experiments.settings import Config
from mrc_jax.errors import UsageError
from mrc_jax.gaussian import kl_nats
from mrc_jax.posterior import init_variables, log_prior_scale_of_entries, scaled_start
from mrc_jax.sharing import make_sharing

SMOKE = Config.from_config_dict(smoke.get_config())
# A tensor in four groups, one of one group, one whose means are all but nothing.
TREE = {
    "a": jnp.asarray(np.random.default_rng(0).normal(0, 0.2, 1024), jnp.float32),
    "b": jnp.asarray([3.0, -4.0, 0.0, 0.0]),
    "c": jnp.full(9, 1e-5),
}
SHARING = make_sharing(TREE, 1, ranges=4)
START = init_variables(SHARING, TREE, -5.0, 0.5)["params"]
GROUPS = (256, 256, 256, 256, 4, 9)


def test_scales_are_root_mean_squares_of_their_groups_and_deviations_a_share_of_them() -> None:
    """By hand: b has the root mean square sqrt(25 / 4) = 2.5, c the least, 1e-3. The groups of a
    are those of its entries in order, which has nothing to do with their values.
    """
    assert tuple(SHARING.group_sizes) == GROUPS
    found = scaled_start(START, SHARING, 0.3)
    np.testing.assert_array_equal(found["mean"], START["mean"])
    a = np.asarray(START["mean"][:1024], np.float64)
    rms = [*np.sqrt((a.reshape(4, 256) ** 2).mean(1)), 2.5, 1e-3]
    assert len(set(np.round(rms[:4], 5))) == 4  # a mistaken group would be seen
    parted = 2.0 ** np.asarray([0.5, -1 / 6, -5 / 6, -1.5])  # even steps of the log
    wanted = np.asarray(rms) * [*parted, 1, 1]
    np.testing.assert_allclose(np.exp(found["log_prior_scale"]), wanted, rtol=1e-5)
    deviations = np.repeat(0.3 * np.asarray(rms), GROUPS)
    np.testing.assert_allclose(np.exp(0.5 * found["log_variance"]), deviations, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_the_mean_kl_of_a_group_is_what_its_noise_says(noise: float) -> None:
    """KL = (s^2 + m^2) / (2 p^2) - 1/2 - ln(s / p), whose mean for s = noise p and a mean of m^2 of
    p^2 is noise^2 / 2 - ln(noise).
    """
    found = scaled_start(START, SHARING, noise)
    scale = log_prior_scale_of_entries(found, SHARING)
    kl = kl_nats(found["mean"], found["log_variance"], scale)
    np.testing.assert_allclose(np.mean(kl[1024:1028]), noise**2 / 2 - np.log(noise), rtol=1e-5)


def test_a_run_starts_from_the_scales_of_its_plain_network(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(SMOKE, start_from_plain=True, plain_noise=0.25, hidden=(24, 12))
    with runs.opened(config, tmp_path) as job:
        job.data()
        plain = jax.tree.map(np.asarray, job.plain)["params"]
        params: Any = jax.tree.map(np.asarray, job.state.params)
        sharing = job.problem.posterior.sharing
    deviation, start = np.exp(0.5 * params["log_variance"]), 0
    assert all(tensor.factor == 1 for tensor in sharing.manifest.tensors) and sharing.ranges == 1
    for tensor in sharing.manifest.tensors:
        layer, leaf = tensor.path.split("/")[1:]
        rms = np.sqrt(np.mean(np.square(plain[layer][leaf], dtype=np.float64)))
        part = deviation[start : start + plain[layer][leaf].size]
        np.testing.assert_allclose(part, 0.25 * max(rms, 1e-3), rtol=1e-4)
        start += len(part)
    assert start == len(deviation)


@pytest.mark.parametrize(
    "fields",
    [
        {"plain_noise": -0.1},
        {"plain_noise": float("nan")},
        {"plain_noise": float("inf")},
        {"start_from_plain": False},
        {"parameterisation": "mean_kl"},
    ],
)
def test_impossible_noise_is_refused(fields: dict[str, Any]) -> None:
    possible = dataclasses.replace(SMOKE, start_from_plain=True, plain_noise=0.3)
    with pytest.raises(UsageError, match="plain_noise"):
        dataclasses.replace(possible, **fields)
