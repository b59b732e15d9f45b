"""Prediction against float64 NumPy: windows, weights, mirroring and resizing to the grid."""

import dataclasses
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from dicepp_jax.data.specs import PHANTOM, PHANTOM_3D
from dicepp_jax.inference import (
    WEIGHTINGS,
    Windows,
    axis_windows,
    make_predict,
    mirrored,
    sliding_window,
    tempered,
)
from dicepp_jax.preprocess import network_image, normalise

PATCHES = {
    2: dataclasses.replace(PHANTOM, patches=True),
    3: dataclasses.replace(PHANTOM_3D, patches=True),
}


def random_volume(*shape):
    return np.random.default_rng([1, *shape]).normal(size=shape).astype(np.float32)


def placed(windows):
    """Two classes by the pixel and its position in the window, so that every weight matters."""
    spatial = windows.shape[1:-1]
    ramp = sum(i * x for i, x in enumerate(np.indices(spatial), 1)) / sum(spatial)
    p = expit(windows[..., 0] + ramp - 1)
    return np.stack([1 - p, p], -1)


@given(st.data())
def test_windows_cover_an_axis_and_their_weights_sum_to_1(data):
    window = data.draw(st.integers(1, 40), "window")
    overlap = data.draw(st.integers(0, window - 1), "overlap")
    length = data.draw(st.integers(window, 200), "length")
    weighting = data.draw(st.sampled_from(sorted(WEIGHTINGS)), "weighting")
    windows = axis_windows(length, window, overlap, weighting)
    starts = [place.start for place, _ in windows]
    assert starts == oracles.window_starts(length, window, overlap)
    total = np.zeros(length)
    for place, weights in windows:
        assert weights.shape == (window,) and weights.dtype == np.float32 and (weights > 0).all()
        total[place] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2, 7, 80, 160])
