"""Golden files decode to the same weights for ever, with NumPy and with JAX, to the last bit."""

import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import make_golden
import numpy as np
import pytest
from golden_files import BLOCKS, FILES, GOLDEN, golden

from configs import mnist_lenet5
from mrc_jax import container, decode_jax
from mrc_jax.decode import builtin_manifests, coded_vector, decode, expand, find_manifest, parsed
from mrc_jax.decode import weights_sha256 as sha256
from mrc_jax.errors import FormatError
from mrc_jax.manifest import Manifest, Tensor
from mrc_jax.models.factored import Factored
from mrc_jax.models.lenet5 import FACTORS, LeNet5
from mrc_jax.models.resnet20 import ResNet20
from mrc_jax.models.vgg8 import Vgg8
from mrc_jax.models.vgg16 import Vgg16
from mrc_jax.sharing import Sharing, group_of_entry, make_sharing, tree_of


@pytest.mark.parametrize("name", FILES)
def test_golden_files_decode_to_the_recorded_weights(name):
    data, manifest = golden(name)
    facts = FILES[name]
    weights = decode(data, manifest)
    assert sha256(weights) == facts["sha256"] and len(data) == facts["file_bytes"]
    header = parsed(data).header
    assert (header.manifest is not None) == facts["embedded_manifest"]
    for tensor in find_manifest(header, manifest).tensors:
        array = weights[tensor.path]
        assert array.shape == tensor.shape
        widened = tensor.factor or tensor.dtype == "bfloat16"
        assert array.dtype == ("float32" if widened else tensor.dtype)


@pytest.mark.parametrize("name", BLOCKS)
def test_jax_decodes_golden_files_to_the_same_bits(name):
    data, supplied = golden(name)
    file = container.unpack(data)
    header, network = file.header, find_manifest(file.header, supplied)
    treedef = jax.tree.structure([0] * len(network.tensors))
    uncoded = [np.zeros(t.shape, np.float32) for t in network.tensors if not t.factor]

    @jax.jit
    def run(indices, scales):
        sharing = Sharing(network, header.seed, treedef, header.ranges)
        share = header.codebook_blocks
        return decode_jax.decode_tree(indices, scales, uncoded, sharing, codebook_blocks=share)

    scales = container.scales_to_float(file.scales)
    leaves = run(jnp.asarray(file.indices), jnp.asarray(scales))
    weights = expand(file, network)
    for tensor, leaf in zip(network.tensors, leaves, strict=True):
        if tensor.factor:
            assert np.asarray(leaf).tobytes() == weights[tensor.path].tobytes()


def test_decode_blocks_gives_the_coded_vector():
    data, supplied = golden("external.mrc")
    file = container.unpack(data)
    network = find_manifest(file.header, supplied)
    scale = container.scales_to_float(file.scales)[group_of_entry(network)]
    program = jax.jit(decode_jax.decode_blocks, static_argnames=("entries", "codebook_blocks"))
    coded = program(
        jnp.asarray(file.indices),
        jnp.asarray(scale),
        jnp.uint32(file.header.seed),
        entries=network.entries,
        codebook_blocks=file.header.codebook_blocks,
    )
    assert np.asarray(coded).tobytes() == coded_vector(file, network).tobytes()


def test_a_shared_zero_keeps_its_sign():
    """Otherwise a decoder that multiplies by the sign and one that negates could differ unseen."""
    kernel = decode(*golden("lenet5.mrc"))["params/Dense_0/kernel"]
    zeros = kernel[kernel == 0]
    assert 0 < np.signbit(zeros).sum() < zeros.size


@pytest.mark.parametrize(
    ("name", "rules"), [("lenet5", make_golden.LENET5_RULES), ("lenet5_plain", ())]
)
def test_the_built_in_manifests_are_those_of_the_models(name, rules):
    data = (make_golden.DATA / f"{name}.manifest").read_bytes()
    assert data == make_golden.lenet5_manifest(rules).data
    assert data in builtin_manifests()


@pytest.mark.parametrize("net", [Vgg16(folded=True), ResNet20(folded=True), Vgg8(folded=True)])
def test_the_built_in_manifests_are_those_of_the_folded_networks(net):
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8))
    data = (make_golden.DATA / f"{type(net).__name__.lower()}.manifest").read_bytes()
    assert data == make_sharing(shapes, seed=0).manifest.data
    assert data in builtin_manifests()


