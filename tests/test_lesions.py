"""Components of predicted masks, against shapes whose sizes are known and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from dicepp_jax.predictions import lesions, outputs
from dicepp_jax.rows import read_csv

CLASSES = ("background", "kidney", "tumour")


def test_components_of_each_class_the_largest_first():
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[0, 0, 0] = 1
    mask[2:5, 1:3, 1] = 1
    mask[5, 3, 2] = 1  # Touches the block by a corner.
    mask[0, 4, :] = 2
    probs = np.random.default_rng(0).dirichlet((1, 1, 1), mask.shape)
    affine = np.array([[0, 0, -3, 10], [-0.5, 0, 0, 20], [0, 2, 0, 30], [0, 0, 0, 1.0]])
    block = mask == 1
    block[0, 0, 0] = False
    large, small, bar = lesions.find("a", mask, probs, CLASSES, affine)
    assert [(one.label, one.number, one.voxels) for one in (large, small, bar)] == [
        ("kidney", 1, 7),
        ("kidney", 2, 1),
        ("tumour", 1, 4),
    ]
    assert {one.unit for one in (large, small, bar)} == {"mm"} and large.case == "a"
    assert (large.volume, bar.volume) == pytest.approx((7 * 3 * 0.5 * 2, 4 * 3))
    assert large.probability == pytest.approx(probs[block, 1].mean())
    # From (2, 1, 1) to (5, 3, 2): 3 steps of 0.5, 2 of 2 and one of 3 mm.
    assert large.diameter == pytest.approx(np.sqrt(1.5**2 + 4**2 + 3**2))
    assert (small.diameter, bar.diameter) == (0, 9)
    assert (bar.voxel_0, bar.voxel_1, bar.voxel_2) == (0, 4, 1.5)
    assert (bar.right, bar.anterior, bar.superior) == (10 - 3 * 1.5, 20, 30 + 4 * 2)
    assert (small.right, small.anterior, small.superior) == (10, 20, 30)
    assert large.voxel_0 == pytest.approx(np.argwhere(block)[:, 0].mean())


def test_without_positions_sizes_are_in_pixels():
    mask = np.zeros((5, 7), np.uint8)
    mask[1:4, 2:6] = 1
    (lesion,) = lesions.find("a", mask, np.full((5, 7, 2), 0.5), CLASSES[:2], None)
    assert (lesion.volume, lesion.unit, lesion.probability) == (12, "pixel", 0.5)
    assert lesion.diameter == pytest.approx(np.hypot(2, 3))
    assert (lesion.voxel_0, lesion.voxel_1) == (2, 3.5)
    assert np.isnan([lesion.voxel_2, lesion.right, lesion.anterior, lesion.superior]).all()


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(2, 3), st.floats(0.2, 0.95))
def test_diameters_are_those_of_all_pairs_of_voxels(seed, axes, share):
    rng = np.random.default_rng([4, seed])
    mask = rng.random((7,) * axes) < share
    affine = np.eye(4)
    affine[:3, :3] = rng.normal(size=(3, 3))
    affine = affine if axes == 3 else None
    probs = np.stack([1 - mask, mask], -1)
    found = lesions.find("a", mask.astype(np.uint8), probs, CLASSES[:2], affine)
    assert sum(one.voxels for one in found) == mask.sum()
    where = np.argwhere(mask)
    if len(found) == 1 and len(where) > 1:
        places = where @ affine[:3, :3].T if axes == 3 else where
        assert found[0].diameter == pytest.approx(pdist(places).max())


FLAT = {
    "point": np.zeros((1, 3)),
    "same point": np.full((5, 3), 7.1),
    "line": np.arange(300)[:, None] * [0.3, -0.2, 0.1] + 1000,
    "plane": np.array([(a, b, 2 * a - b) for a, b in itertools.product(range(20), repeat=2)]) / 7,
    "box": np.array(list(itertools.product(range(9), range(8), range(7)))) * 0.7,
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_sets_of_points_have_a_diameter(name):
    points = FLAT[name]
    expected = pdist(points).max() if len(points) > 1 else 0
    assert lesions.diameter(points) == pytest.approx(expected, abs=1e-9)


def test_tables_are_joined_in_natural_order(tmp_path):
    mask = np.ones((2, 2), np.uint8)
    for case in ("b10", "b2", "empty", "sub/a"):
        found = lesions.find(case, mask * (case != "empty"), np.ones((2, 2, 2)), CLASSES[:2], None)
        lesions.write(tmp_path / "lesions" / f"{case}.csv", found)
    lesions.join(tmp_path / "lesions", tmp_path / "lesions.csv")
    rows = read_csv(tmp_path / "lesions.csv", lesions.Lesion)
    assert [row.case for row in rows] == ["b2", "b10", "sub/a"]
    assert rows[0].volume == 4
    assert read_csv(tmp_path / "lesions" / "empty.csv", lesions.Lesion) == []


def test_entropy_is_between_0_and_1():
    probs = np.random.default_rng(2).dirichlet((0.5, 0.5, 0.5), (4, 5)).astype(np.float32)
    expected = [-sum(p * np.log(p) for p in row if p > 0) for row in probs.reshape(-1, 3).tolist()]
    found = outputs.entropy(probs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), np.array(expected) / np.log(3), rtol=1e-5, atol=1e-7)
    certain, even = outputs.entropy(np.array([[0, 1.0, 0], [1 / 3, 1 / 3, 1 / 3]]))
    assert certain == 0 and even == pytest.approx(1) and even <= 1
