"""Sharing: the map from the coded vector to the parameter tree, its gradient and its start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrc_jax import sharing as sharing_lib
from mrc_jax.errors import UsageError
from mrc_jax.manifest import Tensor
from mrc_jax.shared_random import CHUNK, Stream, permute, sign_bits
from mrc_jax.sharing import collapse, expand, expand_group, make_sharing, maps

SEED = 42


def example(shape=(5, 7), factor=3):
    tree = {"a": {"w": jnp.ones(shape)}, "b": jnp.ones(4)}
    made = make_sharing(tree, SEED, rules=[("w", factor)])
    return tree, made, jax.tree.map(jnp.asarray, maps(made))


def dense(made, own):
    """The map as a matrix [parameters, entries], column by column."""
    unit = jnp.eye(made.manifest.entries, dtype=jnp.float32)
    leaves = jax.tree.leaves(jax.vmap(lambda coded: expand(made, own, coded, []))(unit))
    return np.concatenate([np.reshape(x, (len(unit), -1)) for x in leaves], axis=1).T


@pytest.mark.parametrize("factor", [1, 3, 35])
def test_expand_is_the_documented_loop(factor):
    _, made, own = example(factor=factor)
    coded = np.random.default_rng(0).normal(size=made.manifest.entries).astype(np.float32)
    found = expand(made, own, jnp.asarray(coded), [])
    entries = -(-35 // factor)
    expected = np.empty(35, np.float32)
    for i in range(35):
        one = np.asarray([i], np.uint32)
        place = int(permute(one, entries * factor, np.uint32(SEED), Stream.SHARING, 0)[0])
        row = np.asarray([0], np.uint32)
        negative = sign_bits(np.uint32(SEED), Stream.SHARING_SIGNS, row, 35)[0, i]
        expected[i] = -coded[place % entries] if negative else coded[place % entries]
    if factor == 1:
        expected = coded[:35]
    np.testing.assert_array_equal(found["a"]["w"], expected.reshape(5, 7))
    np.testing.assert_array_equal(found["b"], coded[-4:])


def test_numpy_expands_a_tensor_in_pieces_to_what_jax_expands_at_once():
    tensor = Tensor("t", (8 * CHUNK + 77,), "float32", 1000)
    group = np.random.default_rng(0).normal(size=tensor.entries).astype(np.float32)
    at_once = expand_group(jnp.asarray(group), tensor, 2, jnp.uint32(SEED), jnp)
    np.testing.assert_array_equal(expand_group(group, tensor, 2, np.uint32(SEED)), at_once)


@given(st.integers(1, 60), st.integers(1, 60))
def test_every_entry_is_used_equally_often(size, factor):
    factor = min(factor, size)
    tensor = Tensor("t", (size,), "float32", factor)
    parameter = np.arange(size, dtype=np.uint32)
    if factor == 1:
        return
    entry, _ = sharing_lib.signed_entry(tensor, 3, np.uint32(SEED), parameter)
    uses = np.bincount(entry, minlength=tensor.entries)
    missing = tensor.entries * factor - size
    assert len(uses) == tensor.entries and uses.max() <= factor
    assert (factor - uses).sum() == missing < factor


def test_half_of_the_shared_signs_are_negative():
    """20,000 signs; four standard deviations, false alarm 6e-5."""
    tensor = Tensor("t", (20_000,), "float32", 4)
    parameter = np.arange(20_000, dtype=np.uint32)
    _, negative = sharing_lib.signed_entry(tensor, 1, np.uint32(SEED), parameter)
    assert abs(negative.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)


@pytest.mark.parametrize("factor", [1, 3, 35])
def test_the_gradient_of_expand_is_its_transpose(factor):
    _, made, own = example(factor=factor)
    matrix = dense(made, own)
    gradient = np.random.default_rng(1).normal(size=39).astype(np.float32)
    tree = {"a": {"w": jnp.asarray(gradient[:35]).reshape(5, 7)}, "b": jnp.asarray(gradient[35:])}
    _, pull = jax.vjp(lambda x: expand(made, own, x, []), jnp.ones(made.manifest.entries))
    np.testing.assert_allclose(pull(tree)[0], matrix.T @ gradient, rtol=1e-5, atol=1e-5)
    assert np.all(np.abs(matrix).sum(1) == 1)


@pytest.mark.parametrize("size, factor", [(35, 1), (37, 5), (3, 3)])
def test_collapse_inverts_expand_up_to_the_root_of_how_many_share(size, factor):
    _, made, own = example(shape=(size,), factor=factor)
    coded = np.random.default_rng(size).normal(size=made.manifest.entries).astype(np.float32)
    back = np.asarray(collapse(made, own, expand(made, own, jnp.asarray(coded), [])))
    uses = np.abs(dense(made, own)).sum(0)
    np.testing.assert_allclose(back, coded * np.sqrt(uses), rtol=1e-5)
    if factor == 1:
        np.testing.assert_array_equal(back, coded)


@pytest.mark.parametrize("factor", [1, 3])
def test_numpy_expands_a_group_to_the_bits_of_jax(factor):
    tensor = Tensor("t", (11, 13), "float32", factor)
    group = np.random.default_rng(0).normal(size=tensor.entries).astype(np.float32)
    group[::5] = -0.0
    on_host = expand_group(group, tensor, 4, np.uint32(SEED))
    on_jax = expand_group(jnp.asarray(group), tensor, 4, jnp.uint32(SEED), jnp)
    assert on_host.tobytes() == np.asarray(on_jax).tobytes()


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    left: jax.Array
    right: jax.Array


def test_trees_of_any_kind_and_dtype_come_back_as_they_were():
    tree = {
        "list": [jnp.ones((2, 3), jnp.bfloat16), (jnp.ones(4, jnp.float16), {"x": jnp.ones(2)})],
        "pair": Pair(left=jnp.ones(3), right=jnp.arange(5)),
        "scalar": jnp.float32(2),
    }
    made = make_sharing(tree, SEED)
    paths = {t.path: t.factor for t in made.manifest.tensors}
    assert paths == {
        "list/0": 1, "list/1/0": 1, "list/1/1/x": 1, "pair/left": 1, "pair/right": 0, "scalar": 1,
    }  # fmt: skip
    coded = collapse(made, {}, tree)
    assert coded.shape == (6 + 4 + 2 + 3 + 1,)
    back = expand(made, {}, coded, sharing_lib.uncoded_leaves(made, tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for found, wanted in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_rules_match_paths_and_their_endings_and_the_first_one_holds():
    tree = {"conv": {"kernel": jnp.ones(12), "bias": jnp.ones(3)}, "kernel": jnp.ones(12)}
    made = make_sharing(tree, SEED, [("conv/kernel", 4), ("kernel", 2)], uncoded=["b*s"])
    assert [t.factor for t in made.manifest.tensors] == [0, 4, 2]
    assert list(maps(made)) == ["conv/kernel", "kernel"]


@pytest.mark.parametrize("options", [{"rules": [("nothing", 2)]}, {"uncoded": ["nothing"]}])
def test_a_pattern_that_matches_nothing_is_refused_by_name(options):
    with pytest.raises(UsageError, match="'nothing' matches no tensor"):
        make_sharing({"w": jnp.ones(3)}, SEED, **options)


@pytest.mark.parametrize(
    "tree, words",
    [
        ({"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}}, "twice"),
        ({"..": jnp.ones(2)}, "path"),
        ({"a//b": jnp.ones(2)}, "path"),
        ({"a\nb": jnp.ones(2)}, "path"),
        ({"a\\b": jnp.ones(2)}, "path"),
        ({"w": jnp.ones((0, 3))}, "no tensor to code"),
        ({"w": jnp.arange(3)}, "no tensor to code"),
        ({"w": jnp.ones(3, jnp.complex64)}, "complex64"),
        ({"w": jnp.ones(3), "v": jnp.ones((0, 3))}, "empty"),
    ],
)
def test_trees_that_no_file_can_hold_are_refused(tree, words):
    with pytest.raises(UsageError, match=words):
        make_sharing(tree, SEED)


@pytest.mark.parametrize("factor", [4, 0, -1])
def test_a_factor_that_cannot_be_is_refused(factor):
    with pytest.raises(UsageError, match="factor"):
        make_sharing({"w": jnp.ones(3)}, SEED, rules=[("w", factor)])
