"""The fewest bits in which a linear model's weights can be sent for a given error of its outputs
(Gao, Liu, Wang and Oh 2019, "Rate Distortion For Model Compression", arXiv 1810.06401).

The model is f(x) = w . x with weights W of mean 0 and inputs X of mean 0 and variances
input_variance, uncorrelated; so the distortion of sending v for w is

    E_X (w . X - v . X)^2 = sum_i input_variance[i] (w_i - v_i)^2.

The bound fills water over the weights' shares of the output's variance (Theorem 2), and a Gaussian
test channel meets it where the weights are independent Gaussians (Theorem 3): a posterior for each
weight and one prior for all its values, which is what relative-entropy coding takes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mrc_jax.errors import UsageError


class Channel(NamedTuple):
    """The Gaussian test channel: q and p of a relative-entropy coder.

    Attributes:
      mean, variance: of the posterior of each sent weight, given the weight.
      prior_variance: of the sent weight, whatever the weight is; 0 where nothing is sent.
    """

    mean: np.ndarray
    variance: np.ndarray
    prior_variance: np.ndarray

    @property
    def is_sent(self) -> np.ndarray:
        """bool[weights]: False for the weights under water, which all are 0 after decoding."""
        return self.prior_variance > 0


def distortions(
    weight_variance: ArrayLike, input_variance: ArrayLike, distortion: float
) -> np.ndarray:
    """The squared error D_i of each weight, float64[weights], by weighted water-filling.

    D_i = min(level / input_variance[i], weight_variance[i]), with the level at which
    sum_i input_variance[i] D_i is the distortion (Theorem 2).

    Args:
      weight_variance: [weights], E W_i^2.
      input_variance: [weights].
      distortion: of the output, in its units squared; from that of sending nothing on every D_i is
        the weight's variance.

    Raises:
      UsageError: a variance is negative or not finite, shapes differ, or the distortion is not
        positive.
    """
    s2, lam = _checked(weight_variance, input_variance, distortion)
    power = np.sort(lam * s2)
    flooded = np.cumsum(power) - power  # below the i-th level: those smaller are under water
    count = len(power) - np.arange(len(power))
    full = flooded + count * power  # the distortion at which the i-th comes under water
    first = int(np.searchsorted(full, distortion))
    if first == len(power):
        return s2
    level = (distortion - flooded[first]) / count[first]
    is_under = lam * s2 <= level
    return np.where(is_under, s2, level / np.where(is_under, 1.0, lam))


def rate_bits(
    weight_variance: ArrayLike, input_variance: ArrayLike, distortion: float
) -> np.ndarray:
    """Each weight's share of the bound for independent weights, float64[weights]:
    log2(weight_variance / D_i) / 2, and 0 under water. Their sum is R(D) of independent Gaussian
    weights, and is met (Theorem 3).

    Args, Raises: as in `distortions`.
    """
    s2, _ = _checked(weight_variance, input_variance, distortion)
    error = distortions(weight_variance, input_variance, distortion)
    is_sent = error < s2
    return 0.5 * np.log2(np.where(is_sent, s2, 1.0) / np.where(is_sent, error, 1.0))


def lower_bound_bits(covariance: ArrayLike, input_variance: ArrayLike, distortion: float) -> float:
    """Bits below which no code of Gaussian weights has that distortion (Theorem 2), 0 at least.

    With correlated weights it is met while the level is below every eigenvalue of the weighted
    covariance, whose (i, j) is covariance[i, j] sqrt(input_variance[i] input_variance[j]); above,
    it may be too low.

    Args:
      covariance: [weights, weights], of the weights.
      input_variance: [weights].
      distortion: as in `distortions`.

    Raises:
      UsageError: as `distortions`, or the covariance is not square, symmetric and positive
        definite.
    """
    covariance = np.asarray(covariance, np.float64)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise UsageError(f"covariance has shape {covariance.shape}: it must be square")
    if not np.allclose(covariance, covariance.T, rtol=1e-9, atol=0):
        raise UsageError("covariance must be symmetric")
    error = distortions(np.diag(covariance), input_variance, distortion)
    try:
        half = np.log2(np.diag(np.linalg.cholesky(covariance)))
    except np.linalg.LinAlgError:
        raise UsageError("covariance must be positive definite") from None
    return max(0.0, float(np.sum(half - 0.5 * np.log2(error))))


def channel(
    weights: ArrayLike, weight_variance: ArrayLike, input_variance: ArrayLike, distortion: float
) -> Channel:
    """The test channel of independent weights W_i ~ N(0, weight_variance[i]) (Theorem 3).

    W_i = V_i + Z_i with Z_i ~ N(0, D_i) independent of the sent V_i, so that V_i has the prior
    N(0, weight_variance[i] - D_i) and, given W_i = w, the posterior N(g w, g D_i), where
    g = 1 - D_i / weight_variance[i]. The mean over W of KL(posterior || prior) is the weight's
    share of the bound.

    Args:
      weights: [..., weights], the models'.
      weight_variance, input_variance, distortion: as in `distortions`.

    Returns:
      float64: the mean has the shape of `weights`, the variances [weights].

    Raises:
      UsageError: as `distortions`.
    """
    s2, lam = _checked(weight_variance, input_variance, distortion)
    error = distortions(s2, lam, distortion)
    gain = 1 - error / np.where(s2 > 0, s2, 1.0)
    gain = np.where(error < s2, gain, 0.0)
    return Channel(gain * np.asarray(weights, np.float64), gain * error, s2 * gain)


def kl_nats(sent: Channel) -> np.ndarray:
    """KL(posterior || prior) of each weight in nats, of the shape of the mean; 0 where nothing is
    sent.
    """
    prior = np.where(sent.is_sent, sent.prior_variance, 1.0)
    ratio = np.where(sent.is_sent, sent.variance / prior, 1.0)
    return 0.5 * (np.square(sent.mean) / prior + ratio - 1 - np.log(ratio))


def _checked(
    weight_variance: ArrayLike, input_variance: ArrayLike, distortion: float
) -> tuple[np.ndarray, np.ndarray]:
    s2, lam = (np.asarray(x, np.float64) for x in (weight_variance, input_variance))
    for name, values in (("weight_variance", s2), ("input_variance", lam)):
        if values.ndim != 1 or values.size == 0:
            raise UsageError(f"{name} has shape {values.shape}: give one number for each weight")
        if not np.all(np.isfinite(values) & (values >= 0)):
            raise UsageError(f"{name} has a number that is negative or not finite")
    if s2.shape != lam.shape:
        raise UsageError(f"{s2.size} weight variances, but {lam.size} input variances")
    if not distortion > 0:
        raise UsageError(f"distortion = {distortion:g}: it must be positive")
    return s2, lam
