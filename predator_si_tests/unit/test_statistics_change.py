"""The sequential change test keeps its promise (windows between false alarms) on data that are not Gaussian, and finds real changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.statistics import EDetector, watch_drop, watch_rise

# NDCG as judged probes give it: a quarter of the queries fails, a third is perfect, the rest stands on the ladder 1 / log2(1 + rank).
POPULATION = np.concatenate([np.zeros(25), np.ones(35), np.tile(1 / np.log2(1 + np.arange(2, 10)), 5)])


def windows_to_alarm(draw, run_length, limit):
    detector = EDetector()
    for window in range(limit):
        detector = draw(detector)
        if detector.alarm(run_length):
            return window + 1
    return limit


def test_the_chosen_run_length_holds_for_resampled_ndcg():
    rng = np.random.default_rng(1)
    lengths = [windows_to_alarm(lambda d: watch_drop(d, rng.choice(POPULATION, 50), POPULATION.mean()), 60, 1500) for _ in range(60)]
    error = np.std(lengths) / np.sqrt(len(lengths))
    assert np.mean(lengths) > 60 - 2 * error and np.mean(lengths) < 600  # the promise, and that it is not kept by never speaking


def test_the_chosen_run_length_holds_for_a_frozen_set_of_easy_and_hard_queries():
    """The same queries in every window, each with its own mean: only the average of the means is promised."""
    rng = np.random.default_rng(2)
    means = rng.choice(POPULATION, 50).clip(0.02, 0.98)
    lengths = [windows_to_alarm(lambda d: watch_drop(d, (rng.random(50) < means) * 1.0, float(means.mean())), 60, 1500) for _ in range(60)]
    assert np.mean(lengths) > 60 - 2 * np.std(lengths) / np.sqrt(60)


def test_the_chosen_run_length_holds_for_errors():
    rng = np.random.default_rng(3)
    lengths = [windows_to_alarm(lambda d: watch_rise(d, int(rng.binomial(200, 0.004)), 200, 0.004), 60, 1500) for _ in range(60)]
    assert np.mean(lengths) > 60 - 2 * np.std(lengths) / np.sqrt(60)


@pytest.mark.parametrize(("drop", "at_most"), [(0.03, 80), (0.05, 30), (0.10, 8)])
def test_a_drop_is_found_soon(drop, at_most):
    """One false alarm in 2,880 windows (a month of ticks); 100 unpaired queries a window whose standard deviation is .4."""
    rng = np.random.default_rng(4)

    def worse(detector):
        sample = rng.choice(POPULATION, 100)
        return watch_drop(detector, np.where(rng.random(100) < drop / POPULATION.mean(), 0.0, sample), POPULATION.mean() - 0.005)

    assert np.median([windows_to_alarm(worse, 2880, 300) for _ in range(15)]) <= at_most


def test_an_error_burst_is_found_in_one_window():
    assert watch_rise(EDetector(), 20, 200, 0.005).alarm(2880)
    assert not watch_rise(EDetector(), 2, 200, 0.005).alarm(2880)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.05, 0.95), st.floats(0.0, 0.5))
@settings(max_examples=60, deadline=None)
def test_lower_values_are_never_less_evidence(values, mean, lower):
    before = watch_drop(EDetector(), values, mean).log_e
    after = watch_drop(EDetector(), [max(0.0, value - lower) for value in values], mean).log_e
    assert after >= before - 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_a_window_is_worth_the_product_of_its_bets(values, mean):
    """Against the definition, one bet at a time, and the state survives being stored."""
    detector = watch_drop(watch_drop(EDetector(), values, mean), values, mean)
    shares = np.geomspace(0.005, 0.9, 12) / (1 - mean)
    worth = np.array([np.prod([1 + bet * (mean - value) for value in values]) for bet in shares])
    assert np.exp(detector.log_e) == pytest.approx(np.mean((worth + 1) * worth), rel=1e-6)
    assert EDetector(tuple(detector.log_wealth), detector.windows, detector.observations) == detector and detector.observations == 2 * len(values)


def test_what_cannot_be_is_refused():
    assert watch_drop(EDetector(), [], 0.5) == EDetector()
    with pytest.raises(BadInput, match="bounded to 0"):
        watch_drop(EDetector(), [1.2], 0.5)
    with pytest.raises(BadInput, match="strictly between"):
        watch_drop(EDetector(), [0.2], 1.0)
    with pytest.raises(BadInput, match="3 events in 2 trials"):
        watch_rise(EDetector(), 3, 2, 0.1)
