"""Recall, precision and Dice of a class against the threshold, over the cases of a split.

>>> counts = Confusion(*np.array([[[8, 6]], [[4, 1]], [[2, 4]], [[9, 9]]]))
>>> threshold_summary({"a": counts, "b": counts}, target=0).recall.mean
array([0.8, 0.6])
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dicepp_jax.metrics import Confusion
from dicepp_jax.statistics import Bootstrap, bootstrap


class ThresholdCurves(NamedTuple):
    """Means over cases at each threshold, with 95% intervals; arrays are `(T,)`.

    Attributes:
      recall: fraction of the voxels of the class that are predicted as the class.
      precision: fraction of the voxels predicted as the class that belong to it.
      dice: the harmonic mean of both.
    """

    recall: Bootstrap
    precision: Bootstrap
    dice: Bootstrap


def threshold_summary(thresholds: Mapping[str, Confusion], target: int) -> ThresholdCurves:
    """Average the metrics of a class over the cases, at each threshold.

    Args:
      thresholds: counts `(C, T)` by case, as returned by `metrics.threshold_counts`.
      target: index of the class.

    Returns:
      The curves. A case in which a metric is undefined is left out of its mean at that threshold.

    Reference:
      DSC++ paper, Figure 5.
    """
    cases = [[np.asarray(number)[target] for number in counts] for counts in thresholds.values()]
    counts = Confusion(*np.stack(cases, axis=1))
    return ThresholdCurves(
        *(bootstrap(np.asarray(x)) for x in (counts.recall, counts.precision, counts.dice))
    )
