"""Calibration metrics against scikit-learn, scipy and float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from dicepp_jax import metrics
from dicepp_jax.metrics import CALIBRATION, LABEL_MAP
from dicepp_jax.metrics.calibration import BINS

CLASSES = 4
SHAPES = [(3, 60), (3, 6, 10), (3, 4, 3, 5)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["1-D", "2-D", "3-D"])
reliability = jax.jit(metrics.reliability, static_argnames="bins")
adaptive_reliability = jax.jit(metrics.adaptive_reliability, static_argnames="bins")
both_reliabilities = pytest.mark.parametrize(
    "function", [reliability, adaptive_reliability], ids=["reliability", "adaptive"]
)
masked = pytest.mark.parametrize("masked", [False, True], ids=["whole", "where"])


def example(shape):
    """Probabilities, labels, where; class 3 is absent from example 0."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, shape)
    labels[0] %= 3
    logits = rng.normal(size=(*shape, CLASSES)) + oracles.one_hot(labels, CLASSES)
    where = rng.random(shape) > 0.4
    return oracles.softmax(logits).astype(np.float32), labels, where


def per_class(function, x, labels, where):
    """`function(y, x)` of every example and class over the included voxels, (B, C).

    x is `(B, *spatial, C)`, labels and where are `(B, *spatial)`.
    """
    return np.array(
        [
            [function(y[keep] == c, values[keep][:, c]) for c in range(CLASSES)]
            for values, y, keep in zip(x, labels, where, strict=True)
        ]
    )


def nll_of_class(y, p):
    return -np.mean(y * np.log(p.astype(np.float64)))


def numpy_errors(y, p, groups):
    """ECE, ACE and MCE of voxels that are grouped into bins, in float64."""
    bins = [(y[groups == k], p[groups == k].astype(np.float64)) for k in np.unique(groups)]
    gaps = [abs(p.mean() - y.mean()) for y, p in bins]
    voxels = [len(y) for y, _ in bins]
    return np.average(gaps, weights=voxels), np.mean(gaps), np.max(gaps)


def monai_errors(y, p):
    """The bins of MONAI: 20 of them, upper edge included, the last edge slightly above 1."""
    upper = np.linspace(0, 1 + np.finfo(np.float32).eps, 21, dtype=np.float32)[1:]
    return numpy_errors(y, p, np.minimum(np.searchsorted(upper, p, side="left"), 19))


@shapes
@masked
def test_calibration_matches_scikit_learn_and_numpy(shape, masked):
    probs, labels, where = example(shape)
    kept = where if masked else np.ones(shape, bool)
    found = {n: f(probs, labels, where if masked else None) for n, f in CALIBRATION.items()}
    full = [
        sklearn.log_loss(y[keep], p[keep].astype(np.float64), labels=range(CLASSES))
        for p, y, keep in zip(oracles.softmax(np.log(probs)), labels, kept, strict=True)
    ]
    expected = {
        "nll": per_class(nll_of_class, probs, labels, kept),
        "nll_full": np.array(full),
        "brier": per_class(sklearn.brier_score_loss, probs, labels, kept),
    }
    errors = per_class(monai_errors, probs, labels, kept)
    expected |= {name: errors[..., i] for i, name in enumerate(("ece", "ace", "mce"))}
    direct = per_class(lambda y, p: np.mean((y - p.astype(float)) ** 2), probs, labels, kept)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["brier"], direct, rtol=1e-5)
    np.testing.assert_allclose(found["nll"].sum(-1), found["nll_full"], rtol=1e-6)


def test_brier_of_two_classes_is_the_mean_over_both():
    p = np.random.default_rng(1).random((2, 30)).astype(np.float32)
    probs, labels = np.stack([1 - p, p], axis=-1), np.tile([0, 1], (2, 15))
    both = np.mean((oracles.one_hot(labels, 2) - probs.astype(np.float64)) ** 2, axis=(1, 2))
    found = metrics.brier(probs, labels)
    np.testing.assert_allclose(found, np.stack([both, both], axis=-1), rtol=1e-5)


