"""Corruptions against closed forms, and what every one of them keeps."""

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from dicepp_jax.corruptions import CORRUPTIONS, MOST, corrupt

SEVERITIES = range(1, MOST + 1)


def smooth(seed, shape):
    """A random image `shape` between 0 and 1, with the large structures of a photograph."""
    drawn = np.random.default_rng(seed).random(shape)
    image = ndimage.gaussian_filter(drawn, (*[3.0] * (len(shape) - 1), 0), mode="wrap")
    return (image - image.min()) / np.ptp(image)


IMAGES = {
    "colour": (220 * smooth(0, (240, 200, 3)) + 10).astype(np.uint8),
    "grey": (220 * smooth(1, (240, 200, 1)) + 10).astype(np.uint8),
    "16 bits": (4000 * smooth(2, (240, 200, 1))).astype(np.uint16),
    "CT": (1500 * smooth(3, (2, 240, 200, 1)) - 1000).astype(np.int16),
    "MR": (smooth(4, (2, 240, 200, 2)) * [1.0, 50.0]).astype(np.float32),
}


@dataclasses.dataclass
class How:
    """How an image of each kind is corrupted."""

    intensity_range: tuple[float, float] | None = None
    per_channel: bool = False


HOW = {"CT": How(intensity_range=(-700, 300)), "MR": How(per_channel=True)}


def corrupted(kind, name, severity, case="case"):
    how = HOW.get(kind, How())
    return corrupt(IMAGES[kind], name, severity, case, **dataclasses.asdict(how))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("kind", IMAGES)
def test_shape_dtype_and_range_are_kept_and_equal_calls_give_equal_bits(kind, name):
    image = IMAGES[kind]
    before = image.copy()
    state = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(corrupted(kind, name, 0), image)
    for severity in SEVERITIES:
        found = corrupted(kind, name, severity)
        assert (found.shape, found.dtype) == (image.shape, image.dtype)
        if image.dtype != np.uint8:
            spatial = tuple(range(image.ndim - 1))
            assert (found.min(spatial) >= image.min(spatial)).all()
            assert (found.max(spatial) <= image.max(spatial)).all()
        assert (found != image).any()
        np.testing.assert_array_equal(found, corrupted(kind, name, severity))
        depends = (found != corrupted(kind, name, severity, "other")).any()
        assert depends == (name == "noise")
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("name", CORRUPTIONS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), channels=st.sampled_from([1, 3]))
def test_the_distance_from_the_image_grows_with_severity(name, seed, channels):
    image = (255 * smooth(seed, (224, 200, channels))).astype(np.uint8)
    far = [
        np.square(corrupt(image, name, severity, "a").astype(float) - image).mean() ** 0.5
        for severity in (0, *SEVERITIES)
    ]
    # A quality of JPEG is no distance: a few of its steps may be smaller than noise.
    assert all(np.diff(far) > (-0.5 if name == "jpeg" else 0)), far
    assert far[-1] > 2


