"""The bound of linear models: closed forms, brute force, and the channel that meets it."""

import itertools
import math

import numpy as np
import pytest

from mrc_jax import rate_distortion as rd
from mrc_jax.errors import UsageError

RANDOM = np.random.default_rng(0)
MODELS = [
    (np.exp(RANDOM.normal(0, 1.5, n)), np.exp(RANDOM.normal(0, 1.5, n)), share)
    for n, share in itertools.product((1, 2, 3, 40, 1000), (1e-6, 0.1, 0.5, 0.9, 0.999))
]


def total(weight_variance, input_variance):
    """The distortion of sending nothing."""
    return float(np.sum(np.asarray(weight_variance) * np.asarray(input_variance)))


def test_a_hand_worked_case() -> None:
    """Output variances 16, 4, 1; level 2 floods the last: D = 2 + 2 + 1."""
    s2, lam = [4.0, 8.0, 1.0], [4.0, 0.5, 1.0]
    np.testing.assert_allclose(rd.distortions(s2, lam, 5.0), [0.5, 4.0, 1.0])
    np.testing.assert_allclose(rd.rate_bits(s2, lam, 5.0), [1.5, 0.5, 0.0])
    sent = rd.channel([2.0, 2.0, 2.0], s2, lam, 5.0)
    np.testing.assert_allclose(sent.mean, [1.75, 1.0, 0.0])
    np.testing.assert_allclose(sent.variance, [0.4375, 2.0, 0.0])
    np.testing.assert_allclose(sent.prior_variance, [3.5, 4.0, 0.0])
    assert sent.is_sent.tolist() == [True, True, False]


def test_equal_weights_are_the_textbook_s_gaussian() -> None:
    """R(D) = n/2 log2(n v / D) of n weights with output variance v each."""
    for share in (0.01, 0.25, 0.7):
        bits = rd.rate_bits(np.full(7, 2.0), np.full(7, 3.0), share * 42)
        np.testing.assert_allclose(bits, 0.5 * math.log2(1 / share))


@pytest.mark.parametrize(("s2", "lam", "share"), MODELS)
def test_water_fills_to_one_level_and_the_distortion_is_spent(s2, lam, share) -> None:
    wanted = share * total(s2, lam)
    error = rd.distortions(s2, lam, wanted)
    assert np.sum(lam * error) == pytest.approx(wanted, rel=1e-12)
    assert np.all((error > 0) & (error <= s2))
    level = lam * error
    is_dry = error < s2
    assert np.any(is_dry)
    np.testing.assert_allclose(level[is_dry], level[is_dry][0], rtol=1e-9)
    assert np.all(level[~is_dry] <= level[is_dry][0] * (1 + 1e-9))


@pytest.mark.parametrize(("s2", "lam", "share"), MODELS)
def test_the_slope_of_the_bound_is_that_of_the_level(s2, lam, share) -> None:
    """dR/dD = -1 / (2 level) nats, the envelope theorem: no other split could save more."""
    wanted = share * total(s2, lam)
    step = 1e-5 * min(wanted, total(s2, lam) - wanted)
    high, low = (float(np.sum(rd.rate_bits(s2, lam, wanted + h))) for h in (-step, step))
    level = np.max(lam * rd.distortions(s2, lam, wanted))
    slope = (high - low) / (2 * step) * math.log(2)
    assert slope == pytest.approx(1 / (2 * level), rel=1e-3)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.97])
def test_no_split_of_the_distortion_on_a_fine_grid_needs_fewer_bits(share) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        s2, lam = np.exp(random.normal(0, 1, (2, 3)))
        wanted = share * total(s2, lam)
        part = np.linspace(0, 1, 401)[1:]
        first, second = np.meshgrid(part * lam[0] * s2[0], part * lam[1] * s2[1])
        third = np.minimum(wanted - first - second, lam[2] * s2[2])
        is_split = third > 0
        each = np.stack([first, second, third])[:, is_split] / lam[:, None]
        best = float(np.min(np.sum(0.5 * np.log2(s2[:, None] / each), axis=0)))
        found = float(np.sum(rd.rate_bits(s2, lam, wanted)))
        assert found <= best + 1e-12
        assert found == pytest.approx(best, abs=2e-2)


