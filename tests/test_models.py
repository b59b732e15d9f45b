"""The U-Net: its size, its shapes, its layers against NumPy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import jit_quickly
from flax import linen as nn
from scipy import ndimage, signal

from dicepp_jax.models import MODELS, UNet
from dicepp_jax.models.unet import (
    INSTANCE_NORM_EPSILON,
    Block,
    ConvTransposeCPU,
    convolve_slices,
    pad_to_multiple,
)

PARAMETERS_2D = 7_766_018
PARAMETERS_3D = 22_581_283


def count(model, shape):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def expected_parameters(taps, channels, classes, filters=32, depth=4):
    """Counted layer by layer: kernel taps of 3x3(x3), 2x2(x2) and 1x1(x1) convolutions."""
    three, two = taps
    widths = [filters * 2**level for level in range(depth + 1)]

    def block(inputs, outputs):
        norms = 2 * 2 * outputs
        return (three * inputs + 1) * outputs + (three * outputs + 1) * outputs + norms

    total = sum(block(i, o) for i, o in zip([channels, *widths], widths, strict=False))
    for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
        total += (two * wide + 1) * narrow + block(2 * narrow, narrow)
    return total + (filters + 1) * classes


def test_parameter_count():
    assert count(UNet(2), (1, 32, 32, 3)) == expected_parameters((9, 4), 3, 2) == PARAMETERS_2D
    assert count(UNet(3), (1, 16, 16, 16, 1)) == expected_parameters((27, 8), 1, 3) == PARAMETERS_3D


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spatial", [(32, 32), (33, 21), (5, 7), (16, 16, 16), (9, 10, 17)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_any_size_gives_float32_logits_of_that_size(name, spatial, dtype):
    model = MODELS[name](num_classes=3, filters=2, depth=3, dtype=dtype)
    image = jnp.zeros((2, *spatial, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits = jax.eval_shape(model.apply, variables, image)
    assert logits.shape == (2, *spatial, 3)
    assert logits.dtype == jnp.float32


def test_padding_repeats_the_border_and_is_cropped_away():
    padded = pad_to_multiple(jnp.arange(3.0).reshape(1, 1, 3, 1), 4)
    assert padded[0, 0, :, 0].tolist() == [0, 1, 2, 2]
    model = UNet(2, filters=2, depth=1)
    image = jax.random.normal(jax.random.key(0), (1, 5, 6, 1))
    variables = jit_quickly(model.init)(jax.random.key(1), image)
    bordered = np.pad(image, [(0, 0), (0, 1), (0, 0), (0, 0)], mode="edge")
    expected = model.apply(variables, jnp.asarray(bordered))[:, :5]
    np.testing.assert_array_equal(model.apply(variables, image), expected)


def test_block_is_convolution_relu_instance_norm():
    image = jax.random.normal(jax.random.key(0), (1, 6, 7, 2))
    block = Block(3, jnp.float32)
    variables = jit_quickly(block.init)(jax.random.key(1), image)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(x.dtype), variables)
    x = np.asarray(image[0], np.float64)
    for index in range(2):
        conv = variables["params"][f"Conv_{index}"]
        norm = variables["params"][f"InstanceNorm_{index}"]
        kernel = np.asarray(conv["kernel"], np.float64)
        x = np.stack(
            [
                sum(
                    signal.correlate2d(x[..., i], kernel[..., i, o], mode="same")
                    for i in range(x.shape[-1])
                )
                + float(conv["bias"][o])
                for o in range(kernel.shape[-1])
            ],
            axis=-1,
        )
        x = np.maximum(x, 0)
        x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + INSTANCE_NORM_EPSILON)
        x = x * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
    np.testing.assert_allclose(block.apply(variables, image)[0], x, rtol=1e-4, atol=1e-4)


def gradients(function, *args):
    """Gradients of the sum of squares in all arguments."""
    arguments = tuple(range(len(args)))
    return jax.jit(jax.grad(lambda *xs: (function(*xs) ** 2).sum(), arguments))(*args)


def test_convolution_by_slices_equals_the_convolution():
    keys = jax.random.split(jax.random.key(0))
    image = jax.random.normal(keys[0], (2, 5, 6, 4, 2))
    kernel = jax.random.normal(keys[1], (3, 3, 3, 2, 3))
    y = convolve_slices(image, kernel, "what flax gives", dimension_numbers=None)
    for b, o in np.ndindex(2, 3):
        channels = (
            ndimage.correlate(
                np.asarray(image[b, ..., i], np.float64), kernel[..., i, o], mode="constant"
            )
            for i in range(2)
        )
        np.testing.assert_allclose(y[b, ..., o], sum(channels), rtol=1e-4, atol=1e-5)

    def reference(x, k):
        dimensions = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(x, k, (1, 1, 1), "SAME", dimension_numbers=dimensions)

    for got, expected in zip(
        gradients(convolve_slices, image, kernel), gradients(reference, image, kernel), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_transposed_convolution_for_a_cpu_equals_that_of_flax(dtype):
    image = jax.random.normal(jax.random.key(0), (2, 3, 4, 2, 5))
    init = nn.initializers.glorot_uniform()
    flax = nn.ConvTranspose(3, (2, 2, 2), (2, 2, 2), dtype=dtype, kernel_init=init)
    ours = ConvTransposeCPU(3, dtype)
    variables, expected = (jit_quickly(m.init)(jax.random.key(1), image) for m in (ours, flax))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    variables = jax.tree.map(lambda x: x + 0.25, variables)
    y, expected = (m.apply(variables, image) for m in (ours, flax))
    assert y.dtype == expected.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (y, expected)), atol=tolerance)


@pytest.mark.parametrize("spatial", [(12, 12), (4, 8, 8)])
def test_remat_changes_neither_parameters_nor_numbers(spatial):
    image = jax.random.normal(jax.random.key(0), (1, *spatial, 1))
    models = [UNet(2, filters=2, depth=1, remat=remat) for remat in (False, True)]
    variables, again = (jit_quickly(model.init)(jax.random.key(1), image) for model in models)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    plain, remat = (
        gradients(lambda v, model=model: model.apply(v, image), variables) for model in models
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, remat)


def test_remat_stores_less_for_the_gradient():
    def kept(remat):
        model = UNet(2, filters=4, depth=2, remat=remat)
        image = jnp.zeros((1, 64, 64, 1))
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        backward = jax.eval_shape(
            lambda v: jax.vjp(lambda v: model.apply(v, image), v)[1], variables
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept(True) < 0.5 * kept(False)


def test_kernels_are_initialised_glorot_uniform_and_biases_zero():
    model = UNet(2, filters=16, depth=2)
    variables = jit_quickly(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = path[-1].key
        if name == "kernel":
            *taps, fan_in, fan_out = leaf.shape
            bound = np.sqrt(6 / (np.prod(taps) * (fan_in + fan_out)))
            assert 0.8 * bound < float(jnp.abs(leaf).max()) <= bound
        else:
            assert set(np.unique(leaf)) == {1.0 if name == "scale" else 0.0}


def test_refuses_an_image_without_a_batch_axis():
    with pytest.raises(ValueError, match=r"\(B, H, W, channels\).*got \(8, 8, 3\)"):
        UNet(2).init(jax.random.key(0), jnp.zeros((8, 8, 3)))
