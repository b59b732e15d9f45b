"""Resizing and normalisation against float64 NumPy, whole numbers and JAX."""

import dataclasses
import math
import re
import tracemalloc
from fractions import Fraction

import jax
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicepp_jax.data.specs import PHANTOM, PHANTOM_3D
from dicepp_jax.preprocess import (
    network_image,
    normalise,
    resample,
    resample_label,
    resampled_shape,
    resize,
    resize_label,
)

# Enlarging, shrinking, both at once, to and from a single pixel, in two and three dimensions.
SIZES = [
    ((7, 9), (16, 24)),
    ((37, 23), (16, 8)),
    ((31, 12), (17, 40)),
    ((1, 6), (5, 1)),
    ((5, 7, 6), (8, 16, 9)),
    ((12, 9, 20), (5, 4, 7)),
    ((4, 18, 11), (9, 8, 11)),
]


def sizes(ndim, largest):
    axis = st.integers(1, largest)
    return st.tuples(st.tuples(*[axis] * ndim), st.tuples(*[axis] * ndim))


@pytest.mark.parametrize("old, new", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_matches_numpy_and_jax(old, new, channels):
    image = np.random.default_rng([1, channels]).normal(size=(*old, channels)).astype(np.float32)
    resized = resize(image, new)
    assert resized.shape == (*new, channels) and resized.dtype == np.float32
    np.testing.assert_allclose(resized, oracles.resize(image, new), rtol=1e-6, atol=1e-6)
    other = jax.image.resize(image, (*new, channels), "linear", antialias=False)
    np.testing.assert_allclose(resized, other, rtol=1e-5, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(sizes(2, 60) | sizes(3, 12), st.integers(0, 2**31))
def test_resize_matches_numpy_at_any_size(pair, seed):
    old, new = pair
    image = np.random.default_rng([2, seed]).uniform(-1, 1, (*old, 2))
    resized = resize(image, new)
    assert resized.shape == (*new, 2)
    np.testing.assert_allclose(resized, oracles.resize(image, new), atol=1e-6)
    assert image.min() - 1e-6 <= resized.min() and resized.max() <= image.max() + 1e-6


@settings(max_examples=100, deadline=None)
@given(sizes(1, 1500))
def test_resize_matches_numpy_at_large_sizes(pair):
    (old,), new = pair
    ramp = np.arange(old, dtype=np.float64)[:, None]
    np.testing.assert_allclose(resize(ramp, new), oracles.resize(ramp, new), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, bool])
@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 3, 5, 1)])
def test_resize_to_the_same_size_is_exact(dtype, shape):
    image = np.random.default_rng([3, 0]).normal(scale=100, size=shape).astype(dtype)
    resized = resize(image, shape[:-1])
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized, image.astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(sizes(2, 20), st.floats(-1000, 1000, width=32))
def test_resize_keeps_constants(pair, value):
    old, new = pair
    np.testing.assert_array_equal(resize(np.full((*old, 1), value), new), np.float32(value))


def test_resize_keeps_probabilities():
    probs = np.random.default_rng([4, 0]).dirichlet([0.3] * 4, size=(13, 11)).astype(np.float32)
    np.testing.assert_allclose(resize(probs, (29, 40)).sum(-1), 1, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(sizes(2, 14) | sizes(3, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_resize_label_matches_exact_arithmetic(pair, num_classes, seed):
    old, new = pair
    label = np.random.default_rng([5, seed]).integers(0, num_classes, old).astype(np.uint8)
    resized = resize_label(label, new, num_classes)
    assert resized.shape == new and resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, oracles.resize_label(label, new, num_classes))


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (2, 1), (1, 2), (0, 2)])
def test_the_lowest_class_wins_a_tie(pair):
    label = np.tile(np.array(pair, np.uint8), (2, 3))
    np.testing.assert_array_equal(resize_label(label, (1, 3), 3), min(pair))


def test_the_lowest_of_four_wins_a_tie():
    for turn in range(4):
        label = np.roll([3, 1, 4, 2], turn).reshape(2, 2)
        np.testing.assert_array_equal(resize_label(label, (1, 1), 5), [[1]])


