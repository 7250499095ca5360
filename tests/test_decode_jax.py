"""Decoding on the device: to the last bit what the NumPy decoder gives."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_process import output_of

from mrc_jax import container
from mrc_jax.decode import decode
from mrc_jax.decode_jax import decode_tree
from mrc_jax.sharing import make_sharing

CASES = {  # bits, blocks, codebook_blocks, rules, uncoded
    "independent": (9, 17, 1, (), ()),
    "one block": (1, 1, 1, (), ()),
    "blocks of one entry": (30, 126, 1, (), ()),
    "shared codebook": (16, 10, 4, (), ()),
    "shared weights": (12, 13, 1, (("w", 7), ("v", 2)), ()),
    "everything": (20, 13, 13, (("w", 3),), ("b", "stats/*")),
}
HARD = ("one block", "everything")


def network():
    random = np.random.default_rng(0)
    return {
        "b": np.float32([-0.0, 0.0, 1.5]),
        "layer": {"w": np.ones((4, 6, 2), np.float32), "v": np.ones(9, jnp.bfloat16)},
        "list": [np.ones((), np.float16), (np.ones((5, 12), np.float32),)],
        "stats": {"mean": random.normal(size=5).astype(np.float32), "count": np.int32([7, -1])},
    }


def file_of(case, seed):
    """A sharing and a file with random indices; what NumPy decodes."""
    bits, blocks, codebook_blocks, rules, uncoded = CASES[case]
    tree = network()
    sharing = make_sharing(tree, seed, rules, uncoded)
    header = container.Header.of(
        sharing.manifest,
        True,
        seed=seed,
        blocks=blocks,
        bits=bits,
        codebook_blocks=codebook_blocks,
    )
    random = np.random.default_rng(seed)
    indices = random.integers(0, 1 << bits, blocks).astype(np.uint32)
    scales = np.exp(random.normal(-2, 2, header.groups)).astype(jnp.bfloat16).view(np.uint16)
    leaves = [
        x
        for x, t in zip(jax.tree.leaves(tree), sharing.manifest.tensors, strict=True)
        if not t.factor
    ]
    stored = b"".join(x.tobytes() for x in leaves)
    data = container.pack(container.Container(header, scales, stored, indices))
    return sharing, container.unpack(data), leaves, decode(data)


@functools.cache
def program(case, seed):
    sharing = file_of(case, seed)[0]
    return jax.jit(functools.partial(decode_tree, sharing=sharing, codebook_blocks=CASES[case][2]))


def decoded_on_device(case, seed):
    _, file, leaves, _ = file_of(case, seed)
    scales = container.scales_to_float(file.scales)
    return program(case, seed)(jnp.asarray(file.indices), jnp.asarray(scales), leaves)


@pytest.mark.parametrize("case", CASES)
def test_the_tree_is_that_of_the_numpy_decoder_to_the_last_bit(case):
    seed = 2**32 - 1
    sharing, _, _, expected = file_of(case, seed)
    tree = decoded_on_device(case, seed)
    assert jax.tree.structure(tree) == sharing.treedef
    for tensor, leaf in zip(sharing.manifest.tensors, jax.tree.leaves(tree), strict=True):
        wanted = expected[tensor.path]
        assert leaf.shape == wanted.shape == tensor.shape and leaf.dtype == wanted.dtype
        assert np.asarray(leaf).tobytes() == wanted.tobytes(), tensor.path


def test_negative_zeros_decode_alike(monkeypatch):
    """The table has no zero; with one planted, signs make negative zeros, and bits must agree."""
    table = np.where(np.arange(65536) % 3 == 0, 0, 5).astype(np.int16)
    monkeypatch.setattr("mrc_jax.shared_random.normal_table", lambda: table)
    sharing, _, _, expected = file_of("shared weights", 9)
    tree = decoded_on_device("shared weights", 9)
    program.cache_clear()
    zeros = 0
    for tensor, leaf in zip(sharing.manifest.tensors, jax.tree.leaves(tree), strict=True):
        found = np.asarray(leaf)
        assert found.tobytes() == expected[tensor.path].tobytes()
        zeros += int(np.sum(np.signbit(found) & (found == 0)))
    assert zeros > 5


DIGEST = """
import sys; sys.path.insert(0, "tests")
from test_decode_jax import HARD, digest
print(digest(HARD))
"""


def digest(cases):
    trees = [decoded_on_device(case, 3) for case in cases]
    return hashlib.sha256(
        b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(trees))
    ).hexdigest()


@pytest.mark.parametrize("setting", ["as users have it", "x64", "eight_devices"])
def test_the_bits_do_not_depend_on_jax_settings(setting):
    leaves = [leaf for case in HARD for leaf in file_of(case, 3)[3].values()]
    expected = hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()
    assert output_of(DIGEST, setting) == expected


def test_the_program_compiles_once():
    one = program("one block", 0)
    for _ in range(2):
        decoded_on_device("one block", 0)
    assert one._cache_size() == 1
