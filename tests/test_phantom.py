"""The phantoms' statistics, measured on the arrays by means other than the drawing code."""

import doctest
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import binary_dilation, binary_erosion, label, map_coordinates, median_filter
from scipy.spatial import cKDTree

from dicepp_jax.data import phantom
from dicepp_jax.data.phantom import kidney, lesion, scan, vessels

FULL_CT = (32, 64, 64)


def drawn(branches, size, hand):
    """Rasterise by nearest neighbour among points closely spaced along the centrelines."""
    pixels = np.stack(np.indices(size), axis=-1).reshape(-1, 2)
    mask = np.zeros(size, bool)
    for branch in branches:
        radius = hand(branch)
        knots = np.arange(len(branch.points))
        dense = np.linspace(0, knots[-1], 60 * knots[-1] + 1)
        line = np.stack([np.interp(dense, knots, axis) for axis in branch.points.T], axis=-1)
        mask |= (cKDTree(line).query(pixels)[0] <= radius).reshape(size)
    return mask


def as_annotated(branch):
    if branch.missed:
        return -1.0
    return max(branch.radius + (0.5 if branch.thickened else 0.0), phantom.ANNOTATOR_PEN)


def test_docstring_examples():
    result = doctest.testmod(phantom)
    assert result.attempted == 10 and result.failed == 0


@pytest.mark.parametrize("draw", [vessels, kidney, functools.partial(lesion, share=0.01)])
def test_same_arguments_same_arrays_and_others_differ(draw):
    image, label = draw(3, 5)
    again = draw(3, 5)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    for other in draw(3, 6), draw(4, 5), draw(5, 3):
        assert np.mean(image != other[0]) > 0.5
        assert np.any(label != other[1])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    index=st.integers(0, 10**6),
    size=st.tuples(st.integers(32, 150), st.integers(32, 150)),
)
def test_vessel_arrays_of_any_size(seed, index, size):
    image, label = vessels(seed, index, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1}


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (128, 160)])
def test_vessel_prevalence(size):
    prevalence = np.array([vessels(11, index, size)[1].mean() for index in range(20)])
    assert 0.08 <= prevalence.mean() <= 0.14
    assert prevalence.min() > 0.05 and prevalence.max() < 0.17


@pytest.mark.parametrize("size", [(64, 64), (72, 96)])
def test_vessel_label_is_the_annotators_drawing(size):
    _, label = vessels(2, 7, size)
    branches = phantom._branches(2, 7, size)
    assert any(branch.missed for branch in branches)
    oracle = drawn(branches, size, as_annotated)
    # The oracle's points are spaced finely but not continuously: allow for ties at the rim.
    assert np.count_nonzero(oracle != label) <= 2


def test_annotator_errs_at_the_stated_rates():
    branches = [b for index in range(150) for b in phantom._branches(0, index, (96, 96))]
    faint = [b for b in branches if b.faintness > 0]
    clear = [b for b in branches if b.faintness == 0]
    assert len(faint) > 2000 and len(clear) > 500
    assert not any(b.missed or b.thickened for b in clear)

    faintness = np.array([b.faintness for b in faint])
    missed = np.array([b.missed for b in faint])
    for low, high in (0, 0.4), (0.4, 0.7), (0.7, 1):
        some = (faintness > low) & (faintness <= high)
        probability = phantom.ANNOTATOR_MISS * faintness[some]
        spread = np.sqrt(np.sum(probability * (1 - probability)))
        assert abs(np.sum(missed[some]) - np.sum(probability)) < 4 * spread

    thickened = np.array([b.thickened for b in faint])
    test = stats.binomtest(int(thickened.sum()), len(faint), phantom.ANNOTATOR_THICKEN)
    assert test.pvalue > 1e-4
    # Missing and thickening are separate coins.
    table = [[np.sum((missed == m) & (thickened == t)) for m in (0, 1)] for t in (0, 1)]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_annotator_is_independent_of_the_image(monkeypatch):
    image, label = vessels(1, 1)
    monkeypatch.setattr(phantom, "ANNOTATOR_MISS", 1.0)
    monkeypatch.setattr(phantom, "ANNOTATOR_THICKEN", 0.0)
    same_image, other_label = vessels(1, 1)
    np.testing.assert_array_equal(image, same_image)
    assert other_label.sum() < label.sum()


