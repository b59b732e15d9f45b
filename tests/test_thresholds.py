"""Counts at many thresholds against loops over them, their areas against scikit-learn."""

import functools
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from dicepp_jax.metrics import (
    THRESHOLDS,
    Confusion,
    average_precision,
    confusion,
    roc_auc,
    threshold_counts,
    threshold_for,
)

CLASSES = 3
jitted = jax.jit(threshold_counts)


def example(shape, classes=CLASSES, seed=0):
    """Probabilities, some of them 0, 1 or a threshold of the paper, labels and where."""
    rng = np.random.default_rng([seed, 0])
    labels = rng.integers(0, classes, shape)
    logits = 2 * rng.normal(size=(*shape, classes)) + 2 * oracles.one_hot(labels, classes)
    probs = oracles.softmax(logits)
    special = rng.choice(np.append(THRESHOLDS, [0, 1]), probs.shape)
    probs = np.where(rng.random(probs.shape) < 0.2, special, probs)
    return probs.astype(np.float32), labels, rng.random(shape) > 0.4


def loop(probs, labels, thresholds, where):
    """Counts for every threshold, example and class separately, (4, B, C, T)."""
    batch, classes = len(probs), probs.shape[-1]
    counts = np.zeros((4, batch, classes, len(thresholds)), int)
    for b, c, t in np.ndindex(counts.shape[1:]):
        called = probs[b][where[b]][:, c] >= np.float32(thresholds[t])
        true = labels[b][where[b]] == c
        cases = (called & true, called & ~true, ~called & true, ~called & ~true)
        counts[:, b, c, t] = [x.sum() for x in cases]
    return counts


def assert_counts(found, expected):
    assert {x.dtype for x in found} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(np.stack(found), expected)


def test_thresholds_of_the_paper():
    assert len(THRESHOLDS) == 91
    for number, threshold in enumerate(THRESHOLDS.tolist(), start=5):
        assert Decimal(str(threshold)) == Decimal(number).scaleb(-2)


@pytest.mark.parametrize("shape", [(3, 60), (3, 6, 10), (2, 4, 3, 5)], ids=["1-D", "2-D", "3-D"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "where"])
def test_counts_match_a_loop(shape, masked):
    probs, labels, where = example(shape)
    kept = where if masked else np.ones(shape, bool)
    found = threshold_counts(probs, labels, THRESHOLDS, where if masked else None)
    assert_counts(found, loop(probs, labels, THRESHOLDS, kept))


NEAR = np.nextafter(np.float32([0.25, 0.5, 1]), np.float32(0))
LISTS = {
    "one": [0.5],
    "certain, thrice": [1, 0.5, 1, 1],
    "ends": [0, 1],
    "unsorted and twice": [0.9, 0.2, 0.9, 0.5, 0.2, 0.2],
    "outside": [-1, -0.0, 2, -np.inf, np.inf],
    "crowded": np.append(np.linspace(0.6, 0.6001, 40), NEAR),
    "logarithmic": np.geomspace(1e-30, 1, 60),
    "many": np.linspace(0, 1, 1001),
    "NaN": [0.5, np.nan],
}


@pytest.mark.parametrize("thresholds", LISTS.values(), ids=LISTS)
def test_any_thresholds(thresholds):
    """Ties, and the adjacent floats on both sides."""
    values = np.float32(thresholds)
    values = values[(values >= 0) & (values <= 1)]
    p = np.concatenate([values, np.nextafter(values, np.float32(2)), [0, -0.0, 0.5, 1, np.nan]])
    p = np.concatenate([p, np.nextafter(p, np.float32(-1)), np.geomspace(1e-37, 1, 50)])
    p = np.minimum(p, 1).astype(np.float32)
    probs = np.stack([p[::-1], p], -1)[None]
    labels = np.arange(len(p))[None] % 2
    where = np.ones(labels.shape, bool)
    found = threshold_counts(probs, labels, np.array(thresholds))
    assert_counts(found, loop(probs, labels, thresholds, where))


@pytest.mark.parametrize("shape, classes", [((1, 300_007), 2), ((5, 70_001), 3)])
def test_more_voxels_than_fit_into_one_chunk(shape, classes):
    probs, labels, where = example(shape, classes)
    thresholds = THRESHOLDS[::10]
    found = jitted(probs, labels, thresholds, where)
    assert_counts(found, loop(probs, labels, thresholds, where))


