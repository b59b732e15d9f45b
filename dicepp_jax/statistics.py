"""Statistics over per-case values, by scipy: errors, intervals and tests."""

import numpy as np
from scipy import stats

RESAMPLES = 9999


def bootstrap_error(values: np.ndarray, seed: int = 0) -> float:
    """Bootstrap standard error of the mean.

    The standard deviation of the means of 9999 resamples with replacement.

    Args:
      values: `(cases,)`; NaN are left out.
      seed: of the resampling.

    Returns:
      The standard error, NaN with fewer than two values.

    Example:
      >>> print(round(bootstrap_error(np.arange(100.0)), 1))
      2.9

    Reference:
      DSC++ paper, section 2.7.
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return float("nan")
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.standard_error)


def rank_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of the Wilcoxon rank-sum test between two methods' per-case values.

    Args:
      a: `(cases,)`; NaN are left out.
      b: `(cases,)`; NaN are left out.

    Returns:
      The p-value, NaN if a side is empty.

    Example:
      >>> print(round(rank_sum(np.arange(10.0), np.arange(10.0) + 5), 3))
      0.005

    Reference:
      DSC++ paper, section 2.7.
    """
    a, b = (np.asarray(x, float)[~np.isnan(np.asarray(x, float))] for x in (a, b))
    if not len(a) or not len(b):
        return float("nan")
    return float(stats.ranksums(a, b).pvalue)
