"""Codes a vector: arranges entries as blocks and chooses their indices."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from mrc_jax import candidates
from mrc_jax.blocks import Partition, entry_of_slot, lanes_in_use, slots_of_blocks
from mrc_jax.mesh import axes_but, devices_of
from mrc_jax.posterior import round_scale
from mrc_jax.selection import Blocks, select

_LANES = 1 << 21  # candidate-lanes of independent blocks worked on at a time, whatever K is
_TILE = 16  # blocks of one product: a multiple, so that products of any width round alike
_WIDE = 256  # blocks worked on together, at most


def select_wave(
    key: chex.PRNGKey,
    mean: chex.Array,
    log_variance: chex.Array,
    prior_scale: chex.Array,
    in_use: chex.Array,
    seed: chex.Array,
    block: chex.Array,
    kept: chex.Array | None = None,
    **options: Any,
) -> chex.Array:
    """The chosen indices, uint32[blocks], of blocks that share a codebook, or of any blocks where
    candidates are independent.

    Args:
      key: the encoder's own; a block's noise is that of fold_in(key, block).
      mean, log_variance, prior_scale: float32[block_size, blocks]; scales are bfloat16 values.
      in_use: bool[block_size, blocks].
      seed: uint32 scalar.
      block: uint32[blocks], the blocks' numbers.
      kept: int16[block_size, 2**bits], the codebook of `kernels.make_codebook`, or None.
      **options: bits, codebook_blocks, selection and kernel of `encode_blocks`; axis and reach of
        `select`; together: blocks of the wave where other devices have some of them.
    """
    a, c = candidates.coefficients(mean, log_variance, prior_scale)
    a, c = (jnp.where(in_use, x, 0).T for x in (a, c))
    shared = options.pop("codebook_blocks", 1)
    count = mean.shape[1]
    together = options.pop("together", count)
    kernel = options.pop("kernel", "codebook")
    if shared == 1:
        return _select_apart(key, Blocks(a, c, block, seed, block), kernel=kernel, **options)
    c = candidates.signed(seed, block, c.T, shared).T
    codebook = block[0] // np.uint32(shared)
    padding = -count % _TILE if together > 1 else 0
    a, c = (jnp.pad(x, ((0, padding), (0, 0))) for x in (a, c))
    number = jnp.pad(block, (0, padding))
    blocks = Blocks(a, c, number, seed, codebook, kept)
    return select(key, blocks, kernel=kernel, **options)[:count]


def select_wave_on(
    mesh: jax.sharding.Mesh | None,
    key: chex.PRNGKey,
    mean: chex.Array,
    log_variance: chex.Array,
    prior_scale: chex.Array,
    in_use: chex.Array,
    seed: chex.Array,
    block: chex.Array,
    kept: chex.Array | None = None,
    reach: chex.Array | None = None,
    **options: Any,
) -> chex.Array:
    """`select_wave` with the wave's blocks, and on an axis 'candidates' each block's candidates,
    divided over a mesh; the indices are the same for any.

    Args:
      mesh: of devices whose number divides the blocks, 'candidates' left out; None: one device.
      key to kept, reach, **options: as in `select_wave`; `together` is needed with a mesh.
    """
    if mesh is None:
        arguments = (key, mean, log_variance, prior_scale, in_use, seed, block, kept)
        return select_wave(*arguments, reach=reach, **options)
    names = axes_but(mesh, "candidates")
    axis = "candidates" if "candidates" in mesh.axis_names else None
    every, columns = PartitionSpec(), PartitionSpec(None, names)

    def own(kept: Any, reach: Any, *arguments: Any) -> chex.Array:
        choose: Any = select_wave
        return choose(*arguments, kept, axis=axis, reach=reach, **options)

    specs = (every, every, every, *(columns,) * 4, every, PartitionSpec(names))
    out = PartitionSpec(names)
    chosen = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
    return chosen(kept, reach, key, mean, log_variance, prior_scale, in_use, seed, block)


def _select_apart(key: chex.PRNGKey, blocks: Blocks, **options: Any) -> chex.Array:
    """Blocks that share nothing, so many at a time that chunks of 256 candidates fill a core."""
    count, size = blocks.a.shape
    wave = max(1, min(count, _LANES // (256 * size), _LANES >> options["bits"]))

    def one(block: tuple[chex.Array, ...]) -> chex.Array:
        a, c, number = block
        alone = Blocks(a[None], c[None], number[None], blocks.seed, number)
        return select(key, alone, **options)[0]

    several = wave if wave > 1 else None  # vmap, even of one block, would undo the early stop
    return lax.map(one, (blocks.a, blocks.c, blocks.number), batch_size=several)


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
    kernel: str = "codebook",
    mesh: jax.sharding.Mesh | None = None,
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
      kernel: of `candidates.log_weights`.
      mesh: devices to spread the work over: an axis 'candidates' divides each block's candidates (a
        power of two of devices), all other axes divide the blocks. The indices are the same for
        any mesh.
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
        kernel=kernel,
        mesh=mesh,
    )


def encode_vector(
    key: chex.PRNGKey,
    mean: chex.Array,
    log_variance: chex.Array,
    prior_scale: chex.Array,
    seed: chex.Array,
    partition: Partition,
    *,
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
) -> chex.Array:
    """`encode_blocks` for a given partition: uint32[partition.blocks].

    Args:
      key, mean, log_variance, prior_scale, seed: as in `encode_blocks`.
      partition: of the entries.
      mesh: as in `encode_blocks`.
      **options: bits, codebook_blocks, selection and kernel.
    """
    chex.assert_equal_shape([mean, log_variance])
    scale = jnp.asarray(prior_scale)
    shared = options.get("codebook_blocks", 1)
    names = axes_but(mesh, "candidates")
    axis = "candidates" if "candidates" in axes_but(mesh) else None
    devices = devices_of(mesh, names)
    together = min(shared if shared > 1 else partition.blocks, _WIDE)
    wide = min(together, -(-partition.blocks // devices))
    tiles = _tiles(partition.blocks, shared, wide, devices)

    def of_tiles(key: Any, seed: Any, tiles: Any, *vectors: Any) -> chex.Array:
        def one(tile: chex.Array) -> chex.Array:
            in_use = lanes_in_use(partition, tile) & (tile < partition.blocks)
            slot = slots_of_blocks(partition, tile)
            entry = entry_of_slot(partition, seed, jnp.where(in_use, slot, 0)).astype(jnp.int32)
            mean, log_variance, scale = (x[entry] if x.ndim else x for x in vectors)
            scale = jnp.broadcast_to(round_scale(scale), entry.shape)
            shares = {"axis": axis, "together": together}
            return select_wave(
                key, mean, log_variance, scale, in_use, seed, tile, **shares, **options
            )

        return lax.map(one, tiles)

    program: Any = of_tiles
    if mesh is not None:
        every, axes = PartitionSpec(), PartitionSpec(names)
        specs = (every, every, axes, every, every, every)
        program = jax.shard_map(
            of_tiles, mesh=mesh, in_specs=specs, out_specs=axes, check_vma=False
        )
    chosen = program(key, seed, jnp.asarray(tiles), mean, log_variance, scale)
    return jnp.zeros(partition.blocks, jnp.uint32).at[tiles].set(chosen, mode="drop")


def _tiles(blocks: int, shared: int, wide: int, devices: int) -> np.ndarray:
    """uint32[tiles, wide]: the blocks of each tile, all of one codebook; `blocks` means none."""
    rows, span = [], shared if shared > 1 else blocks
    for first in range(0, blocks, span):
        last = min(first + span, blocks)
        for start in range(first, last, wide):
            row = np.full(wide, blocks, np.uint32)
            row[: min(wide, last - start)] = np.arange(start, min(start + wide, last))
            rows.append(row)
    rows += [np.full(wide, blocks, np.uint32)] * (-len(rows) % devices)
    return np.stack(rows)
