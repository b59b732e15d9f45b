"""Metrics against scikit-learn and closed forms, case by case and class by class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from dicepp_jax import metrics

CLASSES = 3
SHAPE = (2, 7, 6)


def case(seed=0, shape=SHAPE, classes=CLASSES):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(classes), shape).astype(np.float32)
    labels = rng.integers(0, classes, shape)
    where = rng.random(shape) < 0.7
    return probs, labels, where


def per_case_and_class(function, prediction, labels, where):
    """Apply function(prediction, is_class) to the voxels that count, one class at a time."""
    result = np.empty((len(labels), CLASSES))
    for b in range(len(labels)):
        for c in range(CLASSES):
            keep = where[b]
            result[b, c] = function(prediction[b][keep], labels[b][keep] == c, c)
    return result


OVERLAP_ORACLES = {
    "dice": sk.f1_score,
    "jaccard": sk.jaccard_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
}


def clipped_log(p):
    return np.log(np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7))


CALIBRATION_ORACLES = {
    "nll": lambda p, y, c: -np.mean(y * clipped_log(p[:, c])),
    "brier": lambda p, y, c: sk.brier_score_loss(y, p[:, c].astype(np.float64)),
}


def test_every_metric_has_an_oracle():
    assert set(OVERLAP_ORACLES) == set(metrics.OVERLAP)
    assert {*CALIBRATION_ORACLES, "nll_full"} == set(metrics.CALIBRATION)


@pytest.mark.parametrize("name", metrics.OVERLAP)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(3, 40), SHAPE, (2, 4, 3, 5)])
def test_overlap(name, masked, shape):
    probs, labels, where = case(1, shape)
    mask = probs.argmax(-1)
    if not masked:
        where = np.ones(shape, bool)
    function = metrics.OVERLAP[name]
    expected = per_case_and_class(
        lambda m, y, c: OVERLAP_ORACLES[name](y, m == c), mask, labels, where
    )
    given = function(mask, labels, CLASSES, where if masked else None)
    np.testing.assert_allclose(given, expected, rtol=1e-6)
    jitted = jax.jit(function, static_argnums=2)(mask, labels, CLASSES, where)
    np.testing.assert_allclose(jitted, expected, rtol=1e-6)
    mapped = jax.vmap(lambda m, y, w: function(m[None], y[None], CLASSES, w[None])[0])
    np.testing.assert_allclose(mapped(mask, labels, where), expected, rtol=1e-6)


@pytest.mark.parametrize("name", CALIBRATION_ORACLES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(3, 40), SHAPE, (2, 4, 3, 5)])
def test_calibration(name, masked, shape):
    probs, labels, where = case(2, shape)
    if not masked:
        where = np.ones(shape, bool)
    function = metrics.CALIBRATION[name]
    expected = per_case_and_class(CALIBRATION_ORACLES[name], probs, labels, where)
    np.testing.assert_allclose(
        function(probs, labels, where if masked else None), expected, rtol=2e-6
    )
    np.testing.assert_allclose(jax.jit(function)(probs, labels, where), expected, rtol=2e-6)
    mapped = jax.vmap(lambda p, y, w: function(p[None], y[None], w[None])[0])
    np.testing.assert_allclose(mapped(probs, labels, where), expected, rtol=2e-6)


def test_nll_full_is_log_loss_and_the_sum_over_classes():
    probs, labels, where = case(3)
    probs = probs.astype(np.float64)
    probs /= probs.sum(-1, keepdims=True)
    expected = [
        sk.log_loss(labels[b][where[b]], probs[b][where[b]], labels=range(CLASSES))
        for b in range(len(labels))
    ]
    given = metrics.nll_full(probs, labels, where)
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    np.testing.assert_allclose(given, metrics.nll(probs, labels, where).sum(-1), rtol=1e-6)


def test_two_classes_have_one_brier_score():
    probs, labels, _ = case(4, classes=2)
    scores = np.asarray(metrics.brier(probs, labels))
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], rtol=1e-5)


def test_certain_mistakes_are_clipped():
    probs = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    np.testing.assert_allclose(
        metrics.nll(probs, jnp.array([[1, 1]])), [[0.0, -np.log(1e-7) / 2]], rtol=1e-5
    )


def test_what_is_not_defined_is_nan():
    mask, labels = jnp.array([[0, 0, 1]]), jnp.array([[0, 0, 0]])
    nan = np.nan
    np.testing.assert_array_equal(metrics.dice(mask, labels, 3), [[np.float32(0.8), 0, nan]])
    np.testing.assert_array_equal(metrics.precision(mask, labels, 3), [[1, 0, nan]])
    recall = [[np.float32(2 / 3), nan, nan]]
    np.testing.assert_array_equal(metrics.recall(mask, labels, 3), recall)
    probs, nowhere = jnp.full((1, 3, 2), 0.5), jnp.zeros((1, 3), bool)
    for function in metrics.CALIBRATION.values():
        assert np.isnan(function(probs, labels, nowhere)).all()


def test_reliability_against_scikit_learn():
    probs, labels, _ = case(5, (1, 400))
    sums = jax.jit(metrics.reliability)(probs, labels)
    for c in range(CLASSES):
        frequency, confidence = calibration_curve(labels[0] == c, probs[0, :, c], n_bins=10)
        voxels = np.asarray(sums.voxels)[0, c]
        seen = voxels > 0
        assert voxels.sum() == 400
        np.testing.assert_allclose(
            np.asarray(sums.positives)[0, c][seen] / voxels[seen], frequency, rtol=1e-5
        )
        np.testing.assert_allclose(
            np.asarray(sums.confidence)[0, c][seen] / voxels[seen], confidence, rtol=1e-5
        )


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_bins_hold_their_lower_edge_and_the_last_holds_1(bins):
    edges = (np.arange(bins + 1) / bins).astype(np.float32)
    below = np.nextafter(edges[1:], np.float32(0))
    p = np.concatenate([edges, below])
    expected = np.bincount([*range(bins), bins - 1, *range(bins)], minlength=bins)
    probs = np.stack([1 - p, p], -1)[None]
    sums = metrics.reliability(probs, np.ones((1, len(p)), int), bins=bins)
    np.testing.assert_array_equal(sums.voxels[0, 1], expected)
    np.testing.assert_array_equal(sums.positives[0, 1], expected)
    np.testing.assert_array_equal(sums.positives[0, 0], 0)


def test_sums_of_two_halves_add_up():
    probs, labels, where = case(6)
    mask = probs.argmax(-1)

    def parts(function):
        halves = [function(slice(None), slice(0, 3)), function(slice(None), slice(3, None))]
        jax.tree.map(
            lambda whole, a, b: np.testing.assert_allclose(whole, a + b, rtol=1e-5),
            function(slice(None), slice(None)),
            *halves,
        )

    parts(lambda *cut: metrics.reliability(probs[cut], labels[cut], where[cut]))
    parts(lambda *cut: metrics.confusion(mask[cut], labels[cut], CLASSES, where[cut]))


def test_shapes_that_do_not_fit_are_refused():
    probs, labels, where = case(7)
    for function in (*metrics.CALIBRATION.values(), metrics.reliability):
        with pytest.raises(ValueError, match="need integer labels and where of shape"):
            function(probs, labels[:, :3])
        with pytest.raises(ValueError, match="need integer labels and where of shape"):
            function(probs, labels, where[:1])
    for function in metrics.OVERLAP.values():
        with pytest.raises(ValueError, match="must have one shape"):
            function(labels, labels[:, :3], CLASSES)
