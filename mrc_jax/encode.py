"""Chooses an index for each block from the log-weights of its candidates, streamed over chunks of
them.
"""

from collections.abc import Mapping
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import candidates
from mrc_jax.blocks import Partition, entry_of_slot, lanes_in_use, to_blocks
from mrc_jax.container import Container, Header, little_endian, pack
from mrc_jax.posterior import (
    Parameters,
    log_prior_scale_of_entries,
    prior_scale,
    round_scale,
)
from mrc_jax.sharing import Sharing

_LANES = 1 << 21  # candidate-lanes worked on at a time, whatever K is


def select(
    key: chex.PRNGKey,
    a: chex.Array,
    c: chex.Array,
    seed: chex.Array,
    block: chex.Array,
    *,
    bits: int,
    codebook_blocks: int = 1,
    selection: str = "sample",
    chunk: int = 0,
) -> chex.Array:
    """The chosen index of one block, uint32, with probability softmax(log_weights) (Gumbel-max).

    Memory does not grow with 2**bits, and the index does not depend on `chunk`.

    Args:
      key: the encoder's own; the block's noise is that of fold_in(key, block).
      a, c: float32[block_size], of `candidates.coefficients`, zero in lanes not in use.
      seed, block: uint32 scalars.
      bits: log2 of the number of candidates.
      codebook_blocks: consecutive blocks that share a codebook.
      selection: 'sample' or 'argmax'.
      chunk: candidates of a chunk, a power of two; 0 chooses.
    """
    size = a.shape[0]
    chunk = min(chunk or max(256, 1 << (_LANES // size).bit_length() - 1), 1 << bits)
    noise_key = jax.random.bits(jax.random.fold_in(key, block), (2,), jnp.uint32)
    c = candidates.signed(seed, block, c, codebook_blocks)
    codebook = block // np.uint32(codebook_blocks)

    def step(i: chex.Array, best: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        candidate = jnp.asarray(i, jnp.uint32) * np.uint32(chunk) + jnp.arange(
            chunk, dtype=jnp.uint32
        )
        score = candidates.log_weights(seed, codebook, candidate, a, c)
        if selection == "sample":
            score = score + candidates.gumbel(noise_key, candidate)
        place = jnp.argmax(score)
        better = score[place] > best[0]
        return (
            jnp.where(better, score[place], best[0]),
            jnp.where(better, candidate[place], best[1]),
        )

    # From all arguments: under shard_map the loop's start must vary over the axes that they do.
    anything = a[0] + c[0] + (noise_key[0] ^ seed ^ block).astype(jnp.float32)
    lowest = jnp.minimum(anything, -jnp.inf)
    start = (lowest, (lowest > 0).astype(jnp.uint32))
    return jax.lax.fori_loop(0, (1 << bits) // chunk, step, start)[1]


def select_blocks(
    key: chex.PRNGKey,
    mean: chex.Array,
    log_variance: chex.Array,
    prior_scale: chex.Array,
    in_use: chex.Array,
    seed: chex.Array,
    block: chex.Array,
    *,
    chunk: int = 0,
    **options: int | str,
) -> chex.Array:
    """The chosen indices, uint32[blocks], of blocks given as arrays [block_size, blocks].

    Args:
      key: as in `select`.
      mean, log_variance, prior_scale: float32[block_size, blocks]; scales are bfloat16 values.
      in_use: bool[block_size, blocks].
      seed: uint32 scalar.
      block: uint32[blocks], the blocks' numbers.
      chunk: candidates of a chunk, a power of two; 0 chooses.
      **options: bits, codebook_blocks and selection of `select`.
    """
    a, c = candidates.coefficients(mean, log_variance, prior_scale)
    a, c = (jnp.where(in_use, x, 0).T for x in (a, c))
    size, count = mean.shape
    wave = max(1, min(count, (1 << 13) // size))  # of 256 candidates they stay within _LANES
    chunk = chunk or max(256, 1 << (_LANES // (size * wave)).bit_length() - 1)
    one = partial(select, key, seed=seed, chunk=chunk, **options)
    return jax.lax.map(lambda x: one(x[0], x[1], block=x[2]), (a, c, block), batch_size=wave)


def encode_blocks(
    key: chex.PRNGKey,
    mean: chex.Array,
    log_variance: chex.Array,
    prior_scale: chex.Array,
    seed: chex.Array,
    *,
    bits: int,
    block_size: int,
    codebook_blocks: int = 1,
    selection: str = "sample",
) -> chex.Array:
    """Codes a whole vector: uint32[ceil(entries / block_size)] indices; `decode_blocks` undoes it.

    Pure and traceable: it may stand under the caller's jit, vmap and shard_map, compiles once and
    moves nothing to the host.

    Args:
      key: private randomness.
      mean, log_variance: float32[entries].
      prior_scale: scalar or float32[entries]; rounded to bfloat16.
      seed: uint32, shared with the decoder.
      bits: log2 of the number of candidates of a block.
      block_size: entries of a block.
      codebook_blocks, selection: see Recipe.
    """
    entries = mean.shape[0]
    partition = Partition(entries, -(-entries // block_size))
    return encode_vector(
        key,
        mean,
        log_variance,
        prior_scale,
        jnp.asarray(seed, jnp.uint32),
        partition,
        bits=bits,
        codebook_blocks=codebook_blocks,
        selection=selection,
    )


def encode_vector(
    key: chex.PRNGKey,
    mean: chex.Array,
    log_variance: chex.Array,
    prior_scale: chex.Array,
    seed: chex.Array,
    partition: Partition,
    **options: int | str,
) -> chex.Array:
    """`encode_blocks` for a given partition: uint32[partition.blocks].

    Args:
      key, mean, log_variance, prior_scale, seed: as in `encode_blocks`.
      partition: of the entries.
      **options: bits, codebook_blocks and selection.
    """
    chex.assert_equal_shape([mean, log_variance])
    entry = entry_of_slot(partition, seed, jnp.arange(partition.entries, dtype=jnp.uint32))
    scale = jnp.broadcast_to(round_scale(prior_scale), mean.shape)
    arranged = [to_blocks(x, entry, partition) for x in (mean, log_variance, scale)]
    block = jnp.arange(partition.blocks, dtype=jnp.uint32)
    in_use = lanes_in_use(partition, block)
    return select_blocks(key, *arranged, in_use, seed, block, **options)  # type: ignore[arg-type]


def encode_file(
    key: chex.PRNGKey,
    params: Parameters,
    uncoded: Mapping[str, chex.Array],
    sharing: Sharing,
    header: Header,
    selection: str = "sample",
) -> bytes:
    """The file of a trained posterior, all blocks coded at once without refining.

    Args:
      key: private randomness.
      params, uncoded: of the posterior.
      sharing, header: the map and the plan that it was trained with.
      selection: see Recipe.
    """
    frozen = {**params, "log_prior_scale": jnp.log(prior_scale(params))}
    program = jax.jit(
        encode_vector, static_argnames=("partition", "bits", "codebook_blocks", "selection")
    )
    indices = program(
        key,
        params["mean"],
        params["log_variance"],
        jnp.exp(log_prior_scale_of_entries(frozen, sharing)),
        jnp.uint32(header.seed),
        partition=header.partition,
        bits=header.bits,
        codebook_blocks=header.codebook_blocks,
        selection=selection,
    )
    return pack(container_of(indices, frozen, uncoded, sharing, header))


def container_of(
    indices: chex.Array,
    params: Parameters,
    uncoded: Mapping[str, chex.Array],
    sharing: Sharing,
    header: Header,
) -> Container:
    """Chosen indices and the posterior's side information as the parts of a file."""
    scales = np.asarray(prior_scale(params), np.float32).view(np.uint32) >> 16
    tensors = [t for t in sharing.manifest.tensors if not t.factor]
    stored = b"".join(little_endian(np.asarray(uncoded[t.path])) for t in tensors)
    return Container(header, scales.astype(np.uint16), stored, np.asarray(indices))
