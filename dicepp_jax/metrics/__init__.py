"""Metrics of segmentations and of their probabilities: pure functions, per example and class.

Two tables name those that evaluation reports. A new metric is one function and one row:

    OVERLAP[name](mask, labels, num_classes, where=None) -> (B, C)
    CALIBRATION[name](probs, labels, where=None) -> (B, C), or (B,) over all classes

NaN says that a metric is not defined, as the Dice of a class that is neither there nor predicted.
Importing this package loads jax and numpy alone.
"""

from collections.abc import Callable

import jax

from dicepp_jax.metrics.calibration import Reliability, brier, nll, nll_full, reliability
from dicepp_jax.metrics.overlap import Confusion, confusion, dice, jaccard, precision, recall

__all__ = [
    "CALIBRATION",
    "OVERLAP",
    "Confusion",
    "Reliability",
    "brier",
    "confusion",
    "dice",
    "jaccard",
    "nll",
    "nll_full",
    "precision",
    "recall",
    "reliability",
]

CALIBRATION: dict[str, Callable[..., jax.Array]] = {
    "nll": nll,
    "nll_full": nll_full,
    "brier": brier,
}

OVERLAP: dict[str, Callable[..., jax.Array]] = {
    "dice": dice,
    "jaccard": jaccard,
    "precision": precision,
    "recall": recall,
}