def test_more_distortion_than_that_of_nothing_takes_no_bits() -> None:
    s2, lam = [4.0, 1.0], [1.0, 2.0]
    for distortion in (6.0, 6.1, 1e9, math.inf):
        np.testing.assert_array_equal(rd.distortions(s2, lam, distortion), s2)
        np.testing.assert_array_equal(rd.rate_bits(s2, lam, distortion), 0)
        assert not np.any(rd.channel([1.0, 1.0], s2, lam, distortion).prior_variance)
        assert rd.lower_bound_bits(np.diag(s2), lam, distortion) == 0
    assert np.sum(rd.rate_bits(s2, lam, 6.0 - 1e-9)) > 0


def test_inputs_and_weights_that_are_always_zero_take_nothing() -> None:
    s2, lam = [4.0, 3.0, 0.0], [1.0, 0.0, 5.0]
    np.testing.assert_allclose(rd.distortions(s2, lam, 1.0), [1, 3, 0])
    np.testing.assert_allclose(rd.rate_bits(s2, lam, 1.0), [1, 0, 0])
    sent = rd.channel([1.0, 1.0, 0.0], s2, lam, 1.0)
    assert sent.is_sent.tolist() == [True, False, False]
    np.testing.assert_array_equal(rd.kl_nats(sent)[1:], 0)


@pytest.mark.parametrize(("s2", "lam", "share"), MODELS)
def test_the_channel_meets_the_bound(s2, lam, share) -> None:
    """The joint law of (W, V) from the forward form: variances, error and mutual information."""
    wanted = share * total(s2, lam)
    sent = rd.channel(np.ones_like(s2), s2, lam, wanted)
    gain = sent.mean  # E[V | W = 1]
    of_v, both = gain**2 * s2 + sent.variance, gain * s2
    np.testing.assert_allclose(of_v, sent.prior_variance, rtol=1e-9, atol=1e-300)
    error = s2 - 2 * both + of_v
    assert np.sum(lam * error) == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(both - of_v, 0, atol=1e-9 * s2.max())  # W - V and V are independent
    is_sent = sent.is_sent
    determinant = (s2 * of_v - both**2)[is_sent]
    information = 0.5 * np.log2((s2 * of_v)[is_sent] / determinant)
    bits = rd.rate_bits(s2, lam, wanted)
    np.testing.assert_allclose(information, bits[is_sent], rtol=1e-6, atol=1e-9)
    assert not np.any(bits[~is_sent])


def test_the_mean_kl_over_the_weights_is_the_bound() -> None:
    """By Gauss-Hermite quadrature over each weight, exact for the quadratic."""
    x, mass = np.polynomial.hermite_e.hermegauss(5)
    for s2, lam, share in MODELS:
        wanted = share * total(s2, lam)
        kl = rd.kl_nats(rd.channel(x[:, None] * np.sqrt(s2), s2, lam, wanted))
        mean = mass @ kl / mass.sum()
        np.testing.assert_allclose(
            mean / math.log(2), rd.rate_bits(s2, lam, wanted), rtol=1e-9, atol=1e-12
        )


def test_kl_is_the_integral_of_its_definition() -> None:
    sent = rd.channel([1.3], [2.0], [0.5], 0.2)
    deviation = math.sqrt(sent.variance[0])
    v = sent.mean[0] + deviation * np.linspace(-12, 12, 20_001)
    log_q = -0.5 * (v - sent.mean) ** 2 / sent.variance - 0.5 * math.log(sent.variance[0])
    log_p = -0.5 * v**2 / sent.prior_variance - 0.5 * math.log(sent.prior_variance[0])
    q = np.exp(log_q)
    wanted = np.sum(q * (log_q - log_p)) / np.sum(q)
    assert rd.kl_nats(sent)[0] == pytest.approx(wanted, rel=1e-9)


