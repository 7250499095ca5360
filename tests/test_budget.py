"""The size promise: a planned file has at most the bytes asked for, and at least 97 % of them."""

import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrc_jax import container
from mrc_jax.budget import budget_nats, plan, update_betas
from mrc_jax.errors import UsageError
from mrc_jax.manifest import Manifest, Tensor
from mrc_jax.recipe import Recipe

SHAPES = [(20,), (5, 5, 1, 20), (50,), (5, 5, 20, 50), (500,), (800, 500), (10,), (500, 10)]


def lenet5(*factors):
    names = [f"layer_{i // 2}/{'bias' if i % 2 == 0 else 'kernel'}" for i in range(8)]
    return Manifest(
        tuple(Tensor(*x) for x in zip(names, SHAPES, ["float32"] * 8, factors, strict=True))
    )


PLAIN = lenet5(*[1] * 8)
SHARED = lenet5(1, 1, 1, 2, 1, 50, 1, 1)


@st.composite
def manifests(draw):
    if draw(st.booleans()):
        return draw(st.sampled_from([PLAIN, SHARED]))
    tensors = []
    for i in range(draw(st.integers(1, 6))):
        size = draw(st.integers(1, 40_000))
        factor = draw(st.integers(0 if i else 1, min(size, 64)))
        shape = (size,) if factor else (draw(st.integers(0, 50)),)
        tensors.append(Tensor(f"layer{i}/w", shape, "float32", factor))
    return Manifest(tuple(tensors))


def real_file(header):
    scales = np.full(header.groups, 0x3F80, np.uint16)
    indices = np.full(header.blocks, (1 << header.bits) - 1, np.uint32)
    return container.pack(container.Container(header, scales, bytes(header.uncoded_bytes), indices))


def largest_and_smallest(manifest, recipe):
    """The sizes of the largest and smallest files that a recipe without block_size allows."""
    bits = [recipe.bits or 30, recipe.bits or 1]
    sizes = []
    for b, blocks in zip(bits, (manifest.entries, 1), strict=True):
        fields = {"seed": 0, "bits": b, "blocks": blocks}
        fields["codebook_blocks"] = min(recipe.codebook_blocks, blocks)
        header = container.Header.of(manifest, recipe.embed_manifest, **fields)
        sizes.append(sum(container.parts(header).values()))
    return sizes


recipes = st.builds(
    Recipe,
    bits=st.sampled_from([0, 0, 1, 7, 8, 10, 16, 20, 26, 30]),
    codebook_blocks=st.sampled_from([1, 4, 300]),
    embed_manifest=st.booleans(),
)


@settings(max_examples=300)
@given(manifests(), st.integers(200, 100_000), recipes)
def test_a_planned_file_has_at_most_and_nearly_the_bytes_asked_for(manifest, file_bytes, recipe):
    largest, smallest = largest_and_smallest(manifest, recipe)
    assume(smallest <= file_bytes and 0.97 * file_bytes <= largest)
    header = plan(manifest, file_bytes, recipe, seed=5)
    size = len(real_file(header))
    assert size == sum(container.parts(header).values())
    assert 0.97 * file_bytes <= size <= file_bytes
    assert header.bits == (recipe.bits or header.bits) and header.seed == 5
    more = dataclasses.replace(header, blocks=header.blocks + 1)
    if header.blocks < manifest.entries and recipe.codebook_blocks <= header.blocks:
        assert sum(container.parts(more).values()) > file_bytes  # not one block more fits


@pytest.mark.parametrize("manifest", [PLAIN, SHARED], ids=["plain", "shared"])
def test_lenet5_fits_the_paper_s_sizes_with_the_default_bits(manifest):
    for file_bytes in (800, 1140, 1494, 3030):
        header = plan(manifest, file_bytes, Recipe(embed_manifest=False), seed=0)
        assert header.bits == 16
        assert file_bytes - 2 < len(real_file(header)) <= file_bytes
        overhead = len(real_file(header)) - container.parts(header)["indices"]
        assert overhead <= 48


def size_named(error, words):
    return int(re.search(words + r".* has (\d+) bytes", str(error.value)).group(1))


@settings(max_examples=60)
@given(manifests(), recipes)
def test_a_size_too_small_is_refused_by_the_smallest_that_works(manifest, recipe):
    with pytest.raises(UsageError, match="file_bytes = 10 is too small") as error:
        plan(manifest, 10, recipe, seed=0)
    named = size_named(error, "the smallest possible file")
    assert named == largest_and_smallest(manifest, recipe)[1]
    assert len(real_file(plan(manifest, named, recipe, seed=0))) == named
    with pytest.raises(UsageError, match="too small"):
        plan(manifest, named - 1, recipe, seed=0)


@settings(max_examples=60)
@given(manifests(), recipes)
def test_a_size_too_large_is_refused_by_the_largest_that_works(manifest, recipe):
    with pytest.raises(UsageError, match="more than this network can use") as error:
        plan(manifest, 10**8, recipe, seed=0)
    named = size_named(error, "the largest file")
    assert named == largest_and_smallest(manifest, recipe)[0]
    assert len(real_file(plan(manifest, named, recipe, seed=0))) >= 0.97 * named


def test_a_pinned_block_size_is_kept_where_it_fits_and_refused_where_not():
    header = plan(SHARED, 4000, Recipe(block_size=30, bits=10, embed_manifest=False), seed=0)
    assert header.blocks == math.ceil(SHARED.entries / 30)
    assert header.partition.block_size == 30 and header.bits == 10
    assert len(real_file(header)) <= 4000
    with pytest.raises(UsageError, match="too small") as error:
        plan(SHARED, 1000, Recipe(block_size=30, bits=10), seed=0)
    named = size_named(error, "the smallest possible file")
    assert len(real_file(plan(SHARED, named, Recipe(block_size=30, bits=10), seed=0))) == named


def test_the_budget_is_the_index_and_its_slack_in_nats():
    header = plan(SHARED, 2000, Recipe(bits=20), seed=0)
    assert budget_nats(header, Recipe()) == pytest.approx(20 * math.log(2))
    assert budget_nats(header, Recipe(slack_nats=-1.5)) == pytest.approx(20 * math.log(2) - 1.5)


def test_betas_grow_over_budget_and_shrink_at_or_under_it():
    betas, kl = jnp.full(4, 2.0), jnp.asarray([11.0, 10.0, 9.0, jnp.inf])
    new = update_betas(betas, kl, 10.0, 0.25)
    np.testing.assert_allclose(new, [2.5, 1.6, 1.6, 2.5], rtol=1e-6)