def test_logarithms_are_of_clipped_probabilities():
    probs = np.array([[[0.0, 1.0]], [[1.0, 0.0]]], np.float32)
    labels = np.zeros((2, 1), int)
    found = metrics.nll(probs, labels)
    # The next float32 below 1 - 1e-7.
    certain = -np.log(np.float64(np.float32(1 - 1e-7)))
    np.testing.assert_allclose(found, [[-np.log(1e-7), 0], [certain, 0]], rtol=1e-5)
    np.testing.assert_allclose(metrics.brier(probs, labels), [[1, 1], [0, 0]])


def test_an_example_without_voxels_is_nan():
    probs, labels, _ = example(SHAPES[1])
    where = np.ones(labels.shape, bool)
    where[1] = False
    for function in CALIBRATION.values():
        nan = np.isnan(function(probs, labels, where)).reshape(3, -1)
        assert nan.all(-1).tolist() == nan.any(-1).tolist() == [False, True, False]
    for function in (reliability, adaptive_reliability):
        sums = function(probs, labels, where)
        assert not np.any([x[1] for x in sums])
        assert np.isnan(sums.ece).all(-1).tolist() == [False, True, False]


def everything(probs, labels, where):
    calibration = {n: f(probs, labels, where) for n, f in CALIBRATION.items()}
    adaptive = metrics.adaptive_reliability(probs, labels, where)._asdict()
    sums = metrics.reliability(probs, labels, where)._asdict()
    return calibration | sums | {f"adaptive_{name}": x for name, x in adaptive.items()}


jitted = jax.jit(everything)


def test_jit_and_vmap():
    arguments = example(SHAPES[1])
    compiled = jitted(*arguments)
    for name, function in CALIBRATION.items():
        np.testing.assert_allclose(compiled[name], function(*arguments), rtol=1e-6, atol=1e-7)
    vmapped = jax.jit(jax.vmap(everything))(*(np.stack([x, x[::-1]]) for x in arguments))
    for name, value in compiled.items():
        expected = np.stack([value, value[::-1]])
        np.testing.assert_allclose(vmapped[name], expected, rtol=1e-6, atol=1e-7)


def test_where_may_hold_0_and_255():
    probs, labels, where = example(SHAPES[1])
    boolean = jitted(probs, labels, where)
    for name, value in jitted(probs, labels, (255 * where).astype(np.uint8)).items():
        np.testing.assert_allclose(value, boolean[name])


def numpy_reliability(p, y, keep, bins):
    """Sums of one class of one example, voxel by voxel, against the edges in float32."""
    edges = (np.arange(bins) / bins).astype(np.float32)
    sums = np.zeros((3, bins))
    for probability, positive in zip(p[keep], y[keep], strict=True):
        k = np.flatnonzero(probability >= edges)[-1]
        sums[:, k] += 1, probability, positive
    return sums


@masked
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_reliability_matches_a_loop(masked, bins):
    probs, labels, where = example(SHAPES[1])
    kept = where if masked else np.ones(where.shape, bool)
    found = reliability(probs, labels, where if masked else None, bins=bins)
    assert {x.shape for x in found} == {(3, CLASSES, bins)}
    for b in range(3):
        for c in range(CLASSES):
            expected = numpy_reliability(probs[b, ..., c], labels[b] == c, kept[b], bins)
            np.testing.assert_allclose([x[b, c] for x in found], expected, rtol=1e-5)


def test_reliability_matches_scikit_learn():
    rng = np.random.default_rng(2)
    p = rng.beta(0.3, 0.3, 500).astype(np.float32)
    y = rng.random(500) < p**1.5
    sums = reliability(np.stack([1 - p, p], -1)[None], y[None].astype(int))
    sums = metrics.Reliability(*(x[0, 1] for x in sums))
    fraction, confidence = calibration_curve(y, p, n_bins=BINS)
    np.testing.assert_allclose(sums.positives / sums.voxels, fraction, rtol=1e-5)
    np.testing.assert_allclose(sums.confidence / sums.voxels, confidence, rtol=1e-5)


