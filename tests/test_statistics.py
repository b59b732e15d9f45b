"""The statistics against closed forms and scipy's other tests."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dicepp_jax.statistics import bootstrap_error, rank_sum

NAN = float("nan")


@pytest.mark.parametrize("cases", [2, 20, 200])
def test_bootstrap_error_is_the_analytic_standard_error(cases):
    values = np.random.default_rng(cases).beta(5, 2, cases)
    # 9999 resamples know a standard deviation to 0.7 percent.
    assert bootstrap_error(values) == pytest.approx(values.std() / math.sqrt(cases), rel=0.03)


def test_bootstrap_error_comes_from_its_seed():
    values = np.random.default_rng(0).random(20)
    assert bootstrap_error(values, seed=3) == bootstrap_error(values, seed=3)
    assert bootstrap_error(values, seed=3) != bootstrap_error(values, seed=4)


def test_bootstrap_error_leaves_out_nan():
    values = np.random.default_rng(1).random(20)
    holes = np.insert(values, [0, 7, 20], NAN)
    assert bootstrap_error(holes) == bootstrap_error(values)
    assert bootstrap_error([1, 2, 4]) == bootstrap_error(np.array([1.0, 2.0, 4.0]))


@pytest.mark.parametrize("values", [[], [0.5], [NAN, NAN], [NAN, 0.5, NAN]])
def test_bootstrap_error_of_fewer_than_two_values_is_nan(values):
    assert math.isnan(bootstrap_error(np.array(values)))


def test_bootstrap_error_of_a_constant_is_zero():
    assert bootstrap_error(np.full(10, 0.25)) == 0


def normal_p_value(a, b):
    """The rank-sum statistic by counting pairs, ties as halves, and its normal tail."""
    n, m = len(a), len(b)
    wins = sum((x > y) + (x == y) / 2 for x in a for y in b)
    z = (wins - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


scores = st.lists(st.floats(0, 1), min_size=1, max_size=15)
tied = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=15)


@settings(deadline=None)
@given(scores | tied, scores | tied)
def test_rank_sum_is_the_normal_tail_of_the_pairs_won(a, b):
    assert rank_sum(a, b) == pytest.approx(normal_p_value(a, b), rel=1e-9, abs=1e-12)
    assert rank_sum(a, b) == pytest.approx(rank_sum(b, a), rel=1e-9)


def test_rank_sum_is_mann_whitney_u_without_its_corrections():
    rng = np.random.default_rng(2)
    a, b = rng.random(20), rng.random(33) + 0.2
    expected = stats.mannwhitneyu(a, b, use_continuity=False, method="asymptotic").pvalue
    assert rank_sum(a, b) == pytest.approx(expected, rel=1e-9)
    assert rank_sum(a, a) == 1


def test_rank_sum_leaves_out_nan():
    rng = np.random.default_rng(3)
    a, b = rng.random(10), rng.random(12)
    assert rank_sum(np.append(a, NAN), np.insert(b, 5, NAN)) == rank_sum(a, b)
    assert math.isnan(rank_sum(a, np.array([])))
    assert math.isnan(rank_sum(np.array([NAN]), b))
