"""float16 weights entropy-coded without loss, to compare sizes with: each one's high byte (sign,
exponent and two bits more) by the coder of value files, with a table a tensor; its low byte, which
looks random in trained networks, as it is.
"""

from collections.abc import Mapping

import numpy as np

from mrc_jax.manifest import Manifest, Tensor
from mrc_jax.value_file import pack_values


def coded_bytes(weights: Mapping[str, np.ndarray]) -> int:
    """How many bytes weights take so: high bytes in a value file, which decodes, and low bytes.

    Args:
      weights: float16 arrays by path, none of them empty.
    """
    tensors = tuple(Tensor(name, x.shape, "float32", 1) for name, x in sorted(weights.items()))
    high = {name: _bytes(x)[1].astype(np.float32).reshape(x.shape) for name, x in weights.items()}
    low = sum(_bytes(x)[0].size for x in weights.values())
    return len(pack_values(high, Manifest(tensors), True)) + low


def _bytes(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high bytes, uint8[weights] each."""
    pairs = np.ascontiguousarray(weights, "<f2").reshape(-1).view(np.uint8).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
