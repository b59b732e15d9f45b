"""Evaluation against scikit-learn and NumPy, its files, its pictures and its tables."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import expit
from sklearn.metrics import f1_score, jaccard_score, log_loss, precision_score, recall_score

from dicepp_jax import metrics, plots
from dicepp_jax.data.preprocess import network_image
from dicepp_jax.data.specs import DRIVE, PHANTOM, PHANTOM_3D
from dicepp_jax.evaluate import (
    Result,
    Row,
    Summary,
    evaluate,
    find,
    read_rows,
    summarise,
    write_csv,
)
from dicepp_jax.inference import make_predict
from experiments.table import layout, summary_table

NAN = float("nan")


def stored_case(index, shape, spec, classes=None):
    """A random case; labels are among the first so many classes."""
    rng = np.random.default_rng([1, index])
    case = {
        "id": f"case_{index}".encode(),
        "image": rng.integers(0, 256, (*shape, spec.channels)).astype(spec.dtype),
        "label": rng.integers(0, classes or len(spec.classes), shape, np.uint8),
    }
    return case | ({"region": rng.integers(0, 2, shape, np.uint8)} if spec.region else {})


def predictor(spec):
    """Any function of the pixels will do; some probabilities are exactly 0 and 1."""

    def predict(image):
        logits = np.stack([np.sin(image[..., 0] * (c + 1.0)) for c in range(len(spec.classes))], -1)
        probs = oracles.softmax(3 * logits)
        certain = image[..., 0] % 7 == 0
        probs[certain] = np.eye(len(spec.classes))[image[certain][:, 0] % 2]
        return probs.astype(np.float32)

    return predict


def expected_scores(probs, label, where, num_classes):
    """Metric to its values by class, or to one number, of the voxels that count."""
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
        "nll_full": log_loss(truth, clipped / clipped.sum(-1, keepdims=True), labels=classes),
        "brier": ((truth - p) ** 2).mean(0),
        "dice": f1_score(y, mask, zero_division=np.nan, **options),
        "jaccard": np.where(present, jaccard, np.nan),
        "precision": precision_score(y, mask, zero_division=np.nan, **options),
        "recall": recall_score(y, mask, zero_division=np.nan, **options),
    }


def assert_result(result, stored, spec, predict):
    """Every number of a result, in the order documented."""
    np.testing.assert_array_equal(result.image, stored["image"])
    np.testing.assert_array_equal(result.label, stored["label"])
    np.testing.assert_array_equal(result.probs, predict(stored["image"]))
    regions = {"image": np.ones(result.label.shape, bool)}
    if spec.region:
        regions[spec.region] = stored["region"] == 1
    rows = iter(result.rows)
    for region, where in regions.items():
        scores = expected_scores(result.probs, result.label, where, len(spec.classes))
        assert set(scores) == set(metrics.CALIBRATION) | set(metrics.OVERLAP)
        for metric, values in scores.items():
            labels = ("all",) if metric == "nll_full" else spec.classes
            for label, value in zip(labels, np.atleast_1d(values), strict=True):
                row = next(rows)
                assert row[:4] == (stored["id"].decode(), label, region, metric)
                np.testing.assert_allclose(row.value, value, rtol=2e-5, atol=1e-6)
    assert next(rows, None) is None


SHAPES = {
    DRIVE: [(17, 23), (16, 16), (9, 40), (1, 1), (5, 7)],
    PHANTOM: [(30, 20)],
    PHANTOM_3D: [(5, 9, 8), (4, 4, 4), (3, 11, 6)],
}


@pytest.mark.parametrize("spec", SHAPES, ids=lambda spec: spec.name)
def test_every_number_of_cases_of_different_sizes(spec):
    stored = [stored_case(index, shape, spec) for index, shape in enumerate(SHAPES[spec])]
    results = list(evaluate(predictor(spec), iter(stored), spec))
    assert [result.case for result in results] == [f"case_{i}" for i in range(len(stored))]
    for result, case in zip(results, stored, strict=True):
        if case["label"].size > 1:
            assert_result(result, case, spec, predictor(spec))
