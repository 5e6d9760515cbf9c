"""Counts and quantiles looked at at any time, planned looks and CUPED: exact expectations, published tables, simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from predator_si.errors import BadInput
from predator_si.statistics import (
    DEFAULT_DESIGN,
    Design,
    claims,
    crossing_probabilities,
    cuped_adjust,
    cuped_coefficient,
    planned_bounds,
    quantile_ranks,
    quantile_sequence,
    rate_log_e,
    rate_sequence,
    sample_ratio_log_e,
    spending_bounds,
    spent_alpha,
    treated_share,
)
from predator_si_tests.support.evidence import first_claim


def at_most(hits, lives, alpha):
    return stats.binomtest(int(hits), lives, alpha, alternative="greater").pvalue > 1e-5


# --------------------------------------------------------------------------- rates


@pytest.mark.parametrize(("alternative", "low", "high"), [("greater", 0.05, 1.0), ("less", 0.0, 0.05), ("two-sided", 0.0, 1.0)])
def test_a_rates_evidence_is_the_integral_over_its_alternatives(alternative, low, high):
    limit, strength, k, n = 0.05, 60.0, 9, 90
    prior = stats.beta(strength * limit, strength * (1 - limit))

    def ratio(p):
        return np.exp(k * np.log(p / limit) + (n - k) * np.log((1 - p) / (1 - limit))) * prior.pdf(p)

    mixed = integrate.quad(ratio, low, high, points=[0.05, 0.1, 0.2] if high == 1.0 else None, limit=200)[0] / (prior.cdf(high) - prior.cdf(low))
    assert rate_log_e(k, n, limit, alternative=alternative, strength=strength) == pytest.approx(np.log(mixed), abs=1e-6)


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("limit", [0.01, 0.5])
def test_the_expected_evidence_is_one_at_the_limit_and_less_on_the_null_side(n, limit):
    k = np.arange(n + 1)
    for alternative, inside in (("greater", limit * 0.6), ("less", limit + 0.3 * (1 - limit)), ("two-sided", None)):
        e = np.exp(rate_log_e(k, n, limit, alternative=alternative))
        assert stats.binom.pmf(k, n, limit) @ e == pytest.approx(1.0, rel=1e-8)
        assert inside is None or stats.binom.pmf(k, n, inside) @ e < 1.0


def test_a_rates_sequence_holds_what_the_mixture_does_not_reject_and_covers():
    low, high = rate_sequence([0, 0, 3, 50], [0, 50, 50, 50], 0.05)
    assert (low[0], high[0], low[1], high[3]) == (0.0, 1.0, 0.0, 1.0)
    for edge in (low[2], high[2]):  # the likelihood there is exactly 1 / alpha times below the mixture
        mixed = integrate.quad(lambda p: stats.binom.pmf(3, 50, p) * stats.beta.pdf(p, 0.5, 0.5), 0, 1)[0]
        assert mixed / stats.binom.pmf(3, 50, edge) == pytest.approx(20.0, rel=1e-4)
    rng, lives = np.random.default_rng(1), 400
    k = np.cumsum(rng.random((lives, 300)) < 0.03, axis=1)[:, 9::10]
    below, above = rate_sequence(k, np.arange(10, 301, 10), 0.1)
    missed = ((below > 0.03) | (above < 0.03)).any(axis=1).sum()
    assert at_most(missed, lives, 0.1) and missed > 1


def test_errors_that_double_are_found_and_equal_ones_are_not():
    rng, lives, n = np.random.default_rng(2), 600, np.arange(10, 3001, 10)
    calm, loud = (np.cumsum(rng.binomial(10, rate, (lives, 300)), axis=1) for rate in (0.01, 0.05))
    assert at_most((first_claim(rate_log_e(calm, n, 0.01), 0.01) >= 0).sum(), lives, 0.01)
    found = first_claim(rate_log_e(loud, n, 0.01), 0.0001)
    assert (found >= 0).all() and np.percentile(n[found], 95) < 800


def test_two_arms_and_wins_are_rates_too():
    """Half as many failures for the treated arm's half of the traffic is what equal rates give; ties do not count as trials."""
    assert treated_share(0.2) == pytest.approx(0.2) and treated_share(0.2, 2.0) == pytest.approx(0.4 / 1.2)
    rng, lives = np.random.default_rng(3), 800
    treated = np.cumsum(rng.random((lives, 150)) < treated_share(0.2), axis=1)
    n = np.arange(1, 151)
    assert at_most((first_claim(rate_log_e(treated, n, treated_share(0.2)), 0.05) >= 0).sum(), lives, 0.05)
    wins = np.cumsum(rng.random((lives, 600)) < 0.6, axis=1)
    assert (first_claim(rate_log_e(wins, np.arange(1, 601), 0.5), 0.01) >= 0).mean() > 0.95


