"""How many bits a sample takes: what a file spends, and what theory says is needed.

The bounds are on the expected length of a message from which a sample of q can be made with shared
draws from p, for one block of divergence KL(q || p).
"""

import math

from mrc_jax.container import Header


def payload_bits(header: Header) -> int:
    """Bits that a file's indices take, before they are rounded up to bytes."""
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
