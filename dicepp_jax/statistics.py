"""Statistics of per-case values, with NumPy and scipy: errors, intervals, tests and effect sizes.

NaN means that a value is undefined for a case, which is then left out; counting the remaining
values is up to the caller. If too few remain, the result is NaN. The tests are two-sided. For two
methods a and b, an effect size is positive if a has the larger values.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy  # Loads scipy.stats, which is slow, when it is first used.
from numpy.typing import ArrayLike

RESAMPLES = 9999
# Values drawn at a time: bounds the memory for any number of cases without changing the result.
DRAWN = 2**20


class Bootstrap(NamedTuple):
    """The mean over cases and its uncertainty, each of shape `(...)` for values `(cases, ...)`.

    Attributes:
      mean: the mean.
      error: its standard error.
      low: lower end of its confidence interval.
      high: upper end of its confidence interval.
    """

    mean: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(values: np.ndarray, seed: int = 0, confidence: float = 0.95) -> Bootstrap:
    """Mean over cases, its bootstrap standard error and its confidence interval.

    They are computed from the means of 9999 resamples with replacement: the error is their standard
    deviation, the interval is between their percentiles. The percentile interval is used rather
    than BCa because it exists if all values are equal, such as the Dice of a class that is always
    found, does not have to estimate an acceleration from few cases, and stays within the range of
    the values.

    Every column is resampled separately, from its values that are not NaN and with the same seed,
    so that the result of a column does not depend on the others.

    Args:
      values: `(cases, ...)`; NaN are left out, column by column.
      seed: seed of the resampling.
      confidence: confidence level of the interval, in (0, 1).

    Returns:
      `Bootstrap`. The error and the interval are NaN for a column with a single value or with an
      infinite one; for an empty column the mean is NaN as well.

    Raises:
      ValueError: if values are not numbers or have no axis of cases, or confidence is out of
        range.

    Example:
      >>> mean, error, low, high = bootstrap(np.arange(100.0))
      >>> print(f"{mean:.1f} ± {error:.1f}, between {low:.0f} and {high:.0f}")
      49.5 ± 2.9, between 44 and 55

    Reference:
      Efron, Bootstrap methods: another look at the jackknife, Ann. Stat. 7 (1979); Efron and
      Tibshirani, An Introduction to the Bootstrap (1993), chapters 6 and 13.
    """
    values = _numbers("values", values)
    if values.ndim == 0:
        raise ValueError(f"values must be an array (cases, ...), got the number {values}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return Bootstrap(*np.apply_along_axis(_bootstrap, 0, values, seed, confidence))


def _bootstrap(column: np.ndarray, seed: int, confidence: float) -> tuple[float, ...]:
    values = _defined(column)
    with np.errstate(invalid="ignore"):
        mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2 or np.isinf(values).any():
        return mean, np.nan, np.nan, np.nan
    result = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, DRAWN // len(values)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return mean, result.standard_error, *result.confidence_interval


class Interval(NamedTuple):
    """A number and its confidence interval, each of shape `(...)`.

    Attributes:
      value: the number.
      low: lower end of its confidence interval.
      high: upper end of its confidence interval.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap_totals(
    statistic: Callable[[np.ndarray], np.ndarray],
    values: np.ndarray,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """A function of the sums over cases, and its bootstrap confidence interval.

    Ratios of sums, such as a calibration error over all voxels of a split, are no mean over cases.
    Their interval is between the percentiles of 9999 resamples of the cases with replacement.

    A statistic that noise can only increase, as an error near 0, is larger in resamples than in the
    cases themselves, and may even lie below its interval.

    Args:
      statistic: from totals `(resamples, ...)` to numbers `(resamples, *shape)`.
      values: `(cases, ...)`, what is summed.
      seed: seed of the resampling.
      confidence: confidence level of the interval, in (0, 1).

    Returns:
      `Interval` of shape `(*shape)`; its ends are NaN for fewer than two cases.

    Raises:
      ValueError: if confidence is out of range.

    Example:
      >>> errors_of_voxels = np.array([[1, 4], [2, 4], [3, 40], [2, 12]])
      >>> rate = bootstrap_totals(lambda totals: totals[:, 0] / totals[:, 1], errors_of_voxels)
      >>> print(*(round(float(x), 2) for x in rate))
      0.13 0.08 0.38

    Reference:
      Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    values = _numbers("values", values)
    value = statistic(values.sum(0)[None])[0]
    if len(values) < 2:
        return Interval(value, value * np.nan, value * np.nan)
    rng, columns = np.random.default_rng(seed), values.reshape(len(values), -1)
    at_once = max(1, DRAWN // max(columns.shape))
    drawn = []
    for first in range(0, RESAMPLES, at_once):
        number = min(at_once, RESAMPLES - first)
        times = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), number)
        drawn.append(statistic((times @ columns).reshape(number, *values.shape[1:])))
    tail = 100 * (1 - confidence) / 2
    return Interval(value, *np.percentile(np.concatenate(drawn), (tail, 100 - tail), axis=0))


def bootstrap_error(values: np.ndarray, seed: int = 0) -> float:
    """Bootstrap standard error of the mean, as by `bootstrap`, for one column.

    Args:
      values: `(cases,)`; NaN are left out.
      seed: seed of the resampling.

    Returns:
      The standard error, NaN with fewer than two values.

    Example:
      >>> print(round(bootstrap_error(np.arange(100.0)), 1))
      2.9

    Reference:
      DSC++ paper, section 2.7.
    """
    return float(bootstrap(values, seed).error)


def rank_sum(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of the Wilcoxon rank-sum test between two methods' per-case values.

    It treats a and b as independent samples. On the same cases `signed_rank` detects smaller
    differences, because the variation between cases does not mask them.

    Args:
      a: `(cases,)`; NaN are left out.
      b: `(cases,)`, of any number of cases; NaN are left out.

    Returns:
      The p-value by the normal approximation, NaN if a or b is empty.

    Raises:
      ValueError: if a or b is not one number per case.

    Example:
      >>> print(round(rank_sum(np.arange(10.0), np.arange(10.0) + 5), 3))
      0.005

    Reference:
      DSC++ paper, section 2.7.
    """
    a, b = _defined(_cases("a", a)), _defined(_cases("b", b))
    if not len(a) or not len(b):
        return np.nan
    return float(scipy.stats.ranksums(a, b).pvalue)


def signed_rank(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of the Wilcoxon signed-rank test between two methods' values of the same cases.

    Cases without a difference are dropped, following Wilcoxon: they favour neither method, and
    `rank_biserial` uses the same ranks. The p-value is exact for up to 50 differences without ties
    or 13 with ties, which covers most test splits; beyond, it is the normal approximation corrected
    for ties.

    Args:
      a: `(cases,)`.
      b: `(cases,)` of the same cases in the same order. Where the difference is NaN, the case is
        left out.

    Returns:
      The p-value; 1 if no case differs, NaN if there is no case.

    Raises:
      ValueError: if the numbers of cases differ, or a or b is not one number per case.

    Example:
      >>> print(round(signed_rank(np.arange(10.0), np.arange(10.0) + 5), 3))
      0.002

    Reference:
      Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1 (1945).
    """
    differences = _differences(a, b)
    if not len(differences):
        return np.nan
    differences = differences[differences != 0]
    return float(scipy.stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method.

    With m p-values in increasing order, the adjusted i-th is max over j <= i of
    min(1, (m - j + 1) p_j). If those below alpha are declared significant, the probability of any
    false positive is at most alpha, whatever the dependence between the tests.

    Args:
      p_values: array of any shape, in [0, 1]; NaN stay NaN and are not counted.

    Returns:
      The adjusted p-values, of the same shape.

    Raises:
      ValueError: if a p-value is not a number or out of range.

    Example:
      >>> print(holm(np.array([0.01, 0.04, 0.03, np.nan])))
      [0.03 0.06 0.06 nan]

    Reference:
      Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6 (1979).
    """
    adjusted = _numbers("p_values", p_values).copy()
    defined = ~np.isnan(adjusted)
    p = adjusted[defined]
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values must lie in [0, 1], got {p.min()} to {p.max()}")
    order = np.argsort(p)
    p[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(len(p), 0, -1)))
    adjusted[defined] = p
    return adjusted


def cliffs_delta(a: np.ndarray, b: np.ndarray) -> float:
    """Cliff's delta, the effect size for `rank_sum`.

    delta = P(a > b) - P(a < b) = 2 U / (n m) - 1 for independently drawn cases of a and b, where
    U is the Mann-Whitney statistic of a: the number of pairs in which a is larger, ties counted as
    halves.

    Args:
      a: `(n,)`; NaN are left out.
      b: `(m,)`; NaN are left out.

    Returns:
      Delta in [-1, 1], 1 if every value of a is above every value of b; NaN if a or b is empty.

    Raises:
      ValueError: if a or b is not one number per case.

    Example:
      >>> print(cliffs_delta(np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0])))
      0.5

    Reference:
      Cliff, Dominance statistics: ordinal analyses to answer ordinal questions, Psychol. Bull. 114
      (1993).
    """
    a, b = _defined(_cases("a", a)), _defined(_cases("b", b))
    n, m = len(a), len(b)
    if not n or not m:
        return np.nan
    u = scipy.stats.rankdata(np.concatenate([a, b]))[:n].sum() - n * (n + 1) / 2
    return float(2 * u / (n * m) - 1)


def rank_biserial(a: np.ndarray, b: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation, the effect size for `signed_rank`.

    r = (W+ - W-) / (W+ + W-), where the differences a - b are ranked by size, W+ is the sum of the
    ranks of the positive ones, and W- that of the negative ones. Cases without a difference are
    dropped.

    Args:
      a: `(cases,)`.
      b: `(cases,)` of the same cases in the same order. Where the difference is NaN, the case is
        left out.

    Returns:
      r in [-1, 1], 1 if a is above b in every case that differs; 0 if no case differs, NaN if there
      is no case.

    Raises:
      ValueError: if the numbers of cases differ, or a or b is not one number per case.

    Example:
      >>> print(round(rank_biserial(np.array([1.0, 2.0, 3.0]), np.array([0.0, 4.0, 0.0])), 3))
      0.333

    Reference:
      Kerby, The simple difference formula: an approach to teaching nonparametric correlation,
      Compr. Psychol. 3 (2014).
    """
    differences = _differences(a, b)
    if not len(differences):
        return np.nan
    differences = differences[differences != 0]
    ranks = scipy.stats.rankdata(np.abs(differences))
    return float((np.sign(differences) * ranks).sum() / ranks.sum()) if len(ranks) else 0.0


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    """Values in float64; text or None are not converted, as they may stand for anything."""
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{name} must be real numbers, got {array.dtype}; pass NaN for a case without a value"
        )
    return array.astype(float)


def _cases(name: str, values: ArrayLike) -> np.ndarray:
    array = _numbers(name, values)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be one value per case, (cases,), got shape {array.shape}; pass one column"
        )
    return array


def _defined(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = _cases("a", a), _cases("b", b)
    if a.shape != b.shape:
        raise ValueError(
            f"a and b must have values of the same cases, got shapes {a.shape} and {b.shape}"
        )
    with np.errstate(invalid="ignore"):
        return _defined(a - b)