def test_radii_obey_murrays_law():
    # Children start where their parent ends; a missing one is too thin or was not reached.
    complete = 0
    for index in range(10):
        branches = phantom._branches(4, index, (96, 96))
        for parent in branches:
            children = [
                b.radius
                for b in branches
                if b is not parent and np.array_equal(b.points[0], parent.points[-1])
            ]
            if len(children) == 2:
                complete += 1
                assert parent.radius**3 == pytest.approx(sum(r**3 for r in children))
            elif children:
                assert children[0] < parent.radius
    assert complete > 50


def test_same_tree_at_every_resolution():
    small, large = (phantom._branches(6, 0, (n, n))[0] for n in (64, 512))
    np.testing.assert_allclose(large.points, 8 * small.points)
    assert large.radius == pytest.approx(8 * small.radius)


def test_thick_vessels_stand_out_and_thin_ones_drown():
    radii, signal_to_noise = [], []
    for index in range(12):
        image, _ = vessels(8, index)
        green = image[..., 1].astype(float)
        contrast = median_filter(green, 15) - green
        branches = phantom._branches(8, index, (96, 96))
        distant = ~binary_dilation(drawn(branches, (96, 96), lambda b: b.radius + 2))
        noise = 1.4826 * stats.median_abs_deviation(contrast[distant])
        for branch in branches:
            if len(branch.points) > 3:
                line = branch.points[1:-1].T
                radii.append(branch.radius)
                along = map_coordinates(contrast, line, order=0, mode="nearest")
                signal_to_noise.append(np.median(along) / noise)
    radii, signal_to_noise = np.array(radii), np.array(signal_to_noise)
    assert stats.spearmanr(radii, signal_to_noise).statistic > 0.6
    assert np.median(signal_to_noise[radii > 1.2]) > 4
    assert np.median(signal_to_noise[radii < 0.45]) < 2


def test_vessels_are_darker_most_of_all_in_green():
    for index in range(5):
        image, _ = vessels(9, index)
        vessel = drawn(phantom._branches(9, index, (96, 96)), (96, 96), lambda b: b.radius)
        red, green, blue = image[vessel].mean(axis=0) / image[~vessel].mean(axis=0)
        assert green < blue < red < 1


SHARES = pytest.mark.parametrize("share", [0.1, 0.01, 0.001, 0.0001])


@SHARES
def test_lesions_cover_their_share(share):
    labels = [lesion(3, index, share)[1] for index in range(40)]
    areas = np.array([label.mean() for label in labels])
    assert areas.mean() == pytest.approx(share, rel=0.15)
    low, high = phantom.LESION_AREA
    rounding = 0.5 / labels[0].size
    assert low * share - rounding <= areas.min() and areas.max() <= high * share + rounding
    # A whole number of pixels, none of them cut off by the border.
    assert min(label.sum() for label in labels) >= 3
    at_border = [np.r_[y[0], y[-1], y[:, 0], y[:, -1]].any() for y in labels]
    assert np.mean(at_border) < 0.1


def test_lesion_arrays_of_any_size():
    for index, (share, size) in enumerate([(0.2, (32, 70)), (0.002, (33, 32)), (0.05, (100, 40))]):
        image, drawn = lesion(0, index, share, size)
        assert image.shape == drawn.shape == size
        assert image.dtype == drawn.dtype == np.uint8
        assert set(np.unique(drawn)) == {0, 1}


def test_a_lesion_is_one_piece_and_brighter_than_its_surroundings(monkeypatch):
    monkeypatch.setattr(phantom, "ANNOTATOR_WANDER", (0.0, 0.0))  # The label is the lesion.
    contrast = []
    for index in range(20):
        image, truth = lesion(1, index, 0.02)
        assert label(truth)[1] == 1
        around = binary_dilation(truth, iterations=8) & ~binary_dilation(truth, iterations=2)
        inside = image[binary_erosion(truth, iterations=2)].astype(float)
        contrast.append((inside.mean() - image[around].mean()) / phantom.LESION_NOISE)
    low, high = phantom.LESION_CONTRAST
    assert low - 1 < min(contrast) and max(contrast) < high + 1
    assert np.mean(contrast) == pytest.approx((low + high) / 2, abs=0.6)


def test_lesion_noise_is_as_stated():
    image = lesion(2, 0, 0.001)[0].astype(float)
    # Neighbours differ by the noise of both, and hardly by the tissue.
    spread = np.diff(image, axis=1).std() / np.sqrt(2)
    assert spread == pytest.approx(phantom.LESION_NOISE, rel=0.05)


