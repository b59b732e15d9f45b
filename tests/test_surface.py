"""Distances between surfaces against brute force, distance transforms and closed forms."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from dicepp_jax.metrics.surface import hausdorff95, surface_dice

CLASSES = 3
SPACINGS = {2: (0.7, 1.5), 3: (3.0, 0.8, 0.5)}
dimensions = pytest.mark.parametrize("dimension", [2, 3], ids=["2-D", "3-D"])


def surface_by_hand(inside):
    """Indices of voxels with a neighbour along an axis that is not inside, or not in the image."""
    found = []
    for index in np.argwhere(inside):
        for axis, step in itertools.product(range(inside.ndim), (-1, 1)):
            neighbour = index.copy()
            neighbour[axis] += step
            beyond = not 0 <= neighbour[axis] < inside.shape[axis]
            if beyond or not inside[tuple(neighbour)]:
                found.append(index)
                break
    return np.array(found, float).reshape(-1, inside.ndim)


def brute_force(predicted, true, spacing):
    """Distances from each surface to the other by comparing all pairs."""
    p, t = (surface_by_hand(x) * spacing for x in (predicted, true))
    pairs = np.sqrt(((p[:, None] - t[None]) ** 2).sum(-1))
    return pairs.min(1), pairs.min(0)


def by_distance_transform(predicted, true, spacing):
    p, t = (x & ~ndimage.binary_erosion(x) for x in (predicted, true))
    return tuple(
        ndimage.distance_transform_edt(~b, sampling=spacing)[a] for a, b in ((p, t), (t, p))
    )


def example(dimension, seed=0):
    """Two blobs with random borders, one of which touches the border of the image."""
    rng = np.random.default_rng([seed, dimension])
    shape = {2: (14, 17), 3: (8, 9, 10)}[dimension]
    smooth = ndimage.gaussian_filter(
        rng.normal(size=(2, CLASSES, *shape)), (0, 0, *[2] * dimension)
    )
    noise = 0.02 * rng.normal(size=smooth.shape)
    return (smooth + noise).argmax(1), (smooth[::-1] * 0.3 + smooth).argmax(1)


@dimensions
@pytest.mark.parametrize("oracle", [brute_force, by_distance_transform])
def test_both_metrics_match_an_oracle(oracle, dimension):
    mask, labels = example(dimension)
    spacing = SPACINGS[dimension]
    distance = hausdorff95(mask, labels, CLASSES, spacing)
    share = surface_dice(mask, labels, CLASSES, spacing, tolerance=1.0)
    assert distance.shape == share.shape == (2, CLASSES)
    for b, c in np.ndindex(2, CLASSES):
        there, back = oracle(mask[b] == c, labels[b] == c, spacing)
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        np.testing.assert_allclose(distance[b, c], expected, rtol=1e-12)
        near = (there <= 1).sum() + (back <= 1).sum()
        np.testing.assert_allclose(share[b, c], near / (len(there) + len(back)), rtol=1e-12)
    assert len(np.unique(distance)) >= 3 and len(np.unique(share)) >= 3


def box(shape, start, stop):
    image = np.zeros((1, *shape), int)
    image[(0, *map(slice, start, stop))] = 1
    return image


@dimensions
@pytest.mark.parametrize("axis", [0, 1])
def test_the_distance_of_two_plates_is_the_shift_of_one(dimension, axis):
    spacing = SPACINGS[dimension]
    shape = (12,) * dimension
    start, stop = [0] * dimension, [12] * dimension
    start[axis], stop[axis] = 2, 4
    plates = box(shape, start, stop)
    moved = np.roll(plates, 5, axis=axis + 1)
    distances = [(5 - near) * spacing[axis] for near in (0, 1)]
    found = hausdorff95(moved, plates, 2, spacing)[0, 1]
    np.testing.assert_allclose(found, distances[0], rtol=1e-12)
    # The near layer of each plate, half of its voxels, is 4 voxels from that of the other.
    for tolerance, share in ((distances[1] * 0.99, 0), (distances[1], 0.5), (distances[0], 1)):
        assert surface_dice(moved, plates, 2, spacing, tolerance)[0, 1] == share


def test_concentric_balls_differ_by_their_radii():
    spacing = (1.0, 0.5, 0.5)
    grid = np.meshgrid(
        *(np.arange(-n, n + 1) * s for n, s in zip((22, 44, 44), spacing, strict=True))
    )
    radius = np.sqrt(sum(x**2 for x in grid)).transpose(1, 0, 2)[None]
    small, large = (radius <= 12).astype(int), (radius <= 20).astype(int)
    found = hausdorff95(small, large, 2, spacing)[0, 1]
    assert abs(found - 8) <= 1
    assert surface_dice(small, large, 2, spacing, 7.0)[0, 1] < 0.05
    assert surface_dice(small, large, 2, spacing, 9.0)[0, 1] == 1


def test_rounding_does_not_decide():
    labels = box((8, 12), (2, 2), (6, 6))
    moved = np.roll(labels, 3, axis=2)
    assert 3 * 0.1 > 0.3
    assert surface_dice(moved, labels, 2, (0.1, 0.1), 0.3)[0, 1] == 1


def test_percentile_ignores_a_stray_voxel():
    labels = box((40, 40), (5, 5), (25, 25))
    mask = labels.copy()
    mask[0, 38, 38] = 1
    assert hausdorff95(mask, labels, 2, (1, 1))[0, 1] == 0
    # 76 voxels of the surface of the square and one far away.
    np.testing.assert_allclose(surface_dice(mask, labels, 2, (1, 1), 1)[0, 1], 152 / 153)


@dimensions
def test_equal_segmentations(dimension):
    labels, _ = example(dimension)
    spacing = SPACINGS[dimension]
    np.testing.assert_array_equal(hausdorff95(labels, labels, CLASSES, spacing), 0)
    np.testing.assert_array_equal(surface_dice(labels, labels, CLASSES, spacing, 0), 1)


def test_an_absent_class():
    labels = np.stack([box((6, 6), (1, 1), (3, 3))[0], np.zeros((6, 6), int)])
    mask = np.stack([np.zeros((6, 6), int), 2 * box((6, 6), (1, 1), (3, 3))[0]])
    expected = [[0, np.inf, np.nan], [0, np.nan, np.inf]]
    found = hausdorff95(mask, labels, CLASSES, (1, 1))
    np.testing.assert_array_equal(found[:, 1:], np.array(expected)[:, 1:])
    found = surface_dice(mask, labels, CLASSES, (1, 1), 1)
    np.testing.assert_array_equal(found[:, 1:], [[0, np.nan], [np.nan, 0]])
    assert np.isfinite(found[:, 0]).all()


images = hnp.arrays(np.uint8, (1, 5, 6), elements=st.integers(0, 2))
spacings = st.tuples(*[st.floats(0.25, 4)] * 2)


@settings(deadline=None)
@given(mask=images, labels=images, spacing=spacings, tolerance=st.floats(0, 5))
def test_properties(mask, labels, spacing, tolerance):
    def both(mask, labels, spacing=spacing, tolerance=tolerance):
        return (
            hausdorff95(mask, labels, CLASSES, spacing),
            surface_dice(mask, labels, CLASSES, spacing, tolerance),
        )

    distance, share = both(mask, labels)
    assert (np.isnan(distance) == np.isnan(share)).all()
    for swapped, value in zip(both(labels, mask), (distance, share), strict=True):
        np.testing.assert_allclose(swapped, value, rtol=1e-12)
    turned = both(*(x.transpose(0, 2, 1)[:, ::-1] for x in (mask, labels)), spacing[::-1])
    for value, expected in zip(turned, (distance, share), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9)
    # A class has a surface at the border of the image, so adding background changes nothing.
    padded = both(*(np.pad(x, ((0, 0), (3, 1), (0, 2))) for x in (mask, labels)))
    for value, expected in zip(padded, (distance, share), strict=True):
        np.testing.assert_allclose(value[:, 1:], expected[:, 1:], rtol=1e-9)
    wider = surface_dice(mask, labels, CLASSES, spacing, tolerance + 0.5)
    assert not (wider < share).any()
    np.testing.assert_allclose(
        hausdorff95(mask, labels, CLASSES, [4 * s for s in spacing]), 4 * distance, rtol=1e-12
    )


def test_invalid_arguments_are_refused():
    image = np.zeros((2, 5, 6), int)
    with pytest.raises(ValueError, match=r"same shape .*got \(2, 5, 6\), \(2, 5, 5\) and"):
        hausdorff95(image, image[..., 1:], 2, (1, 1))
    for spacing in ((1, 1, 1), (1,), (1, 0), (1, -1), (1, np.inf), (1, np.nan)):
        with pytest.raises(ValueError, match=r"spacing must be 2 positive lengths in mm"):
            hausdorff95(image, image, 2, spacing)
        with pytest.raises(ValueError, match=r"spacing must be 2 positive lengths in mm"):
            surface_dice(image, image, 2, spacing, 1)
    for tolerance in (-1, np.inf, np.nan):
        with pytest.raises(ValueError, match="tolerance must be a distance in mm, 0 or more"):
            surface_dice(image, image, 2, (1, 1), tolerance)


def test_voxels_left_out_belong_to_no_class():
    labels = np.zeros((1, 12, 10), int)
    labels[0, 2:6, 2:6] = 1
    mask = np.roll(labels, 1, axis=1)
    expected = hausdorff95(mask, labels, 2, (1.0, 1.0))[:, 1]
    ignored, noisy = labels.copy(), mask.copy()
    ignored[0, 9:], noisy[0, 10, 3] = 255, 1
    found = hausdorff95(noisy, ignored, 2, (1.0, 1.0), where=ignored != 255)
    np.testing.assert_array_equal(found[:, 1], expected)
    assert hausdorff95(noisy, labels, 2, (1.0, 1.0))[0, 1] > expected[0]
    share = surface_dice(noisy, ignored, 2, (1.0, 1.0), 1.0, where=ignored != 255)
    assert share[0, 1] == 1
    with pytest.raises(ValueError, match=r"where must .*got \(1, 12, 10\), .* and \(12, 10\)"):
        hausdorff95(mask, labels, 2, (1.0, 1.0), where=labels[0] == 0)
