"""The statistics against closed forms, brute force and scipy's other tests."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dicepp_jax.statistics import (
    bootstrap,
    bootstrap_error,
    bootstrap_totals,
    cliffs_delta,
    holm,
    rank_biserial,
    rank_sum,
    signed_rank,
)

NAN, INF = float("nan"), float("inf")

scores = st.lists(st.floats(0, 1), min_size=1, max_size=15)
tied = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=15)
samples = scores | tied
few = st.floats(-1, 1) | st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0])
pairs = st.lists(st.tuples(few, few), min_size=1, max_size=8).map(lambda x: np.array(x).T)


@pytest.mark.parametrize("cases", [2, 20, 300])
def test_bootstrap_matches_scipy_in_one_batch(cases):
    values = np.random.default_rng([0, cases]).beta(5, 2, cases)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=9999,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(3),
    )
    found = bootstrap(values, seed=3, confidence=0.9)
    assert found == (values.mean(), expected.standard_error, *expected.confidence_interval)
    assert bootstrap_error(values, seed=3) == expected.standard_error


@pytest.mark.parametrize("cases", [2, 20, 200])
def test_bootstrap_error_is_the_analytic_standard_error(cases):
    values = np.random.default_rng(cases).beta(5, 2, cases)
    # 9999 resamples determine a standard deviation to 0.7 percent.
    assert bootstrap_error(values) == pytest.approx(values.std() / math.sqrt(cases), rel=0.03)


@pytest.mark.parametrize(("confidence", "z"), [(0.5, 0.674), (0.95, 1.960), (0.99, 2.576)])
def test_interval_of_many_cases_is_the_normal_one(confidence, z):
    values = np.random.default_rng(1).normal(size=400)
    error = values.std() / math.sqrt(len(values))
    _, _, low, high = bootstrap(values, confidence=confidence)
    assert (low, high) == pytest.approx(values.mean() + np.array([-z, z]) * error, abs=0.1 * error)


def test_bootstrap_of_two_values_is_a_binomial():
    # Means of resamples of 0 and 1 are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4.
    mean, error, low, high = bootstrap(np.array([0.0, 1.0]))
    assert (mean, low, high) == (0.5, 0, 1)
    assert error == pytest.approx(math.sqrt(1 / 8), rel=0.03)
    assert bootstrap(np.array([0.0, 1.0]), confidence=0.4)[2:] == (0.5, 0.5)


@settings(max_examples=20, deadline=None)
@given(scores, st.integers(0, 9))
def test_interval_surrounds_the_mean_within_the_values(values, seed):
    if len(values) > 1:
        mean, _, low, high = bootstrap(np.array(values), seed)
        tolerance = 1e-12
        assert min(values) - tolerance <= low <= mean + tolerance
        assert mean - tolerance <= high <= max(values) + tolerance


def test_bootstrap_follows_shift_and_scale():
    values = np.random.default_rng(2).random(30)
    mean, error, low, high = bootstrap(values)
    moved = bootstrap(5 - 2 * values)
    assert moved == pytest.approx((5 - 2 * mean, 2 * error, 5 - 2 * high, 5 - 2 * low), rel=1e-6)


def test_bootstrap_depends_on_its_seed_only():
    values = np.random.default_rng(0).random(20)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap_error(values, seed=3) != bootstrap_error(values, seed=4)


def test_every_column_is_resampled_separately_without_its_nan():
    values = np.random.default_rng(4).random((25, 2, 3))
    values[[0, 7, 24], 0, 1] = NAN
    values[1:, 1, 0] = NAN
    values[:, 1, 2] = NAN
    values[3:7, 1, 1] = NAN
    found = bootstrap(values, seed=5)
    assert [part.shape for part in found] == [(2, 3)] * 4
    for place in np.ndindex(2, 3):
        column = values[:, *place]
        alone = bootstrap(column[~np.isnan(column)], seed=5)
        np.testing.assert_array_equal([part[place] for part in found], alone)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([], NAN),
        ([0.5], 0.5),
        ([NAN, NAN], NAN),
        ([NAN, 0.5, NAN], 0.5),
        ([0.5, INF, 0.7], INF),
        ([-INF, INF], NAN),
    ],
)
def test_the_mean_may_exist_without_an_error(values, mean):
    np.testing.assert_array_equal(bootstrap(np.array(values)), (mean, NAN, NAN, NAN))
    assert math.isnan(bootstrap_error(np.array(values)))


def test_bootstrap_of_a_constant_is_the_constant():
    assert bootstrap(np.full(10, 0.25)) == (0.25, 0, 0.25, 0.25)


def test_bootstrap_accepts_lists():
    assert bootstrap([1, 2, 4]) == bootstrap(np.array([1.0, 2.0, 4.0]))


@pytest.mark.parametrize("confidence", [0, 1, 95, NAN])
def test_an_invalid_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match=rf"confidence must lie in \(0, 1\), got {confidence}"):
        bootstrap(np.arange(3.0), confidence=confidence)


def test_a_scalar_is_refused():
    with pytest.raises(ValueError, match=r"an array \(cases, ...\), got the number 0.5"):
        bootstrap(0.5)


def normal_p_value(a, b):
    """The p-value from the rank-sum statistic, counting pairs with ties as halves."""
    n, m = len(a), len(b)
    wins = sum((x > y) + (x == y) / 2 for x in a for y in b)
    z = (wins - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


@settings(deadline=None)
@given(samples, samples)
def test_rank_sum_is_the_normal_tail_of_the_pairs_won(a, b):
    assert rank_sum(a, b) == pytest.approx(normal_p_value(a, b), rel=1e-9, abs=1e-12)
    assert rank_sum(a, b) == pytest.approx(rank_sum(b, a), rel=1e-9)


def test_rank_sum_is_mann_whitney_u_without_its_corrections():
    rng = np.random.default_rng(2)
    a, b = rng.random(20), rng.random(33) + 0.2
    expected = stats.mannwhitneyu(a, b, use_continuity=False, method="asymptotic").pvalue
    assert rank_sum(a, b) == pytest.approx(expected, rel=1e-9)
    assert rank_sum(a, a) == 1


@pytest.mark.parametrize("function", [rank_sum, cliffs_delta])
def test_independent_samples_leave_out_nan(function):
    rng = np.random.default_rng(3)
    a, b = rng.random(10), rng.random(12)
    assert function(np.append(a, NAN), np.insert(b, 5, NAN)) == function(a, b)
    assert math.isnan(function(a, np.array([])))
    assert math.isnan(function(np.array([NAN]), b))


def signed_ranks(a, b):
    """Signs and ranks of the non-zero differences, by counting."""
    differences = [x - y for x, y in zip(a, b, strict=True) if x != y]
    sizes = [abs(d) for d in differences]
    ranks = [sum(s < size for s in sizes) + (sizes.count(size) + 1) / 2 for size in sizes]
    return [math.copysign(1, d) for d in differences], ranks


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_signed_rank_matches_an_enumeration_of_signs(ab):
    signs, ranks = signed_ranks(*ab)
    observed = np.dot(signs, ranks)
    possible = [np.dot(s, ranks) for s in itertools.product((-1, 1), repeat=len(ranks))]
    expected = np.mean(np.abs(possible) >= abs(observed))
    assert signed_rank(*ab) == pytest.approx(expected, rel=1e-12)
    assert signed_rank(*ab[::-1]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("cases", "steps"), [(20, 4), (50, 10), (60, 10), (60, 0), (200, 0)])
def test_signed_rank_of_many_or_tied_cases_is_a_normal_tail(cases, steps):
    rng = np.random.default_rng([6, cases])
    a, b = rng.random((2, cases)) + [[0.1], [0]]
    if steps:
        a, b = np.round(a * steps), np.round(b * steps)
    signs, ranks = signed_ranks(a, b)
    n = len(ranks)
    _, ties = np.unique(ranks, return_counts=True)
    variance = n * (n + 1) * (2 * n + 1) / 24 - np.sum(ties**3 - ties) / 48
    z = np.dot(signs, ranks) / 2 / math.sqrt(variance)
    assert signed_rank(a, b) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=1e-9)


def test_signed_rank_of_fifty_cases_is_exact():
    # All 50 differences have the same sign in 2 of 2**50 cases, far from the normal tail.
    a = np.arange(50.0)
    assert signed_rank(a, 3 * a + 1) == pytest.approx(2.0**-49, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_rank_biserial_is_the_difference_of_the_rank_sums(ab):
    signs, ranks = signed_ranks(*ab)
    expected = np.dot(signs, ranks) / sum(ranks) if ranks else 0
    assert rank_biserial(*ab) == pytest.approx(expected, abs=1e-12)
    assert rank_biserial(*ab[::-1]) == -rank_biserial(*ab)
    assert -1 <= rank_biserial(*ab) <= 1


def test_rank_biserial_is_scipys_statistic_scaled():
    a, b = np.random.default_rng(7).random((2, 20))
    positive = stats.wilcoxon(a, b, alternative="greater").statistic
    assert rank_biserial(a, b) == pytest.approx(2 * positive / (20 * 21 / 2) - 1)
    assert rank_biserial(a + 1, b) == 1
    assert rank_biserial(a - 1, b) == -1


@pytest.mark.parametrize(
    ("function", "of_equals"), [(signed_rank, 1), (rank_biserial, 0)], ids=["p", "r"]
)
def test_pairs_without_a_difference(function, of_equals):
    a, b = np.random.default_rng(8).random((2, 9))
    value = function(a, b)
    assert function([NAN, *a, 0.5, NAN], [0.5, *b, NAN, NAN]) == value
    assert function([*a, 0.3], [*b, 0.3]) == value
    assert function([*a, INF], [*b, INF]) == value
    assert function(a, a) == of_equals
    assert math.isnan(function([], []))
    assert math.isnan(function([NAN, 1], [1, NAN]))
    with pytest.raises(ValueError, match=r"of the same cases, got shapes \(9,\) and \(8,\)"):
        function(a, b[1:])


def test_an_infinite_difference_is_the_largest():
    assert rank_biserial([INF, 0.5], [1, 1]) == pytest.approx(1 / 3)
    assert signed_rank([INF, 0.5, 3], [1, 1, 1]) == signed_rank([9, 0.5, 3], [1, 1, 1])


@settings(deadline=None)
@given(samples, samples)
def test_cliffs_delta_is_pairs_won_minus_pairs_lost(a, b):
    expected = np.mean([np.sign(x - y) for x in a for y in b])
    assert cliffs_delta(a, b) == pytest.approx(expected, abs=1e-12)
    assert cliffs_delta(b, a) == pytest.approx(-expected, abs=1e-12)
    assert -1 <= cliffs_delta(a, b) <= 1


def test_cliffs_delta_is_scipys_u_scaled():
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=12), rng.normal(size=17)
    u = stats.mannwhitneyu(a, b).statistic
    assert cliffs_delta(a, b) == pytest.approx(2 * u / (12 * 17) - 1)
    assert cliffs_delta(np.exp(a), np.exp(b)) == cliffs_delta(a, b)
    assert cliffs_delta([2, 3], [0, 1, 1]) == 1
    assert cliffs_delta(a, a) == 0


p_values = st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02, 0.04]), max_size=12)


def rejected(p, alpha):
    """Holm's procedure as published: the smallest first, until one is not significant."""
    result = [False] * len(p)
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] * (len(p) - step) > alpha:
            break
        result[index] = True
    return result