def test_gaussian_weights(window):
    weights = WEIGHTINGS["gaussian"](window)
    np.testing.assert_allclose(weights, oracles.window_weights((window,), "gaussian"))
    np.testing.assert_array_equal(weights, weights[::-1])
    assert weights.max() <= 1 and weights.min() > np.exp(-8)
    assert weights.argmax() == (window - 1) // 2


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(
    "shape, window, overlap",
    [
        ((61, 87, 33), (24, 40, 16), (12, 20, 8)),
        ((61, 87, 33), (20, 29, 33), (0, 0, 0)),
        ((9, 11, 10), (4, 5, 6), (3, 1, 2)),
        ((5, 20, 9), (8, 8, 12), (4, 4, 6)),
        ((3, 4, 5), (8, 9, 10), (4, 4, 5)),
        ((8, 8, 8), (8, 8, 8), (4, 4, 4)),
        ((61, 33), (16, 24), (8, 12)),
        ((7, 40), (16, 16), (0, 15)),
        ((1, 1), (4, 6), (2, 3)),
    ],
)
def test_any_size_and_rank(shape, window, overlap, weighting):
    volume = random_volume(*shape, 2)
    probs = sliding_window(placed, volume, window, overlap, 2, weighting)
    expected = oracles.sliding_window(placed, volume, window, overlap, weighting)
    assert probs.shape == (*shape, 2) and probs.dtype == np.float32
    np.testing.assert_allclose(probs, expected, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_windows(data):
    sides = st.tuples(*[st.integers(1, 12)] * 2)
    shape, window = data.draw(sides, "shape"), data.draw(sides, "window")
    overlap = tuple(data.draw(st.integers(0, n - 1), "overlap") for n in window)
    weighting = data.draw(st.sampled_from(sorted(WEIGHTINGS)), "weighting")
    volume = random_volume(*shape, 1)
    probs = sliding_window(placed, volume, window, overlap, 2, weighting, batch_size=3)
    expected = oracles.sliding_window(placed, volume, window, overlap, weighting)
    np.testing.assert_allclose(probs, expected, atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_constant_is_preserved(weighting):
    constant = np.array([0.2, 0.7, 0.1], np.float32)

    def forward(windows):
        return np.broadcast_to(constant, (*windows.shape[:-1], 3))

    probs = sliding_window(forward, random_volume(23, 9, 31, 1), (8, 8, 8), (5, 4, 1), 3, weighting)
    np.testing.assert_allclose(probs - constant, 0, atol=3e-7)


def test_batches_have_the_same_shape_and_change_nothing():
    volume = random_volume(13, 10, 7, 1)
    seen = []

    def forward(windows):
        seen.append(windows.shape)
        return placed(windows)

    whole = sliding_window(forward, volume, (6, 4, 4), (3, 2, 1), 2, "gaussian")
    assert set(seen) == {(1, 6, 4, 4, 1)} and len(seen) == 4 * 4 * 2
    for batch_size in (2, 3, 7, 50):
        seen.clear()
        probs = sliding_window(forward, volume, (6, 4, 4), (3, 2, 1), 2, "gaussian", batch_size)
        np.testing.assert_array_equal(probs, whole)
        assert seen == [(batch_size, 6, 4, 4, 1)] * -(-32 // batch_size)


def test_a_small_volume_is_padded_at_both_ends_with_its_minimum():
    volume = random_volume(5, 3, 2)
    seen = []

    def forward(windows):
        seen.append(windows[0])
        return placed(windows)

    sliding_window(forward, volume, (8, 3), (4, 1), 2)
    (window,) = seen
    np.testing.assert_array_equal(window[1:6], volume)
    np.testing.assert_array_equal(np.delete(window, range(1, 6), axis=0), volume.min())


def test_memory_is_bounded_by_the_result_and_a_few_windows():
    volume = random_volume(72, 72, 72, 1)
    window, classes = (16, 16, 16), 8

    def forward(windows):
        return np.zeros((*windows.shape[:-1], classes), np.float32)

    tracemalloc.start()
    try:
        probs = sliding_window(forward, volume, window, (12, 12, 12), classes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All 15**3 windows together would take 37 times as much as the result.
    assert peak - probs.nbytes < 0.4 * probs.nbytes


KERNEL = np.random.default_rng(2).normal(size=(3, 3, 3, 2, 3)).astype(np.float32)


@jax.jit
def convolve(images):
    """One layer that sees the neighbours of a voxel, with zeros beyond the border."""
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    logits = jax.lax.conv_general_dilated(
        images, jnp.asarray(KERNEL), (1, 1, 1), "SAME", dimension_numbers=dimensions
    )
    return jax.nn.softmax(logits)


def near_an_edge(shape, window, overlap):
    """Voxels at the edge of some window, except at the border of the volume."""
    edges = np.zeros(shape, bool)
    for axis, (length, n, shared) in enumerate(zip(shape, window, overlap, strict=True)):
        line = np.moveaxis(edges, axis, 0)
        for start in oracles.window_starts(length, n, shared):
            line[start] |= start > 0
            line[start + n - 1] |= start + n < length
    return edges


def test_stitching_equals_a_full_pass_where_windows_contain_the_receptive_field():
    shape, window, overlap = (21, 30, 25), (12, 16, 14), (6, 8, 7)
    volume = random_volume(*shape, 2)
    full = np.asarray(convolve(volume[None]))[0]
    edges = near_an_edge(shape, window, overlap)
    assert 0.4 < edges.mean() < 0.6
    errors = {}
    for weighting in WEIGHTINGS:
        probs = sliding_window(convolve, volume, window, overlap, 3, weighting)
        np.testing.assert_allclose(probs[~edges], full[~edges], atol=1e-6)
        errors[weighting] = np.abs(probs - full)[edges].mean()
    # Elsewhere the edges of windows are visible, and less so if their weight is small.
    assert 1e-4 < errors["gaussian"] < errors["uniform"] / 10


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_stitching_equals_a_full_pass_everywhere_for_a_pointwise_network(weighting):
    def forward(images):
        return oracles.softmax(images.astype(np.float64) @ KERNEL[1, 1, 1]).astype(np.float32)

    volume = random_volume(61, 87, 33, 2)
    probs = sliding_window(forward, volume, (32, 32, 32), (16, 16, 16), 3, weighting)
    np.testing.assert_allclose(probs, forward(volume[None])[0], atol=5e-7)


@pytest.mark.parametrize("shape", [(2, 5, 6, 2), (1, 4, 5, 3, 2)])
def test_mirroring_is_the_mean_over_all_flips(shape):
    images, calls = random_volume(*shape), []

    def forward(images):
        calls.append(images.shape)
        return placed(images)

    probs = mirrored(forward)(images)
    assert calls == [shape] * 2 ** (len(shape) - 2)
    np.testing.assert_allclose(probs, oracles.mirrored(placed, images), atol=1e-6)
    assert np.abs(probs - placed(images)).max() > 0.01


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"overlap": (4, 8)}, r"the overlap is \(4, 8\) and the window \(8, 8\); give an overlap"),
        ({"overlap": (4, -1)}, r"the overlap is \(4, -1\).*at least 0 and less than the window"),
        ({"overlap": (4,)}, r"the overlap is \(4,\).*for each axis"),
        ({"weighting": "hann"}, "the weighting is 'hann'; known: uniform, gaussian"),
        ({"batch_size": 0}, "the batch size is 0; it must be at least 1"),
        ({"volume": np.zeros((9, 9))}, r"shape \(9, 9\), expected 2 spatial axes.*one of channels"),
        (
            {"num_classes": 3},
            r"returned shape \(1, 8, 8, 2\) for windows of shape \(1, 8, 8, 1\), exp",
        ),
    ],
)
def test_invalid_arguments_are_refused(changed, message):
    arguments = {
        "volume": random_volume(9, 12, 1),
        "window": (8, 8),
        "overlap": (4, 4),
        "num_classes": 2,
    }
    with pytest.raises(ValueError, match=message):
        sliding_window(placed, **arguments | changed)


def test_make_predict_refuses_invalid_windows():
    with pytest.raises(ValueError, match=r"the overlap is \(9, 4, 4\) and the window \(8, 8, 8\)"):
        make_predict(
            lambda params, x: x, {}, PATCHES[3], (8, 8, 8), windows=Windows(overlap=(9, 4, 4))
        )


