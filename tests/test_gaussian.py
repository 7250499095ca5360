"""KL divergence and log density against quadrature and scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mrc_jax.gaussian import kl_nats, log_density, log_weight_variance_nats2

finite = st.floats(-3, 3, width=32)


@settings(max_examples=40)
@given(finite, st.floats(-8, 1, width=32), st.floats(-3, 1, width=32))
def test_kl_is_the_integral_of_q_log_q_over_p(mean, log_variance, log_scale):
    q = stats.norm(mean, np.exp(0.5 * log_variance))
    p = stats.norm(0, np.exp(log_scale))
    low, high = q.mean() - 12 * q.std(), q.mean() + 12 * q.std()
    exact, _ = integrate.quad(
        lambda w: q.pdf(w) * (q.logpdf(w) - p.logpdf(w)), low, high, points=[mean], limit=200
    )
    found = float(kl_nats(*map(jnp.float32, (mean, log_variance, log_scale))))
    assert found == pytest.approx(exact, rel=2e-5, abs=2e-6)


def test_kl_keeps_its_digits_where_the_posterior_is_nearly_the_prior():
    for difference in (1e-2, 1e-3, 1e-4):
        found = float(kl_nats(jnp.float32(0), jnp.float32(difference), jnp.float32(0)))
        assert found == pytest.approx(difference**2 / 4, rel=2e-2, abs=1e-10)
    assert float(kl_nats(jnp.float32(0), jnp.float32(-3), jnp.float32(-1.5))) == 0


@settings(max_examples=40)
@given(finite, st.floats(-8, 1, width=32), st.floats(-3, 1, width=32))
def test_the_log_weights_variance_is_its_integral(mean, log_variance, log_scale):
    q = stats.norm(mean, np.exp(0.5 * log_variance))
    p = stats.norm(0, np.exp(log_scale))
    w, weights = np.polynomial.hermite_e.hermegauss(20)  # exact for the squares of quadratics
    w, weights = q.mean() + q.std() * w, weights / weights.sum()
    log_weight = q.logpdf(w) - p.logpdf(w)
    exact = weights @ np.square(log_weight - weights @ log_weight)
    arguments = map(jnp.float32, (mean, log_variance, log_scale))
    found = float(log_weight_variance_nats2(*arguments))
    assert found == pytest.approx(exact, rel=1e-4, abs=1e-6)


@given(finite, finite, st.floats(-8, 3, width=32))
def test_log_density_is_that_of_scipy(value, mean, log_variance):
    exact = stats.norm.logpdf(value, mean, np.exp(0.5 * log_variance))
    found = float(log_density(*map(jnp.float32, (value, mean, log_variance))))
    assert found == pytest.approx(exact, rel=1e-5, abs=1e-5)