@pytest.mark.parametrize("bins", [1, 10, 20])
def test_reliability_at_the_edges(bins):
    edges = (np.arange(bins + 1) / bins).astype(np.float32)
    below = np.nextafter(edges[1:], np.float32(0))
    for p, expected in ((edges, [*range(bins), bins - 1]), (below, range(bins))):
        probs = np.stack([np.ones_like(p), p], axis=-1)[None]
        voxels = reliability(probs, np.zeros((1, len(p)), int), bins=bins).voxels
        np.testing.assert_array_equal(voxels[0, 1], np.bincount(expected, minlength=bins))
        assert voxels[0, 0, -1] == len(p)


@pytest.mark.parametrize("name", ["ece", "ace", "mce"])
def test_errors_accept_the_number_of_bins(name):
    probs, labels, where = example(SHAPES[1])
    found = CALIBRATION[name](probs, labels, where, bins=7)
    expected = per_class(
        lambda y, p: numpy_errors(y, p, (7 * p.astype(float)).astype(int)), probs, labels, where
    )
    index = ("ece", "ace", "mce").index(name)
    np.testing.assert_allclose(found, expected[..., index], rtol=1e-5, atol=1e-7)


def test_a_calibrated_network_has_no_error():
    p = np.repeat(np.arange(0, 1.01, 0.125, np.float32), 8)
    labels = np.concatenate([np.arange(8) < 8 * x for x in p[::8]]).astype(int)[None]
    probs = np.stack([1 - p, p], axis=-1)[None]
    sums = reliability(probs, labels)
    for error in (sums.ece, sums.ace, sums.mce):
        np.testing.assert_array_equal(error, [[0, 0]])
    sums, error = reliability(probs, 1 - labels), np.abs(1 - 2 * p).mean()
    np.testing.assert_allclose(sums.ece, [[error, error]], rtol=1e-6)
    np.testing.assert_allclose(sums.ace, [[error, error]], rtol=1e-6)
    np.testing.assert_array_equal(sums.mce, [[1, 1]])


@both_reliabilities
def test_probabilities_rounded_beyond_0_and_1_are_in_the_outer_bins(function):
    p = np.array([np.nextafter(np.float32(0), -1), np.nextafter(np.float32(1), 2)], np.float32)
    probs = np.stack([p, p], axis=-1)[None]
    voxels = function(probs, np.zeros((1, 2), int), bins=2).voxels
    np.testing.assert_array_equal(voxels, np.ones((1, 2, 2)))


@both_reliabilities
def test_nan_propagates_unless_left_out(function):
    probs, labels, where = example(SHAPES[1])
    expected = function(probs, labels, where)
    broken = np.where(where[..., None], probs, np.nan)
    for name, value in function(broken, labels, where)._asdict().items():
        np.testing.assert_array_equal(value, getattr(expected, name))
    one = probs.copy()
    one[(1, *np.argwhere(where[1])[0])] = np.nan
    found = function(one, labels, where)
    for error in (found.ece, found.ace, found.mce):
        nan = np.isnan(error)
        assert nan[1].all() and not nan[0].any() and not nan[2].any()


def test_sums_of_more_voxels_than_float32_can_count():
    voxels = 2**24 + 2**20 + 4097
    p = np.float32(0.97)
    probs = jnp.broadcast_to(jnp.array([1 - p, p]), (1, voxels, 2))
    # Compiled with optimisation, as by users: without it, XLA adds numbers one by one.
    compiled = jax.jit(reliability, compiler_options={"xla_backend_optimization_level": 3})
    sums = compiled(probs, jnp.ones((1, voxels), jnp.int8))
    assert np.asarray(sums.voxels).max(-1).tolist() == [[voxels, voxels]]
    assert np.asarray(sums.positives).max(-1).tolist() == [[0, voxels]]
    np.testing.assert_allclose(sums.confidence[0, 1].max(), voxels * float(p), rtol=3e-6)
    np.testing.assert_allclose(sums.ece, [[1 - p, 1 - p]], rtol=1e-4)


