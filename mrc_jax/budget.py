"""Bytes to blocks and KL budgets before training, and the betas that enforce the budgets during
it.
"""

import math

from mrc_jax import container, index_room
from mrc_jax.errors import UsageError
from mrc_jax.manifest import Manifest
from mrc_jax.recipe import Recipe
from mrc_jax.shared_random import Array

DEFAULT_BITS = 16


def plan(manifest: Manifest, file_bytes: int, recipe: Recipe, seed: int) -> container.Header:
    """The header of a file of at most `file_bytes` bytes, as near to them as whole blocks allow;
    by their expected length where indices are ordered.

    Bits and block size come from the recipe where it pins them. Otherwise an index has
    DEFAULT_BITS bits, fewer where not one block of them fits and more where even blocks of one
    entry would leave bytes unused.

    Raises:
      UsageError: no file of this network and recipe has at most (or nearly) that many bytes.
    """
    options = [recipe.bits] if recipe.bits else _by_preference()
    fitting = []
    for bits in options:
        header = _header(manifest, file_bytes, recipe, seed, bits)
        if header and (size := planned_bytes(header, recipe)) <= file_bytes:
            fitting.append(header)
            if size >= 0.97 * file_bytes:
                return header
    if not fitting:
        smallest = min(
            planned_bytes(_with(manifest, recipe, seed, b, None), recipe) for b in options
        )
        raise UsageError(
            f"file_bytes = {file_bytes} is too small for this network: the smallest possible file "
            f"has {smallest} bytes"
        )
    best = max(fitting, key=lambda header: planned_bytes(header, recipe))
    if recipe.block_size:
        return best
    most = _with(manifest, recipe, seed, max(options), manifest.entries)
    largest = planned_bytes(most, recipe)
    if largest < 0.97 * file_bytes:
        raise UsageError(
            f"file_bytes = {file_bytes} is more than this network can use: the largest file "
            f"has {largest} bytes"
        )
    return best


def budget_nats(header: container.Header, recipe: Recipe) -> float:
    """The KL target of a block."""
    return header.bits * math.log(2) + recipe.slack_nats


def update_betas(betas: Array, kl_nats: Array, budget_nats: float, beta_step: float) -> Array:
    """One step of Algorithm 2: betas [blocks] grow where a block is over budget and shrink
    elsewhere.
    """
    import jax.numpy as jnp

    factor = jnp.float32(1 + beta_step)
    return jnp.where(kl_nats > budget_nats, betas * factor, betas / factor)


def _by_preference() -> list[int]:
    return [DEFAULT_BITS, *range(DEFAULT_BITS + 1, container.MAX_BITS + 1), *range(15, 0, -1)]


def planned_bytes(header: container.Header, recipe: Recipe) -> int:
    """The size of the file with this header; expected, where indices are ordered."""
    index_bytes = None
    if recipe.selection == "ordered":
        index_bytes = index_room.planned_index_bytes(header, budget_nats(header, recipe))
    return sum(container.parts(header, index_bytes).values())


def _with(
    manifest: Manifest, recipe: Recipe, seed: int, bits: int, blocks: int | None
) -> container.Header:
    if recipe.block_size:
        blocks = -(-manifest.entries // min(recipe.block_size, manifest.entries))
    blocks = blocks or 1
    return container.Header.of(
        manifest,
        recipe.embed_manifest,
        seed=seed,
        blocks=blocks,
        bits=bits,
        codebook_blocks=min(recipe.codebook_blocks, blocks),
        ranges=recipe.scale_ranges,
    )


def _header(
    manifest: Manifest, file_bytes: int, recipe: Recipe, seed: int, bits: int
) -> container.Header | None:
    """The header with the most blocks that fit, or None where not even one does."""
    smallest = _with(manifest, recipe, seed, bits, None)
    if recipe.block_size:
        return smallest
    room = file_bytes - sum(container.parts(smallest, 0).values())
    least_bits = 0.7 * bits if recipe.selection == "ordered" else bits
    fits, too_many = 0, min(max(int(room * 8 / least_bits), 1), manifest.entries) + 1
    while too_many - fits > 1:
        blocks = (fits + too_many) // 2
        if planned_bytes(_with(manifest, recipe, seed, bits, blocks), recipe) <= file_bytes:
            fits = blocks
        else:
            too_many = blocks
    return _with(manifest, recipe, seed, bits, fits) if fits else None
