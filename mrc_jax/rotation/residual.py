"""A network's residual streams turned by rotations that hold bits, as its heads are.

Where every reader of a stream x sees x / rms(x), all that writes to x and reads from it is a pair
of d = width rows (see `heads`): R x has the same rms, writers W become R W and readers, which use
W^T x, become R W too. A LayerNorm without its mean, gain and bias is such a norm: the mean goes
into the writers (`centred`), gain and bias into the readers (`read_through`).

One rotation serves all blocks that pass x on as it is. Each block may have its own where it passes
S x on with a matrix of its own, R' S R^T then, as networks do that SliceGPT made (Ashkboos et al.
2024, arXiv 2401.15024); to give a network such matrices for this costs more than it saves, d**2
weights for d (d - 1) / 2.
"""

from collections.abc import Sequence

import numpy as np

from mrc_jax.errors import UsageError
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.heads import Turned, decode_pair, encode_pair


def centred(writers: np.ndarray) -> np.ndarray:
    """Writers whose stream has the mean zero: LayerNorm then is RMSNorm with its gain and bias.

    Args:
      writers: float[width, columns], each column a part of the stream, biases among them.
    """
    return writers - writers.mean(axis=0)


def read_through(
    gain: np.ndarray, bias: np.ndarray, kernel: np.ndarray, kernel_bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A reader's kernel and bias that take the norm's gain and bias over.

    Args:
      gain, bias: float[width], of the norm.
      kernel: float[width, outputs].
      kernel_bias: float[outputs].
    """
    return gain[:, None] * kernel, kernel_bias + bias @ kernel


def encode_streams(
    stack: Stack, streams: Sequence[np.ndarray], skips: Sequence[np.ndarray] = ()
) -> list[Turned]:
    """Pushes the weights at each stream, turned, and the matrices between streams.

    Args:
      stack: of a stream of bits, see `encode_pair`.
      streams: float[width, columns] each, writers and readers side by side.
      skips: float[width of the next, width] each, one fewer than streams.

    Returns:
      Of each stream; the weights of all but the first end in the matrix from the one before.

    Raises:
      UsageError: if shapes do not fit, and as `encode_pair`.
    """
    widths = [len(stream) for stream in streams]
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    if not streams or [skip.shape for skip in skips] != shapes:
        raise UsageError(f"streams of {widths} need matrices between them of {shapes}")
    out: list[Turned] = []
    for i, stream in enumerate(streams):
        pair = stream
        if i:
            pair = np.concatenate([stream, skips[i - 1] @ out[-1].turn.T], axis=1)
        out.append(encode_pair(stack, pair))
    return out


def decode_streams(stack: Stack, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Pops the weights of encode_streams, float16[width, columns] each.

    Args:
      stack: of the stream of bits.
      shapes: widths and columns of the streams, matrices from the one before not counted.

    Raises:
      FormatError: as `decode_pair`.
    """
    out = []
    for i in reversed(range(len(shapes))):
        width, columns = shapes[i]
        out.append(decode_pair(stack, width, columns + (shapes[i - 1][0] if i else 0)))
    return out[::-1]
