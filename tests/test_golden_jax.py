"""JAX decodes every golden file to the recorded bits, whatever its settings and devices."""

import contextlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_process import output_of
from golden_files import BLOCKS, FILES, golden
from jax.sharding import NamedSharding, PartitionSpec

from mrc_jax import container, decode_jax
from mrc_jax.decode import expand, find_manifest, weights_sha256
from mrc_jax.sharing import Sharing

QUICK = ("ordered_external.mrc",)  # all of the format in one file


def spread(indices: np.ndarray) -> jax.Array:
    """Indices over all devices, whole on each where they cannot be divided among them."""
    devices = jax.devices()
    axis = "blocks" if len(indices) % len(devices) == 0 else None
    mesh = jax.sharding.Mesh(np.asarray(devices), ("blocks",))
    return jax.device_put(indices, NamedSharding(mesh, PartitionSpec(axis)))


def sha256_on_device(name: str) -> str:
    """weights_sha256 with the coded tensors from the jitted decoder, the others as stored."""
    data, supplied = golden(name)
    parsed = container.unpack(data)
    header, network = parsed.header, find_manifest(parsed.header, supplied)
    treedef = jax.tree.structure([0] * len(network.tensors))
    weights = expand(parsed, network)
    coded = [t.factor > 0 for t in network.tensors]

    @jax.jit
    def run(indices, scales):
        sharing = Sharing(network, header.seed, treedef, header.ranges)
        uncoded = [np.zeros(())] * (len(coded) - sum(coded))
        share = header.codebook_blocks
        leaves = decode_jax.decode_tree(indices, scales, uncoded, sharing, codebook_blocks=share)
        return [leaf for leaf, own in zip(leaves, coded, strict=True) if own]

    scales = container.scales_to_float(parsed.scales)
    leaves = iter(run(spread(parsed.indices), jnp.asarray(scales)))
    for tensor in network.coded:
        found = np.asarray(next(leaves))
        assert found.dtype == np.float32 and found.shape == tensor.shape
        weights[tensor.path] = found
    return weights_sha256(weights)


def differing(names: Iterable[str] = BLOCKS) -> list[str]:
    """The golden files whose weights are not the recorded ones."""
    return [name for name in names if sha256_on_device(name) != FILES[name]["sha256"]]


@contextlib.contextmanager
def setting(name: str, value: object):
    old = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, old)


SETTINGS = {  # those that are not JAX's own; float32 and its own are in test_decode.py
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_bits_of_a_file_do_not_depend_on_a_setting(name):
    with setting(name, SETTINGS[name]):
        assert differing(QUICK) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_bits_of_no_file_depend_on_a_setting(name):
    """Some 40 seconds each, to compile a program for each file."""
    assert getattr(jax.config, name) != SETTINGS[name]
    with setting(name, SETTINGS[name]):
        assert differing() == []


ALONE = """
import sys; sys.path.insert(0, "tests")
from test_golden_jax import differing
import jax; print(len(jax.devices()), jax.config.jax_enable_x64, differing({names}))
"""


def test_the_bits_of_a_file_are_the_same_with_fast_arithmetic_on_eight_devices():
    assert output_of(ALONE.format(names=QUICK), "everything") == "8 True []"


@pytest.mark.slow
@pytest.mark.parametrize(("named", "said"), [("fast_math", "1 False"), ("everything", "8 True")])
def test_the_bits_of_no_file_depend_on_fast_arithmetic_or_devices(named, said):
    assert output_of(ALONE.format(names=""), named) == f"{said} []"


def test_a_decoder_that_is_one_bit_off_is_noticed(monkeypatch):
    true = decode_jax.decode_blocks

    def wrong(*args, **options):
        coded = true(*args, **options)
        return coded.at[0].set(jnp.nextafter(coded[0], jnp.inf))

    monkeypatch.setattr(decode_jax, "decode_blocks", wrong)
    assert sha256_on_device("example.mrc") != FILES["example.mrc"]["sha256"]
