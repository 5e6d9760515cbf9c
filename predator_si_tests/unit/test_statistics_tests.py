"""Tests and adjustments against SciPy, exact counts and published tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from predator_si.errors import BadInput
from predator_si.statistics import (
    benjamini_hochberg,
    holm,
    paired_interval,
    resolvable_effect,
    sign_flip_test,
    wilson,
)


@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=9))
def test_small_sign_flip_is_exact(differences):
    observed = abs(sum(differences))
    patterns = list(itertools.product([1, -1], repeat=len(differences)))
    extreme = sum(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed for signs in patterns)
    assert sign_flip_test(differences) == pytest.approx(extreme / len(patterns))


def test_sign_flip_equals_scipys_permutation_test():
    differences = np.random.default_rng(0).normal(0.15, 1, 120)
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)).pvalue
    assert sign_flip_test(differences, n_flips=20_000) == pytest.approx(theirs, abs=0.012)


def test_sign_flip_keeps_its_level_and_is_never_zero():
    rng = np.random.default_rng(2)
    false = sum(sign_flip_test(rng.standard_t(3, 60), n_flips=400) < 0.05 for _ in range(600))
    assert 0.03 <= false / 600 <= 0.075
    assert sign_flip_test(np.ones(100), n_flips=999) == pytest.approx(2 * np.exp(-50.0))  # Hoeffding's bound of the flips' tail; exactly it is 2 / 2^100


def test_a_tail_beyond_the_flips_is_never_smaller_than_it_is():
    rng = np.random.default_rng(7)
    for _ in range(5):
        differences = rng.normal(0.9, 0.6, 14)  # one more than is counted exactly
        signs = 1 - 2 * ((np.arange(2**14)[:, None] >> np.arange(14)) & 1)
        exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
        for flips in (50, 500):
            assert sign_flip_test(differences, seed=int(rng.integers(1000)), n_flips=flips) >= 0.2 * exact
        bound = 2 * np.exp(-0.5 * differences.sum() ** 2 / (differences**2).sum())
        assert bound >= exact


def test_sign_flip_of_very_many_is_the_normal_limit():
    differences = np.random.default_rng(3).normal(0.01, 1, 30_000)
    assert sign_flip_test(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.002)


def test_clusters_flip_together():
    # Ten copies of each of six unclear differences: as 60 independent ones they look sure, as six clusters they do not.
    values = np.repeat([0.3, 0.2, -0.1, 0.25, 0.1, -0.05], 10)
    labels = np.repeat(list("abcdef"), 10)
    assert sign_flip_test(values) < 0.001
    assert sign_flip_test(values, cluster=labels) == pytest.approx(sign_flip_test(values[::10]))


def test_paired_interval_joins_interval_and_test():
    differences = np.random.default_rng(4).normal(0.02, 0.15, 400)
    interval = paired_interval(differences)
    student = stats.t.interval(0.95, 399, differences.mean(), stats.sem(differences))
    assert (interval.low, interval.high) == pytest.approx(student, abs=0.0015)
    assert interval.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert paired_interval([0.0] * 20).p_value == 1.0


def test_wilson_equals_scipys():
    for successes, n in [(0, 10), (1, 10), (7, 50), (50, 50), (3, 1000)]:
        theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        ours = wilson(successes, n)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_equals_scipys(p_values):
    assert benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values))


def test_holm_equals_the_step_down_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0 and holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_resolvable_effect_equals_the_published_table_and_simulated_power():
    assert resolvable_effect(50, 0.12) == pytest.approx(0.042, abs=5e-4)
    assert resolvable_effect(500, 0.20) == pytest.approx(0.022, abs=5e-4)
    rng, effect = np.random.default_rng(5), resolvable_effect(200, 0.2)
    found = sum(stats.ttest_1samp(rng.normal(effect, 0.2, 200), 0, alternative="greater").pvalue < 0.05 for _ in range(1500))
    assert found / 1500 == pytest.approx(0.8, abs=0.035)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: holm([1.2]),
        lambda: benjamini_hochberg([float("nan")]),
        lambda: resolvable_effect(1, 0.1),
        lambda: sign_flip_test([]),
        lambda: paired_interval([0.1]),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(BadInput):
        call()
