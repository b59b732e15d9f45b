"""The metrics against scikit-learn and float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from dicepp_jax import metrics
from dicepp_jax.metrics import CALIBRATION, OVERLAP

CLASSES = 4
SHAPES = [(3, 60), (3, 6, 10), (3, 4, 3, 5)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["1-D", "2-D", "3-D"])
masked = pytest.mark.parametrize("masked", [False, True], ids=["whole", "where"])


def example(shape):
    """Probabilities, a mask, labels, where; class 3 absent from example 0, unpredicted in 1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, shape)
    labels[0] %= 3
    logits = rng.normal(size=(*shape, CLASSES)) + oracles.one_hot(labels, CLASSES)
    logits[:2, ..., 3] = -5
    where = rng.random(shape) > 0.4
    return oracles.softmax(logits).astype(np.float32), logits.argmax(-1), labels, where


def per_class(function, x, labels, where):
    """`function(y, x)` of every example and class over the voxels that count, (B, C).

    x is `(B, *spatial, C)`, labels and where are `(B, *spatial)`.
    """
    return np.array(
        [
            [function(y[keep] == c, values[keep][:, c]) for c in range(CLASSES)]
            for values, y, keep in zip(x, labels, where, strict=True)
        ]
    )


def scikit_jaccard(y, predicted, zero_division):
    """Unlike the others it takes no NaN for zero_division."""
    either = (y | predicted).any()
    return sklearn.jaccard_score(y, predicted) if either else zero_division


SKLEARN_OVERLAP = {
    "dice": sklearn.f1_score,
    "jaccard": scikit_jaccard,
    "precision": sklearn.precision_score,
    "recall": sklearn.recall_score,
}


def scikit_overlap(name, y, predicted):
    return SKLEARN_OVERLAP[name](y, predicted, zero_division=np.nan)


def numpy_overlap(name, y, predicted):
    tp, fp, fn = (np.sum(x, dtype=float) for x in (y & predicted, ~y & predicted, y & ~predicted))
    numerator, denominator = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "jaccard": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }[name]
    return numerator / denominator if denominator else np.nan


@pytest.mark.parametrize("name", OVERLAP)
@shapes
@masked
def test_overlap_is_that_of_scikit_learn_and_numpy(name, shape, masked):
    _, mask, labels, where = example(shape)
    kept = where if masked else np.ones(shape, bool)
    found = OVERLAP[name](mask, labels, CLASSES, where if masked else None)
    assert found.shape == (3, CLASSES)
    one_hot = oracles.one_hot(mask, CLASSES).astype(bool)
    for oracle in (scikit_overlap, numpy_overlap):
        expected = per_class(functools.partial(oracle, name), one_hot, labels, kept)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_is_not_defined_is_nan():
    _, mask, labels, _ = example(SHAPES[0])
    nan = {name: np.isnan(f(mask, labels, CLASSES)) for name, f in OVERLAP.items()}
    # Example 0 has no class 3 in mask or truth, example 1 none in the mask.
    assert {name: x[:2, 3].tolist() for name, x in nan.items()} == {
        "dice": [True, False],
        "jaccard": [True, False],
        "precision": [True, True],
        "recall": [True, False],
    }
    assert not any(x[:, :3].any() for x in nan.values())
    empty = np.zeros(mask.shape, bool)
    for function in OVERLAP.values():
        assert np.isnan(function(mask, labels, CLASSES, empty)).all()


def nll_of_class(y, p):
    return -np.mean(y * np.log(p.astype(np.float64)))


@shapes
@masked
def test_calibration_is_that_of_scikit_learn_and_numpy(shape, masked):
    probs, _, labels, where = example(shape)
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
    direct = per_class(lambda y, p: np.mean((y - p.astype(float)) ** 2), probs, labels, kept)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
    np.testing.assert_allclose(found["brier"], direct, rtol=1e-5)
    np.testing.assert_allclose(found["nll"].sum(-1), found["nll_full"], rtol=1e-6)


