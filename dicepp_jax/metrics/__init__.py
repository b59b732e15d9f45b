"""Metrics of segmentations and of class probabilities: pure functions, per example and class.

Three tables list the metrics that evaluation reports. To add one, write a function and add a row:

    OVERLAP[name](mask, labels, num_classes, where=None) -> (B, C)
    CALIBRATION[name](probs, labels, where=None) -> (B, C), or (B,) over all classes
    UNCERTAINTY[name](probs, labels, where=None) -> (B,)

(`LABEL_MAP` is a table of the second kind, for data sets whose `Spec.label_map` is true.)

The metrics of `OVERLAP` use the most likely class. `threshold_counts` counts at a range of
thresholds instead; `roc_auc`, `average_precision` and `threshold_for` are computed from its counts.
`rater_nll`, `rater_brier`, `rater_ece` and `votes` compare with several raters of an image.

NaN means that a metric is undefined, such as the Dice of a class that is neither present nor
predicted. Outside jit, values that make no sense are refused; `checked` puts the same checks into a
program, for `jax.experimental.checkify`.

Importing this package loads only jax and numpy. Surface distances are in
`dicepp_jax.metrics.surface`, which runs on the host with scipy.
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
from dicepp_jax.metrics.given import checked
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
from dicepp_jax.metrics.raters import (
    Votes,
    rater_brier,
    rater_ece,
    rater_nll,
    rater_reliability,
    votes,
)
from dicepp_jax.metrics.thresholds import (
    THRESHOLDS,
    average_precision,
    roc_auc,
    threshold_counts,
    threshold_for,
)
from dicepp_jax.metrics.uncertainty import (
    Ranking,
    aurc,
    confidence_ranking,
    entropy,
    entropy_auroc,
    entropy_ranking,
)

__all__ = [
    "CALIBRATION",
    "LABEL_MAP",
    "OVERLAP",
    "THRESHOLDS",
    "UNCERTAINTY",
    "Confusion",
    "Ranking",
    "Reliability",
    "Votes",
    "ace",
    "adaptive_reliability",
    "aurc",
    "average_precision",
    "brier",
    "brier_labelmap",
    "checked",
    "confidence_ranking",
    "confusion",
    "dice",
    "ece",
    "entropy",
    "entropy_auroc",
    "entropy_ranking",
    "foreground_band",
    "jaccard",
    "mce",
    "nll",
    "nll_full",
    "nll_labelmap",
    "precision",
    "rater_brier",
    "rater_ece",
    "rater_nll",
    "rater_reliability",
    "recall",
    "reliability",
    "roc_auc",
    "specificity",
    "threshold_counts",
    "threshold_for",
    "volume_difference",
    "votes",
]

CALIBRATION: dict[str, Callable[..., jax.Array]] = {
    "nll": nll,
    "nll_full": nll_full,
    "brier": brier,
    "ece": ece,
    "ace": ace,
    "mce": mce,
}

UNCERTAINTY: dict[str, Callable[..., jax.Array]] = {
    "aurc": aurc,
    "entropy_auroc": entropy_auroc,
}

LABEL_MAP: dict[str, Callable[..., jax.Array]] = {
    "nll_labelmap": nll_labelmap,
    "brier_labelmap": brier_labelmap,
}
"""What the paper very probably reports as NLL and Brier score on KiTS19; not useful otherwise."""

OVERLAP: dict[str, Callable[..., jax.Array]] = {
    "dice": dice,
    "jaccard": jaccard,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "volume_difference": volume_difference,
}