# --------------------------------------------------------------------------- sample ratio


def test_sample_ratio_is_the_dirichlet_integral_and_expects_one():
    k = np.arange(31)
    log_e = sample_ratio_log_e(np.stack([k, 30 - k], axis=-1), [0.8, 0.2], strength=10.0)
    assert stats.binom.pmf(k, 30, 0.8) @ np.exp(log_e) == pytest.approx(1.0)
    assert np.exp(log_e[20]) == pytest.approx(stats.betabinom.pmf(20, 30, 8.0, 2.0) / stats.binom.pmf(20, 30, 0.8))
    three = sample_ratio_log_e([5, 3, 2], [1, 1, 2], strength=8.0)
    shares = np.array([0.25, 0.25, 0.5])
    assert np.exp(three) == pytest.approx(stats.dirichlet_multinomial.pmf([5, 3, 2], shares * 8, 10) / stats.multinomial.pmf([5, 3, 2], 10, shares))


def test_a_broken_split_is_found_and_an_intended_one_is_not():
    rng, lives = np.random.default_rng(4), 500
    n = np.arange(20, 2001, 20)
    for share, most, least in ((0.2, 0.001, 0.0), (0.3, 1.0, 0.99)):
        treated = np.cumsum(rng.binomial(20, share, (lives, 100)), axis=1)
        hits = (first_claim(sample_ratio_log_e(np.stack([n - treated, treated], axis=-1), [0.8, 0.2]), 0.001) >= 0).sum()
        assert at_most(hits, lives, most) and hits >= least * lives
    assert sample_ratio_log_e([0, 0], [0.8, 0.2]) == pytest.approx(0.0)  # nobody came: nothing is known
    assert not claims(sample_ratio_log_e([3, 0], [0.8, 0.2]), 0.001) and claims(sample_ratio_log_e([400, 0], [0.8, 0.2]), 0.001)  # one arm empty


# --------------------------------------------------------------------------- quantiles


def test_ranks_are_the_counts_that_are_not_rejected():
    for n in (1, 30, 400):
        k = np.arange(n + 1)
        above = rate_log_e(k, n, 0.9) >= np.log(40.0)
        kept = rate_log_e(k, n, 0.9, alternative="less") < np.log(40.0)
        low, high = quantile_ranks([n], 0.9, 0.05)
        assert low[0] == kept.argmax() and high[0] == (above.argmax() if above.any() else n + 1)


@pytest.mark.parametrize("tied", [False, True])
def test_a_quantiles_sequence_covers_at_every_look(tied):
    rng, lives = np.random.default_rng(5), 600
    x = rng.lognormal(3.0, 0.5, (lives, 300))
    truth = float(stats.lognorm(0.5, scale=np.exp(3.0)).ppf(0.9))  # 38.1
    x, truth = (np.ceil(x / 10.0) * 10.0, 40.0) if tied else (x, truth)
    looks = list(range(20, 301, 20))
    low, high = quantile_sequence(x, 0.9, 0.1, looks)
    missed = ((low > truth) | (high < truth)).any(axis=1).sum()
    assert at_most(missed, lives, 0.1) and (tied or missed > 0)
    assert np.isfinite(low[:, -1]).all() and np.isfinite(high[:, -1]).all() and (high[:, -1] >= low[:, -1]).all()


def test_two_requests_bound_no_p95():
    low, high = quantile_sequence([1.0, np.inf], 0.95, 0.05)
    assert (low[0], high[0]) == (-np.inf, np.inf)


# --------------------------------------------------------------------------- planned looks


def test_planned_bounds_equal_the_published_tables():
    """Jennison and Turnbull 2000, tables 2.1 and 2.3 (two-sided, alpha .05): constants of Pocock and O'Brien-Fleming."""
    assert planned_bounds(5, 0.05, "pocock", two_sided=True)[0] == pytest.approx(2.413, abs=6e-4)
    assert planned_bounds(2, 0.05, "pocock", two_sided=True)[0] == pytest.approx(2.178, abs=6e-4)
    for looks, constant in ((2, 1.977), (3, 2.004), (5, 2.040)):
        assert planned_bounds(looks, 0.05, two_sided=True)[-1] == pytest.approx(constant, abs=6e-4)
    assert planned_bounds(1, 0.05)[0] == pytest.approx(stats.norm.ppf(0.95), abs=1e-6)


