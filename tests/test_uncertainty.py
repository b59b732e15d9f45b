"""Risk-coverage curves and entropy against sorting in float64 and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from dicepp_jax import metrics
from dicepp_jax.metrics import UNCERTAINTY, Ranking

aurc, entropy_auroc = (jax.jit(UNCERTAINTY[name]) for name in ("aurc", "entropy_auroc"))
rankings = jax.jit(
    lambda *arrays: (metrics.confidence_ranking(*arrays), metrics.entropy_ranking(*arrays))
)


def example(shape, num_classes=3, sharpness=1.0, seed=0):
    """Probabilities, labels and where; most voxels are right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, shape)
    logits = rng.normal(size=(*shape, num_classes)) + 1.5 * oracles.one_hot(labels, num_classes)
    return (
        oracles.softmax(sharpness * logits).astype(np.float32),
        labels,
        rng.random(shape) > 0.4,
    )


def sorted_aurc(confidence, wrong):
    """The mean over voxels of the error rate among those of at least their confidence."""
    order = np.argsort(-confidence, kind="stable")
    errors, kept = np.cumsum(wrong[order]), np.arange(1, len(order) + 1)
    last = np.searchsorted(-confidence[order], -confidence[order], side="right") - 1
    return np.mean(errors[last] / kept[last])


def flat(probs, labels, where):
    """Probabilities in float64 and errors of the included voxels."""
    p = probs[where].astype(np.float64)
    return p, p.argmax(-1) != labels[where]


@pytest.mark.parametrize("shape", [(2, 500), (2, 25, 20), (2, 10, 10, 5)])
@pytest.mark.parametrize("sharpness", [1, 20])
def test_both_areas_are_close_to_those_of_sorted_voxels(shape, sharpness):
    probs, labels, where = example(shape, sharpness=sharpness)
    found = aurc(probs, labels, where), entropy_auroc(probs, labels, where)
    for b in range(2):
        p, wrong = flat(probs[b], labels[b], where[b])
        np.testing.assert_allclose(found[0][b], sorted_aurc(p.max(-1), wrong), rtol=0.01)
        expected = roc_auc_score(wrong, stats.entropy(p, axis=-1))
        np.testing.assert_allclose(found[1][b], expected, atol=0.003)


def test_both_areas_are_exact_if_bins_separate_the_probabilities():
    # Entropy and confidence of two classes have the same order; few values, so that there are ties.
    rng = np.random.default_rng(1)
    p = rng.choice([2.0**-20, 2.0**-9, 0.01, 0.02, 0.1, 0.2, 0.3, 0.45], (3, 400))
    p[1] = p[1, 0]
    labels = (rng.random(p.shape) < p).astype(int)
    labels[2] = 1 - labels[2]
    probs = np.stack([1 - p, p], -1).astype(np.float32)
    found = aurc(probs, labels), entropy_auroc(probs, labels)
    for b, wrong in enumerate(labels == 1):
        np.testing.assert_allclose(found[0][b], sorted_aurc(1 - p[b], wrong), rtol=1e-5)
        np.testing.assert_allclose(found[1][b], roc_auc_score(wrong, p[b]), rtol=1e-5)


def test_the_curve_is_that_of_every_threshold():
    probs, labels, where = example((1, 300))
    curve = metrics.confidence_ranking(probs, labels, where)
    p, wrong = flat(probs[0], labels[0], where[0])
    # Bin k holds what bfloat16 rounds down to the number of bit pattern k.
    k = (1 - p.max(-1)).astype(np.float32).view(np.int32) >> 16
    for threshold in np.unique(k):
        kept = k <= threshold
        np.testing.assert_allclose(curve.coverage[0, threshold], kept.mean(), rtol=1e-5)
        np.testing.assert_allclose(curve.risk[0, threshold], wrong[kept].mean(), rtol=1e-5)
    assert np.isnan(curve.risk[0, 0]) and curve.coverage[0, 0] == 0
    assert curve.coverage[0, -1] == 1 and curve.risk[0, -1] == pytest.approx(wrong.mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 30), st.floats(0, 1))
