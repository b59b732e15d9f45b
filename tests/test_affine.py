"""Platt and vector scaling and auxiliary networks against scikit-learn, scipy and closed forms."""

import itertools

import numpy as np
import oracles
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from dicepp_jax import inference
from dicepp_jax.affine import RIDGE, Affine, fit_affine, neighbours


def drawn(classes, count=400, seed=0):
    """Logits `(N, 1, C)` in float32, and labels that follow others."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 1, classes)).astype(np.float32)
    scaled = logits[:, 0] * rng.uniform(0.3, 1.5, classes) + rng.normal(0, 1, classes)
    labels = (oracles.softmax(scaled).cumsum(-1) < rng.random((count, 1))).sum(-1)
    return logits, np.minimum(labels, classes - 1)


def mean_ce(mapped, labels):
    p = oracles.softmax(mapped.astype(np.float64))
    return -np.log(p[np.arange(len(labels)), labels]).mean()


def test_platt_scaling_of_two_classes_is_logistic_regression():
    logits, labels = drawn(2)
    found = fit_affine([logits[:150], logits[150:]], [labels[:150], labels[150:]])
    difference = np.float64(logits[:, 0, 1]) - logits[:, 0, 0]
    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    expected.fit(difference[:, None], labels)
    np.testing.assert_allclose(found.weight, expected.coef_, rtol=1e-5)
    np.testing.assert_allclose(found.offset, [0, *expected.intercept_], rtol=1e-5)


@pytest.mark.parametrize(("classes", "per_class"), [(2, True), (3, True), (3, False)])
def test_scaling_is_the_best_there_is(classes, per_class):
    logits, labels = drawn(classes)
    found = fit_affine([logits], [labels], per_class=per_class)
    columns = classes if per_class else 1

    def objective(theta):
        offset = np.concatenate([[0], theta[columns:]])
        return mean_ce(np.float64(logits[:, 0]) * theta[:columns] + offset, labels)

    start = np.concatenate([np.ones(columns), np.zeros(classes - 1)])
    best = optimize.minimize(objective, start, tol=1e-10)
    np.testing.assert_allclose(found.weight, best.x[None, :columns], atol=1e-4)
    np.testing.assert_allclose(found.offset[1:], best.x[columns:], atol=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (2, 0.75), (0.5, -2)])
@pytest.mark.parametrize("per_class", [False, True])
def test_what_was_done_to_calibrated_logits_is_undone(scale, shift, per_class):
    """Exactly as many voxels as their probability says are of class 1."""
    positives, per_group = np.array([1, 3, 5, 12, 14]), 16
    labels = (np.arange(per_group) < positives[:, None]).astype(int).ravel()
    share = np.repeat(positives / per_group, per_group)
    changed = scale * np.log(np.stack([1 - share, share], -1)) + [0, shift]
    found = fit_affine([changed[:, None]], [labels], per_class=per_class)
    np.testing.assert_allclose(found.weight, 1 / scale, rtol=1e-5)
    np.testing.assert_allclose(found.offset, [0, -shift / scale], atol=1e-6)


def by_hand(mapping, logits):
    """z'_c(x) = sum_k weight_c(k) z_c(x + k) + offset_c, voxel by voxel."""
    *kernel, columns = mapping.weight.shape
    spatial = logits.shape[:-1]
    found = np.zeros(logits.shape)
    for x in np.ndindex(spatial):
        for k in np.ndindex(tuple(kernel)):
            place = [
                min(max(a + b - n // 2, 0), s - 1)
                for a, b, n, s in zip(x, k, kernel, spatial, strict=True)
            ]
            found[x] += mapping.weight[k] * logits[tuple(place)]
    return found + mapping.offset


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("columns", [1, 3])
def test_a_map_is_applied_as_it_is_fitted(spatial, columns):
    rng = np.random.default_rng(2)
    kernel = (3,) * len(spatial)
    mapping = Affine(rng.normal(0, 1, (*kernel, columns)), np.array([0, 1.0, -2.0]))
    logits = rng.normal(0, 1, (*spatial, 3))
    expected = by_hand(mapping, logits)
    np.testing.assert_allclose(mapping(logits), expected, rtol=1e-10)
    voxels = rng.permutation(np.prod(spatial))[:20]
    parts = neighbours(logits, voxels, kernel)
    weight = np.broadcast_to(mapping.weight, (*kernel, 3)).reshape(-1, 3)
    np.testing.assert_allclose(
        np.einsum("nkc,kc->nc", parts, weight) + mapping.offset.reshape(1, 3),
        expected.reshape(-1, 3)[voxels],
        rtol=1e-10,
    )
    # In a prediction it maps log p, which the softmax undoes.
    probs = oracles.softmax(logits).astype(np.float32)
    predict = inference.affine(lambda image, native: image, mapping)
    mapped = oracles.softmax(by_hand(mapping, np.log(probs.astype(np.float64))))
    np.testing.assert_allclose(predict(probs, spatial), mapped, rtol=1e-4, atol=1e-6)


def test_an_auxiliary_network_is_the_best_convolution():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1, (24, 24, 2)).astype(np.float32)
    truth = Affine(rng.uniform(0, 0.5, (3, 3, 1)), np.array([0, 0.5]))
    p = oracles.softmax(truth(logits))[..., 1].ravel()
    labels = (rng.random(p.size) < p).astype(int)
    every = np.arange(p.size)
    found = fit_affine([neighbours(logits, every, (3, 3))], [labels], (3, 3))
    beside = np.ones((3, 3, 1))
    beside[1, 1] = 0

    def objective(theta):
        mapping = Affine(theta[:9].reshape(3, 3, 1), np.array([0, theta[9]]))
        ridge = RIDGE / 2 * (beside * mapping.weight**2).sum()
        return mean_ce(mapping(np.float64(logits)).reshape(-1, 2), labels) + ridge

    best = optimize.minimize(objective, np.zeros(10), tol=1e-10)
    np.testing.assert_allclose(found.weight.ravel(), best.x[:9], atol=1e-4)
    np.testing.assert_allclose(found.offset, [0, best.x[9]], atol=1e-4)
    point = fit_affine([logits.reshape(-1, 1, 2)], [labels], (1, 1))
    values = [mean_ce(m(logits).reshape(-1, 2), labels) for m in (found, point)]
    assert values[0] < values[1] - 0.01


Z, Y = drawn(2, 20)


@pytest.mark.parametrize(
    ("logits", "labels", "kernel", "message"),
    [
        ([Z], [Y, Y], (1,), "there are 1 arrays of logits and 2 of labels"),
        ([], [], (1,), "there are 0 arrays of logits"),
        ([Z], [Y[:-1]], (1,), r"logits have shape \(20, 1, 2\), expected \(19, 1, 2\)"),
        ([Z], [Y], (3, 3), r"expected \(20, 9, 2\): voxels as of the labels, the 9 of the kernel"),
        ([np.where(Z > 2, np.inf, Z)], [Y], (1,), "logits must be finite, found NaN or infinity"),
        (
            [Z],
            [0 * Y],
            (1,),
            r"the labels have the classes \[0\], expected voxels of each of the 2",
        ),
        ([Z], [Z[:, 0].argmax(-1)], (1,), "every voxel is classified correctly"),
        # Inverted and shifted, too, the classes do not overlap.
        ([Z - [0, 9]], [Z[:, 0].argmin(-1)], (1,), "every voxel is classified correctly"),
    ],
)
def test_what_cannot_be_fitted_is_refused(logits, labels, kernel, message):
    with pytest.raises(ValueError, match=message):
        fit_affine(logits, labels, kernel)


def test_the_order_of_images_and_classes_does_not_matter():
    logits, labels = drawn(3)
    first = fit_affine([logits], [labels], per_class=True)
    for order in itertools.permutations(range(3)):
        places = np.argsort(order)
        other = fit_affine([logits[::-1][..., order]], [places[labels[::-1]]], per_class=True)
        np.testing.assert_allclose(other.weight[..., places], first.weight, rtol=1e-5)
        offset = other.offset[places]
        np.testing.assert_allclose(offset - offset[0], first.offset, rtol=1e-4, atol=1e-6)