@SHARES
def test_the_outline_of_a_lesion_is_read_with_errors(share, monkeypatch):
    """The same image and area, and an outline that is displaced by about the stated distance."""
    relative, pixels = phantom.ANNOTATOR_WANDER
    overlaps, moved, expected = [], 0.0, 0.0
    for index in range(30):
        image, drawn = lesion(4, index, share)
        with monkeypatch.context() as exact:
            exact.setattr(phantom, "ANNOTATOR_WANDER", (0.0, 0.0))
            same_image, truth = lesion(4, index, share)
        np.testing.assert_array_equal(image, same_image)
        assert drawn.sum() == truth.sum()
        overlaps.append((drawn & truth).sum() / truth.sum())
        # Swept area / length of the outline is the mean displacement: sqrt(2 / pi) of its spread.
        radius = np.sqrt(truth.sum() / np.pi)
        spread = (relative * radius + pixels) * np.sqrt(sum(1 / k**2 for k in range(1, 6)) / 2)
        moved += (drawn != truth).sum()
        expected += 2 * np.pi * radius * np.sqrt(2 / np.pi) * spread
    assert 0.6 < np.mean(overlaps) < 0.97
    assert moved == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("size", [FULL_CT, (16, 32, 32), (20, 48, 40)])
def test_kidney_arrays_and_classes(size):
    for index in range(8):
        image, label = kidney(1, index, size)
        assert image.shape == size and image.dtype == np.int16
        assert label.shape == size and label.dtype == np.uint8
        assert set(np.unique(label)) == {0, 1, 2}


def test_kidney_hounsfield_units():
    air, kidneys, tumours = [], [], []
    for index in range(12):
        image, truth, _, _ = phantom._scene(2, index, FULL_CT)
        kidneys.append(image[truth == 1].mean())
        tumours.append(image[truth == 2].mean())
        air.append(image[:, :4, :4])
        assert 350 < np.percentile(image, 99.5) < 450
        assert np.mean(np.abs(image + 100) < 60) > 0.05
    assert np.mean(air) == pytest.approx(-1000, abs=3)
    assert np.std(air) == pytest.approx(phantom.CT_NOISE, rel=0.05)
    assert 130 < min(kidneys) and max(kidneys) < 185 and 145 < np.mean(kidneys) < 170
    assert 40 < min(tumours) and max(tumours) < 120 and 65 < np.mean(tumours) < 95


def test_two_kidneys_and_a_tumour_that_touches_one():
    for index in range(12):
        truth, reading = phantom._scene(3, index, FULL_CT)[1:3]
        middle = FULL_CT[2] // 2
        for half in reading[..., :middle], reading[..., middle:]:
            parts, count = label(half == 1)
            assert count >= 1 and np.bincount(parts.flat)[1:].max() > 500
        assert label(truth == 2)[1] == 1
        assert np.any(binary_dilation(reading == 2) & (reading == 1))


def test_tumour_radius_is_in_the_stated_fraction_of_the_kidney():
    voxel = np.prod(phantom.FIELD_OF_VIEW / FULL_CT)
    mean = np.prod(phantom.KIDNEY_AXES) ** (1 / 3)
    radii = []
    for index in range(30):
        truth = phantom._scene(4, index, FULL_CT).truth
        radii.append((0.75 / np.pi * voxel * np.sum(truth == 2)) ** (1 / 3) / mean)
    low, high = phantom.TUMOUR_RADIUS
    assert 0.8 * low < min(radii) < 1.4 * low and 0.75 * high < max(radii) < 1.25 * high


def test_annotator_misplaces_only_the_kidney_tumour_border():
    scenes = [phantom._scene(5, index, (16, 32, 32)) for index in range(200)]
    slips = sum(scene.slipped for scene in scenes)
    assert stats.binomtest(slips, len(scenes), phantom.ANNOTATOR_SLIP).pvalue > 1e-4
    for scene in scenes:
        np.testing.assert_array_equal(scene.label > 0, scene.truth > 0)
        if not scene.slipped:
            np.testing.assert_array_equal(scene.label, scene.truth)


