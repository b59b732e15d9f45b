"""Errors and tests against closed forms and scipy."""

import numpy as np
import pytest
from scipy import stats

from dicepp_jax import statistics

VALUES = np.random.default_rng(0).normal(3, 2, 60)


def test_bootstrap_error_is_near_the_analytic_standard_error():
    # The bootstrap's own expectation is the standard deviation over n, not over n - 1.
    expected = VALUES.std() / np.sqrt(len(VALUES))
    assert statistics.bootstrap_error(VALUES) == pytest.approx(expected, rel=0.03)


def test_bootstrap_error_is_the_same_for_the_same_seed():
    assert statistics.bootstrap_error(VALUES, 1) == statistics.bootstrap_error(VALUES, 1)
    assert statistics.bootstrap_error(VALUES, 1) != statistics.bootstrap_error(VALUES, 2)


def test_nan_is_left_out():
    with_gaps = np.concatenate([VALUES, [np.nan] * 5])
    assert statistics.bootstrap_error(with_gaps) == statistics.bootstrap_error(VALUES)
    assert statistics.rank_sum(with_gaps, VALUES + 1) == statistics.rank_sum(VALUES, VALUES + 1)


@pytest.mark.parametrize("values", [[], [1.0], [np.nan, 1.0]])
def test_too_few_values_have_no_error(values):
    assert np.isnan(statistics.bootstrap_error(np.array(values)))


def test_rank_sum_is_the_normal_approximation_of_the_u_test():
    other = VALUES[:40] + 0.7
    u_test = stats.mannwhitneyu(VALUES, other, method="asymptotic", use_continuity=False)
    assert statistics.rank_sum(VALUES, other) == pytest.approx(u_test.pvalue, rel=1e-9)
    assert np.isnan(statistics.rank_sum(VALUES, np.array([np.nan])))