def _true_rate_bits(covariance, lam, distortion):
    """R(D) of correlated Gaussians: reverse water-filling over the eigenvalues, by bisection."""
    root = np.sqrt(lam)
    values = np.linalg.eigvalsh(root[:, None] * covariance * root)
    low, high = 0.0, float(values.max())
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(level, values).sum() < distortion else (low, level)
    return float(np.sum(np.maximum(0, 0.5 * np.log2(values / low)))), low <= values.min()


def test_correlated_weights_reverse_water_filling_is_met_or_bounded_from_below() -> None:
    met = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        n = int(random.integers(2, 6))
        mixed = random.normal(size=(n, n + 1))
        covariance, lam = mixed @ mixed.T, np.exp(random.normal(size=n))
        for share in (0.001, 0.05, 0.4, 0.8):
            distortion = share * total(np.diag(covariance), lam)
            found = rd.lower_bound_bits(covariance, lam, distortion)
            wanted, is_met = _true_rate_bits(covariance, lam, distortion)
            met.append(is_met)
            if is_met:
                assert found == pytest.approx(wanted, rel=1e-9)
            else:
                assert 0 <= found <= wanted + 1e-9
    assert 10 < sum(met) < len(met) - 10


def test_a_diagonal_covariance_has_the_bound_of_independent_weights() -> None:
    for s2, lam, share in MODELS:
        if len(s2) <= 40:
            bits = np.sum(rd.rate_bits(s2, lam, share * total(s2, lam)))
            found = rd.lower_bound_bits(np.diag(s2), lam, share * total(s2, lam))
            assert found == pytest.approx(bits, rel=1e-9, abs=1e-12)


def test_the_distortion_is_the_mean_squared_error_of_the_outputs() -> None:
    """On inputs drawn: sum_i lam_i (w_i - v_i)^2 within 5 standard errors (1 in 2 million)."""
    random = np.random.default_rng(3)
    lam, w, v = np.exp(random.normal(size=(3, 6)))
    x = random.normal(size=(200_000, 6)) * np.sqrt(lam)
    squared = np.square(x @ w - x @ v)
    wanted = np.sum(lam * np.square(w - v))
    assert abs(squared.mean() - wanted) < 5 * squared.std() / math.sqrt(len(x))


@pytest.mark.parametrize(
    ("s2", "lam", "distortion", "reason"),
    [
        ([1.0], [1.0], 0.0, "distortion = 0"),
        ([1.0], [1.0], -1.0, "distortion = -1"),
        ([1.0], [1.0], math.nan, "distortion = nan"),
        ([-1.0], [1.0], 1.0, "weight_variance has a number"),
        ([1.0], [math.inf], 1.0, "input_variance has a number"),
        ([1.0, 1.0], [1.0], 1.0, "2 weight variances, but 1"),
        ([[1.0]], [[1.0]], 1.0, "weight_variance has shape"),
        ([], [], 1.0, "weight_variance has shape"),
    ],
)
def test_what_is_no_model_is_refused(s2, lam, distortion, reason) -> None:
    for function in (rd.distortions, rd.rate_bits, lambda *a: rd.channel(s2, *a)):
        with pytest.raises(UsageError, match=reason):
            function(s2, lam, distortion)


@pytest.mark.parametrize(
    ("covariance", "reason"),
    [
        ([1.0, 2.0], "must be square"),
        ([[1.0, 0.5], [0.4, 1.0]], "symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], "positive definite"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance, reason) -> None:
    with pytest.raises(UsageError, match=reason):
        rd.lower_bound_bits(covariance, [1.0, 1.0], 0.5)