def test_nan_is_below_every_threshold():
    probs = np.full((1, 4, 2), np.nan, np.float32)
    counts = threshold_counts(probs, np.array([[0, 1, 1, 1]]), [-1.0, 0.0, 0.5])
    assert not np.any(counts.tp) and not np.any(counts.fp)
    np.testing.assert_array_equal(counts.fn, [[[1] * 3, [3] * 3]])


def test_half_of_two_classes_is_the_most_likely_class():
    p = np.random.default_rng([1, 0]).random((2, 8, 9)).astype(np.float32)
    p[p == 0.5] = 0.75
    probs, labels = np.stack([1 - p, p], -1), example((2, 8, 9), 2)[1]
    counts = threshold_counts(probs, labels, [0.5])
    expected = confusion(probs.argmax(-1), labels, 2)
    for found, direct in zip(counts, expected, strict=True):
        np.testing.assert_array_equal(found[..., 0], direct)


def test_no_voxels():
    probs, labels, _ = example((2, 6, 5))
    counts = threshold_counts(probs, labels, THRESHOLDS, np.zeros(labels.shape, bool))
    assert not np.any(counts)
    for ratio in (counts.recall, counts.precision, roc_auc(counts), average_precision(counts)):
        assert np.isnan(ratio).all()
    assert np.isnan(threshold_for(counts, THRESHOLDS, recall=0)).all()
    nothing = threshold_counts(np.zeros((2, 0, CLASSES)), np.zeros((2, 0), int), THRESHOLDS)
    assert nothing.tn.shape == (2, CLASSES, 91) and not np.any(nothing)


def test_jit_and_vmap():
    probs, labels, where = example((2, 6, 10))
    expected = loop(probs, labels, THRESHOLDS, where)
    assert_counts(jitted(probs, labels, THRESHOLDS, where), expected)
    flipped = probs[:, ::-1], labels[:, ::-1], THRESHOLDS[::-1], where[:, ::-1]
    batches = [np.stack(x) for x in zip((probs, labels, THRESHOLDS, where), flipped, strict=True)]
    vmapped = jax.jit(jax.vmap(threshold_counts))(*batches)
    assert_counts([x[0] for x in vmapped], expected)
    assert_counts([x[1] for x in vmapped], expected[..., ::-1])


values = st.one_of(
    st.floats(0, 1, width=32, allow_subnormal=False),
    st.sampled_from(np.float32([0, 0.25, 0.3, 0.5, 1]).tolist() + NEAR.tolist()),
)
probs_of = hnp.arrays(np.float32, (2, 8, CLASSES), elements=values)
labels_of = hnp.arrays(np.int32, (2, 8), elements=st.integers(0, CLASSES - 1))
thresholds_of = hnp.arrays(np.float32, 6, elements=values)
wheres = hnp.arrays(bool, (2, 8))
arrays = functools.partial(
    given, probs=probs_of, labels=labels_of, thresholds=thresholds_of, where=wheres
)


@settings(deadline=None)
@arrays()
def test_any_counts_match_a_loop(probs, labels, thresholds, where):
    found = jitted(probs, labels, thresholds, where)
    assert_counts(found, loop(probs, labels, thresholds, where))


@settings(deadline=None)
@arrays()
def test_counts_of_two_halves_add_up(probs, labels, thresholds, where):
    top, bottom = (
        jitted(probs[:, half], labels[:, half], thresholds, where[:, half])
        for half in (slice(4), slice(4, 8))
    )
    whole = jitted(probs, labels, thresholds, where)
    assert_counts(jax.tree.map(jnp.add, top, bottom), np.stack(whole))


@settings(deadline=None)
@arrays()
def test_a_higher_threshold_predicts_no_more_voxels(probs, labels, thresholds, where):
    counts = jitted(probs, labels, np.sort(thresholds), where)
    for falling in (counts.tp, counts.fp, counts.recall, 1 - counts.specificity):
        assert not (np.diff(falling) > 0).any()
    for rising in (counts.fn, counts.tn):
        assert not (np.diff(rising) < 0).any()


def binary(seed, voxels=400):
    """Probabilities of a class and truth, (1, N) each, with many ties."""
    rng = np.random.default_rng([seed, 1])
    y = rng.random((1, voxels)) < 0.2
    p = np.clip(rng.normal(0.3 + 0.2 * y, 0.2), 0, 1)
    return np.where(rng.random(p.shape) < 0.5, p.round(2), p).astype(np.float32), y