def test_spending_bounds_equal_the_published_table():
    """Lan and DeMets with the O'Brien-Fleming spending function, five equal looks, two-sided .05 (Reboussin et al. 2000: ld98)."""
    equal = np.arange(1, 6) / 5
    assert spending_bounds(equal, 0.05, two_sided=True) == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-3)
    assert spent_alpha([1.0], 0.05, two_sided=True)[0] == pytest.approx(0.05) and spent_alpha([1.0], 0.05, "pocock")[0] == pytest.approx(0.05)
    uneven = [0.1, 0.35, 0.4, 1.0]
    bounds = spending_bounds(uneven, 0.025, "pocock")
    assert crossing_probabilities(bounds, uneven).cumsum() == pytest.approx(spent_alpha(uneven, 0.025, "pocock"), abs=1e-7)
    assert np.isinf(spending_bounds([0.01, 1.0], 0.001)[0])  # next to nothing may be spent after a hundredth


def test_crossing_equals_simulated_paths_under_the_null_and_with_drift():
    rng, t = np.random.default_rng(7), np.array([0.25, 0.5, 1.0])
    bounds = spending_bounds(t, 0.05)
    steps = rng.normal(size=(60_000, 3)) * np.sqrt(np.diff(t, prepend=0.0))
    for drift in (0.0, 2.5):
        z = (np.cumsum(steps, axis=1) + drift * t) / np.sqrt(t)
        first = np.where((z >= bounds).any(axis=1), (z >= bounds).argmax(axis=1), -1)
        seen = [(first == look).mean() for look in range(3)]
        assert crossing_probabilities(bounds, t, drift) == pytest.approx(seen, abs=0.008)


# --------------------------------------------------------------------------- CUPED


def test_cuped_is_the_regression_and_takes_its_share_of_the_variance():
    rng = np.random.default_rng(8)
    x = rng.beta(0.5, 0.5, 4000)
    y = 0.7 * x + rng.normal(0, 0.2, 4000)
    theta = cuped_coefficient(y, x)
    assert theta == pytest.approx(np.polyfit(x, y, 1)[0])
    adjusted = cuped_adjust(y, x, theta, float(x.mean()))
    assert adjusted.mean() == pytest.approx(y.mean())
    assert adjusted.var() / y.var() == pytest.approx(1 - np.corrcoef(x, y)[0, 1] ** 2)
    assert cuped_coefficient(y, np.full(4000, 0.3)) == 0.0


# --------------------------------------------------------------------------- bad input and the design


@pytest.mark.parametrize(
    "call",
    [
        lambda: rate_log_e(3, 2, 0.1),
        lambda: rate_log_e(np.nan, 2, 0.1),
        lambda: rate_log_e(1, 2, 0.0),
        lambda: rate_log_e(1, 2, 0.5, strength=0.0),
        lambda: rate_sequence(1, 2, 0.05, prior=(0.0, 1.0)),
        lambda: treated_share(0.0),
        lambda: treated_share(0.5, 0.0),
        lambda: sample_ratio_log_e([1, 2, 3], [0.5, 0.5]),
        lambda: sample_ratio_log_e([1, -2], [0.5, 0.5]),
        lambda: sample_ratio_log_e([1, np.nan], [0.5, 0.5]),
        lambda: sample_ratio_log_e([1], [1.0]),
        lambda: quantile_sequence([1.0, np.nan], 0.5, 0.05),
        lambda: quantile_sequence([1.0], 0.5, 0.05, [2]),
        lambda: quantile_ranks([5], 1.0, 0.05),
        lambda: planned_bounds(0, 0.05),
        lambda: spending_bounds([0.5, 0.4], 0.05),
        lambda: spending_bounds([], 0.05),
        lambda: spent_alpha([0.5, 1.2], 0.05),
        lambda: crossing_probabilities([2.0], [0.5, 1.0]),
        lambda: cuped_coefficient([1.0, 2.0], [1.0, 2.0]),
        lambda: cuped_coefficient([1.0, 2.0, 3.0], [1.0, 2.0, np.nan]),
        lambda: cuped_adjust([1.0], [1.0, 2.0], 0.5, 0.0),
        lambda: cuped_adjust([1.0], [1.0], np.nan, 0.0),
        lambda: Design(ndcg_alpha=0.0),
        lambda: Design(latency_margin=0.9),
        lambda: Design(ndcg_bets=()),
        lambda: DEFAULT_DESIGN.replaced({"ndcg_alfa": 0.1}),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(BadInput):
        call()


def test_the_design_spends_what_is_promised():
    assert DEFAULT_DESIGN.watch_alpha <= 0.0005 + 1e-12
    assert DEFAULT_DESIGN.replaced({"ndcg_bets": [0.5]}).ndcg_bets == (0.5,)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.01, 0.5))
def test_more_failures_are_never_less_evidence(k, more, limit):
    n = max(k, more) + 50
    low, high = sorted((k, more))
    assert rate_log_e(high, n, limit) >= rate_log_e(low, n, limit) - 1e-9 or np.isneginf(rate_log_e(low, n, limit))
