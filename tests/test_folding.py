"""VGG-16 and ResNet-20: their shapes, their layers against flax's own, batch norm folded away."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax.errors import UsageError
from mrc_jax.models.convolution import EPSILON, NormConv, _convolve, _shift_and_multiply, convolve
from mrc_jax.models.folding import fold
from mrc_jax.models.resnet20 import ResNet20
from mrc_jax.models.vgg16 import Vgg16

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
NETS = [Vgg16(width=4), ResNet20(width=4)]


def arbitrary(net: nn.Module, inputs: Any = IMAGES, seed: int = 1) -> Any:
    """Variables whose statistics and affine parameters are those of no fresh network."""
    rng = np.random.default_rng(seed)

    def other(path: Any, x: Any) -> Any:
        name = path[-1].key
        if name in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.3, 3, x.shape), jnp.float32)
        return x if name == "kernel" else jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32)

    variables = jax.jit(net.init)(jax.random.key(seed), inputs)
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
    out = NormConv(1, folded=True).apply({"params": found}, jnp.full((1, 1, 1, 1), 2.0))
    assert float(np.asarray(out)[0, 0, 0, 0]) == pytest.approx(40.5, rel=1e-6)


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_a_folded_network_gives_what_the_network_gives(net: Any) -> None:
    variables = arbitrary(net)
    folded = net.clone(folded=True)
    made = fold(variables)
    like = jax.eval_shape(folded.init, jax.random.key(0), IMAGES)
    assert jax.tree.structure(made) == jax.tree.structure(like)  # params alone, and all of them
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, like)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(made))
    wanted = np.asarray(jax.jit(net.apply)(variables, IMAGES))
    found = np.asarray(jax.jit(folded.apply)(made, IMAGES))
    spread = np.std(wanted, axis=0)
    assert np.all(spread > 1e-3 * np.max(np.abs(wanted)))  # the images are not one to the network
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.max(np.abs(wanted)))


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_every_tensor_matters_to_the_output(net: Any) -> None:
    """So the comparison of a folded network sees each."""
    folded = net.clone(folded=True)
    params = fold(arbitrary(net))
    score = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(folded.apply(p, IMAGES)))))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(score):
        assert np.any(np.asarray(gradient) != 0), path


@pytest.mark.parametrize(("net", "count"), [(Vgg16, 14_991_946), (ResNet20, 269_722)])
def test_the_full_networks_have_the_parameters_of_the_papers(net: Any, count: int) -> None:
    """VGG: 9 in out + out for each convolution, (512 + 1) 512 twice and (512 + 1) 10. ResNet-20: He
    et al. give 0.27 M.
    """
    shapes = jax.eval_shape(net(folded=True).init, jax.random.key(0), IMAGES)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count
    plain = jax.eval_shape(net().init, jax.random.key(0), IMAGES)
    assert set(plain) == {"params", "batch_stats"} and set(shapes) == {"params"}
    convolutions = {name for name in shapes["params"] if name.startswith("Conv_")}
    assert len(convolutions) == (13 if net is Vgg16 else 19)
    for name in convolutions:
        assert shapes["params"][name]["kernel"].shape[:2] == (3, 3)


def test_training_takes_the_batch_s_moments_and_moves_the_statistics() -> None:
    x = np.random.default_rng(3).normal(2, 3, (2, 4, 4, 5)).astype(np.float32)
    net = NormConv(3, folded=False)
    variables = arbitrary(net, jnp.asarray(x))
    raw = np.asarray(convolve(jnp.asarray(x), variables["params"]["kernel"], 1, 1), np.float64)
    out, moved = net.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    norm, before = variables["params"]["BatchNorm_0"], variables["batch_stats"]["BatchNorm_0"]
    mean, var = raw.mean(axis=(1, 2, 3)), raw.var(axis=(1, 2, 3))
    wanted = (raw.T - mean) / np.sqrt(var + EPSILON) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(np.asarray(out).T, wanted, rtol=1e-4, atol=1e-4)
    after = moved["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, rtol=1e-4)


def test_shortcuts_take_every_other_pixel_and_new_channels_are_zero() -> None:
    """With kernels of zero a stage passes its input on: the logits are the means of those pixels."""
    net = ResNet20(folded=True, width=4)
    params = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), IMAGES)["params"])
    first = np.zeros((3, 3, 3, 4), np.float32)
    first[1, 1, 0, 0] = first[1, 1, 2, 1] = 1
    params["Conv_0"]["kernel"] = first
    dense = np.zeros((16, 10), np.float32)
    dense[:10, :10] = np.eye(10)
    params["Dense_0"]["kernel"] = dense
    found = np.asarray(net.apply({"params": params}, IMAGES))
    pixels = np.maximum(IMAGES[:, ::4, ::4].astype(np.float64) / 255 * 4 - 2, 0).mean(axis=(1, 2))
    np.testing.assert_allclose(found[:, :2], pixels[:, [0, 2]], rtol=1e-5)
    np.testing.assert_array_equal(found[:, 2:], 0)


def test_dropout_acts_in_training_alone() -> None:
    net = Vgg16(width=2, folded=True)
    params = net.init(jax.random.key(0), IMAGES)
    still = [net.apply(params, IMAGES) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    drawn = [
        np.asarray(net.apply(params, IMAGES, train=True, rngs={"dropout": jax.random.key(i)}))
        for i in range(2)
    ]
    assert not np.array_equal(*drawn)


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