def test_the_stated_bounds_hold(seed, sharpness, share):
    probs, labels, _ = example((1, 64), sharpness=sharpness, seed=seed)
    where = np.random.default_rng(seed).random((1, 64)) < share
    p, wrong = flat(probs[0], labels[0], where[0])
    found = (jax.tree.map(lambda n: n[0], counts) for counts in rankings(probs, labels, where))
    by_confidence, by_entropy = found
    if not len(p):
        assert np.isnan([by_confidence.aurc, by_entropy.auroc]).all()
        return
    r, e = (np.asarray(n, float) for n in by_confidence)
    before, errors = np.cumsum(r + e) - (r + e), np.cumsum(e) - e
    low = np.sum((r + e) * errors / np.maximum(before + r, 1)) / len(p)
    high = np.sum((r + e) * (errors + e) / np.maximum(before + e, 1)) / len(p)
    for area in (sorted_aurc(p.max(-1), wrong), by_confidence.aurc):
        assert low - 1e-5 <= area <= high + 1e-5
    if wrong.all() or not wrong.any():
        assert np.isnan(by_entropy.auroc)
        return
    r, e = (np.asarray(n, float) for n in by_entropy)
    # With float32's own entropies, as the order of those almost equal depends on rounding.
    exact = roc_auc_score(wrong, np.asarray(metrics.entropy(probs))[where])
    assert abs(by_entropy.auroc - exact) <= np.sum(r * e) / (r.sum() * e.sum()) / 2 + 1e-5


def test_entropy_is_that_of_scipy():
    probs, _, _ = example((4, 50))
    probs[0, :9] = np.eye(3)[0]
    expected = stats.entropy(probs.astype(np.float64), axis=-1)
    np.testing.assert_allclose(metrics.entropy(probs), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metrics.entropy(np.full((2, 4), 0.25)), np.log(4), rtol=1e-6)
    with pytest.raises(ValueError, match="probs must lie in"):
        metrics.entropy(3 * probs)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_order_and_parts_do_not_matter(seed):
    probs, labels, where = example((1, 64), seed=seed)
    whole = rankings(probs, labels, where)
    order = np.random.default_rng(seed).permutation(64)
    shuffled = rankings(*(x[:, order] for x in (probs, labels, where)))
    halves = [rankings(*(x[:, h::2] for x in (probs, labels, where))) for h in range(2)]
    added = jax.tree.map(lambda *n: np.sum(n, axis=0, dtype=np.int64), *halves)
    for other in (shuffled, added):
        jax.tree.map(np.testing.assert_array_equal, other, whole)
        assert other[0].aurc == whole[0].aurc
        np.testing.assert_equal(np.asarray(other[1].auroc), np.asarray(whole[1].auroc))


def test_sums_over_many_images_exceed_int32():
    counts = Ranking(*np.array([[6, 3, 1], [0, 1, 2]]))
    many = Ranking(*(n.astype(np.int64) * 10**10 for n in counts))
    for name in ("aurc", "auroc", "coverage", "risk"):
        np.testing.assert_allclose(getattr(many, name), getattr(counts, name), rtol=1e-6)


def test_where_areas_are_undefined():
    probs = jnp.array([[[0.9, 0.1], [0.6, 0.4]]] * 4)
    labels = jnp.array([[0, 0], [1, 1], [0, 1], [0, 0]])
    where = jnp.array([[True] * 2] * 3 + [[False] * 2])
    np.testing.assert_allclose(aurc(probs, labels, where), [0, 1, 0.25, np.nan])
    np.testing.assert_array_equal(entropy_auroc(probs, labels, where), [np.nan, np.nan, 1, np.nan])
    # Under jit, where a NaN is not refused, it shows, unless it is left out.
    broken = probs.at[:2, 1].set(jnp.nan)
    for function in (aurc, entropy_auroc):
        values = function(broken, labels, jnp.ones((4, 2), bool).at[1, 1].set(False))
        assert np.isnan(values[0])
    np.testing.assert_allclose(aurc(broken, labels, where.at[1, 1].set(False))[1:3], [1, 0.25])
