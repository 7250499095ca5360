"""VGG-16 and ResNet-20: their shapes, their layers against flax's own, batch norm folded away."""

import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax.errors import UsageError
from mrc_jax.models.convolution import (
    EPSILON,
    NormConv,
    _by_tiles,
    _convolve,
    _has_tiles,
    _shift_and_multiply,
    convolve,
)
from mrc_jax.models.folding import fold
from mrc_jax.models.resnet20 import ResNet20
from mrc_jax.models.vgg8 import Vgg8
from mrc_jax.models.vgg16 import Vgg16

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
NETS = [(Vgg16(width=2), IMAGES), (ResNet20(width=2), IMAGES[:, :8, :8]), (Vgg8(width=2), IMAGES)]


def name_of(value: Any) -> str:
    return type(value).__name__


def arbitrary(net: nn.Module, inputs: Any = IMAGES[:1], seed: int = 1) -> Any:
    """Variables whose statistics and affine parameters are those of no fresh network."""
    rng = np.random.default_rng(seed)

    def other(path: Any, x: Any) -> Any:
        name = path[-1].key
        if name in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.3, 3, x.shape), jnp.float32)
        return x if name == "kernel" else jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32)

    variables = jax.jit(net.init)(jax.random.key(seed), inputs)  # compiled to the draws alone
    return jax.tree_util.tree_map_with_path(other, variables)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(5, 8), (8, 7)])
def test_a_convolution_is_flax_s_in_both_forms(
    stride: int, padding: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(stride)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)  # [batch, H, W, in]
    kernel = rng.normal(size=(3, 2, 3, 4)).astype(np.float32)
    conv = nn.Conv(4, (3, 2), stride, [(padding, padding)] * 2, use_bias=False, precision="highest")
    wanted = np.asarray(conv.apply({"params": {"kernel": kernel}}, x)).transpose(3, 1, 2, 0)
    rows = (size[0] + 2 * padding - 3) // stride + 1
    assert wanted.shape[1] == rows
    for made in (convolve, _shift_and_multiply, _convolve):
        found = made(jnp.asarray(x.transpose(3, 1, 2, 0)), jnp.asarray(kernel), stride, padding)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 8])
