"""Intervals against SciPy, NumPy and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from predator_si.errors import BadInput
from predator_si.statistics import bootstrap_mean_interval, quantile_interval, quantile_ratio_interval, welch


def test_bca_equals_scipys():
    values = np.random.default_rng(3).exponential(1.0, 80)
    ours = bootstrap_mean_interval(values, seed=0, n_boot=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)).confidence_interval
    assert ours.estimate == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    assert ours.sd == pytest.approx(values.std(ddof=1)) and ours.n == 80
    assert ours == bootstrap_mean_interval(values, seed=0, n_boot=20_000)


def test_bca_covers_skewed_per_query_scores():
    rng, held = np.random.default_rng(4), 0
    for _ in range(300):
        interval = bootstrap_mean_interval(rng.beta(0.4, 0.6, 60), n_boot=800)
        held += interval.low <= 0.4 <= interval.high
    assert 0.91 <= held / 300 <= 0.985


def test_cluster_interval_covers_where_the_plain_one_does_not():
    rng, plain, clustered = np.random.default_rng(5), 0, 0
    labels = np.repeat(np.arange(40), 5)
    for _ in range(150):
        values = rng.normal(0, 1, 40)[labels] + rng.normal(0, 0.3, 200)
        a, b = bootstrap_mean_interval(values, n_boot=500), bootstrap_mean_interval(values, n_boot=500, cluster=labels)
        plain += a.low <= 0 <= a.high
        clustered += b.low <= 0 <= b.high
    assert plain / 150 < 0.75 < 0.88 <= clustered / 150


def test_large_sample_switches_to_student_without_a_jump():
    values = np.random.default_rng(6).lognormal(0, 0.5, 6000)
    ours = bootstrap_mean_interval(values)
    half = stats.sem(values) * stats.t.ppf(0.975, 5999)
    assert (ours.low, ours.high) == pytest.approx((values.mean() - half, values.mean() + half))
    bca = bootstrap_mean_interval(values[:4999], n_boot=2000)
    student = stats.t.interval(0.95, 4998, values[:4999].mean(), stats.sem(values[:4999]))
    assert (bca.low, bca.high) == pytest.approx(student, abs=0.1 * half)


def test_equal_values_have_no_width():
    interval = bootstrap_mean_interval([0.5] * 10)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


def test_quantile_interval_bounds_are_order_statistics_with_binomial_coverage():
    values = np.arange(1.0, 201.0)
    interval = quantile_interval(values, 0.95)
    assert interval.estimate == pytest.approx(np.quantile(values, 0.95))
    low, high = int(interval.low), int(interval.high)
    covered = stats.binom.cdf(high - 1, 200, 0.95) - stats.binom.cdf(low - 1, 200, 0.95)
    assert covered >= 0.95
    assert stats.binom.cdf(high - 2, 200, 0.95) - stats.binom.cdf(low, 200, 0.95) < 0.95
    assert quantile_interval(values[:71], 0.95).high == float("inf")
    assert quantile_interval(values[:72], 0.95).high == 72.0


def test_quantile_ratio_equals_a_resampled_bootstrap_and_covers():
    rng = np.random.default_rng(7)
    first, second = rng.lognormal(0, 0.4, 150), rng.lognormal(-0.7, 0.4, 80)
    ours = quantile_ratio_interval(first, second, 0.95)
    resampled = [
        np.sort(rng.choice(second, 80))[int(np.ceil(80 * 0.95)) - 1] / np.sort(rng.choice(first, 150))[int(np.ceil(150 * 0.95)) - 1] - 1 for _ in range(4000)
    ]
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.03)
    held = 0
    for _ in range(300):
        interval = quantile_ratio_interval(rng.lognormal(0, 0.4, 300), rng.lognormal(-0.7, 0.4, 120), 0.95, n_boot=1500)
        held += interval.low <= np.exp(-0.7) - 1 <= interval.high
    assert 0.92 <= held / 300 <= 0.99


def test_quantile_ratio_refuses_what_it_cannot_bound():
    with pytest.raises(BadInput, match="at least 60"):
        quantile_ratio_interval(np.ones(200), np.ones(59), 0.95)
    assert quantile_ratio_interval(np.ones(60), np.ones(60), 0.95).estimate == 0.0
    with pytest.raises(BadInput, match="positive"):
        quantile_ratio_interval(np.zeros(200), np.ones(200), 0.95)


def test_welch_equals_scipys():
    rng = np.random.default_rng(8)
    first, second = rng.normal(0, 1, 40), rng.normal(0.4, 3, 25)
    ours, theirs = welch(first, second), stats.ttest_ind(second, first, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high, ours.p_value) == pytest.approx((interval.low, interval.high, theirs.pvalue))
    assert ours.estimate == pytest.approx(second.mean() - first.mean())


def test_clustered_welch_keeps_its_level():
    rng, plain, clustered = np.random.default_rng(9), 0, 0
    for _ in range(300):
        sides = []
        for clients in (40, 30):
            labels = np.repeat(np.arange(clients), rng.integers(1, 8, clients))
            sides.append((rng.normal(0, 1, clients)[labels] + rng.normal(0, 0.5, labels.size), labels))
        plain += welch(sides[0][0], sides[1][0]).p_value < 0.05
        clustered += welch(sides[0][0], sides[1][0], control_cluster=sides[0][1], treated_cluster=sides[1][1]).p_value < 0.05
    assert clustered / 300 < 0.10 < plain / 300


def test_welch_of_constants():
    assert welch([1.0, 1.0], [1.0, 1.0]).p_value == 1.0
    assert welch([1.0, 1.0], [2.0, 2.0]).p_value == 0.0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bootstrap_mean_interval([1.0]), "at least 2"),
        (lambda: bootstrap_mean_interval([1.0, float("nan")]), "not finite"),
        (lambda: bootstrap_mean_interval([1.0, 2.0], cluster=["a"]), "one label each"),
        (lambda: bootstrap_mean_interval([1.0, 2.0], cluster=["a", "a"]), "one cluster"),
        (lambda: bootstrap_mean_interval([1.0, 2.0], confidence=95), "between 0 and 1"),
        (lambda: quantile_interval([], 0.5), "0 observations"),
        (lambda: quantile_interval([1.0], 1.0), "quantile"),
        (lambda: welch([1.0], [1.0, 2.0]), "control"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(BadInput, match=said):
        call()