def test_a_class_wins_by_its_share_and_not_by_its_number():
    # Interpolating the numbers themselves would put 1 between 0 and 2.
    label = np.array([[0, 0, 2, 2]], np.int32)
    assert set(np.unique(resize_label(label, (1, 7), 3))) == {0, 2}


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_resize_label_to_the_same_size_is_exact(shape):
    label = np.random.default_rng([6, 0]).integers(0, 3, shape).astype(np.uint8)
    resized = resize_label(label, shape, 3)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, label)


def test_shares_of_one_class_at_a_time_are_in_memory():
    label = np.random.default_rng([6, 1]).integers(0, 60, (48, 48, 48)).astype(np.uint8)
    tracemalloc.start()
    resize_label(label, (40, 40, 40), 60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * 40**3 * 4 / 5


hundredths = st.integers(30, 800).map(lambda n: Fraction(n, 100))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 1100), hundredths, hundredths, st.sampled_from([np.float32, np.float64]))
def test_resampled_shape_is_the_floor_of_exact_arithmetic(size, spacing, target, precision):
    expected = max(1, math.floor(size * spacing / target))
    given_spacing = (float(precision(float(spacing))),)
    assert resampled_shape((size,), given_spacing, (float(target),)) == (expected,)


@pytest.mark.parametrize("target", [3.22, 1.62, 0.1, 0.7])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_resampled_shape_at_the_same_spacing_is_the_same(target, precision):
    shape = (100, 1, 1059)
    assert resampled_shape(shape, (float(precision(target)),) * 3, (target,) * 3) == shape


def test_resampled_shape_of_kits19():
    target = (3.22, 1.62, 1.62)
    spacing = (0.5, 0.919921875, 0.919921875)
    assert resampled_shape((602, 512, 512), spacing, target) == (93, 290, 290)
    assert resampled_shape((1, 1, 3), (1.0, 1.0, 1.0), target) == (1, 1, 1)


def spacings():
    return st.tuples(*[st.floats(0.4, 6)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 14)] * 3), spacings(), spacings(), st.integers(0, 99))
def test_resample_matches_numpy_and_gives_the_native_shape_back(shape, spacing, target, seed):
    image = np.random.default_rng([11, seed]).integers(-999, 999, (*shape, 2)).astype(np.int16)
    size = resampled_shape(shape, spacing, target)
    resampled = resample(image, spacing, target)
    assert resampled.shape == (*size, 2)
    np.testing.assert_allclose(resampled, oracles.resize(image, size), atol=1e-3)
    np.testing.assert_array_equal(resample(image[..., 0], spacing, target), resampled[..., 0])
    assert resize(resampled, shape).shape == image.shape
    label = (image[..., 0] % 3).astype(np.uint8)
    expected = oracles.resize_label(label, size, 3)
    np.testing.assert_array_equal(resample_label(label, spacing, target, 3), expected)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 14)] * 3), spacings(), st.integers(0, 99))
def test_at_the_spacing_it_has_a_volume_is_left_as_it_is(shape, spacing, seed):
    image = np.random.default_rng([12, seed]).integers(0, 3, shape).astype(np.uint8)
    assert resample(image, spacing, spacing) is image
    assert resample(image[..., None], spacing, spacing).dtype == np.uint8
    np.testing.assert_array_equal(resample_label(image, spacing, spacing, 3), image)


@pytest.mark.parametrize("shape", [(24, 31, 40), (50, 33, 20)])
def test_a_linear_image_comes_back_from_resampling(shape):
    # Between the first and the last voxel of the coarse grid, beyond which the border is held.
    spacing, target = (1.0, 1.0, 1.0), (2.0, 1.5, 3.0)
    image = np.tensordot((1.0, -2.0, 0.5), np.indices(shape), 1)[..., None]
    coarse = resample(image, spacing, target)
    again = resize(coarse, shape)
    ratios = (n // small for n, small in zip(shape, coarse.shape[:3], strict=True))
    inside = tuple(slice(ratio, -ratio) for ratio in ratios)
    np.testing.assert_allclose(again[inside], image[inside], atol=1e-3)


@pytest.mark.parametrize("dimensions", [2, 4])
def test_resample_refuses_another_number_of_axes(dimensions):
    with pytest.raises(ValueError):
        resampled_shape((3, 4, 5), (1.0,) * dimensions, (2.0,) * dimensions)


IMAGES = {
    "bytes": np.random.default_rng([7, 0]).integers(0, 256, (20, 30, 3), np.uint8),
    "hounsfield": np.random.default_rng([7, 1]).integers(-1024, 2000, (8, 9, 10, 1), np.int16),
    "far from zero": np.random.default_rng([7, 2]).normal(1e5, 3, (200, 200, 1)),
}
RANGES = {"bytes": (100.0, 180.0), "hounsfield": (-79.0, 304.0), "far from zero": (99998.0, 1e6)}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("clipped", [False, True])
def test_normalise_matches_numpy(name, clipped):
    image, limits = IMAGES[name], RANGES[name]
    expected = image.astype(np.float32).astype(np.float64)
    if clipped:
        expected = np.minimum(np.maximum(expected, limits[0]), limits[1])
    expected = (expected - expected.mean()) / expected.std()
    normalised = normalise(image, limits if clipped else None)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, atol=1e-5)


