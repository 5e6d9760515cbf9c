"""Margins, the studentised bootstrap, and the error of a judged set that is used again and again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from predator_si.errors import BadInput
from predator_si.statistics import (
    Ladder,
    bootstrap_mean_interval,
    bootstrap_t_interval,
    candidate_level,
    climb,
    judge_difference,
    power_sentence,
    resolvable_effect,
    sign_flip_test,
)


def test_the_studentised_bootstrap_is_the_textbooks_and_covers_where_units_are_few_and_skewed():
    values = np.random.default_rng(1).exponential(size=15)
    ours = bootstrap_t_interval(values, n_boot=4000, seed=3)
    rng = np.random.default_rng(5)
    t = []
    for _ in range(4000):  # Efron and Tibshirani 1993, algorithm of section 12.5, literally
        sample = rng.choice(values, values.size)
        t.append((sample.mean() - values.mean()) / stats.sem(sample))
    low, high = values.mean() - np.quantile(t, [0.975, 0.025]) * stats.sem(values)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.12 * (high - low))
    held = {"bca": 0, "t": 0}
    for _ in range(250):
        sample = rng.exponential(size=15)
        for name, interval in (("bca", bootstrap_mean_interval(sample, n_boot=500)), ("t", bootstrap_t_interval(sample, n_boot=500))):
            held[name] += interval.low <= 1.0 <= interval.high
    assert 0.90 <= held["t"] / 250 <= 0.985 and held["t"] > held["bca"]


def test_the_studentised_bootstrap_resamples_whole_clusters():
    rng, held, plain = np.random.default_rng(2), 0, 0
    labels = np.repeat(np.arange(25), 4)
    for _ in range(120):
        values = rng.normal(0, 1, 25)[labels] + rng.normal(0, 0.2, 100)
        a, b = bootstrap_t_interval(values, n_boot=400, cluster=labels), bootstrap_t_interval(values, n_boot=400)
        held += a.low <= 0 <= a.high
        plain += b.low <= 0 <= b.high
    assert plain / 120 < 0.8 < 0.88 <= held / 120
    assert bootstrap_t_interval([0.2] * 6).high == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("mean", "margin", "standing"), [(0.1, 0.01, "superior"), (0.0, 0.05, "non_inferior"), (-0.1, 0.01, "inferior"), (0.0, 0.001, "inconclusive")]
)
def test_a_difference_stands_where_it_was_put(mean, margin, standing):
    values = np.random.default_rng(3).normal(0, 0.15, 200)
    values += mean - values.mean()
    for method in ("bca", "bootstrap_t"):
        found = judge_difference(values, margin, method=method, resamples=2000)
        assert found.standing == standing and f"n={values.size}" in found.reason
    assert found.low < mean < found.high and found.resolvable == pytest.approx(resolvable_effect(200, float(values.std(ddof=1)), alpha=0.025))
    both = sign_flip_test(values, n_flips=2000)
    assert found.p_superior == pytest.approx(both / 2 if mean > 0 else 1 - both / 2)


def test_superiority_and_non_inferiority_keep_their_levels():
    rng, superior, kept, lives = np.random.default_rng(4), 0, 0, 300
    for _ in range(lives):
        x = rng.choice([-0.4, 0.0, 0.4], 80, p=[0.2, 0.6, 0.2])
        superior += judge_difference(x, 0.05, 0.05, resamples=300).standing == "superior"
        kept += judge_difference(x - 0.05, 0.05, 0.05, confidence=0.9, resamples=300).standing in ("non_inferior", "superior")
    assert stats.binomtest(superior, lives, 0.05, alternative="greater").pvalue > 1e-4 and superior > 2
    assert stats.binomtest(kept, lives, 0.06, alternative="greater").pvalue > 1e-4 and kept > 2


def test_dependent_queries_count_once():
    base = np.random.default_rng(6).normal(0.0, 0.2, 20)
    base += 0.05 - base.mean()
    alone, copied = judge_difference(base, resamples=1000), judge_difference(np.repeat(base, 10), resamples=1000)
    clustered = judge_difference(np.repeat(base, 10), cluster=np.repeat(np.arange(20), 10), resamples=1000)
    assert copied.standing == "superior" and alone.standing == clustered.standing != "superior"
    assert clustered.resolvable == pytest.approx(alone.resolvable)


def test_nothing_is_judged_from_nothing():
    for values, cluster in (([], None), ([0.3], None), ([0.2] * 50, None), ([0.0] * 50, None), ([0.1, 0.2, 0.3], ["a", "a", "a"])):
        found = judge_difference(values, 0.01, cluster=cluster)
        assert found.standing == "unknown" and found.low is None and found.p_superior is None and found.reason
    assert "nobody can say" in power_sentence(1, 0.2) and "nobody can say" in power_sentence(100, 0.0) and "nobody can say" in power_sentence(100, None)


def test_the_power_sentence_says_the_published_number():
    assert power_sentence(200, 0.12) == "this set of 200 queries can resolve 2.1 points of NDCG@10 (one-sided 0.05, power 80%)"


# --------------------------------------------------------------------------- a judged set used again and again


def test_a_month_spends_its_error_and_no_more():
    levels = [candidate_level(k, 0.01, 18) for k in range(1, 200_001)]
    assert sum(levels) == pytest.approx(0.01, rel=1e-4) and sum(levels) < 0.01
    assert all(a > b > 0 for a, b in itertools.pairwise(levels)) and 0.75 < sum(levels[:18]) / 0.01 < 0.8
    assert levels[0] == pytest.approx(2 * levels[1]) == pytest.approx(18 * levels[17]) == pytest.approx(4 * 18 * levels[35])


def test_eighteen_null_candidates_rarely_promote_any():
    """The same judged set all month: the champion's scores are common to all candidates, so the tests depend on each other."""
    rng, months, promoted, naive = np.random.default_rng(7), 400, 0, 0
    for _ in range(months):
        champion = rng.beta(0.5, 0.5, 120)
        differences = rng.normal(0, 0.2, (18, 120)) - 0.3 * (champion - 0.5) * rng.choice([-1, 1], (18, 1))
        p = stats.ttest_1samp(differences, 0.0, axis=1).pvalue
        better = differences.mean(axis=1) > 0
        promoted += any(b and one / 2 <= candidate_level(k + 1) for k, (b, one) in enumerate(zip(better, p, strict=True)))
        naive += any(better & (p <= 0.05))
    assert stats.binomtest(promoted, months, 0.01, alternative="greater").pvalue > 1e-4
    assert naive > 0.25 * months