@given(p_values, st.floats(0, 1, exclude_max=True) | st.sampled_from([0.01, 0.05]))
def test_holm_rejects_as_the_procedure_does(p, alpha):
    assert (holm(p) <= alpha).tolist() == rejected(p, alpha)


@given(p_values)
def test_holm_lies_between_the_raw_values_and_bonferronis(p):
    raw, adjusted = np.array(p), holm(p)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, len(p) * raw)).all()
    order = np.argsort(raw)
    assert (np.diff(adjusted[order]) >= 0).all()
    np.testing.assert_array_equal(holm(raw[::-1]), adjusted[::-1])


def test_holm_by_hand():
    # Times 4, 3, 2 and 1 in increasing order, and never below the one before.
    found = holm([0.04, 0.01, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.06, 0.03, 0.06, 0.02], rtol=1e-12)


def test_holm_keeps_shape_and_nan_and_counts_only_numbers():
    p = np.array([[0.01, NAN, 0.5], [0.03, 0.02, NAN]])
    before = p.copy()
    np.testing.assert_allclose(holm(p), [[0.04, NAN, 0.5], [0.06, 0.06, NAN]])
    np.testing.assert_array_equal(p, before)
    np.testing.assert_array_equal(holm([NAN, NAN]), [NAN, NAN])
    assert holm([]).shape == (0,)
    assert holm(0.3) == 0.3