def stored_image(spec, shape):
    rng = np.random.default_rng([3, *shape])
    low, high = (0, 255) if spec.dtype == "uint8" else (-300, 700)  # Beyond the clipping range.
    return rng.integers(low, high, (*shape, spec.channels)).astype(spec.dtype)


def placed_network(num_classes):
    """Logits by the pixel and its position in the image; in JAX, and their softmax in float64."""

    def logits(images, gain, library):
        spatial = images.shape[1:-1]
        ramp = sum(np.indices(spatial)) / sum(spatial)
        position = ramp[None, ..., None] * np.arange(num_classes)
        pixel = [3 * images[..., 0], images[..., -1], -images[..., 0]][:num_classes]
        return gain * library.stack(pixel, -1) + library.asarray(position)

    def apply(params, images):
        return logits(images, params["gain"], jnp)

    def forward(images):
        return oracles.softmax(logits(images.astype(np.float64), 0.5, np))

    return apply, forward


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(
    "spec, native, size",
    [
        (PHANTOM, (30, 21), (16, 16)),
        (PHANTOM, (9, 11), (16, 24)),
        (PHANTOM, (16, 24), (16, 24)),
        (PHANTOM_3D, (7, 10, 9), (8, 8, 4)),
    ],
)
def test_a_whole_image_is_resized_and_its_prediction_resized_back(spec, native, size, mirror):
    apply, forward = placed_network(len(spec.classes))
    image = stored_image(spec, native)
    windows = Windows(mirror=mirror)
    predict = make_predict(apply, {"gain": jnp.float32(0.5)}, spec, size, windows=windows)
    images = network_image(spec, image, size)[None]
    (expected,) = oracles.mirrored(forward, images) if mirror else forward(images)
    # The second grid is like that of a volume that is stored resampled.
    for grid in (native, tuple(n + 3 for n in native)):
        probs = predict(image, grid)
        assert probs.shape == (*grid, len(spec.classes)) and probs.dtype == np.float32
        np.testing.assert_allclose(probs, oracles.resize(expected, grid), atol=1e-5)
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)


def test_a_whole_image_of_the_input_size():
    image = stored_image(PHANTOM, (16, 16))
    predict = make_predict(lambda params, x: params * x[..., :2], 2.0, PHANTOM, (16, 16))
    z = 2 * network_image(PHANTOM, image, (16, 16)).astype(np.float64)
    probs = predict(image, (16, 16))
    np.testing.assert_allclose(probs[..., 1], expit(z[..., 1] - z[..., 0]), atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(
    "ndim, stored, size, overlap",
    [
        (2, (29, 12), (8, 16), None),
        (3, (13, 7, 11), (6, 8, 4), (1, 5, 3)),
    ],
)
def test_a_volume_is_normalised_whole_and_predicted_by_windows(
    ndim, stored, size, overlap, mirror, weighting
):
    spec = PATCHES[ndim]
    apply, forward = placed_network(len(spec.classes))
    image = stored_image(spec, stored)
    windows = Windows(overlap, weighting, batch_size=3, mirror=mirror)
    predict = make_predict(apply, {"gain": np.float32(0.5)}, spec, size, windows=windows)
    expected = oracles.sliding_window(
        (lambda images: oracles.mirrored(forward, images)) if mirror else forward,
        normalise(image, spec.intensity_range, spec.per_channel),
        size,
        overlap or tuple(n // 2 for n in size),
        weighting,
    )
    for native in (stored, tuple(2 * n - 3 for n in stored)):
        probs = predict(image, native)
        assert probs.shape == (*native, len(spec.classes)) and probs.dtype == np.float32
        np.testing.assert_allclose(probs, oracles.resize(expected, native), atol=1e-5)


def test_volumes_of_all_sizes_share_one_compilation():
    traced = []

    def apply(params, images):
        traced.append(images.shape)
        return params * jnp.concatenate([images, -images, 0 * images], -1)

    for mirror in (False, True):
        windows = Windows(weighting="gaussian", batch_size=4, mirror=mirror)
        predict = make_predict(apply, 2.0 + mirror, PATCHES[3], (8, 8, 8), windows=windows)
        for shape in ((61, 9, 33), (8, 8, 8), (5, 20, 3), (17, 16, 8)):
            assert predict(stored_image(PHANTOM_3D, shape), shape).shape == (*shape, 3)
        # Another network with the same layers does not need one either.
        assert traced == [(4, 8, 8, 8, 1)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.7])
def test_temperature_divides_logits(temperature):
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, (5, 6, 3))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    scaled = tempered(lambda image, native: probs.astype(np.float32), temperature)
    expected = np.exp(logits / temperature)
    expected /= expected.sum(-1, keepdims=True)
    found = scaled(np.zeros((5, 6, 1)), (5, 6))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_temperature_of_certain_predictions_is_finite():
    probs = np.array([[0, 1], [1e-9, 1]], np.float32)
    found = tempered(lambda image, native: probs, 2.0)(np.zeros(1), (2,))
    np.testing.assert_allclose(found[:, 0], 1e-7**0.5 / (1 + 1e-7**0.5), rtol=1e-5)
    assert probs[0, 0] == 0
