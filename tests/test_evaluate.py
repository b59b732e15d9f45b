"""Evaluation against scikit-learn and NumPy, its figures and its tables."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.metrics import (
    f1_score,
    jaccard_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from dicepp_jax import metrics, preprocess
from dicepp_jax.data.specs import DRIVE, PHANTOM, PHANTOM_3D
from dicepp_jax.plots import canvas, views
from dicepp_jax.plots import cases as case_plots
from dicepp_jax.plots import curves as curve_plots
from dicepp_jax.rows import Row, compare, summarise
from dicepp_jax.scoring import border_band, score_cases
from dicepp_jax.split_calibration import split_calibration
from dicepp_jax.text_table import layout, summary_table

NAN = float("nan")
REGIONS = ("image", "field of view")


def find(summaries, metric, label, region):
    return next(s for s in summaries if (s.metric, s.label, s.region) == (metric, label, region))


def stored_case(index, shape, spec, classes=None):
    """A random case, with labels of the first `classes` classes."""
    rng = np.random.default_rng([1, index])
    case = {
        "id": f"case_{index}".encode(),
        "image": rng.integers(0, 256, (*shape, spec.channels)).astype(spec.dtype),
        "label": rng.integers(0, classes or len(spec.classes), shape, np.uint8),
    }
    return case | ({"region": rng.integers(0, 2, shape, np.uint8)} if spec.region else {})


def predictor(spec):
    """An arbitrary function of the pixels; some probabilities are exactly 0 and 1."""

    def predict(image, native):
        assert native == image.shape[:-1]
        logits = np.stack([np.sin(image[..., 0] * (c + 1.0)) for c in range(len(spec.classes))], -1)
        probs = oracles.softmax(3 * logits)
        certain = image[..., 0] % 7 == 0
        probs[certain] = np.eye(len(spec.classes))[image[certain][:, 0] % 2]
        return probs.astype(np.float32)

    return predict


def results_of(predict, cases, spec):
    """The results of cases that are scored as the spec of their set says."""
    return score_cases(predict, cases, spec.classes, region=spec.region, label_map=spec.label_map)


def components(mask):
    """The number of parts of a mask that share no face, by flooding."""
    left, count = set(map(tuple, np.argwhere(mask))), 0
    while left:
        count, queue = count + 1, [left.pop()]
        while queue:
            voxel = queue.pop()
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    near = (*voxel[:axis], voxel[axis] + step, *voxel[axis + 1 :])
                    if near in left:
                        left.remove(near)
                        queue.append(near)
    return count


@pytest.mark.parametrize(("spec", "shape"), [(PHANTOM, (13, 17)), (PHANTOM_3D, (5, 6, 7))])
def test_false_positives_of_normal_cases(spec, shape):
    normal, ill = stored_case(0, shape, spec, classes=1), stored_case(1, shape, spec)
    predict = predictor(spec)
    found, nothing = results_of(predict, [normal, ill], spec)
    mask = predict(normal["image"], shape).argmax(-1)
    assert found.false_positives == [
        ("case_0", name, np.sum(mask == number), components(mask == number))
        for number, name in enumerate(spec.classes)
        if number
    ]
    assert all(row.voxels > row.components > 1 for row in found.false_positives)
    assert nothing.false_positives == []


def expected_scores(probs, label, where, num_classes):
    """By metric, the values by class or a single number, over the included voxels."""
    p, y = probs[where].astype(np.float64), label[where].astype(int)
    mask = p.argmax(-1)
    classes = np.arange(num_classes)
    options = {"labels": classes, "average": None}
    truth = y[:, None] == classes
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    present = np.array([np.any((y == c) | (mask == c)) for c in classes])
    jaccard = jaccard_score(y, mask, zero_division=0, **options)
    return {
        "nll": [-np.sum(np.log(clipped[y == c, c])) / len(y) for c in classes],
        "nll_full": log_loss(y, clipped / clipped.sum(-1, keepdims=True), labels=classes),
        "brier": ((truth - p) ** 2).mean(0),
        **expected_errors(p, truth),
        "dice": f1_score(y, mask, zero_division=np.nan, **options),
        "jaccard": np.where(present, jaccard, np.nan),
        "precision": precision_score(y, mask, zero_division=np.nan, **options),
        "recall": recall_score(y, mask, zero_division=np.nan, **options),
        "specificity": [np.mean(mask[y != c] != c) if np.any(y != c) else np.nan for c in classes],
        "volume_difference": [
            np.sum(mask == c) / np.sum(y == c) - 1 if np.any(y == c) else np.nan for c in classes
        ],
    }


def expected_ranking(probs, label, where):
    """AURC and entropy AUROC over the included voxels, of uncertainty as binned."""
    p, y = probs[where], label[where]
    wrong = p.argmax(-1) != y
    entropies = np.asarray(metrics.entropy(p)) / np.log(p.shape[-1])
    unsure, by_entropy = (
        np.clip(x, 0, 1).astype(np.float32).view(np.int32) >> 16 for x in (1 - p.max(-1), entropies)
    )
    risks = [wrong[unsure <= k].mean() for k in unsure]
    some = wrong.any() and not wrong.all()
    return {
        "aurc": np.mean(risks),
        "entropy_auroc": roc_auc_score(wrong, by_entropy) if some else np.nan,
    }


def near_border(label, width=3):
    """Voxels near one with a neighbour of another class, by distances between all voxels."""
    places = np.argwhere(np.ones(label.shape))
    apart = np.abs(places[:, None] - places[None])
    border = ((apart.sum(-1) == 1) & (label.ravel() != label.ravel()[:, None])).any(-1)
    return (border & (apart.max(-1) < width)).any(-1).reshape(label.shape)


def expected_errors(p, truth):
    """ECE, ACE and MCE of every class, over 20 bins."""
    values = []
    for column, y in zip(p.T, truth.T, strict=True):
        k = np.searchsorted((np.arange(1, 20) / 20).astype(np.float32), column, side="right")
        gaps = [(np.abs((column - y)[k == i].mean()), np.sum(k == i)) for i in np.unique(k)]
        errors, voxels = np.transpose(gaps)
        values.append((np.average(errors, weights=voxels), errors.mean(), errors.max()))
    return dict(zip(("ece", "ace", "mce"), np.transpose(values), strict=True))


def undefined(spec):
    """The scores of a region without voxels."""
    of_all = ("nll_full", *metrics.UNCERTAINTY)
    names = metrics.CALIBRATION | metrics.UNCERTAINTY | metrics.OVERLAP
    return {name: NAN if name in of_all else [NAN] * len(spec.classes) for name in names}


def assert_result(result, stored, spec, predict):
    """Check every number of a result, in the documented order."""
    np.testing.assert_array_equal(result.image, stored["image"])
    np.testing.assert_array_equal(result.label, stored["label"])
    np.testing.assert_array_equal(result.probs, predict(stored["image"], result.label.shape))
    regions = {"image": np.ones(result.label.shape, bool)}
    if spec.region:
        regions[spec.region] = stored["region"] == 1
    regions["band"] = near_border(result.label)
    rows = iter(result.rows)
    everything = [*metrics.CALIBRATION, *metrics.UNCERTAINTY, *metrics.OVERLAP]
    for region, where in regions.items():
        scores = undefined(spec)
        if where.any():
            scores = expected_scores(result.probs, result.label, where, len(spec.classes))
            scores |= expected_ranking(result.probs, result.label, where)
        for metric in metrics.CALIBRATION if region == "band" else everything:
            values = scores[metric]
            labels = ("all",) if np.ndim(values) == 0 else spec.classes
            for label, value in zip(labels, np.atleast_1d(values), strict=True):
                row = next(rows)
                assert row[:4] == (stored["id"].decode(), label, region, metric)
                np.testing.assert_allclose(row.value, value, rtol=2e-5, atol=1e-6)
    assert next(rows, None) is None


SHAPES = {
    DRIVE: [(17, 23), (16, 16), (9, 40), (5, 7)],
    PHANTOM: [(30, 20)],
    PHANTOM_3D: [(5, 9, 8), (4, 4, 4), (3, 11, 6)],
}


@pytest.mark.parametrize("spec", SHAPES, ids=lambda spec: spec.name)
def test_every_number_of_cases_of_different_sizes(spec):
    stored = [stored_case(index, shape, spec) for index, shape in enumerate(SHAPES[spec])]
    results = list(results_of(predictor(spec), iter(stored), spec))
    assert [result.case for result in results] == [f"case_{i}" for i in range(len(stored))]
    for result, case in zip(results, stored, strict=True):
        assert_result(result, case, spec, predictor(spec))


def test_reliability_is_that_of_the_whole_image():
    stored = stored_case(0, (17, 23), DRIVE)
    (result,) = results_of(predictor(DRIVE), [stored], DRIVE)
    for c in range(2):
        p, y = result.probs[..., c].ravel(), (result.label == c).ravel().astype(float)
        for sums, weights in zip(result.reliability, (None, p, y), strict=True):
            assert sums.shape == (2, 20)
            expected, _ = np.histogram(p, bins=20, range=(0, 1), weights=weights)
            np.testing.assert_allclose(sums[c], expected, rtol=1e-5)


def test_counts_at_thresholds_are_of_the_whole_image():
    stored = stored_case(0, (17, 23), DRIVE)
    (result,) = results_of(predictor(DRIVE), [stored], DRIVE)
    for c in range(2):
        p, y = result.probs[..., c], result.label == c
        for t, threshold in enumerate(metrics.THRESHOLDS.astype(np.float32)):
            called = p >= threshold
            expected = [np.sum(called & y), np.sum(called & ~y), np.sum(~called & y)]
            assert [int(n[c, t]) for n in result.thresholds[:3]] == expected
            assert sum(int(n[c, t]) for n in result.thresholds) == y.size


def test_label_map_metrics_are_optional():
    spec = dataclasses.replace(PHANTOM_3D, label_map=True)
    stored = stored_case(0, (5, 9, 8), spec)
    (result,) = results_of(predictor(spec), [stored], spec)
    rows = {row[1:4]: row.value for row in result.rows}
    for c, label in enumerate(spec.classes):
        expected = np.mean((result.label - result.probs[..., c].astype(np.float64)) ** 2)
        assert rows[label, "image", "brier_labelmap"] == pytest.approx(expected, rel=1e-5)
        assert (label, "image", "nll_labelmap") in rows
    (plain,) = results_of(predictor(PHANTOM_3D), [stored], PHANTOM_3D)
    assert not any(row.metric.endswith("labelmap") for row in plain.rows)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (8, 8), (3, 43)])
def test_padding_changes_nothing(shape):
    stored = stored_case(3, shape, PHANTOM)
    (result,) = results_of(predictor(PHANTOM), [stored], PHANTOM)
    probs, label = result.probs[None], result.label[None].astype(int)
    direct = [f(probs, label)[0] for f in metrics.CALIBRATION.values()]
    direct += [f(probs.argmax(-1), label, 2)[0] for f in metrics.OVERLAP.values()]
    names = metrics.CALIBRATION | metrics.OVERLAP
    rows = [row for row in result.rows if row.region == "image"]
    values = [row.value for row in rows if row.metric in names]
    np.testing.assert_allclose(values, np.concatenate([np.atleast_1d(x) for x in direct]), 1e-5)
    whole = metrics.reliability(probs, label)
    for sums, expected in zip(result.reliability, whole, strict=True):
        np.testing.assert_allclose(sums, expected[0], 1e-5)


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 12), st.integers(1, 12)), st.integers(0, 2**31))
def test_every_number_at_any_size(shape, index):
    stored = stored_case(index, shape, PHANTOM)
    (result,) = results_of(predictor(PHANTOM), [stored], PHANTOM)
    assert_result(result, stored, PHANTOM, predictor(PHANTOM))


@pytest.mark.parametrize("spec", SHAPES, ids=lambda spec: spec.name)
def test_a_large_image_is_scored_part_by_part(spec, monkeypatch):
    monkeypatch.setattr("dicepp_jax.scoring.PART", 64)
    shape = SHAPES[spec][0]
    stored = stored_case(4, shape, spec)
    if spec.region:  # Some parts contain none of it.
        stored["region"][: shape[0] // 2] = 0
    (result,) = results_of(predictor(spec), [stored], spec)
    assert_result(result, stored, spec, predictor(spec))
    whole = metrics.reliability(result.probs[None], result.label[None])
    for sums, expected in zip(result.reliability, whole, strict=True):
        np.testing.assert_allclose(sums, expected[0], rtol=1e-5)


def certain(classes):
    """A prediction with probability 1 for these classes."""
    return lambda image, native: np.eye(3, dtype=np.float32)[classes]


def test_a_class_neither_present_nor_predicted_is_undefined_and_left_out_of_the_mean():
    stored = [stored_case(index, (4, 6, 5), PHANTOM_3D, classes=2) for index in range(2)]
    stored[1]["label"][0, 0, :2] = 2
    rows = [
        row
        for case in stored
        for result in results_of(certain(case["label"]), [case], PHANTOM_3D)
        for row in result.rows
    ]
    summaries = summarise(rows)
    for metric in ("dice", "jaccard", "precision", "recall"):
        values = [row.value for row in rows if (row.metric, row.label) == (metric, "tumour")]
        np.testing.assert_array_equal(values, [NAN, 1])
        tumour = find(summaries, metric, "tumour", "image")
        assert (tumour.mean, tumour.cases, tumour.undefined) == (1, 1, 1)
        kidney = find(summaries, metric, "kidney", "image")
        assert (kidney.mean, kidney.error, kidney.cases, kidney.undefined) == (1, 0, 2, 0)
    for metric in metrics.CALIBRATION:
        assert not np.isnan([row.value for row in rows if row.metric == metric]).any()


def test_the_band_of_one_class_is_undefined():
    stored = stored_case(0, (6, 7), PHANTOM, classes=1)
    (result,) = results_of(predictor(PHANTOM), [stored], PHANTOM)
    band = [row for row in result.rows if row.region == "band"]
    assert len(band) == 11 and np.isnan([row.value for row in band]).all()


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=7),
        elements=st.sampled_from([0, 0, 0, 0, 1, 2]),
    ),
    st.integers(1, 4),
)
def test_the_band_is_that_of_all_distances(label, width):
    np.testing.assert_array_equal(border_band(label, width), near_border(label, width))


@pytest.mark.parametrize("size", [(8, 11), (25, 30), (17, 23)])
def test_the_network_is_scored_at_its_own_size_too(size):
    stored = stored_case(2, (17, 23), PHANTOM)
    rng = np.random.default_rng(4)
    probs = {s: rng.dirichlet(np.ones(2), s).astype(np.float32) for s in {(17, 23), size}}

    def predict(image, asked):
        assert image is stored["image"]
        return probs[asked]

    (native,) = score_cases(predict, [stored], PHANTOM.classes)
    (both,) = score_cases(predict, [stored], PHANTOM.classes, size=size)
    found = [row for row in both.rows if row.region == "input"]
    assert [row for row in both.rows if row.region != "input"] == native.rows
    if size == (17, 23):
        assert not found
        return
    label = preprocess.resize_label(stored["label"], size, 2)
    where = np.ones(size, bool)
    expected = [
        (stored["id"].decode(), label_name, metric, value)
        for metric, values in expected_scores(probs[size], label, where, 2).items()
        for label_name, value in zip(
            PHANTOM.classes if np.ndim(values) else ("all",), np.atleast_1d(values), strict=True
        )
    ]
    for row, (*place, value) in zip(found, expected, strict=True):
        assert [row.case, row.label, row.metric] == place
        np.testing.assert_allclose(row.value, value, rtol=2e-5, atol=1e-6)


def test_lesions_are_compared_with_the_truth():
    label = np.zeros((8, 9), np.uint8)
    label[:3, :3], label[5:, 6:] = 1, 1
    p = np.full(label.shape, 0.1)
    p[1, 1:5] = 0.96, 0.9, 0.9, 0.88  # overlaps the first
    p[2, 5] = 0.93  # touches it by a corner, overlaps nothing
    p[6, 0:2] = 0.52, 0.6  # overlaps nothing
    p[5, 8] = 0.72  # overlaps the second
    stored = {"id": b"a", "image": label[..., None], "label": label}
    probs = np.stack([1 - p, p], -1).astype(np.float32)
    (result,) = score_cases(lambda image, native: probs, [stored], ("background", "cell"))
    found = {row.bin: (row.lesions, row.correct) for row in result.lesions}
    assert found == {11: (1, 0), 14: (1, 1), 18: (2, 1)}
    (row,) = split_calibration({"a": result.reliability}, result.lesions, ("background", "cell"))
    assert (row.lesions, row.correct) == (4, 2)
    expected = (abs(0.91 + 0.93 - 1) + abs(0.72 - 1) + 0.56) / 4
    assert row.lesion_ece == pytest.approx(expected, rel=1e-5)
    brier = (0.09**2 + 0.93**2 + 0.28**2 + 0.56**2) / 4
    assert row.lesion_brier == pytest.approx(brier, rel=1e-5)


@pytest.mark.parametrize(("spec", "shape"), [(PHANTOM, (13, 17)), (PHANTOM_3D, (5, 6, 7))])
def test_as_many_lesions_as_parts_by_flooding(spec, shape):
    stored = stored_case(1, shape, spec)
    (result,) = results_of(predictor(spec), [stored], spec)
    for number, name in enumerate(spec.classes[1:], 1):
        rows = [row for row in result.lesions if row.label == name]
        mask = result.probs.argmax(-1) == number
        assert sum(row.lesions for row in rows) == components(mask)
        assert all(row.case == "case_1" and 0 <= row.correct <= row.lesions for row in rows)
        for row in rows:
            assert (
                row.bin / 20 <= row.confidence / row.lesions < (row.bin + 1) / 20 or row.bin == 19
            )


def test_an_empty_region_is_undefined_throughout():
    stored = stored_case(0, (6, 7), DRIVE)
    stored["region"][:] = 0
    (result,) = results_of(predictor(DRIVE), [stored], DRIVE)
    values = {region: [r.value for r in result.rows if r.region == region] for region in REGIONS}
    assert not np.isnan(values["image"]).any()
    assert np.isnan(values["field of view"]).all()


def test_a_resampled_volume_is_scored_and_shown_on_its_native_grid():
    rng = np.random.default_rng([1, 7])
    native = rng.integers(0, 3, (9, 11, 13), np.uint8)
    native[6] = 2
    native[3] = 1
    stored = stored_case(7, (4, 5, 6), PHANTOM_3D) | {"native_label": native}
    probs = rng.dirichlet(np.ones(3), native.shape).astype(np.float32)

    def predict(image, size):
        assert image is stored["image"] and size == native.shape
        return probs

    (result,) = results_of(predict, [stored], PHANTOM_3D)
    assert result.label is native
    dice = {row.label: row.value for row in result.rows if row.metric == "dice"}
    band = [row.value for row in result.rows if (row.region, row.metric) == ("band", "brier")]
    errors = (oracles.one_hot(native, 3) - probs.astype(np.float64)) ** 2
    np.testing.assert_allclose(band, errors[near_border(native)].mean(0), rtol=1e-5)
    mask = probs.argmax(-1)
    for target, name in enumerate(PHANTOM_3D.classes):
        overlap = ((mask == target) & (native == target)).sum()
        expected = 2 * overlap / ((mask == target).sum() + (native == target).sum())
        assert dice[name] == pytest.approx(expected, rel=1e-5)
    # The middles of slices 3 and 6 of 9 are at 3.5 / 9 and 6.5 / 9 of the height, in slices 1 and 2
    # of 4, counted from 0; what is written counts from 1.
    for view, index, coarse in zip(views.views(result), (3, 6), (1, 2), strict=True):
        assert view.where == f"slice {index + 1} of 9"
        np.testing.assert_array_equal(view.label, native[index])
        image = oracles.resize(stored["image"][coarse], (11, 13))
        np.testing.assert_allclose(view.image, image, rtol=1e-5)


def test_errors_are_magenta_and_green_on_dark_grey():
    rng = np.random.default_rng([3, 0])
    image = rng.integers(0, 256, (12, 15, 3), np.uint8)
    label, mask = rng.integers(0, 3, (2, 12, 15), np.uint8)
    for target in range(3):
        shown = case_plots.errors(image, label, mask, target)
        assert shown.dtype == np.uint8 and shown.shape == (12, 15, 3)
        false_positive = (mask == target) & (label != target)
        false_negative = (mask != target) & (label == target)
        right = ~false_positive & ~false_negative
        assert false_positive.any() and false_negative.any() and right.any()
        assert (shown[false_positive] == (255, 0, 255)).all()
        assert (shown[false_negative] == (0, 200, 0)).all()
        assert (shown[right] == shown[right][:, :1]).all()
        dim = 0.15 * 255 + 0.6 * image[right].mean(-1)
        np.testing.assert_allclose(shown[right][:, 0], dim, atol=1.001)


def test_uint8_is_displayed_unchanged():
    image = np.random.default_rng([4, 0]).integers(0, 256, (5, 6, 3), np.uint8)
    np.testing.assert_allclose(case_plots.display(image), image / 255)
    grey = case_plots.display(image[..., :1])
    np.testing.assert_allclose(grey, np.stack([image[..., 0] / 255] * 3, -1))


def test_other_intensities_are_displayed_between_their_percentiles():
    image = np.arange(-1000, 1020, 20, dtype=np.int16)[:, None, None]
    shown = case_plots.display(image)
    assert shown.shape == (101, 1, 3)
    # The hundred steps of 20 put the first and ninety-ninth percentile on the second and last but
    # one value.
    np.testing.assert_allclose(shown[1:-1, 0, 1], np.linspace(0, 1, 99))
    assert shown[0, 0, 0] == 0 and shown[-1, 0, 0] == 1
    np.testing.assert_array_equal(case_plots.display(np.full((3, 3, 1), 40, np.int16)), 0)


def scored(spec, shape, index=0):
    """A result of evaluating a random case."""
    (result,) = results_of(predictor(spec), [stored_case(index, shape, spec)], spec)
    return result


def test_each_class_is_shown_in_the_slice_with_most_of_it():
    volume = scored(PHANTOM_3D, (5, 9, 8))
    label = np.zeros((5, 9, 8), np.uint8)
    label[1, :4], label[3, :5], label[4, :2] = 2, 1, 2
    volume = volume._replace(label=label)
    shown = views.views(volume)
    assert [view.where for view in shown] == ["slice 4 of 5", "slice 2 of 5"]
    for view, index in zip(shown, (3, 1), strict=True):
        assert view.case == volume.case
        for field in ("image", "label", "probs"):
            whole, part = getattr(volume, field), getattr(view, field)
            np.testing.assert_array_equal(part, whole[index])
            assert not np.shares_memory(part, whole)


def test_an_absent_class_is_shown_where_it_is_most_probable():
    volume = scored(PHANTOM_3D, (5, 9, 8))
    label = np.zeros((5, 9, 8), np.uint8)
    label[3, :5] = 1
    probs = np.full((5, 9, 8, 3), (0.7, 0.2, 0.1), np.float32)
    probs[0, 2:6] = (0.1, 0.1, 0.8)
    kidney, tumour = views.views(volume._replace(label=label, probs=probs))
    assert (kidney.where, tumour.where) == ("slice 4 of 5", "slice 1 of 5")
    np.testing.assert_array_equal(tumour.image, volume.image[0])
    np.testing.assert_array_equal(tumour.probs, probs[0])


def test_an_image_is_shown_whole():
    image = scored(DRIVE, (9, 8))
    (view,) = views.views(image)
    assert view.where == ""
    for shown, whole in zip(view[2:], (image.image, image.label, image.probs), strict=True):
        np.testing.assert_array_equal(shown, whole)


def test_a_large_image_is_subsampled():
    image = scored(PHANTOM, (3, 2050))
    (view,) = views.views(image)
    for shown, whole in zip(view[2:], (image.image, image.label, image.probs), strict=True):
        np.testing.assert_array_equal(shown, whole[::3, ::3])


def save(figure, folder):
    """Save a figure and return what is in the folder afterwards."""
    path = folder / "pictures" / "a.png"
    canvas.save(figure, path)
    assert plt.get_fignums() == []
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def written(view):
    """The case, for a volume with the slice, as in the title of a row."""
    return f"case_0, {view.where}" if view.where else "case_0"


@pytest.mark.parametrize("spec, shape", [(DRIVE, (40, 30)), (PHANTOM_3D, (5, 30, 40))])
def test_thresholds_show_their_errors_with_recall_and_precision(tmp_path, spec, shape):
    flats = views.views(scored(spec, shape))
    figure = case_plots.thresholds({"dsc": flats, "dscpp": flats}, spec.classes, (0.2, 0.9))
    panels = [axes for axes in figure.axes if axes.get_title()]
    foreground = range(1, len(spec.classes))
    assert len(panels) == 6 * len(foreground)
    for target, flat in zip(foreground, flats, strict=True):
        row = panels[6 * (target - 1) + 3 : 6 * target]
        assert row[0].get_title() == f"{written(flat)}\ndscpp: {spec.classes[target]}"
        np.testing.assert_array_equal(row[0].images[0].get_array(), flat.probs[..., target])
        for axes, value in zip(row[1:], (0.2, 0.9), strict=True):
            called, truth = flat.probs[..., target] >= value, flat.label == target
            recall = recall_score(truth.ravel(), called.ravel())
            precision = precision_score(truth.ravel(), called.ravel())
            assert axes.get_title() == (
                f"T = {value}: recall {recall:.2f}, precision {precision:.2f}"
            )
            wrong = case_plots.errors(flat.image, flat.label, target * called, target)
            shown = axes.images[0].get_array()
            np.testing.assert_array_equal(
                np.all(shown == case_plots.FALSE_POSITIVE, -1), called & ~truth
            )
            np.testing.assert_array_equal(shown, wrong)
    save(figure, tmp_path)


def test_a_threshold_that_nothing_reaches_has_no_precision():
    result = scored(DRIVE, (9, 8))
    result = result._replace(probs=np.full_like(result.probs, 0.5), label=0 * result.label)
    figure = case_plots.thresholds({"dsc": views.views(result)}, DRIVE.classes, (0.8,))
    assert figure.axes[1].get_title() == "T = 0.8: recall undefined, precision undefined"
    plt.close(figure)


@pytest.mark.parametrize("spec, shape", [(DRIVE, (40, 30)), (PHANTOM_3D, (5, 30, 40))])
def test_prediction_shows_image_truth_heat_and_errors(tmp_path, spec, shape):
    flats = views.views(scored(spec, shape))
    figure = case_plots.prediction({"dsc": flats, "dscpp": flats}, spec.classes)
    panels = [axes for axes in figure.axes if axes.get_title()]
    foreground = range(1, len(spec.classes))
    assert len(panels) == 6 * len(foreground)
    for target, flat in zip(foreground, flats, strict=True):
        row = panels[6 * (target - 1) : 6 * target]
        shown = [axes.images[0].get_array() for axes in row]
        assert [axes.get_title() for axes in row] == [
            written(flat),
            f"{spec.classes[target]}: truth",
            "dsc: probability",
            "dsc: FP magenta, FN green",
            "dscpp: probability",
            "dscpp: FP magenta, FN green",
        ]
        np.testing.assert_array_equal(shown[0], case_plots.display(flat.image))
        np.testing.assert_array_equal(shown[1], flat.label == target)
        np.testing.assert_array_equal(shown[4], flat.probs[..., target])
        wrong = case_plots.errors(flat.image, flat.label, flat.probs.argmax(-1), target)
        np.testing.assert_array_equal(shown[5], wrong)
    picture = save(figure, tmp_path)
    assert picture.width > 1000 and picture.height > 200 * len(foreground)
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    assert {case_plots.FALSE_POSITIVE, case_plots.FALSE_NEGATIVE} <= colours


def test_prediction_says_where_a_method_has_another_slice():
    first = views.views(scored(PHANTOM_3D, (5, 9, 8)))
    other = [view._replace(where=f"slice {7 + n} of 9") for n, view in enumerate(first)]
    figure = case_plots.prediction({"dsc": first, "dscpp": other}, PHANTOM_3D.classes)
    titles = [axes.get_title() for axes in figure.axes if "prob" in axes.get_title()]
    plt.close(figure)
    assert titles == [
        "dsc: probability",
        "dscpp: probability, slice 7 of 9",
        "dsc: probability",
        "dscpp: probability, slice 8 of 9",
    ]


def overlaid(shape, spacing, from_top=False):
    """The overlay of a case of three classes, most of whose foreground is in the third slice."""
    rng = np.random.default_rng([5, 0])
    probs = np.full((*shape, 3), (0.8, 0.1, 0.1), np.float32)
    probs[(2,) if len(shape) == 3 else (...,)] = rng.dirichlet((1, 4, 1), shape[-2:])
    image = rng.integers(0, 256, (*shape, 1), np.uint8)
    names = ("background", "kidney", "tumour")
    return case_plots.overlay("a", image, probs.argmax(-1), probs, names, spacing, from_top), probs


def test_overlay_of_a_volume_counts_its_slices_from_one():
    for from_top, title in ((True, "a, slice 3 of 4 (from the top)"), (False, "a, slice 3 of 4")):
        figure, probs = overlaid((4, 12, 10), (5, 2, 1), from_top)
        panels = [axes for axes in figure.axes if axes.get_title()]
        assert figure.get_suptitle() == title
        for target, axes in enumerate(panels[1:], 1):
            np.testing.assert_array_equal(axes.images[0].get_array(), probs[2, ..., target])
        plt.close(figure)


@pytest.mark.parametrize(
    "shape, spacing",
    [((60, 60), (1, 1)), ((40, 120), (1, 1)), ((60, 40), (2, 1)), ((9, 90), (3, 1))],
)
def test_overlay_has_the_shape_of_its_image(shape, spacing):
    figure, _ = overlaid(shape, spacing)
    assert all(3 <= side <= 12 for side in figure.get_size_inches())
    figure.draw_without_rendering()
    panels = [axes.get_window_extent() for axes in figure.axes if axes.get_title()]
    (legend,) = figure.legends
    plt.close(figure)
    for box in panels:
        tallness = shape[0] * spacing[0] / (shape[1] * spacing[1])
        assert box.height / box.width == pytest.approx(tallness, rel=1e-3)
    gap = panels[0].y0 - legend.get_window_extent().y1
    assert 0 < gap < 1.0 * figure.dpi


def test_a_large_overlay_is_subsampled():
    figure, _ = overlaid((2100, 30), (1, 1))
    shapes = {axes.images[0].get_array().shape[:2] for axes in figure.axes if axes.get_title()}
    plt.close(figure)
    assert shapes == {(700, 10)}


@pytest.mark.parametrize("spec, shape", [(DRIVE, (40, 30)), (PHANTOM_3D, (5, 9, 8))])
def test_reliability_diagram_shows_frequency_over_confidence(tmp_path, spec, shape):
    sums = scored(spec, shape).reliability
    figure = curve_plots.reliability_diagram({"dsc": sums, "dscpp": sums}, spec.classes)
    foreground = len(spec.classes) - 1
    assert len(figure.axes) == 2 * foreground
    for target, axes in enumerate(figure.axes[:foreground], start=1):
        assert axes.get_title() == spec.classes[target]
        curve = next(line for line in axes.lines if line.get_label() == "dscpp")
        seen = sums.voxels[target] > 0
        x, y = (a[target][seen] / sums.voxels[target][seen] for a in sums[1:])
        np.testing.assert_array_equal(curve.get_xdata(), x)
        np.testing.assert_array_equal(curve.get_ydata(), y)
    picture = save(figure, tmp_path)
    assert picture.width > 300 * foreground and picture.height > 400
    assert len(set(picture.get_flattened_data())) > 10


def test_reliability_of_certain_predictions_leaves_empty_bins_out(tmp_path):
    label = stored_case(0, (3, 5, 6), PHANTOM_3D)["label"]
    (result,) = results_of(certain(label), [stored_case(0, (3, 5, 6), PHANTOM_3D)], PHANTOM_3D)
    figure = curve_plots.reliability_diagram({"exact": result.reliability}, PHANTOM_3D.classes)
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "exact")
    assert curve.get_xdata().tolist() == curve.get_ydata().tolist() == [0, 1]
    assert save(figure, tmp_path).width > 300


def test_training_curves_show_losses_and_rates(tmp_path):
    histories = {
        name: [
            {"epoch": epoch, "train_loss": a / (epoch + 1), "val_loss": a, "learning_rate": rate}
            for epoch, rate in enumerate([0.1, 0.1, 0.01])
        ]
        for name, a in (("dsc", 0.5), ("dscpp", 0.7))
    }
    figure = curve_plots.training_curves(histories)
    losses, rates = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in losses.lines}
    assert set(drawn) == {f"{a} {b}" for a in histories for b in ("training", "validation")}
    np.testing.assert_array_equal(drawn["dscpp training"], [0.7, 0.35, 0.7 / 3])
    np.testing.assert_array_equal(drawn["dsc validation"], [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(
        [line.get_ydata() for line in rates.lines], [[0.1, 0.1, 0.01]] * 2
    )
    assert {float(tick) % 1 for tick in rates.get_xticks()} == {0}
    picture = save(figure, tmp_path)
    assert picture.width > 500 and picture.height > 400
    assert len(set(picture.get_flattened_data())) > 10


def test_a_figure_is_replaced_atomically(tmp_path):
    for width in (2, 4):
        figure = plt.figure(figsize=(width, 2))
        figure.add_subplot()
        pictures = save(figure, tmp_path)
    assert pictures.width > 300


def test_table_has_a_line_for_each_metric_and_a_column_for_each_method():
    def rows(offset):
        return [
            Row(case, label, region, metric, offset + value + index / 8)
            for index, case in enumerate("abcdef")
            for region in REGIONS
            for label, metric, value in (
                ("background", "dice", 9),
                ("tumour", "dice", NAN if case < "c" else 1),
                ("all", "nll_full", 2),
            )
        ]

    methods = {"dsc": rows(0), "dscpp": rows(0.5)}
    summaries = {name: summarise(group) for name, group in methods.items()}
    a, b = ([r for r in group if r.label != "background"] for group in methods.values())
    for compared in ((), compare(a, b, ("dsc", "dscpp"))):
        table = summary_table(summaries, "background", compared)
        header, rule, *lines = table.splitlines()
        names = ["class", "region", "metric", "dsc", "dscpp"]
        names += ["p rank-sum", "p signed-rank", "p by Holm"] if compared else []
        cells = [[c.strip() for c in line.split("  ") if c] for line in (header, *lines)]
        assert cells[0] == names
        assert rule == "-" * len(header)
        expected = []
        for region in REGIONS:
            for place in (("tumour", region, "dice"), ("all", region, "nll_full")):
                row = list(place)
                for group in summaries.values():
                    s = find(group, place[2], place[0], region)
                    undefined = " (2 undefined)" if place[0] == "tumour" else ""
                    row.append(f"{s.mean:.4f} ± {s.error:.4f}{undefined}")
                for c in compared:
                    if (c.label, c.region, c.metric) == place:
                        row += [f"{c.rank_sum:.2g}", f"{c.signed_rank:.2g}", f"{c.holm:.2g}"]
                expected.append(row)
        assert cells[1:] == expected


def test_columns_are_aligned():
    text = layout([["a", "long header", "b"], ["longer cell", "c", "d"]])
    assert text.splitlines() == [
        "a            long header  b",
        "-" * 27,
        "longer cell  c            d",
    ]
