"""Overlap metrics against scikit-learn and float64 NumPy."""

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

from dicepp_jax.metrics import OVERLAP, Confusion, confusion

CLASSES = 4
SHAPES = [(3, 60), (3, 6, 10), (3, 4, 3, 5)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["1-D", "2-D", "3-D"])


def example(shape):
    """A mask, labels, where; class 3 is absent from example 0 and unpredicted in 0 and 1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, shape)
    labels[0] %= 3
    mask = np.where(rng.random(shape) > 0.4, labels, rng.integers(0, CLASSES, shape))
    mask[:2] %= 3
    return mask, labels, rng.random(shape) > 0.4


def per_class(function, mask, labels, where):
    """`function(y, predicted)` of every example and class over the included voxels, (B, C)."""
    return np.array(
        [
            [function(y[keep] == c, predicted[keep] == c) for c in range(CLASSES)]
            for predicted, y, keep in zip(mask, labels, where, strict=True)
        ]
    )


def scikit_jaccard(y, predicted, zero_division):
    """Unlike the others, it does not accept NaN for zero_division."""
    either = (y | predicted).any()
    return sklearn.jaccard_score(y, predicted) if either else zero_division


def volume_difference(y, predicted, zero_division):
    return (predicted.sum() - y.sum()) / y.sum() if y.any() else zero_division


INDEPENDENT = {
    "dice": sklearn.f1_score,
    "jaccard": scikit_jaccard,
    "precision": sklearn.precision_score,
    "recall": sklearn.recall_score,
    "specificity": functools.partial(sklearn.recall_score, pos_label=False),
    "volume_difference": volume_difference,
}


def independent(name, y, predicted):
    return INDEPENDENT[name](y, predicted, zero_division=np.nan)


def literal(name, y, predicted):
    pairs = (y & predicted, ~y & predicted, y & ~predicted, ~y & ~predicted)
    tp, fp, fn, tn = (np.sum(x, dtype=float) for x in pairs)
    numerator, denominator = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "jaccard": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "volume_difference": (fp - fn, tp + fn),
    }[name]
    return numerator / denominator if denominator else np.nan


@pytest.mark.parametrize("name", OVERLAP)
@shapes
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "where"])
def test_every_metric_matches_scikit_learn_and_numpy(name, shape, masked):
    mask, labels, where = example(shape)
    kept = where if masked else np.ones(shape, bool)
    found = OVERLAP[name](mask, labels, CLASSES, where if masked else None)
    assert found.shape == (3, CLASSES)
    for oracle in (independent, literal):
        expected = per_class(functools.partial(oracle, name), mask, labels, kept)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_undefined_metrics_are_nan():
    mask, labels, _ = example(SHAPES[0])
    mask[2], labels[2] = 1, 2
    nan = {name: np.isnan(f(mask, labels, CLASSES)) for name, f in OVERLAP.items()}
    # Class 3 is neither present nor predicted in example 0, and present but not predicted in
    # example 1. All voxels of example 2 are of class 2 and predicted as class 1.
    assert {name: x[:2, 3].tolist() + x[2, 1:].tolist() for name, x in nan.items()} == {
        "dice": [True, False, False, False, True],
        "jaccard": [True, False, False, False, True],
        "precision": [True, True, False, True, True],
        "recall": [True, False, True, False, True],
        "specificity": [False, False, False, True, False],
        "volume_difference": [True, False, True, False, True],
    }
    assert not any(x[:2, :3].any() for x in nan.values())
    empty = np.zeros(mask.shape, bool)
    for function in OVERLAP.values():
        assert np.isnan(function(mask, labels, CLASSES, empty)).all()


def everything(mask, labels, where):
    ratios = {name: f(mask, labels, CLASSES, where) for name, f in OVERLAP.items()}
    return ratios | confusion(mask, labels, CLASSES, where)._asdict()


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
    mask, labels, where = example(SHAPES[1])
    boolean = everything(mask, labels, where)
    for name, value in everything(mask, labels, (255 * where).astype(np.uint8)).items():
        np.testing.assert_allclose(value, boolean[name])


def test_counts_and_ratios_have_any_shape():
    rng = np.random.default_rng(1)
    counts = Confusion(*(jnp.asarray(x) for x in rng.integers(1, 50, (4, 2, 3, 5))))
    tp, fp, fn, tn = (np.asarray(x, float) for x in counts)
    np.testing.assert_allclose(counts.dice, 2 * tp / (2 * tp + fp + fn), rtol=1e-6)
    np.testing.assert_allclose(counts.specificity, tn / (tn + fp), rtol=1e-6)


def test_as_many_voxels_as_fit_into_int32():
    """More than float32 can distinguish, with twice the true positives beyond int32."""
    tp, fp, fn, tn = 2**30 + 2**29, 2**24 + 1, 3, 2**28
    counts = Confusion(*(jnp.full(1, x, jnp.int32) for x in (tp, fp, fn, tn)))
    expected = {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "jaccard": tp / (tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "volume_difference": (fp - fn) / (tp + fn),
    }
    assert set(expected) == set(OVERLAP)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(counts, name), [value], rtol=3e-7)


def test_sums_over_more_voxels_use_int64():
    """Summed as the documentation describes."""
    images = [Confusion(*(jnp.array([x * 2**28]) for x in (4, 1, 2, 3)))] * 7
    counts = jax.tree.map(lambda *x: np.sum(x, 0, np.int64), *images)
    assert counts.tp.tolist() == [7 * 2**30]
    for name, value in {
        "dice": 8 / 11,
        "jaccard": 4 / 7,
        "precision": 4 / 5,
        "recall": 4 / 6,
        "specificity": 3 / 4,
        "volume_difference": -1 / 6,
    }.items():
        np.testing.assert_allclose(getattr(counts, name), [value], rtol=3e-7)


labels_of = hnp.arrays(np.int32, (2, 6, 3), elements=st.integers(0, CLASSES - 1))
wheres = hnp.arrays(bool, (2, 6, 3))


@settings(deadline=None)
@given(mask=labels_of, labels=labels_of, where=wheres)
def test_counts_of_two_halves_add_up(mask, labels, where):
    def counts(rows):
        found = jitted(*(x[:, rows] for x in (mask, labels, where)))
        return Confusion(*(found[name] for name in Confusion._fields))

    whole = jax.tree.map(jnp.add, counts(slice(3)), counts(slice(3, 6)))
    for added, expected in zip(whole, counts(slice(6)), strict=True):
        np.testing.assert_array_equal(added, expected)


@settings(deadline=None)
@given(mask=labels_of, labels=labels_of, where=wheres)
def test_identities(mask, labels, where):
    found = {name: np.asarray(x, np.float64) for name, x in jitted(mask, labels, where).items()}
    counted = where.sum((1, 2))
    true, called = (
        (oracles.one_hot(x, CLASSES) * where[..., None]).sum((1, 2)) for x in (labels, mask)
    )
    np.testing.assert_array_equal(found["tp"] + found["fn"], true)
    np.testing.assert_array_equal(found["tp"] + found["fp"], called)
    np.testing.assert_array_equal(sum(found[name] for name in Confusion._fields).T, [counted] * 4)
    jaccard = found["jaccard"]
    np.testing.assert_allclose(found["dice"], 2 * jaccard / (1 + jaccard), rtol=1e-6)
    for name in OVERLAP:
        inside = found[name][~np.isnan(found[name])]
        low, high = (-1, np.inf) if name == "volume_difference" else (0, 1)
        assert ((inside >= low) & (inside <= high)).all()


@pytest.mark.parametrize("function", OVERLAP.values(), ids=OVERLAP)
def test_different_shapes_are_refused(function):
    ones = functools.partial(np.ones, dtype=int)
    with pytest.raises(ValueError, match=r"same shape .*got \(2, 4\), \(2, 5\) and None"):
        function(ones((2, 4)), ones((2, 5)), 2)
    with pytest.raises(ValueError, match=r"got \(2, 4\), \(2, 4\) and \(2, 4, 1\)"):
        function(ones((2, 4)), ones((2, 4)), 2, ones((2, 4, 1)))