def test_the_ladder_tells_a_rise_only():
    rng = np.random.default_rng(8)
    ladder, told = climb(Ladder(), 0.612, rng.normal(0, 0.2, 100))
    assert told and ladder == Ladder(0.61, 1, 1)
    noise = rng.normal(0, 0.2, 100)
    step = noise.std(ddof=1) / 10
    assert climb(ladder, 0.61 + 0.9 * step, noise) == (Ladder(0.61, 1, 2), False)
    higher, told = climb(ladder, 0.61 + 1.5 * step, noise)
    assert told and higher.rungs == 2 and higher.best == pytest.approx(0.61 + 1.5 * step, abs=0.005)
    assert climb(ladder, 0.3, noise)[0].best == 0.61


def test_the_ladder_is_not_fooled_by_fitting_to_what_it_tells():
    """The boosting attack of Blum and Hardt (section 4): keep every random submission that scores above chance, submit their majority vote."""
    rng, n, tries = np.random.default_rng(9), 400, 200
    truth = rng.integers(0, 2, n)
    told_by_ladder, told_plainly = Ladder(), []
    vote_plain, vote_ladder, before = np.zeros(n), np.zeros(n), None
    for _ in range(tries):
        guess = rng.integers(0, 2, n)
        right = (guess == truth).astype(float)
        told_plainly.append(right.mean())
        vote_plain += (2 * guess - 1) * (1 if right.mean() > 0.5 else -1)
        told_by_ladder, rose = climb(told_by_ladder, right.mean(), right if before is None else right - before)
        before = right if rose else before
        vote_ladder += (2 * guess - 1) * (1 if rose else 0)
    fitted = ((vote_plain > 0).astype(int) == truth).mean()
    through_ladder = ((vote_ladder > 0).astype(int) == truth).mean()
    assert fitted > 0.7 and through_ladder < 0.6 and told_by_ladder.best < 0.58  # the truth is .5 for everybody


@pytest.mark.parametrize(
    "call",
    [
        lambda: judge_difference([0.1, np.nan]),
        lambda: judge_difference([0.1, 0.2], -0.1),
        lambda: judge_difference([0.1, 0.2], alpha=0.6),
        lambda: bootstrap_t_interval([0.1]),
        lambda: candidate_level(0),
        lambda: candidate_level(1, 0.0),
        lambda: candidate_level(1, 0.01, 0),
        lambda: climb(Ladder(), np.nan, [0.1, 0.2]),
        lambda: climb(Ladder(), 0.5, [0.1]),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(BadInput):
        call()
