"""What the truth itself scores at the size at which a network sees images."""

import numpy as np
import pytest
from scipy import ndimage

from dicepp_jax.data.specs import DRIVE, KITS19, PHANTOM
from dicepp_jax.resolution import METRICS, truth_at_size
from dicepp_jax.rows import Row
from dicepp_jax.score_files import read, score_split

SIZE = (16, 16)


def stored(label, **more):
    return {"id": b"a", "label": label.astype(np.uint8), **more}


def blocks(shape, factor, classes, seed=0):
    """Labels that are constant on blocks."""
    coarse = np.random.default_rng(seed).integers(0, classes, [n // factor for n in shape])
    return coarse.repeat(factor, 0).repeat(factor, 1)


def linear(array, size):
    """Samples at the centres of the pixels of another grid, by another function of scipy."""
    axes = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(size, array.shape, strict=True)]
    where = np.meshgrid(*axes, indexing="ij")
    return ndimage.map_coordinates(array.astype(float), where, order=1, mode="nearest")


def test_stripes_as_wide_as_the_pixels_of_the_network_lose_nothing():
    stripes = np.tile(np.arange(64) // 4 % 2, (64, 1))
    rows = list(truth_at_size(stored(stripes), PHANTOM, SIZE))
    vessel = PHANTOM.classes[1]
    assert rows == [Row("a", vessel, "image", metric, 1.0) for metric in METRICS]


def test_objects_between_the_samples_are_lost():
    label = np.zeros((64, 64))
    label[:, ::4] = 1
    assert [row.value for row in truth_at_size(stored(label), PHANTOM, SIZE)] == [0, 0]


@pytest.mark.parametrize("native", [(61, 47), (16, 40), (37, 59)])
def test_against_another_interpolation(native):
    p = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(native), 1.5)
    label = p > 0
    seen = linear(label, SIZE)
    # Where two classes have equal shares the last digit would decide.
    assert (abs(seen - 0.5) > 1e-5).all()
    back = linear(seen > 0.5, native)
    both = ((back > 0.5) & label).sum()
    dice = 2 * both / ((back > 0.5).sum() + label.sum())
    found = {row.metric: row.value for row in truth_at_size(stored(label), PHANTOM, SIZE)}
    assert 0.5 < found["dice"] < 1
    assert found == pytest.approx({"dice": dice, "jaccard": dice / (2 - dice)}, rel=1e-6)


def test_a_network_on_the_native_grid_loses_nothing():
    assert not list(truth_at_size(stored(blocks(SIZE, 2, 2)), PHANTOM, SIZE))
    volume = np.zeros((4, 6, 8))
    assert not list(truth_at_size(stored(volume), KITS19, (4, 4, 4)))


def test_volumes_lose_by_their_spacing_not_by_the_window():
    native = np.zeros((8, 8, 8), np.uint8)
    native[2:6] = 1
    seen = native[::2, ::2, ::2]
    rows = list(truth_at_size(stored(seen, native_label=native), KITS19, (2, 2, 2)))
    assert [row.value for row in rows if row.label == KITS19.classes[1]] == [1, 1]
    assert len(rows) == len(METRICS) * (len(KITS19.classes) - 1)


def test_it_is_written_with_the_scores(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 40, DRIVE.channels), np.uint8)
    label = blocks((40, 40), 5, 2)
    cases = [stored(label, image=image, region=np.ones((40, 40), np.uint8))]
    probs = np.eye(2, dtype=np.float32)[label]
    written = score_split(lambda image, native: probs, cases, DRIVE, tmp_path, size=SIZE, figures=1)
    assert written.truth == list(truth_at_size(cases[0], DRIVE, SIZE))
    assert read(tmp_path, DRIVE.classes).truth == written.truth


def test_scores_are_read_without_the_images_of_the_data_set(tmp_path):
    test_it_is_written_with_the_scores(tmp_path)
    whole = read(tmp_path, DRIVE.classes)
    assert len(whole.shown) == 1
    (tmp_path / "test" / "shown.npz").unlink()
    rest = read(tmp_path, DRIVE.classes)
    np.testing.assert_equal(rest.rows, whole.rows)
    assert rest.shown == []