def counts_of(p, y, thresholds):
    """Counts of the class with truth y, (T,)."""
    counts = jitted(np.stack([1 - p, p], -1), y.astype(int), thresholds)
    return jax.tree.map(lambda x: x[0, 1], counts)


@pytest.mark.parametrize("seed", range(3))
def test_areas_match_scikit_learn(seed):
    p, y = binary(seed)
    thresholds = np.random.default_rng(seed).permutation(np.unique(p))
    counts = counts_of(p, y, thresholds)
    np.testing.assert_allclose(roc_auc(counts), roc_auc_score(y[0], p[0]), rtol=1e-6)
    expected = average_precision_score(y[0], p[0])
    np.testing.assert_allclose(average_precision(counts), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("number", [1, 4, 91])
def test_areas_of_few_thresholds_match_quantised_probabilities(number, seed):
    p, y = binary(seed)
    thresholds = np.quantile(THRESHOLDS, np.linspace(0, 1, number + 2)[1:-1]).astype(np.float32)
    counts = counts_of(p, y, thresholds)
    coarse = np.digitize(p, thresholds)
    np.testing.assert_allclose(roc_auc(counts), roc_auc_score(y[0], coarse[0]), rtol=1e-6)
    expected = average_precision_score(y[0], coarse[0])
    np.testing.assert_allclose(average_precision(counts), expected, rtol=1e-6)


@pytest.mark.parametrize("classes, shape", [(2, (3, 50)), (3, (2, 6, 7))])
def test_areas_of_every_example_and_class(classes, shape):
    probs, labels, where = example(shape, classes)
    counts = threshold_counts(probs, labels, np.unique(probs), where)
    areas = {roc_auc_score: roc_auc(counts), average_precision_score: average_precision(counts)}
    for score, found in areas.items():
        assert found.shape == (len(probs), classes)
        for b, c in np.ndindex(found.shape):
            expected = score(labels[b][where[b]] == c, probs[b][where[b]][:, c])
            np.testing.assert_allclose(found[b, c], expected, rtol=1e-6)


two_of = hnp.arrays(np.float32, (1, 20), elements=values)
truth_of = hnp.arrays(bool, (1, 20)).filter(lambda y: y.any() and not y.all())


@settings(deadline=None)
@given(p=two_of, y=truth_of, thresholds=thresholds_of)
def test_areas_of_few_thresholds_are_within_their_bounds(p, y, thresholds):
    counts = counts_of(p, y, thresholds)
    ends = [np.array([0, 0]), np.array([y.sum(), (~y).sum()])]
    points = sorted([*np.stack([counts.tp, counts.fp], -1), *ends], key=tuple)
    tp, fp = np.array(points, float).T
    gain, cost = np.diff(tp) / tp[-1], np.diff(fp) / fp[-1]
    difference = roc_auc_score(y[0], p[0]) - roc_auc(counts)
    assert abs(difference) <= (gain * cost).sum() / 2 + 1e-6

    def area(called_right, called_wrong):
        called = called_right + called_wrong
        return (gain * called_right / np.where(called == 0, 1, called)).sum()

    least, most = area(tp[:-1], fp[1:]), area(tp[1:], fp[:-1])
    for found in (average_precision_score(y[0], p[0]), average_precision(counts)):
        assert least - 1e-6 <= found <= most + 1e-6


def test_areas_of_a_class_with_no_voxels_or_all_voxels():
    p, y = binary(0)
    for truth, precision in ((y & False, np.nan), (y | True, 1)):
        counts = counts_of(p, truth, THRESHOLDS)
        assert np.isnan(roc_auc(counts))
        np.testing.assert_allclose(average_precision(counts), precision, rtol=1e-6)


def test_areas_of_more_voxels_than_fit_into_int32():
    counts = counts_of(*binary(0), THRESHOLDS)
    many = jax.tree.map(lambda x: np.asarray(x, np.int64) * 2**30, counts)
    for area in (roc_auc, average_precision):
        np.testing.assert_allclose(area(many), area(counts), rtol=1e-6)
    wanted = {"recall": 0.7}
    np.testing.assert_array_equal(
        threshold_for(many, THRESHOLDS, **wanted), threshold_for(counts, THRESHOLDS, **wanted)
    )


def best_threshold(counts, thresholds, name, wanted):
    """The threshold by exhaustive search, for one class; tp, fp, fn and tn are lists."""
    reaching = []
    for threshold, tp, fp, fn, _ in zip(np.float32(thresholds), *counts, strict=True):
        whole = tp + (fn if name == "recall" else fp)
        if whole and tp / whole >= wanted:
            reaching.append(threshold)
    pick = max if name == "recall" else min
    return pick(reaching) if reaching else np.nan


@pytest.mark.parametrize("name", ["recall", "precision"])
@pytest.mark.parametrize("wanted", [0, 0.5, 0.8, 0.95, 1])
def test_threshold_is_the_best_of_all_on_a_validation_set(name, wanted):
    probs, labels, where = example((4, 6, 8), seed=2)
    thresholds = np.random.default_rng([3, 0]).permutation(THRESHOLDS)
    counts = threshold_counts(probs, labels, thresholds, where)
    merged = jax.tree.map(lambda x: x.sum(0), counts)
    for whole in (counts, merged):
        found = threshold_for(whole, thresholds, **{name: wanted})
        shape = whole.tp.shape[:-1]
        assert found.shape == shape
        for index in np.ndindex(shape):
            one = [np.asarray(x)[index].tolist() for x in whole]
            np.testing.assert_equal(
                np.asarray(found)[index], best_threshold(one, thresholds, name, wanted)
            )


def test_a_recall_equal_to_the_target_reaches_it():
    for whole in (3, 7, 10, 41):
        tp = np.arange(whole + 1)
        zeros = np.zeros(whole + 1, int)
        counts = Confusion(*(x[:, None] for x in (tp, whole - tp, whole - tp, zeros)))
        for part in range(whole + 1):
            for name in ("recall", "precision"):
                found = threshold_for(counts, [0.5], **{name: part / whole})
                np.testing.assert_array_equal(np.isnan(found), tp < part)


def test_precision_that_falls_again_above_the_threshold():
    counts = Confusion(*(jnp.array(x) for x in ([9, 8, 2, 1], [9, 2, 2, 0], [0, 1, 7, 8], [1] * 4)))
    thresholds = [0.2, 0.4, 0.6, 0.8]
    for wanted, expected in ((0.5, 0.2), (0.7, 0.4), (0.9, 0.8)):
        found = threshold_for(counts, thresholds, precision=wanted)
        np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(threshold_for(counts, thresholds, recall=0.8), 0.4)


def test_a_target_that_no_threshold_reaches():
    p, y = binary(1)
    counts = counts_of(np.minimum(p, 0.9), y, [0.95, 0.99])
    for wanted in ({"recall": 0.1}, {"precision": 0.1}):
        assert np.isnan(threshold_for(counts, [0.95, 0.99], **wanted))
    assert threshold_for(counts, [0.95, 0.99], recall=0) == np.float32(0.99)


def test_a_threshold_found_reaches_the_recall_on_the_same_voxels():
    probs, labels, _ = example((1, 30, 30), seed=4)
    counts = threshold_counts(probs, labels, THRESHOLDS)
    (thresholds,) = np.asarray(threshold_for(counts, THRESHOLDS, recall=0.9))
    for c, threshold in enumerate(thresholds):
        true = labels == c
        assert (probs[..., c] >= threshold)[true].mean() >= 0.9
        assert (probs[..., c] >= threshold + 0.01)[true].mean() < 0.9


def test_bad_input_is_refused():
    probs, labels, where = np.ones((2, 4, 3)), np.ones((2, 4), int), np.ones(4, bool)
    with pytest.raises(ValueError, match=r"\(2, 4, 3\) need .*shape \(2, 4\), got \(2, 4, 3\)"):
        threshold_counts(probs, np.ones((2, 4, 3), int), THRESHOLDS)
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(4,\)"):
        threshold_counts(probs, labels, THRESHOLDS, where)
    for thresholds in (0.5, [], [[0.5]]):
        with pytest.raises(ValueError, match=r"thresholds must be a non-empty list \(T,\)"):
            threshold_counts(probs, labels, thresholds)
    counts = threshold_counts(probs, labels, [0.3, 0.5])
    with pytest.raises(ValueError, match=r"\(2, 3, 2\) need T thresholds \(T,\), got \(91,\)"):
        threshold_for(counts, THRESHOLDS, recall=0.5)
    for wanted in ({}, {"recall": 0.5, "precision": 0.5}):
        with pytest.raises(ValueError, match="give either recall or precision, got recall="):
            threshold_for(counts, [0.3, 0.5], **wanted)
    for name in ("recall", "precision"):
        for value in (-0.1, 1.1, 90, np.nan):
            with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got {value}"):
                threshold_for(counts, [0.3, 0.5], **{name: value})
