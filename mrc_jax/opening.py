"""Cuts of candidates, opened in the order of their bounds while one may hold a better candidate."""

from collections.abc import Callable

import chex
import jax.numpy as jnp
from jax import lax


def best_of_opened(
    bound: chex.Array,
    opened: Callable[[chex.Array], tuple[chex.Array, chex.Array]],
    at_once: int,
) -> chex.Array:
    """The candidate of the largest score, uint32[blocks]: cuts are opened while one that is not
    may still win.

    Args:
      bound: float32[blocks, cuts], what no score in a cut is above.
      opened: the scores and candidates, float32 and uint32[blocks, cuts], of some cuts
        uint32[blocks, cuts] of each block.
      at_once: cuts that are opened together.
    """
    rows = jnp.arange(len(bound))

    def unsettled(state: tuple[chex.Array, ...]) -> chex.Array:
        bound, best, _ = state
        return jnp.any(jnp.max(bound, axis=1) > best)

    def step(state: tuple[chex.Array, ...]) -> tuple[chex.Array, ...]:
        bound, best, chosen = state
        cuts, bound = _largest(bound, min(at_once, bound.shape[1]))
        scores, found = opened(cuts)
        first = jnp.argmax(scores, axis=1)
        score, found = scores[rows, first], found[rows, first]
        better = score > best
        return bound, jnp.where(better, score, best), jnp.where(better, found, chosen)

    nothing = jnp.full_like(bound[:, 0], -jnp.inf), jnp.zeros(len(bound), jnp.uint32)
    return lax.while_loop(unsettled, step, step((bound, *nothing)))[2]


def _largest(bound: chex.Array, count: int) -> tuple[chex.Array, chex.Array]:
    """The places of a few of the largest bounds, uint32[blocks, count], and the bounds without."""
    places, number = [], jnp.arange(bound.shape[1])
    for _ in range(count):
        places.append(jnp.argmax(bound, axis=1).astype(jnp.uint32))
        bound = jnp.where(number == places[-1][:, None], -jnp.inf, bound)
    return jnp.stack(places, axis=1), bound