def test_errors_of_sums_over_many_images():
    voxels = np.array([6 * 10**9, 0, 2 * 10**9])
    sums = metrics.Reliability(voxels, voxels * np.array([0.1, 0.0, 0.9]), voxels // 2)
    found = [float(x) for x in (sums.ece, sums.ace, sums.mce)]
    np.testing.assert_allclose(found, [0.4, 0.4, 0.4], rtol=1e-5)


def ranked_errors(y, p, bins):
    """Errors over groups of equal size by ascending probability."""
    groups = np.empty(len(p), int)
    for k in range(bins):
        first, end = k * len(p) // bins, (k + 1) * len(p) // bins
        groups[np.argsort(p)[first:end]] = k
    return numpy_errors(y, p, groups), np.bincount(groups, minlength=bins)


@masked
@pytest.mark.parametrize("bins", [1, 7, 100])
def test_adaptive_bins_match_a_sort(masked, bins):
    probs, labels, where = example(SHAPES[1])
    kept = where if masked else np.ones(where.shape, bool)
    sums = adaptive_reliability(probs, labels, where if masked else None, bins=bins)
    for b in range(3):
        for c in range(CLASSES):
            y, p = labels[b][kept[b]] == c, probs[b, ..., c][kept[b]]
            errors, voxels = ranked_errors(y, p, bins)
            np.testing.assert_array_equal(sums.voxels[b, c], voxels)
            found = [x[b, c] for x in (sums.ece, sums.ace, sums.mce)]
            np.testing.assert_allclose(found, errors, rtol=1e-5, atol=1e-7)
    means = np.asarray(sums.confidence / sums.voxels)
    assert all((np.diff(row[~np.isnan(row)]) > 0).all() for row in means.reshape(-1, bins))


def test_equal_probabilities_share_an_adaptive_bin():
    p = np.array([0.2, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9], np.float32)
    labels = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    probs = np.stack([1 - p, p], axis=-1)[None]
    sums = adaptive_reliability(probs, labels, bins=4)
    assert np.asarray(sums.voxels)[0].tolist() == [[1, 0, 6, 1], [1, 0, 6, 1]]
    order = np.random.default_rng(3).permutation(8)
    again = adaptive_reliability(probs[:, order], labels[:, order], bins=4)
    for name, value in sums._asdict().items():
        np.testing.assert_allclose(getattr(again, name), value, rtol=1e-6)


@settings(deadline=None)
@given(
    levels=hnp.arrays(np.int32, (2, 24), elements=st.integers(0, 6)),
    labels=hnp.arrays(np.int32, (2, 24), elements=st.integers(0, 1)),
    where=hnp.arrays(bool, (2, 24)),
)
def test_adaptive_bins_of_few_levels(levels, labels, where):
    p = (levels / 6).astype(np.float32)
    found = np.asarray(adaptive_reliability(np.stack([1 - p, p], axis=-1), labels, where).voxels)[
        :, 1
    ]
    for voxels, row, keep in zip(found, p, where, strict=True):
        starts = np.arange(BINS) * keep.sum() // BINS
        middle = stats.rankdata(row[keep]) - 0.5
        expected = np.searchsorted(starts, middle, side="right") - 1
        np.testing.assert_array_equal(voxels, np.bincount(expected, minlength=BINS))


@pytest.mark.parametrize(
    ("shape", "width"), [((2, 40, 30), 0), ((2, 40, 30), 3), ((2, 12, 20, 9), (1, 4, 0))]
)
def test_band_is_a_dilation_by_a_box(shape, width):
    labels = (np.random.default_rng(4).random(shape) > 0.99) * 3
    labels[1] = 0
    widths = width if isinstance(width, tuple) else (width,) * (len(shape) - 1)
    box = np.ones([2 * w + 1 for w in widths], bool)
    expected = [ndimage.binary_dilation(x > 0, box) for x in labels]
    assert expected[0].any() and not expected[0].all() and not expected[1].any()
    found = metrics.foreground_band(labels, width)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)
    vmapped = jax.jit(jax.vmap(lambda x: metrics.foreground_band(x, width)))(labels[:, None])
    np.testing.assert_array_equal(vmapped[:, 0], expected)