@given(severity=st.integers(1, MOST), seed=st.integers(0, 2**16), channels=st.sampled_from([1, 3]))
def test_contrast_and_brightness_have_closed_forms(severity, seed, channels):
    image = np.random.default_rng(seed).integers(0, 256, (9, 7, channels), np.uint8)
    x = image.astype(np.float64)
    factor = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = x.mean((0, 1))
    contrast = corrupt(image, "contrast", severity, "a")
    np.testing.assert_allclose(contrast, mean + factor * (x - mean), atol=0.501)
    share = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    brighter = corrupt(image, "brightness", severity, "a")
    np.testing.assert_allclose(brighter, np.minimum(x + share * 255, 255), atol=0.501)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_its_deviation_and_no_mean(severity):
    share = (0.04, 0.06, 0.09, 0.13, 0.19)[severity - 1]
    image = np.zeros((200, 200, 1), np.float32)
    image[0, :2, 0] = -2000, 2000  # So that nothing is clipped.
    found = corrupt(image, "noise", severity, "a", intensity_range=(-100, 300))[1:] / 400
    # Five standard errors of the mean and of the deviation.
    assert abs(found.mean()) < 5 * share / found.size**0.5
    assert abs(found.std() - share) < 5 * share / (2 * found.size) ** 0.5


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), severity=st.integers(1, MOST))
def test_blur_keeps_the_mean(seed, severity):
    image = np.random.default_rng(seed).normal(0, 1, (150, 120, 2)).astype(np.float32)
    found = corrupt(image, "blur", severity, "a")
    np.testing.assert_allclose(found.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    assert (found.std((0, 1)) < image.std((0, 1))).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_point_is_blurred_to_a_gaussian_of_its_slice(severity):
    sides = 224, 300
    volume = np.zeros((3, *sides, 1), np.float32)
    volume[1, 112, 150] = 1
    found = corrupt(volume, "blur", severity, "a")[..., 0]
    assert not found[[0, 2]].any()
    # Half of ImageNet-C's deviation at 224 pixels.
    sigma = (1, 2, 3, 4, 6)[severity - 1] / 2
    for axis, (centre, length) in enumerate(zip((112, 150), sides, strict=True)):
        share = found[1].astype(np.float64).sum(1 - axis)
        expected = np.exp(-((np.arange(length) - centre) ** 2) / (2 * sigma**2))
        np.testing.assert_allclose(share, expected / expected.sum(), atol=1e-4)


def through_jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_jpeg_is_that_of_each_slice_scaled_to_8_bits():
    np.testing.assert_array_equal(
        corrupted("colour", "jpeg", 4), through_jpeg(IMAGES["colour"], 10)
    )
    found = corrupted("CT", "jpeg", 1)
    for image, decoded in zip(IMAGES["CT"][..., 0], found[..., 0], strict=True):
        eight = np.rint(np.clip((image + 700) / 1000, 0, 1) * 255).astype(np.uint8)
        expected = through_jpeg(eight, 25) / 255 * 1000 - 700
        np.testing.assert_allclose(decoded, expected, atol=0.501)
    found = corrupted("MR", "jpeg", 2)
    for channel in range(2):
        image = IMAGES["MR"][..., channel]
        low, high = np.percentile(image, (0.5, 99.5))
        eight = np.rint(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        expected = low + np.stack([through_jpeg(s, 18) for s in eight]) / 255 * (high - low)
        np.testing.assert_allclose(found[..., channel], expected, rtol=1e-4, atol=1e-4)


def test_channels_with_limits_of_their_own_are_no_colours():
    image = IMAGES["colour"]
    other = image.copy()
    other[..., 0] = 255 - other[..., 0]
    apart = [corrupt(x, "jpeg", 3, "a", per_channel=True)[..., 1:] for x in (image, other)]
    np.testing.assert_array_equal(*apart)
    colours = [corrupt(x, "jpeg", 3, "a")[..., 1:] for x in (image, other)]
    assert (colours[0] != colours[1]).any()


def test_a_volume_that_is_mostly_background_has_limits():
    volume = np.zeros((4, 40, 40, 1), np.float32)
    volume[0, 0, :8, 0] = np.arange(8)
    for name in CORRUPTIONS:
        assert np.isfinite(corrupt(volume, name, 3, "a")).all()
    brighter = corrupt(volume, "brightness", 1, "a")
    np.testing.assert_allclose(brighter[1], 0.7, rtol=1e-6)


def test_noise_is_the_same_everywhere():
    """Against what was drawn when it was written; NumPy has frozen the generator's stream."""
    image = np.full((2, 3, 1), 128, np.uint8)
    assert corrupt(image, "noise", 1, "01_test").ravel().tolist() == [125, 135, 113, 125, 135, 118]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fog", 1), "the corruption is 'fog'; known: blur, noise, contrast, brightness, jpeg"),
        (("blur", 6), "the severity is 6; it must be 0 to 5"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(IMAGES["grey"], *arguments, "a")
    with pytest.raises(ValueError, match=r"shape \(240, 200\), expected two or three spatial axes"):
        corrupt(IMAGES["grey"][..., 0], "blur", 1, "a")
