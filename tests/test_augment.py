"""Augmentation against SciPy and NumPy in float64, and its sampling against the distributions."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from dicepp_jax.augment import (
    augment,
    brightness,
    draw,
    elastic_displacement,
    mirror,
    rotation_matrix,
    smooth_noise,
    warp,
)

OFF: dict[str, Any] = {
    "p_mirror": 0.0,
    "p_brightness": 0.0,
    "p_elastic": 0.0,
    "p_rotate": 0.0,
    "p_scale": 0.0,
}
ON: dict[str, Any] = dict.fromkeys(OFF, 1.0)
SHAPES = [(24, 31, 3), (10, 15, 12, 2)]
DRAWS = 4000

# Compiled once and used by several tests.
augment_on = jax.jit(partial(augment, **ON))


def sample(shape, seed=0, classes=4):
    rng = np.random.default_rng([seed, len(shape)])
    image = rng.normal(size=shape).astype(np.float32)
    label = rng.integers(0, classes, shape[:-1]).astype(np.int32)
    return jnp.asarray(image), jnp.asarray(label)


def ball(size, ndim, radius, centre=None):
    grid = np.indices((size,) * ndim) - (size - 1) / 2
    shift = np.zeros(ndim) if centre is None else np.asarray(centre)
    distance = np.sqrt(((grid - shift.reshape(-1, *(1,) * ndim)) ** 2).sum(0))
    label = jnp.asarray((distance <= radius).astype(np.int32))
    return label[..., None].astype(jnp.float32), label


def oracle_coordinates(shape, displacement, matrix):
    centre = ((np.array(shape) - 1) / 2).reshape(-1, *(1,) * len(shape))
    offset = np.indices(shape) - centre + np.asarray(displacement, np.float64)
    return centre + np.einsum("ij,j...->i...", np.asarray(matrix, np.float64), offset)


def assert_matches_oracle(warped, warped_label, image, label, coordinates):
    """Compare with SciPy; a label is compared where rounding cannot change its nearest voxel."""
    image = np.asarray(image, np.float64)
    channels = [
        ndimage.map_coordinates(image[..., c], coordinates, order=1, mode="grid-constant")
        for c in range(image.shape[-1])
    ]
    np.testing.assert_allclose(warped, np.stack(channels, -1), atol=2e-4)
    nearest = ndimage.map_coordinates(np.asarray(label), coordinates, order=0, mode="grid-constant")
    clear = (np.abs(coordinates % 1 - 0.5) > 1e-3).all(0)
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(np.asarray(warped_label)[clear], nearest[clear])


@pytest.mark.parametrize("shape", SHAPES)
def test_warp_matches_scipy(shape):
    image, label = sample(shape)
    ndim = label.ndim
    rng = np.random.default_rng([1, ndim])
    displacement = rng.normal(scale=2.0, size=(ndim, *label.shape)).astype(np.float32)
    matrix = (np.eye(ndim) + rng.normal(scale=0.2, size=(ndim, ndim))).astype(np.float32)
    result = jax.jit(warp)(image, label, jnp.asarray(displacement), jnp.asarray(matrix))
    coordinates = oracle_coordinates(label.shape, displacement, matrix)
    assert_matches_oracle(*result, image, label, coordinates)


@pytest.mark.parametrize("shape", [(24, 31, 3), (17, 8, 1), (10, 15, 12, 2)])
def test_warp_without_deformation_is_exactly_the_identity(shape):
    image, label = sample(shape)
    zero = jnp.zeros((label.ndim, *label.shape))
    warped, warped_label = jax.jit(warp)(image, label, zero, jnp.eye(label.ndim))
    np.testing.assert_array_equal(warped, image)
    np.testing.assert_array_equal(warped_label, label)


@pytest.mark.parametrize("ndim", [2, 3])
def test_outside_is_zero_in_image_and_label(ndim):
    size = 21
    image, label = jnp.ones((size,) * ndim + (2,)), jnp.ones((size,) * ndim, jnp.uint8)
    zero = jnp.zeros((ndim, *label.shape))
    warped, warped_label = warp(image, label, zero, 1.25 * jnp.eye(ndim))
    # The coordinates 10 + 1.25 (i - 10) lie inside [0, 20] only for i from 2 to 18.
    within = np.zeros(label.shape)
    within[(slice(2, 19),) * ndim] = 1
    np.testing.assert_array_equal(warped, np.stack([within] * 2, -1))
    np.testing.assert_array_equal(warped_label, within)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scale", [0.85, 1.25])
def test_scale_above_one_shrinks_the_object(ndim, scale):
    image, label = ball(41, ndim, 12)
    zero = jnp.zeros((ndim, *label.shape))
    warped, warped_label = warp(image, label, zero, scale * jnp.eye(ndim))
    expected = float(label.sum()) / scale**ndim
    assert float(warped_label.sum()) == pytest.approx(expected, rel=0.05)
    assert float(warped.sum()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("shape", [(300,), (64, 40), (20, 70, 33)])
@pytest.mark.parametrize("sigma", [0.7, 9.0, 13.0])
def test_smoothing_matches_scipy(shape, sigma):
    rng = np.random.default_rng([2, len(shape)])
    noise = rng.uniform(-1, 1, (2, *shape)).astype(np.float32)
    smoothed = jax.jit(smooth_noise)(noise, jnp.float32(sigma))
    for field, result in zip(noise.astype(np.float64), smoothed, strict=True):
        expected = ndimage.gaussian_filter(field, sigma, mode="constant", truncate=4)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=5e-7)


def test_elastic_displacement_is_alpha_times_smoothing():
    noise = np.random.default_rng([3, 0]).uniform(-1, 1, (2, 50, 60))
    result = elastic_displacement(jnp.asarray(noise, jnp.float32), 700.0, 10.0)
    smoothed = [ndimage.gaussian_filter(field, 10.0, mode="constant") for field in noise]
    np.testing.assert_allclose(result, 700.0 * np.stack(smoothed), rtol=1e-4, atol=5e-4)


ANGLES = st.floats(-3.125, 3.125, width=32)


@settings(max_examples=30, deadline=None)
@given(ANGLES)
def test_rotation_2d_matches_scipy(angle):
    matrix = rotation_matrix(jnp.array([angle]))
    expected = Rotation.from_euler("z", angle).as_matrix()[:2, :2]
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.tuples(ANGLES, ANGLES, ANGLES))
def test_rotation_3d_is_orthogonal_and_composes_as_documented(angles):
    matrix = rotation_matrix(jnp.array(angles))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    assert float(jnp.linalg.det(matrix)) == pytest.approx(1.0, abs=1e-5)
    # Upper case means intrinsic in SciPy: R_x R_y R_z, with x, y, z the axes 0, 1, 2.
    expected = Rotation.from_euler("XYZ", angles).as_matrix()
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_quarter_turn_is_rot90_in_2d():
    image, label = sample((15, 15, 2))
    matrix = rotation_matrix(jnp.array([np.pi / 2]))
    warped, warped_label = warp(image, label, jnp.zeros((2, 15, 15)), matrix)
    np.testing.assert_allclose(warped, np.rot90(image, -1), atol=1e-4)
    np.testing.assert_array_equal(warped_label, np.rot90(label, -1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quarter_turn_about_each_axis_is_rot90_in_3d(axis):
    image, label = sample((9, 9, 9, 1))
    matrix = rotation_matrix(jnp.zeros(3).at[axis].set(np.pi / 2))
    warped, warped_label = warp(image, label, jnp.zeros((3, 9, 9, 9)), matrix)
    plane = ((axis + 1) % 3, (axis + 2) % 3)
    np.testing.assert_allclose(warped, np.rot90(image, -1, plane), atol=1e-4)
    np.testing.assert_array_equal(warped_label, np.rot90(label, -1, plane))


@pytest.mark.parametrize("shape", SHAPES)
def test_mirror_is_numpy_flip(shape):
    image, label = sample(shape)
    for flips in np.ndindex((2,) * label.ndim):
        axes = tuple(np.flatnonzero(flips))
        mirrored, mirrored_label = jax.jit(mirror)(image, label, jnp.array(flips, bool))
        np.testing.assert_array_equal(mirrored, np.flip(image, axes))
        np.testing.assert_array_equal(mirrored_label, np.flip(label, axes))


def test_brightness_multiplies_channels():
    image, _ = sample((6, 5, 3))
    factors = np.array([0.5, 1.0, 1.75], np.float32)
    np.testing.assert_allclose(
        brightness(image, jnp.asarray(factors)), np.asarray(image) * factors, rtol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtypes", [(jnp.float32, jnp.int32), (jnp.bfloat16, jnp.uint8)])
def test_probability_zero_is_exactly_the_identity(shape, dtypes):
    image, label = (array.astype(dtype) for array, dtype in zip(sample(shape), dtypes, strict=True))
    result, result_label = jax.jit(partial(augment, **OFF))(jax.random.key(0), image, label)
    assert (result.dtype, result_label.dtype) == dtypes
    np.testing.assert_array_equal(result, image)
    np.testing.assert_array_equal(result_label, label)


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_on_keeps_dtypes_and_label_values(shape):
    dtypes = (jnp.bfloat16, jnp.uint8)
    image, label = (array.astype(dtype) for array, dtype in zip(sample(shape), dtypes, strict=True))
    label = jnp.where(label == 1, 100, label)
    result, result_label = augment_on(jax.random.key(1), image, label)
    assert (result.dtype, result_label.dtype) == dtypes
    assert (result.shape, result_label.shape) == (image.shape, label.shape)
    assert set(np.unique(result_label)) <= {0, 2, 3, 100}
    assert np.isfinite(np.asarray(result, np.float32)).all()
    assert (result_label != label).mean() > 0.3


@pytest.mark.parametrize("part", ["p_elastic", "p_rotate", "p_scale"])
def test_each_transform_of_the_warp_works_alone(part):
    image, label = sample((16, 17, 2))
    alone = jax.jit(partial(augment, **(OFF | {part: 1.0})))
    result, result_label = alone(jax.random.key(2), image, label)
    assert (result != image).mean() > 0.9
    assert (result_label != label).mean() > 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_augment_composes_its_transforms_in_the_documented_order(shape, seed):
    image, label = sample(shape, seed)
    ndim = label.ndim
    key = jax.random.key(seed)
    draw_key, noise_key = jax.random.split(key)
    params = draw(draw_key, ndim, shape[-1], **ON)
    noise = jax.random.uniform(noise_key, (ndim, *label.shape), minval=-1.0, maxval=1.0)
    alpha, sigma, scale = float(params.alpha), float(params.sigma), float(params.scale)
    displacement = alpha * np.stack(
        [ndimage.gaussian_filter(f, sigma, mode="constant") for f in np.asarray(noise, np.float64)]
    )
    angles = np.asarray(params.angles, np.float64)
    matrix = Rotation.from_euler("XYZ" if ndim == 3 else "Z", angles).as_matrix()[:ndim, :ndim]
    axes = tuple(np.flatnonzero(params.flips))
    assert axes == tuple(range(ndim))
    expected = np.flip(np.asarray(image), axes) * np.asarray(params.factors)
    coordinates = oracle_coordinates(label.shape, displacement, scale * matrix)
    result = augment_on(key, image, label)
    assert_matches_oracle(*result, expected, np.flip(label, axes), coordinates)


@pytest.mark.parametrize("ndim", [2, 3])
def test_image_and_label_move_together(ndim):
    image, label = ball(41, ndim, 9, centre=(4, -3, 2)[:ndim])
    augmented = jax.jit(partial(augment, **(ON | {"p_mirror": 0.5, "p_brightness": 0.0})))
    for seed in range(5):
        moved, moved_label = augmented(jax.random.key(seed), image, label)
        mask, moved_mask = np.asarray(moved[..., 0] > 0.5), np.asarray(moved_label == 1)
        dice = 2 * (mask & moved_mask).sum() / (mask.sum() + moved_mask.sum())
        assert dice > 0.97
        assert (moved_mask != np.asarray(label == 1)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_same_key_same_result(shape):
    image, label = sample(shape)
    first, again, other = (augment_on(jax.random.key(seed), image, label) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_jit_matches_eager(shape):
    image, label = sample(shape)
    key = jax.random.key(3)
    eager, eager_label = augment(key, image, label, **ON)
    jitted, jitted_label = augment_on(key, image, label)
    np.testing.assert_allclose(jitted, eager, atol=2e-4)
    assert (jitted_label == eager_label).mean() > 0.999


def test_vmap_matches_a_loop():
    shape, count = SHAPES[0], 12
    images, labels = map(np.stack, zip(*(sample(shape, i) for i in range(count)), strict=True))
    keys = jax.random.split(jax.random.key(0), count)
    augmented = partial(augment, p_mirror=0.0, p_brightness=0.0)
    batch, batch_labels = map(np.asarray, jax.jit(jax.vmap(augmented))(keys, images, labels))
    single = jax.jit(augmented)
    moved = []
    for i in range(count):
        one, one_label = map(np.asarray, single(keys[i], images[i], labels[i]))
        np.testing.assert_allclose(batch[i], one, atol=2e-4)
        assert (batch_labels[i] == one_label).mean() > 0.999
        moved.append(bool((one != images[i]).any()))
    assert set(moved) == {True, False}


@pytest.fixture(scope="module", params=[2, 3])
def defaults(request):
    keys = jax.random.split(jax.random.key(11), DRAWS)
    return jax.vmap(lambda key: draw(key, request.param, 3))(keys)


@pytest.fixture(scope="module", params=[2, 3])
def certain(request):
    keys = jax.random.split(jax.random.key(12), DRAWS)
    return jax.vmap(lambda key: draw(key, request.param, 3, **ON))(keys)


def drawn_parts(params):
    return {
        "brightness": np.asarray((params.factors != 1).all(1)),
        "elastic": np.asarray(params.alpha > 0),
        "rotate": np.asarray((params.angles != 0).all(1)),
        "scale": np.asarray(params.scale != 1),
    }


def binomial_bound(p):
    return 4.5 * np.sqrt(p * (1 - p) / DRAWS)


def test_default_rates(defaults):
    np.testing.assert_allclose(defaults.flips.mean(0), 0.5, atol=binomial_bound(0.5))
    for rate in map(np.mean, drawn_parts(defaults).values()):
        assert rate == pytest.approx(0.15, abs=binomial_bound(0.15))


def test_transforms_are_drawn_independently(defaults):
    columns = [*np.asarray(defaults.flips).T, *drawn_parts(defaults).values()]
    correlation = np.corrcoef(np.stack(columns).astype(float)) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(DRAWS)


def test_a_transform_is_on_or_off_as_a_whole(defaults):
    for values, neutral in ((defaults.factors, 1), (defaults.angles, 0)):
        on = np.asarray(values != neutral)
        np.testing.assert_array_equal(on.any(1), on.all(1))


def test_probability_one_turns_everything_on(certain):
    assert np.asarray(certain.flips).all()
    assert all(on.all() for on in drawn_parts(certain).values())


def test_values_are_uniform_and_channels_and_angles_independent(certain):
    limit = np.pi / 12
    uniforms = [
        *((column, 0.5, 2.0) for column in np.asarray(certain.factors).T),
        *((column, -limit, limit) for column in np.asarray(certain.angles).T),
        (np.asarray(certain.alpha), 0.0, 900.0),
        (np.asarray(certain.sigma), 9.0, 13.0),
    ]
    for values, low, high in uniforms:
        assert low <= values.min() and values.max() <= high * (1 + 1e-6)
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4
    correlation = np.corrcoef([values for values, _, _ in uniforms]) - np.eye(len(uniforms))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(DRAWS)


def test_scale_is_uniform_on_either_side_of_one(certain):
    scale = np.asarray(certain.scale)
    assert (scale < 1).mean() == pytest.approx(0.5, abs=binomial_bound(0.5))
    assert stats.kstest(scale[scale < 1], stats.uniform(0.85, 0.15).cdf).pvalue > 1e-4
    assert stats.kstest(scale[scale > 1], stats.uniform(1.0, 0.25).cdf).pvalue > 1e-4


def test_configured_mirror_rate():
    keys = jax.random.split(jax.random.key(13), DRAWS)
    flips = jax.vmap(lambda key: draw(key, 2, 1, p_mirror=0.15).flips)(keys)
    np.testing.assert_allclose(flips.mean(0), 0.15, atol=binomial_bound(0.15))


IMAGE, LABEL = jnp.zeros((4, 5, 2)), jnp.zeros((4, 5), jnp.int32)
ZERO, EYE = jnp.zeros((2, 4, 5)), jnp.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augment(jax.random.key(0), IMAGE[0], LABEL), "does not match label"),
        (lambda: augment(jax.random.key(0), LABEL[..., None], LABEL), "floating dtype"),
        (lambda: augment(jax.random.key(0), IMAGE, IMAGE[..., 0]), "integer class"),
        (lambda: augment(jax.random.key(0), IMAGE[0], LABEL[0]), "1 spatial axes"),
        (lambda: augment(jax.random.key(0), IMAGE, LABEL, p_scale=1.5), "p_scale is 1.5"),
        (lambda: draw(jax.random.key(0), 4, 1), "4 spatial axes"),
        (lambda: mirror(IMAGE, LABEL, jnp.zeros(3, bool)), "one bool per spatial axis"),
        (lambda: brightness(IMAGE[..., :1], jnp.ones(2)), "one per channel"),
        (lambda: rotation_matrix(jnp.zeros(2)), r"shape \(2,\)"),
        (lambda: smooth_noise(ZERO, 0), "sigma is 0 voxels"),
        (lambda: smooth_noise(ZERO, 200.0), "sigma is 200.0"),
        (lambda: warp(IMAGE, LABEL, ZERO[:1], EYE), "do not match a label"),
        (lambda: warp(IMAGE, LABEL, ZERO, jnp.eye(3)), "do not match a label"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