def test_band_restricts_a_metric():
    probs, labels, _ = example(SHAPES[1])
    labels = np.where(labels == 3, 3, 0)
    labels[2] = 0
    band = metrics.foreground_band(labels, 1)
    assert 0 < band[1].sum() < band[1].size
    expected = per_class(monai_errors, probs[1:2], labels[1:2], np.asarray(band[1:2]))
    found = metrics.ece(probs, labels, band)
    np.testing.assert_allclose(found[1], expected[0, :, 0], rtol=1e-5, atol=1e-7)
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("width", [-1, (1, 1, 1), (1,), (2, -1)])
def test_band_refuses_invalid_widths(width):
    with pytest.raises(ValueError, match=r"width must .*\(2, 5, 5\)"):
        metrics.foreground_band(np.zeros((2, 5, 5), int), width)


@both_reliabilities
def test_zero_bins_are_refused(function):
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        function(np.ones((1, 4, 2)), np.zeros((1, 4), int), bins=0)


labels_of = hnp.arrays(np.int32, (2, 6, 3), elements=st.integers(0, CLASSES - 1))
probs_of = hnp.arrays(np.float32, (2, 6, 3, CLASSES), elements=st.floats(0, 1, width=32))
wheres = hnp.arrays(bool, (2, 6, 3))


@settings(deadline=None)
@given(probs=probs_of, labels=labels_of, where=wheres)
def test_sums_of_two_halves_add_up(probs, labels, where):
    arguments = probs, labels, where
    whole = jitted(*arguments)
    top, bottom = (jitted(*(x[:, rows] for x in arguments)) for rows in (slice(3), slice(3, 6)))
    for name in metrics.Reliability._fields:
        np.testing.assert_allclose(top[name] + bottom[name], whole[name], rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(probs=probs_of, labels=labels_of, where=wheres)
def test_identities(probs, labels, where):
    found = {n: np.asarray(x, np.float64) for n, x in jitted(probs, labels, where).items()}
    per_class = (oracles.one_hot(labels, CLASSES) * where[..., None]).sum((1, 2))
    np.testing.assert_array_equal(
        found["voxels"].sum(-1), np.repeat(where.sum((1, 2))[:, None], CLASSES, axis=1)
    )
    np.testing.assert_array_equal(found["positives"].sum(-1), per_class)
    for name in ("brier", "ece", "ace", "mce"):
        inside = found[name][~np.isnan(found[name])]
        assert ((inside >= 0) & (inside <= 1)).all()
    assert not (np.maximum(found["ece"], found["ace"]) > found["mce"] + 1e-6).any()


@pytest.mark.parametrize(
    "function",
    [*CALIBRATION.values(), metrics.reliability, metrics.adaptive_reliability],
    ids=[*CALIBRATION, "reliability", "adaptive_reliability"],
)
def test_mismatched_shapes_are_refused(function):
    probs, labels = np.ones((2, 4, 3)), np.ones((2, 4), int)
    with pytest.raises(ValueError, match=r"\(2, 4, 3\) need .*shape \(2, 4\), got \(2, 4, 3\)"):
        function(probs, np.ones((2, 4, 3), int))
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(4,\)"):
        function(probs, labels, np.ones(4, bool))


def test_a_band_leaves_out_masked_voxels():
    labels = np.array([[0, 255, 255, 0, 0, 0, 1, 0, 0]])
    band = metrics.foreground_band(labels, 1, where=labels != 255)
    assert band.astype(int).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0]]
    assert metrics.foreground_band(np.array([[1, 0]]), 1, where=np.array([[1, 0]])).tolist() == [
        [True, False]
    ]


@masked
@shapes
def test_the_notebooks_use_the_label_map_as_one_hot(shape, masked):
    probs, labels, where = example(shape)
    where = where if masked else np.ones(labels.shape, bool)
    found = {name: f(probs, labels, where if masked else None) for name, f in LABEL_MAP.items()}
    for b, keep in enumerate(where):
        p, y = probs[b][keep].astype(np.float64), labels[b][keep].astype(np.float64)[:, None]
        nll = -(y * np.log(np.clip(p, 1e-7, 1 - 1e-7))).mean(0)
        np.testing.assert_allclose(found["nll_labelmap"][b], nll, rtol=1e-5)
        np.testing.assert_allclose(found["brier_labelmap"][b], ((y - p) ** 2).mean(0), rtol=1e-5)
