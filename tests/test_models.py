"""The U-Net: its size, its shapes, its layers against NumPy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage, signal

from dicepp_jax.losses import get_loss
from dicepp_jax.models import MODELS, UNet
from dicepp_jax.models.cpu import convolve
from dicepp_jax.models.layers import (
    INSTANCE_NORM_EPSILON,
    ConvTranspose,
    InstanceNorm,
    max_pool,
)
from dicepp_jax.models.unet import Block, pad_to_multiple

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
    variables = jax.jit(model.init)(jax.random.key(1), image)
    bordered = np.pad(image, [(0, 0), (0, 1), (0, 0), (0, 0)], mode="edge")
    expected = model.apply(variables, jnp.asarray(bordered))[:, :5]
    np.testing.assert_array_equal(model.apply(variables, image), expected)


def test_block_is_convolution_relu_instance_norm():
    image = jax.random.normal(jax.random.key(0), (1, 6, 7, 2))
    block = Block(3, jnp.float32)
    variables = jax.jit(block.init)(jax.random.key(1), image)
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


def plain_convolution(x, kernel):
    names = ("NHWC", "HWIO", "NHWC") if x.ndim == 4 else ("NDHWC", "DHWIO", "NDHWC")
    ones = (1,) * (x.ndim - 2)
    return jax.lax.conv_general_dilated(x, kernel, ones, "SAME", dimension_numbers=names)


@pytest.mark.parametrize(
    ("shape", "taps", "filters"),
    [
        ((2, 5, 6, 4, 2), 3, 3),
        ((1, 3, 2, 2, 6), 3, 5),
        ((1, 3, 2, 2, 6), 1, 5),
        ((2, 7, 5, 3), 3, 4),
        # Enough channels to be convolved as they are, and a copy of the fewer filters.
        ((2, 18, 17, 20), 3, 17),
        # A kernel so much larger than the image that a matrix product comes first.
        ((2, 4, 5, 20), 3, 18),
        ((1, 1, 1, 3), 3, 2),
        ((2, 6, 5, 3), 1, 4),
    ],
)
def test_convolution_for_a_cpu_equals_the_convolution(shape, taps, filters):
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(*(taps,) * (len(shape) - 2), shape[-1], filters)).astype(np.float32)
    y = convolve(image, kernel, "what flax gives", dimension_numbers=None)
    for b, o in [(0, 0), (-1, -1)]:
        channels = (
            ndimage.correlate(
                image[b, ..., i].astype(np.float64), kernel[..., i, o], mode="constant"
            )
            for i in range(shape[-1])
        )
        np.testing.assert_allclose(y[b, ..., o], sum(channels), rtol=1e-4, atol=1e-4)

    ours, xla = (gradients(f, image, kernel) for f in (convolve, plain_convolution))
    for got, expected in zip(ours, xla, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got / scale, expected / scale, atol=1e-5)


def test_convolution_for_a_cpu_is_mapped_and_differentiated_twice():
    rng = np.random.default_rng(0)
    image, kernel = (
        rng.normal(size=s).astype(np.float32) for s in [(3, 1, 5, 4, 2), (3, 3, 3, 2, 2)]
    )

    def penalty(convolution):
        def of_one(x, k):
            in_x = jax.grad(lambda x: (convolution(x, k) ** 3).sum())(x)
            return (in_x**2).sum()

        return jax.jit(jax.vmap(jax.grad(of_one, (0, 1))))(image, kernel)

    ours, xla = penalty(convolve), penalty(plain_convolution)
    for got, expected in zip(ours, xla, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("spatial", [(3, 4), (3, 4, 2)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_transposed_convolution_equals_that_of_flax(spatial, dtype):
    image = jax.random.normal(jax.random.key(0), (2, *spatial, 5))
    init, two = nn.initializers.glorot_uniform(), (2,) * len(spatial)
    flax = nn.ConvTranspose(3, two, two, dtype=dtype, kernel_init=init)
    ours = ConvTranspose(3, dtype)
    variables, expected = (jax.jit(m.init)(jax.random.key(1), image) for m in (ours, flax))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    variables = jax.tree.map(lambda x: x + 0.25, variables)
    y, expected = (m.apply(variables, image) for m in (ours, flax))
    assert y.dtype == expected.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (y, expected)), atol=tolerance)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_norm_equals_relu_and_the_norm_of_flax_in_value_and_gradient(spatial, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(0.3 + rng.normal(size=(2, *spatial, 3)), dtype)
    # A channel that ReLU makes constant.
    x = x.at[..., 2].set(-1)
    g = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    flax = nn.InstanceNorm(epsilon=INSTANCE_NORM_EPSILON, dtype=dtype)
    variables = flax.init(jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(
        InstanceNorm().init(jax.random.key(0), x)
    )
    variables = jax.tree.map(lambda v: v + rng.normal(size=v.shape).astype(v.dtype), variables)

    def value_and_gradient(apply):
        y, backward = jax.vjp(apply, variables, x)
        return y, backward(g.astype(y.dtype))

    ours = value_and_gradient(InstanceNorm().apply)
    theirs = value_and_gradient(lambda v, x: flax.apply(v, nn.relu(x)))
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    assert ours[0].dtype == dtype
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance
        ),
        ours,
        theirs,
    )


@pytest.mark.parametrize("spatial", [(6, 4), (4, 2, 6)])
def test_pooling_equals_that_of_flax_in_value_and_gradient(spatial):
    two = (2,) * len(spatial)
    x = jax.random.normal(jax.random.key(0), (2, *spatial, 3))
    np.testing.assert_array_equal(max_pool(x), nn.max_pool(x, two, two))
    ours, flax = (gradients(f, x) for f in (max_pool, lambda x: nn.max_pool(x, two, two)))
    np.testing.assert_array_equal(ours, flax)


class PlainUNet(nn.Module):
    """The network of layers of flax alone, as it is described."""

    filters: int
    depth: int

    @nn.compact
    def __call__(self, x):
        rank = x.ndim - 2
        two = (2,) * rank

        def block(number, level, x):
            class Block(nn.Module):
                filters: int

                @nn.compact
                def __call__(self, x):
                    for _ in range(2):
                        x = nn.relu(nn.Conv(self.filters, (3,) * rank)(x))
                        x = nn.InstanceNorm(epsilon=INSTANCE_NORM_EPSILON)(x)
                    return x

            return Block(self.filters * 2**level, name=f"Block_{number}")(x)

        skips = []
        for level in range(self.depth):
            skips.append(block(level, level, x))
            x = nn.max_pool(skips[-1], two, two)
        x = block(self.depth, self.depth, x)
        for number, level in enumerate(reversed(range(self.depth))):
            x = nn.ConvTranspose(self.filters * 2**level, two, two)(x)
            x = block(self.depth + 1 + number, level, jnp.concatenate([x, skips[level]], -1))
        return nn.Conv(2, (1,) * rank)(x)


@pytest.mark.parametrize("shape", [(2, 32, 24, 3), (1, 8, 12, 16, 1)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_network_equals_that_of_plain_layers(shape, backend, monkeypatch):
    """Runs that were trained before layers had faster forms predict the same."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    image = jax.random.normal(jax.random.key(0), shape)
    ours, plain = UNet(2, filters=4, depth=2), PlainUNet(filters=4, depth=2)
    variables = jax.jit(ours.init)(jax.random.key(1), image)
    probabilities = (nn.softmax(jax.jit(m.apply)(variables, image)) for m in (ours, plain))
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spatial", [(12, 12), (4, 8, 8)])
def test_remat_changes_neither_parameters_nor_numbers(spatial):
    image = jax.random.normal(jax.random.key(0), (1, *spatial, 1))
    models = [UNet(2, filters=2, depth=1, remat=remat) for remat in (False, True)]
    variables, again = (jax.jit(model.init)(jax.random.key(1), image) for model in models)
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
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
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


@pytest.mark.parametrize("spatial", [(32, 32), (8, 16, 16)])
def test_bfloat16_agrees_with_float32(spatial):
    """Within the tolerance that docs/running.md states."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, *spatial, 1)), jnp.float32)
    labels = jnp.asarray(rng.random((2, *spatial)) < 0.3, jnp.int32)
    nets = [UNet(2, filters=4, depth=1, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    params = jax.jit(nets[0].init)(jax.random.key(0), image)
    loss = get_loss("dscpp")

    def of(net):
        def mean_loss(params):
            logits = net.apply(params, image)
            return loss(logits, labels).mean(), logits

        program = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))
        (value, logits), gradient = program(params)
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])
        return float(value), np.asarray(logits), np.asarray(flat)

    (value, logits, gradient), (value_half, logits_half, gradient_half) = map(of, nets)
    assert np.linalg.norm(logits_half - logits) < 0.02 * np.linalg.norm(logits)
    assert value_half == pytest.approx(value, rel=0.01)
    cosine = gradient @ gradient_half / np.linalg.norm(gradient) / np.linalg.norm(gradient_half)
    assert cosine > 0.95
