"""The U-Net: its size, its shapes, its layers against NumPy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import jit_quickly
from scipy import signal

from dicepp_jax.models import MODELS, UNet
from dicepp_jax.models.unet import INSTANCE_NORM_EPSILON, Block, pad_to_multiple

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


def test_kernels_start_glorot_uniform_and_biases_zero():
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
