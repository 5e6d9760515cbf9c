"""Means looked at at any time: normal mixtures and betting against the papers' formulas taken literally, and their promise by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from predator_si.errors import BadInput
from predator_si.statistics import (
    always_valid_p,
    bounded_mean_log_e,
    claims,
    estimate_log_e,
    estimate_sequence,
    mean_log_e,
    mean_sequence,
    needed,
    prior_size,
    running_sums,
)
from predator_si_tests.support.evidence import first_claim

SIDES = ("greater", "less", "two-sided")


def of(x, null=0.0, alternative="greater", prior=20.0, burn_in=2):
    return mean_log_e(*running_sums(x), null, prior=prior, alternative=alternative, burn_in=burn_in)


def prior_of(effect, scale, alternative):
    half = np.heaviside(np.round(effect, 12) * (1 if alternative == "greater" else -1), 0.5)
    return stats.norm.pdf(effect, scale=scale) * (1.0 if alternative == "two-sided" else 2.0 * half)


def at_most(hits, lives, alpha):
    """A share of lives that is not above ``alpha`` by more than chance allows (one in a hundred thousand)."""
    return stats.binomtest(int(hits), lives, alpha, alternative="greater").pvalue > 1e-5


# --------------------------------------------------------------------------- normal mixtures


@pytest.mark.parametrize("alternative", SIDES)
def test_the_students_mixture_is_the_integral_over_effect_and_spread(alternative):
    x, prior = np.random.default_rng(1).normal(0.3, 2.0, 7), 5.0
    n, u = x.size, np.linspace(-9, 7, 1601)  # log of the spread
    spread = np.exp(u)[:, None]
    effect = np.linspace(-6, 6, 2401)[None, :] / np.sqrt(prior)
    weight = prior_of(effect, 1 / np.sqrt(prior), alternative)
    squares = (x**2).sum() - 2 * effect * spread * x.sum() + n * (effect * spread) ** 2
    over_effects = np.trapezoid(np.exp(-squares / (2 * spread**2)) * weight, effect.ravel(), axis=1)
    mixed = np.trapezoid(over_effects * np.exp(-n * u), u)
    null = np.trapezoid(np.exp(-(x**2).sum() / (2 * np.exp(2 * u)) - n * u), u)
    assert of(x, alternative=alternative, prior=prior)[-1] == pytest.approx(np.log(mixed / null), abs=2e-3)


@pytest.mark.parametrize("alternative", SIDES)
def test_the_normal_mixture_is_the_integral_over_effects(alternative):
    estimate, error, n, prior = 0.4, 0.15, 50.0, 30.0
    unit = error * np.sqrt(n)  # spread of one observation
    effect = np.linspace(-8, 8, 20001) * unit / np.sqrt(prior)
    weight = prior_of(effect, unit / np.sqrt(prior), alternative)
    ratio = np.exp(-0.5 * ((estimate - effect) / error) ** 2 + 0.5 * (estimate / error) ** 2)
    ours = estimate_log_e(estimate, error, n, prior=prior, alternative=alternative)
    assert ours == pytest.approx(np.log(np.trapezoid(ratio * weight, effect)), abs=1e-3)


def test_the_two_sided_sequence_is_equation_nine_of_waudby_smith_and_the_students_one_goes_there():
    rho, alpha, sd = 0.1, 0.05, 2.0
    n = np.array([30.0, 300.0, 3000.0, 30000.0])
    paper = sd * np.sqrt(2 * (n * rho**2 + 1) / (n**2 * rho**2) * np.log(np.sqrt(n * rho**2 + 1) / alpha))
    low, high = estimate_sequence(np.ones(4), sd / np.sqrt(n), n, alpha, prior=1 / rho**2)
    assert high - 1 == pytest.approx(paper) and 1 - low == pytest.approx(paper)
    _, student = mean_sequence(n, n * 1.0, n * (1.0 + sd**2), alpha, prior=1 / rho**2)
    assert student[2:] - 1 == pytest.approx(paper[2:], rel=0.01)
    assert student[0] - 1 > 1.05 * paper[0]  # what an unknown spread costs a small sample


def test_a_one_sided_bound_is_tighter_than_the_papers_closed_form_and_than_the_two_sided():
    """Howard et al. bound 2 exp(x^2 / 2) Phi(x) from below; solved exactly it gives the tighter sequence (arXiv:2103.06476, proposition B.1)."""
    rho, alpha, n = 0.1, 0.01, np.array([20.0, 200.0, 2000.0])
    closed = np.sqrt(2 * (n * rho**2 + 1) / (n**2 * rho**2) * np.log(1 + np.sqrt(n * rho**2 + 1) / (2 * alpha)))
    low, high = estimate_sequence(np.zeros(3), 1 / np.sqrt(n), n, alpha, prior=1 / rho**2, alternative="greater")
    two, _ = estimate_sequence(np.zeros(3), 1 / np.sqrt(n), n, alpha, prior=1 / rho**2)
    assert np.isinf(high).all() and (-low < closed).all() and (-low > 0.97 * closed).all() and (low > two).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=40), st.sampled_from(SIDES), st.floats(-3, 3))
def test_a_mean_lies_outside_its_sequence_exactly_where_the_evidence_claims(values, alternative, null):
    x = np.array(values)
    sums = running_sums(x)
    low, high = mean_sequence(*sums, 0.05, prior=3.0, alternative=alternative, burn_in=2)
    evidence = mean_log_e(*sums, null, prior=3.0, alternative=alternative, burn_in=2)
    near = np.minimum(abs(low - null), abs(high - null)) < 1e-6 * (1 + abs(x).max())
    assert ((((null < low) | (null > high)) == claims(evidence, 0.05)) | near).all()


def test_the_tuning_is_the_tightest_where_it_says():
    def width(prior):
        low, high = estimate_sequence(0.0, 1 / np.sqrt(500), 500.0, 0.01, prior=prior)
        return high - low

    chosen = prior_size(0.01, 500)
    assert width(chosen) <= min(width(chosen * factor) for factor in (0.5, 0.8, 1.25, 2.0))
    assert prior_size(0.01, 500, "less") == prior_size(0.02, 500)


@pytest.mark.parametrize("draw", ["normal", "skewed", "mostly zero"])
@pytest.mark.parametrize("alternative", SIDES)
def test_looking_at_every_observation_keeps_the_level(draw, alternative):
    rng, lives, n = np.random.default_rng(7), 1000, 200
    x = {
        "normal": lambda: rng.normal(0, 1, (lives, n)),
        "skewed": lambda: rng.gamma(3.0, size=(lives, n)) - 3.0,
        "mostly zero": lambda: rng.choice([-0.37, 0.0, 0.37], (lives, n), p=[0.15, 0.7, 0.15]),
    }[draw]()
    hits = (first_claim(of(x, alternative=alternative, burn_in=20), 0.05) >= 0).sum()
    limit = 0.05 if draw != "skewed" else 0.065  # asymptotic: a gamma of skewness 1.2 from the twentieth observation on
    assert at_most(hits, lives, limit) and hits > 0.003 * lives
    beyond = of(x + (-0.2 if alternative == "greater" else 0.2), alternative=alternative, burn_in=20)
    assert alternative == "two-sided" or (first_claim(beyond, 0.05) >= 0).sum() <= hits  # further on the null side: never more


def test_a_difference_of_arms_keeps_its_level_at_every_look():
    rng, lives = np.random.default_rng(8), 1500
    n = np.arange(20, 401, 20.0)
    a, b = (np.cumsum(rng.exponential(size=(lives, 400)), axis=1)[:, 19::20] / n for _ in range(2))
    error = np.sqrt(2.0 / n) * np.ones_like(a)
    hits = (first_claim(estimate_log_e(a - b, error, n / 2, prior=50.0, alternative="two-sided"), 0.05) >= 0).sum()
    assert at_most(hits, lives, 0.05) and hits > 5


def test_a_drop_of_five_points_is_found_within_three_hundred_and_fifty_pairs():
    rng = np.random.default_rng(9)
    x = rng.normal(-0.05, 0.15, (1000, 350))
    found = first_claim(of(x, alternative="less", prior=prior_size(0.0003, 200, "less"), burn_in=30), 0.0003)
    assert (found >= 0).mean() > 0.95


def test_nothing_is_said_from_nothing():
    for alternative in SIDES:
        kind = {"prior": 5.0, "alternative": alternative}
        assert (of(np.full(500, -0.3), alternative=alternative) == 0.0).all()  # no spread was seen
        assert (of(np.zeros(500), alternative=alternative) == 0.0).all()  # all ties
        assert of(np.full(80, 0.1) * 3, 0.3, alternative)[-1] == 0.0  # rounding is no spread
        assert mean_log_e(1, 5.0, 25.0, burn_in=0, **kind) == 0.0 and mean_log_e(0, 0.0, 0.0, burn_in=0, **kind) == 0.0
        assert np.isinf(mean_sequence(1, 5.0, 25.0, 0.05, burn_in=0, **kind)).all()
        assert (of(np.random.default_rng(0).normal(5, 1, 30), burn_in=20)[:19] == 0.0).all()
        assert estimate_log_e(0.5, 0.0, 100, **kind) == 0.0 and estimate_log_e(0.5, np.inf, 100, **kind) == 0.0 and estimate_log_e(0.0, 1.0, 0, **kind) == 0.0
        assert np.isinf(estimate_sequence(0.5, 0.0, 100, 0.05, **kind)).all()
    assert mean_sequence(3, 3.0, 3.2, 1e-9, prior=0.5, alternative="greater", burn_in=2)[0] == -np.inf  # no three observations can show that much
    assert of(np.empty((4, 0))).shape == (4, 0) and (first_claim(np.empty((4, 0)), 0.05) == -1).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: running_sums([0.1, np.nan]),
        lambda: running_sums(0.1),
        lambda: mean_log_e(10, 1.0, np.nan, prior=1.0),
        lambda: mean_log_e(10, 10.0, 1.0, prior=1.0),
        lambda: mean_log_e(-1, 0.0, 0.0, prior=1.0),
        lambda: mean_log_e(10, 1.0, 1.0, prior=0.0),
        lambda: estimate_log_e(np.nan, 1.0, 10, prior=1.0),
        lambda: estimate_log_e(0.0, -1.0, 10, prior=1.0),
        lambda: estimate_sequence(0.0, 1.0, 10, 0.05, prior=-1.0),
        lambda: prior_size(0.5, 100),
        lambda: prior_size(0.05, 0),
        lambda: needed(0.0),
        lambda: claims([np.nan], 0.05),
        lambda: bounded_mean_log_e([0.2, 1.2]),
        lambda: bounded_mean_log_e([np.nan]),
        lambda: bounded_mean_log_e(0.5),
        lambda: bounded_mean_log_e([0.2], 1.0),
        lambda: bounded_mean_log_e([0.2], bets=(1.0,)),
        lambda: bounded_mean_log_e([0.2], bets=()),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(BadInput):
        call()


# --------------------------------------------------------------------------- betting


@pytest.mark.parametrize(("alternative", "side"), [("greater", 1.0), ("less", -1.0)])
def test_money_is_the_mean_over_bets_of_the_products(alternative, side):
    x, null, bets = np.random.default_rng(2).uniform(-1, 1, 12), -0.1, (0.2, 0.7, 0.7)
    room = null + 1 if side > 0 else 1 - null
    money = [np.mean([np.prod([1 + bet * side * (one - null) / room for one in x[:n]]) for bet in bets]) for n in range(1, 13)]
    assert np.exp(bounded_mean_log_e(x, null, alternative=alternative, bets=bets)) == pytest.approx(money)


def test_the_expected_money_is_one_at_the_null_and_less_beyond_it():
    """Exactly, over all ways that eight observations of two or three values can fall; whatever else is said rests on this."""
    for values, chances, fair in (((-1.0, 0.5), (1 / 3, 2 / 3), True), ((-0.4, 0.0, 1.0), (0.5, 0.3, 0.2), True), ((-1.0, 0.5), (0.4, 0.6), False)):
        ways = np.array(list(itertools.product(range(len(values)), repeat=8)))
        weight = np.array(chances)[ways].prod(axis=1)
        expected = weight @ np.exp(bounded_mean_log_e(np.array(values)[ways], 0.0))[:, -1]
        assert expected == pytest.approx(1.0) if fair else expected < 0.95


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.sampled_from(SIDES), st.randoms())
def test_the_order_of_observations_does_not_matter(values, alternative, random):
    mixed = list(values)
    random.shuffle(mixed)
    assert bounded_mean_log_e(values, alternative=alternative)[-1] == pytest.approx(bounded_mean_log_e(mixed, alternative=alternative)[-1], abs=1e-9)


def test_betting_keeps_its_level_where_the_normal_mixture_does_not():
    """One loss of 1 in a hundred, many gains of a hundredth: in small samples the normal approximation believes in the gain."""
    rng, lives = np.random.default_rng(4), 1500
    x = np.where(rng.random((lives, 120)) < 0.02, -1.0 + rng.normal(0, 1e-3, (lives, 120)), 1 / 49 + rng.normal(0, 1e-3, (lives, 120))).clip(-1, 1)
    x -= -0.02 + 0.98 / 49  # mean exactly 0
    betting, normal = (first_claim(e, 0.05) >= 0 for e in (bounded_mean_log_e(x.clip(-1, 1)), of(x, burn_in=20)))
    assert at_most(betting.sum(), lives, 0.05) and not at_most(normal.sum(), lives, 0.05)


def test_betting_says_little_from_one_and_nothing_from_ties_at_the_null():
    assert (bounded_mean_log_e(np.zeros(400)) == pytest.approx(0.0, abs=1e-12)) and bounded_mean_log_e([1.0])[0] < np.log(2.0)
    assert bounded_mean_log_e(np.empty((3, 0))).shape == (3, 0)
    assert bounded_mean_log_e([0.01] * 50, -0.01)[-1] > 0  # ties above a margin are evidence, because a loss as large as 1 would be needed to undo them


# --------------------------------------------------------------------------- evidence


def test_evidence_is_read_as_a_p_value_that_holds_at_every_look():
    assert always_valid_p(np.log([0.5, 4.0, 2.0, 8.0])) == pytest.approx([1.0, 0.25, 0.25, 0.125])
    assert claims(np.log([0.5, 4.0]), 0.25).tolist() == [False, True]