def test_annotator_shifts_the_border_by_the_stated_distance():
    # A border moved by a distance d sweeps a volume |d| times its area, so over many cases
    # swept volume / area is E|d|; that of a normal d of the stated rms is rms * sqrt(2 / pi).
    spacing = phantom.FIELD_OF_VIEW / FULL_CT
    swept = area = 0.0
    grown = shrunk = 0
    for index in range(60):
        _, truth, reading, slipped = phantom._scene(6, index, FULL_CT)
        if slipped and np.sum(truth == 2) > 200:  # large enough not to cap the displacement
            swept += np.prod(spacing) * np.sum(truth != reading)
            for axis in range(3):
                steps = np.diff(truth.astype(int), axis=axis)
                both = np.minimum(*(np.delete(truth, end, axis) for end in (0, -1))) > 0
                # A smooth surface shows on average 2/3 of the area of its staircase.
                area += 2 / 3 * np.sum((steps != 0) & both) * np.prod(spacing) / spacing[axis]
            grown += np.sum((reading == 2) & (truth == 1))
            shrunk += np.sum((reading == 1) & (truth == 2))
    expected = phantom.ANNOTATOR_SHIFT * np.sqrt(2 / np.pi)
    assert swept / area == pytest.approx(expected, rel=0.2)
    assert 0.2 < grown / (grown + shrunk) < 0.8


def test_tumour_is_heterogeneous():
    # Noise alone would show the spread that it has in air.
    spreads = []
    for index in range(30):
        image, truth, _, _ = phantom._scene(7, index, FULL_CT)
        core = binary_erosion(truth == 2)
        if core.sum() > 60:
            spreads.append(image[core].std())
    assert np.mean(spreads) > 1.1 * phantom.CT_NOISE


@pytest.mark.parametrize(
    ("draw", "arguments", "message"),
    [
        (vessels, (-1, 0), "at least 0, got -1 and 0"),
        (vessels, (0, -2), "at least 0, got 0 and -2"),
        (vessels, (0, 0, (31, 96)), r"at least \(32, 32\), got \(31, 96\)"),
        (vessels, (0, 0, (64, 64, 64)), "2 numbers"),
        (kidney, (0, 0, (64, 64)), "3 numbers"),
        (kidney, (0, 0, (15, 32, 32)), r"at least \(16, 32, 32\), got \(15, 32, 32\)"),
        (kidney, (0, -1), "got 0 and -1"),
        (lesion, (0, -1, 0.1), "got 0 and -1"),
        (lesion, (0, 0, 0.1, (20, 64)), r"at least \(32, 32\), got \(20, 64\)"),
        (lesion, (0, 0, 0.3), "at most 0.2, got 0.3 of"),
        (lesion, (0, 0, 0.0001, (64, 64)), "at least 2 pixels and at most 0.2, got 0.0001 of"),
    ],
)
def test_bad_arguments(draw, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(*arguments)


GIVEN = (2.0, 3.0, 3.0)


def given_label():
    """Two kidneys, of which one is a tumour for its upper half."""
    label = np.zeros((40, 80, 100), np.uint8)
    label[5:30, 45:55, 20:30] = 1
    label[10:35, 45:55, 70:80] = 1
    label[10:22, 45:55, 70:80] = 2
    return label


def test_a_scan_is_drawn_around_the_label():
    label = given_label()
    image = scan(0, 7, label, GIVEN)
    assert image.shape == label.shape and image.dtype == np.int16
    low, high = phantom.KIDNEY_HU
    assert low - 10 < image[binary_erosion(label == 1)].mean() < high + 10
    low, high = phantom.TUMOUR_HU_OF_SCANS
    assert low - 25 < image[binary_erosion(label == 2)].mean() < high + 25
    around = binary_dilation(label > 0, iterations=2) & ~binary_dilation(label > 0)
    assert -110 < image[around].mean() < -80  # fat
    assert image[:, :3].mean() < -900  # air before the belly
    assert image[:, 40:75, 48:53].max() > 350  # spine, between the kidneys and behind them


def test_scans_differ_by_seed_and_case_and_by_nothing_else():
    label = given_label()
    image = scan(0, 7, label, GIVEN)
    np.testing.assert_array_equal(image, scan(0, 7, label.copy(), GIVEN))
    for other in scan(0, 8, label, GIVEN), scan(1, 7, label, GIVEN):
        assert np.mean(image != other) > 0.5


def test_a_scan_of_nothing_is_refused():
    with pytest.raises(ValueError, match="label has no foreground"):
        scan(0, 0, np.zeros((8, 8, 8), np.uint8), GIVEN)