def test_normalise_is_over_all_channels_together():
    image = np.zeros((4, 5, 2))
    image[..., 1] = 1
    np.testing.assert_array_equal(normalise(image)[..., 0], -1)
    np.testing.assert_array_equal(normalise(image)[..., 1], 1)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("clipped", [False, True])
def test_normalise_per_channel_is_normalise_of_each_channel(name, clipped):
    image, limits = IMAGES[name], RANGES[name] if clipped else None
    image = np.concatenate([image, 3 * image[..., :1] + 7], -1)
    normalised = normalise(image, limits, per_channel=True)
    assert normalised.dtype == np.float32
    for channel in range(image.shape[-1]):
        expected = normalise(image[..., channel : channel + 1], limits)
        np.testing.assert_allclose(normalised[..., channel : channel + 1], expected, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_normalise_takes_away_gain_and_offset(gain, offset):
    image = np.random.default_rng([8, 0]).normal(size=(9, 8, 3))
    np.testing.assert_allclose(normalise(gain * image + offset), normalise(image), atol=5e-3)


@pytest.mark.parametrize("value", [0, 7, 0.1, -1e6])
def test_constant_image_is_refused(value):
    shown = np.float32(value)
    message = f"an image is {shown} everywhere, so its z-score is undefined"
    with pytest.raises(ValueError, match=re.escape(message)):
        normalise(np.full((33, 35, 3), value))


@pytest.mark.parametrize("channel", [0, 2])
def test_constant_channel_is_refused_by_number(channel):
    image = np.random.default_rng([9, 1]).normal(size=(5, 6, 3))
    image[..., channel] = 4
    normalise(image)
    message = (
        f"channel {channel} (counted from 0) of an image is 4.0 everywhere, so its z-score is un"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        normalise(image, per_channel=True)


def test_image_constant_after_clipping_is_refused():
    air = np.random.default_rng([9, 0]).integers(-1024, -900, (6, 6, 6, 1))
    message = (
        "an image is -79.0 everywhere after clipping to (-79.0, 304.0), so its z-score is undef"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        normalise(air, (-79.0, 304.0))


@pytest.mark.parametrize(
    "spec, native, size",
    [
        (PHANTOM, (40, 50), (16, 24)),
        (PHANTOM, (10, 20), (16, 24)),
        (PHANTOM_3D, (9, 14, 12), (8, 8, 8)),
    ],
)
def test_network_image_is_resized_then_clipped_then_normalised(spec, native, size):
    rng = np.random.default_rng([10, len(size)])
    image = rng.normal(0, 400, (*native, spec.channels)).astype(np.float32)
    expected = oracles.resize(image, size)
    if spec.intensity_range is not None:
        expected = np.clip(expected, *spec.intensity_range)
    expected = (expected - expected.mean()) / expected.std()
    prepared = network_image(spec, image, size)
    assert prepared.dtype == np.float32 and prepared.shape == (*size, spec.channels)
    np.testing.assert_allclose(prepared, expected, atol=1e-5)
    # The other order is another image.
    assert np.abs(oracles.resize(normalise(image, spec.intensity_range), size) - expected).max() > 1


def test_network_image_follows_the_specs_choice_of_z_score():
    image = np.random.default_rng([13, 0]).normal((1, 50, 900), (1, 5, 20), (20, 20, 3))
    each = dataclasses.replace(PHANTOM, per_channel=True)
    assert np.abs(network_image(each, image, (16, 16)).mean((0, 1))).max() < 1e-6
    np.testing.assert_allclose(network_image(each, image, (16, 16)).std((0, 1)), 1, atol=1e-6)
    assert np.ptp(network_image(PHANTOM, image, (16, 16)).mean((0, 1))) > 1
