"""How many bits a sample takes: what a file spends, and what theory says is needed.

The bounds are on the expected length of a message from which a sample of q can be made with shared
draws from p, for one block of divergence KL(q || p).
"""

import math

import numpy as np

from mrc_jax.container import Header
from mrc_jax.ordered_code import best_parameters, bucket_bits


def payload_bits(header: Header) -> int:
    """Bits that a file's fixed indices take, before they are rounded up to bytes."""
    return header.blocks * header.bits


def lower_bound_bits(kl_nats: float) -> float:
    """No code is shorter than the divergence (MIRACLE, Eq. 4; Harsha et al. 2010)."""
    return kl_nats / math.log(2)


def upper_bound_bits(kl_nats: float) -> float:
    """An entropy-coded index of an exact sample takes KL + log2(KL + 1) + 4 bits at most.

    Li and El Gamal, "Strong functional representation lemma", IEEE Trans. Inf. Theory 2018.
    """
    bits = lower_bound_bits(kl_nats)
    return bits + math.log2(bits + 1) + 4


def bias_bound(slack_nats: float, tail_probability: float) -> float:
    """epsilon of MIRACLE's Theorem 3.2 (Chatterjee and Diaconis 2018) for K = exp(KL + t).

    With probability at least 1 - 2 epsilon an expectation under the coded sample's law is within
    2 epsilon / (1 - epsilon) times the function's norm of that under q.

    Args:
      slack_nats: see Recipe; the theorem's t is -slack_nats.
      tail_probability: P_q(log q / p > KL + t / 2).
    """
    return math.sqrt(math.exp(slack_nats / 4) + 2 * math.sqrt(tail_probability))


def ordered_index_bits(kl_nats: float, bits: int, variance_nats2: float | None = None) -> float:
    """Expected bits of an ordered index, under the model of `ordered_bucket_probabilities`."""
    share = ordered_bucket_probabilities(kl_nats, bits, variance_nats2)
    return float(share @ bucket_bits(*best_parameters(share, bits), bits))


def likely_variance_nats2(kl_nats: float, size: int) -> float:
    """The variance of a block's log-weight if each of its lanes has an equal share of the
    divergence, half of it in its mean.

    Trained posteriors come near to it from below (measured, in units of 2 KL: 0.39 to 0.44 for
    LeNet-5's blocks of 46 lanes and 22 bits, where this gives 0.48; 0.20 for blocks of 9 lanes and
    14 bits, where it gives 0.24), so their indices are up to 1 % longer than with it. Not so where
    few sharp lanes have the divergence: LeNet-5 in factors has 0.14 where this gives 0.54, and its
    indices save next to nothing.
    """
    share = kl_nats / size
    low, high = math.exp(-share - 1), 1.0  # v - 1 - log v = share has its root between
    while high - low > 1e-9:
        v = (low + high) / 2
        low, high = (v, high) if v - 1 - math.log(v) > share else (low, v)
    v = low
    return size * (share * v + (1 - v) ** 2 / 2)


def ordered_bucket_probabilities(
    kl_nats: float, bits: int, variance_nats2: float | None = None
) -> np.ndarray:
    """How likely ordered coding's position is in each bucket of `ordered_code`: float64[bits + 1].

    The model takes the log-weight of a sample of the posterior as N(KL, variance); what that leaves
    of the prior's law, nothing if the variance is 2 KL, has weight zero. The position chosen
    minimises e / w over K = 2**bits candidates, e ~ Exp(1), whose ratio is some s. Given (s, w),
    each other candidate comes before it with probability p, so it is Binomial(K - 1, p).

    Args:
      kl_nats: divergence of a block, up to 150.
      bits: of an index, 1 to 30.
      variance_nats2: of the log-weight under the posterior, 2 KL if left out and at most: for
        Gaussians N(m, v) in units of the prior's the sum of m**2 v + (1 - v)**2 / 2.
    """
    variance = 2 * kl_nats if variance_nats2 is None else min(variance_nats2, 2 * kl_nats)
    K, deviation = 1 << bits, math.sqrt(variance)
    x = np.linspace(-8 - deviation, 8, 200)
    w = np.exp(deviation * x + kl_nats)
    f = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum() / w
    nothing = max(0.0, 1 - f.sum())
    s = np.geomspace(1e-4 / (K * w[-1]), 50 / w[0], 400)[:, None]
    early = -np.expm1(-s * w)  # P(e < s w)
    before = early @ f
    log_phi = np.log1p(-np.minimum(before, 1 - 1e-16))[:, None]
    chosen = np.exp((K - 1) * log_phi - s * w) * f * w * s
    p = (early * (nothing + np.cumsum(f)) - np.cumsum(f * early, axis=1)) / np.exp(log_phi)
    p = np.clip(p, 1e-30, 1 - 1e-12)
    below = [_binomial_below(1 << i, K - 1, p) for i in range(bits)]
    share = [(chosen * b).sum() / chosen.sum() for b in below]
    buckets = np.maximum(np.diff(share, prepend=0, append=1), 0)
    return buckets / buckets.sum()


def _binomial_below(m: int, n: int, p: np.ndarray) -> np.ndarray:
    """P(X < m) for X ~ Binomial(n, p) and 1 <= m <= n, within 0.01.

    Camp and Paulson's cube root of an F variable, with a logistic form of the normal law; exact for
    m = 1.
    """
    if m == 1:
        return np.exp(n * np.log1p(-p))
    a, b = 1 / (9 * (n - m + 1)), 1 / (9 * m)
    root = np.cbrt(m * (1 - p) / ((n - m + 1) * p))
    z = ((1 - b) * root - (1 - a)) / np.sqrt(b * root**2 + a)
    z = np.clip(z, -20, 20)
    return 1 / (1 + np.exp(-z * (1.5976 + 0.070566 * z**2)))
