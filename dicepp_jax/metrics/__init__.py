"""Metrics of segmentations and of their probabilities: pure functions, per example and class.

Two tables name those that evaluation reports. A new metric is one function and one row:

    OVERLAP[name](mask, labels, num_classes, where=None) -> (B, C)
    CALIBRATION[name](probs, labels, where=None) -> (B, C), or (B,) over all classes

(`LABEL_MAP` is a table of the second kind, for sets whose `Spec.label_map` asks for it.)

Segmentations at other thresholds than the most likely class come from `threshold_counts`, and
`roc_auc`, `average_precision` and `threshold_for` from its counts.

NaN says that a metric is not defined, as the Dice of a class that is neither there nor predicted.
Importing this package loads jax and numpy alone. Distances between surfaces are in
`dicepp_jax.metrics.surface`, which computes on the host, with scipy.
"""

from collections.abc import Callable

import jax

from dicepp_jax.metrics.calibration import (
    Reliability,
    ace,
    adaptive_reliability,
    brier,
    brier_labelmap,
    ece,
    foreground_band,
    mce,
    nll,
    nll_full,
    nll_labelmap,
    reliability,
)
from dicepp_jax.metrics.overlap import (
    Confusion,
    confusion,
    dice,
    jaccard,
    precision,
    recall,
    specificity,
    volume_difference,
)
from dicepp_jax.metrics.thresholds import (
    THRESHOLDS,
    average_precision,
    roc_auc,
    threshold_counts,
    threshold_for,
)

__all__ = [
    "CALIBRATION",
    "LABEL_MAP",
    "OVERLAP",
    "THRESHOLDS",
    "Confusion",
    "Reliability",
    "ace",
    "adaptive_reliability",
    "average_precision",
    "brier",
    "brier_labelmap",
    "confusion",
    "dice",
    "ece",
    "foreground_band",
    "jaccard",
    "mce",
    "nll",
    "nll_full",
    "nll_labelmap",
    "precision",
    "recall",
    "reliability",
    "roc_auc",
    "specificity",
    "threshold_counts",
    "threshold_for",
    "volume_difference",
]

CALIBRATION: dict[str, Callable[..., jax.Array]] = {
    "nll": nll,
    "nll_full": nll_full,
    "brier": brier,
    "ece": ece,
    "ace": ace,
    "mce": mce,
}

LABEL_MAP: dict[str, Callable[..., jax.Array]] = {
    "nll_labelmap": nll_labelmap,
    "brier_labelmap": brier_labelmap,
}
"""What the paper very probably printed as NLL and Brier of KiTS19; of no other use."""

OVERLAP: dict[str, Callable[..., jax.Array]] = {
    "dice": dice,
    "jaccard": jaccard,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "volume_difference": volume_difference,
}
