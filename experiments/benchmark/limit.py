"""What the kernels are measured by: their product alone, at the device's best."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmark.measure import seconds

_LIMIT_BITS = {"cpu": (12, 13, 14, 15, 16)}  # log2 of a chunk; the fastest is the limit
_LIMIT_BITS_ELSEWHERE = (16, 18)
_OPERAND_BITS = 20  # log2 of the candidates whose operands the limit holds at most


def limit_call(D: int, bits: int, blocks: int, kind: Any = jnp.float32) -> partial[Any]:
    """A call: [K, 2D] x [2D, blocks], float32 sums, a maximum for each block, chunk by chunk.

    Args:
      D, bits, blocks: the shape.
      kind: of the operands.
    """
    held = min(bits, _OPERAND_BITS)
    random = np.random.default_rng(0)
    operand = jnp.asarray(random.standard_normal((2 * D, 1 << held), np.float32), kind)
    other = jnp.asarray(random.standard_normal((blocks, 2 * D), np.float32), kind)
    sums = {"precision": lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}

    def best(operand: jax.Array, other: jax.Array, chunk: int, count: int) -> jax.Array:
        def step(best: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            start = i % ((1 << held) // chunk) * chunk
            part = lax.dynamic_slice(operand, (0, start), (2 * D, chunk))
            return jnp.maximum(best, jnp.max(jnp.dot(other, part, **sums), axis=1)), None

        start = jnp.full(blocks, -jnp.inf)
        return lax.scan(step, start, jnp.arange(count // chunk))[0]

    def call(chunk: int, count: int) -> partial[Any]:
        return partial(jax.jit(partial(best, chunk=chunk, count=count)), operand, other)

    tried = _LIMIT_BITS.get(jax.default_backend(), _LIMIT_BITS_ELSEWHERE)
    chunks = [1 << b for b in tried if b < bits] or [1 << bits]
    return call(min(chunks, key=lambda n: seconds(call(n, 1 << held), 3)), 1 << bits)