def test_brier_of_two_classes_is_the_mean_over_both():
    p = np.random.default_rng(1).random((2, 30)).astype(np.float32)
    probs, labels = np.stack([1 - p, p], axis=-1), np.tile([0, 1], (2, 15))
    both = np.mean((oracles.one_hot(labels, 2) - probs.astype(np.float64)) ** 2, axis=(1, 2))
    found = metrics.brier(probs, labels)
    np.testing.assert_allclose(found, np.stack([both, both], axis=-1), rtol=1e-5)


def test_logarithms_see_clipped_probabilities():
    probs = np.array([[[0.0, 1.0]], [[1.0, 0.0]]], np.float32)
    labels = np.zeros((2, 1), int)
    found = metrics.nll(probs, labels)
    # The float32 next below 1 - 1e-7.
    certain = -np.log(np.float64(np.float32(1 - 1e-7)))
    np.testing.assert_allclose(found, [[-np.log(1e-7), 0], [certain, 0]], rtol=1e-5)
    np.testing.assert_allclose(metrics.brier(probs, labels), [[1, 1], [0, 0]])


def test_an_example_without_a_voxel_is_nan():
    probs, _, labels, _ = example(SHAPES[1])
    where = np.ones(labels.shape, bool)
    where[1] = False
    for function in CALIBRATION.values():
        nan = np.isnan(function(probs, labels, where)).reshape(3, -1)
        assert nan.all(-1).tolist() == nan.any(-1).tolist() == [False, True, False]
    assert not np.asarray(metrics.reliability(probs, labels, where).voxels)[1].any()


def everything(probs, mask, labels, where):
    overlap = {n: f(mask, labels, CLASSES, where) for n, f in OVERLAP.items()}
    calibration = {n: f(probs, labels, where) for n, f in CALIBRATION.items()}
    sums = metrics.reliability(probs, labels, where)._asdict()
    return overlap | calibration | sums | metrics.confusion(mask, labels, CLASSES, where)._asdict()


jitted = jax.jit(everything)


def test_jit_and_vmap():
    plain = everything(*example(SHAPES[1]))
    compiled = jitted(*example(SHAPES[1]))
    batches = (jnp.stack([x, x[::-1]]) for x in example(SHAPES[1]))
    vmapped = jax.jit(jax.vmap(everything))(*batches)
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, rtol=1e-6)
        np.testing.assert_allclose(vmapped[name], np.stack([value, value[::-1]]), rtol=1e-6)


def test_where_may_hold_0_and_255():
    probs, mask, labels, where = example(SHAPES[1])
    boolean = everything(probs, mask, labels, where)
    for name, value in everything(probs, mask, labels, (255 * where).astype(np.uint8)).items():
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
def test_reliability_is_that_of_a_loop(masked, bins):
    probs, _, labels, where = example(SHAPES[1])
    kept = where if masked else np.ones(where.shape, bool)
    found = metrics.reliability(probs, labels, where if masked else None, bins=bins)
    assert {x.shape for x in found} == {(3, CLASSES, bins)}
    for b in range(3):
        for c in range(CLASSES):
            expected = numpy_reliability(probs[b, ..., c], labels[b] == c, kept[b], bins)
            np.testing.assert_allclose([x[b, c] for x in found], expected, rtol=1e-5)


def test_reliability_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    p = rng.beta(0.3, 0.3, 500).astype(np.float32)
    y = rng.random(500) < p**1.5
    sums = metrics.reliability(np.stack([1 - p, p], -1)[None], y[None].astype(int))
    sums = metrics.Reliability(*(x[0, 1] for x in sums))
    fraction, confidence = calibration_curve(y, p, n_bins=10)
    np.testing.assert_allclose(sums.positives / sums.voxels, fraction, rtol=1e-5)
    np.testing.assert_allclose(sums.confidence / sums.voxels, confidence, rtol=1e-5)