@pytest.mark.parametrize("p", [-0.1, 1.2])
def test_invalid_p_values_are_refused(p):
    with pytest.raises(ValueError, match=rf"p-values must lie in \[0, 1\], got .*{p}"):
        holm([0.5, p])


@pytest.mark.parametrize("cases", [2, 30])
def test_totals_are_resampled_as_by_scipy(cases, monkeypatch):
    monkeypatch.setattr("dicepp_jax.statistics.DRAWN", 2**12)
    rng = np.random.default_rng([5, cases])
    voxels = rng.integers(10, 100, cases)
    errors = rng.binomial(voxels, 0.2)
    found = bootstrap_totals(
        lambda totals: totals[:, 0] / totals[:, 1], np.stack([errors, voxels], axis=1)
    )
    expected = stats.bootstrap(
        (errors, voxels),
        lambda e, v, axis: e.sum(axis) / v.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.value == pytest.approx(errors.sum() / voxels.sum())
    np.testing.assert_allclose(found[1:], expected, atol=0.03 * (expected.high - expected.low))


def test_totals_of_two_cases_have_three_resamples():
    # Of two cases, a quarter of the resamples is twice the first, a quarter twice the second.
    found = bootstrap_totals(lambda totals: totals, np.array([[1.0], [3.0]]), confidence=0.4)
    assert [float(x[0]) for x in found] == [4, 4, 4]
    found = bootstrap_totals(lambda totals: totals, np.array([[1.0], [3.0]]))
    assert [float(x[0]) for x in found] == [4, 2, 6]


def test_totals_of_one_case_have_no_interval():
    value, low, high = bootstrap_totals(lambda totals: totals[..., 0], np.array([[2.0, 5.0]]))
    assert value == 2 and np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="confidence must lie in"):
        bootstrap_totals(lambda totals: totals, np.ones((2, 1)), confidence=1)