def test_the_built_in_manifest_of_the_factored_network_is_the_configs():
    net = Factored(LeNet5(), FACTORS)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1), jnp.uint8))
    data = (make_golden.DATA / "lenet5_factored.manifest").read_bytes()
    assert data == make_sharing(shapes, 0, mnist_lenet5.get_config().sharing).manifest.data
    assert data in builtin_manifests()


def test_the_golden_files_are_those_that_the_script_would_make():
    for name, (tensors, embed, fields, uncoded) in make_golden.CASES.items():
        network = Manifest(tuple(Tensor(*t) for t in tensors))
        made = container.pack(make_golden.build(network, embed, fields, uncoded))
        assert made == golden(f"{name}.mrc")[0]
    assert {f"{name}.mrc" for name in make_golden.CASES} <= FILES.keys()
    assert {path.name for path in GOLDEN.glob("*.mrc")} == FILES.keys()


def test_decoded_weights_go_back_into_their_network():
    inputs = jnp.zeros((1, 28, 28, 1))
    like = jax.eval_shape(LeNet5().init, jax.random.key(0), inputs)
    tree = tree_of(decode(*golden("lenet5_plain.mrc")), like)
    assert jax.eval_shape(LeNet5().apply, tree, inputs).shape == (1, 10)


def test_blocks_are_decoded_alike_however_many_are_decoded_together(monkeypatch):
    data, supplied = golden("lenet5.mrc")
    monkeypatch.setattr(sys.modules["mrc_jax.decode"], "_CHUNK", 97)
    assert sha256(decode(data, supplied)) == FILES["lenet5.mrc"]["sha256"]


def test_the_right_manifest_is_found_and_a_wrong_one_refused():
    data, right = golden("external.mrc")
    assert right is not None
    embedded, _ = golden("example.mrc")
    with pytest.raises(FormatError, match="give the network's manifest"):
        decode(data)
    for file in (data, embedded):
        with pytest.raises(FormatError, match="not this file's"):
            decode(file, (GOLDEN / "one_weight.manifest").read_bytes())
    with pytest.raises(FormatError, match="the manifest ends"):
        decode(data, right[:-1])
    own = container.unpack(embedded).header.manifest
    assert own is not None
    assert sha256(decode(embedded, own.data)) == FILES["example.mrc"]["sha256"]


@pytest.mark.parametrize("field", ["entries", "groups", "uncoded_bytes"])
def test_counts_that_are_not_the_manifest_s_are_refused(field):
    data, manifest = golden("external.mrc")
    header = container.unpack(data).header
    wrong = dataclasses.replace(header, **{field: getattr(header, field) + 1})
    with pytest.raises(FormatError, match="counts"):
        find_manifest(wrong, manifest)


def test_a_network_over_max_parameters_is_refused_and_the_error_says_how_to_raise_it():
    data, manifest = golden("example.mrc")
    decode(data, manifest, max_parameters=10)
    with pytest.raises(FormatError, match=r"10 parameters, more than .* = 9.*--max_parameters"):
        decode(data, manifest, max_parameters=9)


def test_an_uncoded_bool_is_0_or_1():
    one = container.unpack(golden("uncoded.mrc")[0])
    raw = bytearray(one.uncoded)
    raw[raw.index(bytes([1, 0, 0, 1]))] = 2
    with pytest.raises(FormatError, match="bool"):
        decode(container.pack(dataclasses.replace(one, uncoded=bytes(raw))))


def test_the_hash_covers_values_and_order_but_not_names():
    a, b = np.float32([1, 2]), np.int32([3])
    assert sha256({"x": a, "y": b}) == sha256({"u": a.reshape(2, 1), "v": b.astype(">i4")})
    assert sha256({"x": a, "y": b}) != sha256({"y": b, "x": a})
    assert sha256({"x": np.float32([0.0])}) != sha256({"x": np.float32([-0.0])})


@pytest.mark.slow
def test_fifteen_million_entries_are_decoded_in_seconds():
    """About half a second on one core; the bound is for slower machines."""
    network = Manifest(
        (Tensor("a", (7_000_000,), "float32", 1), Tensor("b", (2000, 4000), "float32", 1))
    )
    header = container.Header.of(network, True, seed=7, blocks=network.entries // 32, bits=16)
    indices = np.random.default_rng(0).integers(0, 1 << 16, header.blocks).astype(np.uint32)
    data = container.pack(container.Container(header, np.uint16([0x3D80, 0x3D00]), b"", indices))
    start = time.perf_counter()
    decode(data)
    assert time.perf_counter() - start < 2.4