@pytest.mark.parametrize("size", [(2, 2), (8, 6)])
def test_a_convolution_by_tiles_is_flax_s_and_so_are_its_gradients(
    channels: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(channels)
    x = jnp.asarray(rng.normal(size=(5, *size, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, 4)), jnp.float32)
    conv = nn.Conv(4, (3, 3), padding=[(1, 1)] * 2, use_bias=False, precision="highest")

    def by_flax(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.asarray(conv.apply({"params": {"kernel": kernel}}, x))

    def by_tiles(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _by_tiles(x.transpose(3, 1, 2, 0), kernel).transpose(3, 1, 2, 0)

    wanted, pull = jax.vjp(by_flax, x, kernel)
    found, pull_tiles = jax.vjp(by_tiles, x, kernel)
    slope = jnp.asarray(rng.normal(size=wanted.shape), jnp.float32)
    for one, other in zip((found, *pull_tiles(slope)), (wanted, *pull(slope)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=3e-5)


def test_tiles_are_for_what_they_are_right_for() -> None:
    images, kernel = jnp.zeros((24, 6, 4, 1)), jnp.zeros((3, 3, 24, 2))
    assert _has_tiles(images, kernel, 1, 1)
    assert not _has_tiles(images, kernel, 2, 1) and not _has_tiles(images, kernel, 1, 0)
    assert not _has_tiles(images[:9], kernel[:, :, :9], 1, 1)
    assert not _has_tiles(images[:, 1:], kernel, 1, 1) and not _has_tiles(images, kernel[:2], 1, 1)


def test_a_folded_channel_by_hand() -> None:
    """One pixel, one channel: (3 * 2 - 1) * 4 / sqrt(0.25) + 0.5 = 40.5, with kernel 24, bias
    -7.5."""
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 3
    variables = {
        "params": {"kernel": kernel, "BatchNorm_0": {"scale": np.ones(1) * 4, "bias": [0.5]}},
        "batch_stats": {"BatchNorm_0": {"mean": np.ones(1), "var": [0.25 - EPSILON]}},
    }
    found = fold(variables)["params"]
    assert set(found) == {"kernel", "bias"}
    assert found["kernel"][1, 1, 0, 0] == pytest.approx(24, rel=1e-6)
    assert found["bias"][0] == pytest.approx(-7.5, rel=1e-6)
    out: Any = NormConv(1, folded=True).apply({"params": found}, jnp.full((1, 1, 1, 1), 2.0))
    assert float(np.asarray(out)[0, 0, 0, 0]) == pytest.approx(40.5, rel=1e-6)


@pytest.mark.parametrize(("net", "images"), NETS, ids=name_of)
def test_a_folded_network_gives_what_the_network_gives(net: Any, images: np.ndarray) -> None:
    """And every tensor of it matters to the outputs that are compared."""
    variables, folded = arbitrary(net, images), net.clone(folded=True)
    made = fold(variables)
    like = jax.eval_shape(folded.init, jax.random.key(0), images)
    assert jax.tree.structure(made) == jax.tree.structure(like)  # params alone, and all of them
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, like)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(made))

    def outputs(params: Any) -> Any:
        logits = folded.apply(params, images)
        return jnp.sum(logits * jnp.arange(1, 11)), logits

    wanted = np.asarray(jax.jit(net.apply)(variables, images))
    gradient, found = jax.jit(jax.grad(outputs, has_aux=True))(made)
    largest = np.max(np.abs(wanted))
    assert np.max(np.std(wanted, axis=0)) > 1e-2 * largest  # the images differ to the network
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * largest)
    for path, values in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(np.asarray(values) != 0), path


def conv(*channels: int) -> int:
    """Parameters of 3 x 3 convolutions with bias, one after the other."""
    return sum(9 * i * o + o for i, o in itertools.pairwise(channels))


VGG = conv(3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6) + 2 * 513 * 512 + 513 * 10
RESNET = conv(3, *[16] * 7, *[32] * 6, *[64] * 6) + 65 * 10
VGG8 = conv(3, 32, 64, 64, 128, 128, 128, 128) + 129 * 10


@pytest.mark.parametrize(("net", "count"), [(Vgg16, VGG), (ResNet20, RESNET), (Vgg8, VGG8)])
def test_the_full_networks_have_the_parameters_that_their_modules_tell(
    net: Any, count: int
) -> None:
    assert f"; {count:,} parameters when folded." in " ".join(str(net.__doc__).split())
    shapes = jax.eval_shape(net(folded=True).init, jax.random.key(0), IMAGES)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count
    plain = jax.eval_shape(net().init, jax.random.key(0), IMAGES)
    assert set(plain) == {"params", "batch_stats"} and set(shapes) == {"params"}
    convolutions = {name for name in shapes["params"] if name.startswith("Conv_")}
    assert len(convolutions) == {Vgg16: 13, ResNet20: 19, Vgg8: 7}[net]


def test_training_takes_the_batch_s_moments_and_moves_the_statistics() -> None:
    x = np.random.default_rng(3).normal(2, 3, (2, 4, 4, 5)).astype(np.float32)
    net = NormConv(3, folded=False)
    variables = arbitrary(net, jnp.asarray(x))
    raw = np.asarray(convolve(jnp.asarray(x), variables["params"]["kernel"], 1, 1), np.float64)
    made: Any = net.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    out, moved = made
    norm, before = variables["params"]["BatchNorm_0"], variables["batch_stats"]["BatchNorm_0"]
    mean, var = raw.mean(axis=(1, 2, 3)), raw.var(axis=(1, 2, 3))
    wanted = (raw.T - mean) / np.sqrt(var + EPSILON) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(np.asarray(out).T, wanted, rtol=1e-4, atol=1e-4)
    after = moved["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, rtol=1e-4)


def test_shortcuts_take_every_other_pixel_and_new_channels_are_zero() -> None:
    """With kernels of zero a stage passes its input on: logits are the means of those pixels."""
    net = ResNet20(folded=True, width=4)
    shapes: Any = jax.eval_shape(net.init, jax.random.key(0), IMAGES)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes["params"])
    first = np.zeros((3, 3, 3, 4), np.float32)
    first[1, 1, 0, 0] = first[1, 1, 2, 1] = 1
    params["Conv_0"]["kernel"] = first
    dense = np.zeros((16, 10), np.float32)
    dense[:10, :10] = np.eye(10)
    params["Dense_0"]["kernel"] = dense
    found = np.asarray(jax.jit(net.apply)({"params": params}, IMAGES))
    pixels = np.maximum(IMAGES[:, ::4, ::4].astype(np.float64) / 255 * 4 - 2, 0).mean(axis=(1, 2))
    np.testing.assert_allclose(found[:, :2], pixels[:, [0, 2]], rtol=1e-5)
    np.testing.assert_array_equal(found[:, 2:], 0)


def test_dropout_acts_in_training_alone() -> None:
    net = Vgg16(width=2, folded=True)
    params = jax.jit(net.init)(jax.random.key(0), IMAGES)

    @jax.jit
    def outputs(key: Any) -> tuple[Any, Any]:
        rngs = {"dropout": key}
        drawn = net.apply(params, IMAGES, train=True, rngs=rngs)
        return net.apply(params, IMAGES, rngs=rngs), drawn

    (still, drawn), (again, other) = outputs(jax.random.key(1)), outputs(jax.random.key(2))
    assert np.array_equal(np.asarray(still), np.asarray(again))
    assert not np.array_equal(np.asarray(drawn), np.asarray(other))


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"params": {"Conv_0": {"kernel": 1, "BatchNorm_0": {}}}}, "params/Conv_0: batch norm"),
        ({"params": {"BatchNorm_0": {"scale": 1}}, "batch_stats": {"BatchNorm_0": {"mean": 1}}},
         "params/BatchNorm_0: statistics that belong to no NormConv"),
        ({"params": {}, "batch_stats": {"a": {"mean": 1}}}, "params/a: statistics"),
        ({"params": {}, "cache": {}}, "cannot fold the collection 'cache'"),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_refused(variables: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fold(variables)


def test_a_network_without_batch_norm_is_left_as_it_is() -> None:
    params = {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    assert fold({"params": params}) == {"params": params}