@pytest.mark.parametrize("bins", [1, 10, 20])
def test_reliability_at_the_edges(bins):
    edges = (np.arange(bins + 1) / bins).astype(np.float32)
    below = np.nextafter(edges[1:], np.float32(0))
    for p, expected in ((edges, [*range(bins), bins - 1]), (below, range(bins))):
        probs = np.stack([np.ones_like(p), p], axis=-1)[None]
        voxels = metrics.reliability(probs, np.zeros((1, len(p)), int), bins=bins).voxels
        np.testing.assert_array_equal(voxels[0, 1], np.bincount(expected, minlength=bins))
        assert voxels[0, 0, -1] == len(p)


labels_of = hnp.arrays(np.int32, (2, 6, 3), elements=st.integers(0, CLASSES - 1))
probs_of = hnp.arrays(np.float32, (2, 6, 3, CLASSES), elements=st.floats(0, 1, width=32))
wheres = hnp.arrays(bool, (2, 6, 3))


@settings(deadline=None)
@given(probs=probs_of, mask=labels_of, labels=labels_of, where=wheres)
def test_sums_of_two_halves_add_up(probs, mask, labels, where):
    arguments = probs, mask, labels, where
    whole = jitted(*arguments)
    top, bottom = (jitted(*(x[:, rows] for x in arguments)) for rows in (slice(3), slice(3, 6)))
    for name in (*metrics.Confusion._fields, *metrics.Reliability._fields):
        np.testing.assert_allclose(top[name] + bottom[name], whole[name], rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(probs=probs_of, mask=labels_of, labels=labels_of, where=wheres)
def test_identities(probs, mask, labels, where):
    found = {
        name: np.asarray(x, np.float64) for name, x in jitted(probs, mask, labels, where).items()
    }
    per_class = (oracles.one_hot(labels, CLASSES) * where[..., None]).sum((1, 2))
    np.testing.assert_array_equal(found["tp"] + found["fn"], per_class)
    np.testing.assert_array_equal(found["fp"].sum(-1), found["fn"].sum(-1))
    np.testing.assert_array_equal(
        found["voxels"].sum(-1), np.repeat(where.sum((1, 2))[:, None], CLASSES, axis=1)
    )
    np.testing.assert_array_equal(found["positives"].sum(-1), per_class)
    jaccard = found["jaccard"]
    np.testing.assert_allclose(found["dice"], 2 * jaccard / (1 + jaccard), rtol=1e-6)
    for name in (*OVERLAP, "brier"):
        inside = found[name][~np.isnan(found[name])]
        assert ((inside >= 0) & (inside <= 1)).all()


@pytest.mark.parametrize("function", OVERLAP.values(), ids=OVERLAP)
def test_overlap_refuses_shapes_that_differ(function):
    ones = functools.partial(np.ones, dtype=int)
    with pytest.raises(ValueError, match=r"one shape .*got \(2, 4\), \(2, 5\) and None"):
        function(ones((2, 4)), ones((2, 5)), 2)
    with pytest.raises(ValueError, match=r"got \(2, 4\), \(2, 4\) and \(2, 4, 1\)"):
        function(ones((2, 4)), ones((2, 4)), 2, ones((2, 4, 1)))


@pytest.mark.parametrize(
    "function", [*CALIBRATION.values(), metrics.reliability], ids=[*CALIBRATION, "reliability"]
)
def test_calibration_refuses_shapes_that_do_not_fit(function):
    probs, labels = np.ones((2, 4, 3)), np.ones((2, 4), int)
    with pytest.raises(ValueError, match=r"\(2, 4, 3\) need .*shape \(2, 4\), got \(2, 4, 3\)"):
        function(probs, np.ones((2, 4, 3), int))
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(4,\)"):
        function(probs, labels, np.ones(4, bool))
