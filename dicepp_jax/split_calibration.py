"""Calibration of a whole split: of all its voxels together, and of the lesions predicted in it.

The errors of `metrics.CALIBRATION` are those of a case, whose means over cases tables show. Here
the sums of all cases are added first, so that every voxel counts alike.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dicepp_jax.metrics import Reliability
from dicepp_jax.rows import LesionBin
from dicepp_jax.statistics import Interval, bootstrap_totals


class SplitCalibration(NamedTuple):
    """Calibration of a class over a split, a row of `calibration.csv`; NaN where there is none.

    Attributes:
      label: the class, one of the foreground.
      ece: expected calibration error of all voxels together.
      low: lower end of its bootstrap 95% interval over the cases.
      high: upper end of that interval.
      lesions: number of predicted lesions.
      correct: number of them that overlap the truth.
      lesion_ece: expected calibration error of their confidence.
      lesion_brier: mean of (confidence - correct)**2 over them.
    """

    label: str
    ece: float
    low: float
    high: float
    lesions: int
    correct: int
    lesion_ece: float
    lesion_brier: float


def pooled_ece(sums: Sequence[Reliability]) -> Interval:
    """ECE of all voxels of all cases, with its bootstrap 95% interval over the cases.

    Args:
      sums: of each case, arrays `(C, bins)`.

    Returns:
      `Interval` of arrays `(C,)`.

    Example:
      >>> one = Reliability(np.array([[8, 2]]), np.array([[0.8, 1.8]]), np.array([[0, 2]]))
      >>> print(pooled_ece([one, one]).value)
      [0.1]
    """

    def ece(totals: np.ndarray) -> np.ndarray:
        gaps, voxels = totals[..., 0], totals[..., 1]
        # A resample may consist of cases without voxels.
        with np.errstate(invalid="ignore"):
            return np.abs(gaps).sum(-1) / voxels.sum(-1)

    gaps = np.array([np.asarray(of.confidence) - np.asarray(of.positives) for of in sums])
    voxels = np.array([np.asarray(of.voxels) for of in sums])
    return bootstrap_totals(ece, np.stack([gaps, voxels], axis=-1))


def split_calibration(
    reliability: Mapping[str, Reliability], lesions: Sequence[LesionBin], classes: Sequence[str]
) -> list[SplitCalibration]:
    """Calibration of each foreground class over a split.

    Args:
      reliability: sums `(C, bins)` by case; empty if they are not known.
      lesions: the predicted ones of all cases.
      classes: names, the background first.

    Returns:
      A row for each foreground class; none if nothing is known.

    Example:
      >>> lesions = [LesionBin("a", "kidney", 18, 2, 1.8, 1, 0.82)]
      >>> row, = split_calibration({}, lesions, ("background", "kidney"))
      >>> print(row.lesions, row.correct, round(row.lesion_ece, 2), row.lesion_brier)
      2 1 0.4 0.41
    """
    if not reliability and not lesions:
        return []
    nothing = np.full(len(classes), np.nan)
    errors = Interval(nothing, nothing, nothing)
    if reliability:
        errors = pooled_ece([*reliability.values()])
    return [
        SplitCalibration(
            label,
            float(errors.value[number]),
            float(errors.low[number]),
            float(errors.high[number]),
            *_of_lesions([row for row in lesions if row.label == label]),
        )
        for number, label in enumerate(classes)
        if number
    ]


def _of_lesions(rows: Sequence[LesionBin]) -> tuple[int, int, float, float]:
    if not rows:
        return 0, 0, np.nan, np.nan
    gaps: dict[int, float] = {}
    for row in rows:
        gaps[row.bin] = gaps.get(row.bin, 0) + row.confidence - row.correct
    lesions = sum(row.lesions for row in rows)
    return (
        lesions,
        sum(row.correct for row in rows),
        sum(map(abs, gaps.values())) / lesions,
        sum(row.squares for row in rows) / lesions,
    )
