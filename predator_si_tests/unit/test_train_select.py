"""Choosing among candidates: who looks at many must not report what luck gave."""

from __future__ import annotations

import numpy as np
import pytest

from predator_si.errors import BadInput
from predator_si.train.select import Scored, choose


def candidates(scores: np.ndarray, names: tuple[str, ...] | None = None) -> list[Scored]:
    """Columns of ``scores`` as candidates; the first changes least."""
    return [Scored((names or tuple("abcdefgh"))[at], float(at), column) for at, column in enumerate(scores.T)]


def test_a_clear_winner_is_taken_and_reported_with_less_than_was_seen():
    rng = np.random.default_rng(1)
    base = rng.beta(4, 2, 200)
    found = choose(candidates(np.stack([base, base + rng.normal(0.05, 0.1, 200), base + rng.normal(0.0, 0.1, 200)], axis=1)))
    assert found.chosen == "b" and found.simplest == "a"
    assert 0 < found.gain < found.observed_gain == pytest.approx(found.standings[1].gain)
    assert found.p_value < 0.01


def test_the_simplest_stays_where_the_best_gains_what_luck_gives():
    rng = np.random.default_rng(2)
    base = rng.beta(4, 2, 100)
    found = choose(candidates(np.stack([base, *(base + rng.normal(0.0, 0.1, 100) for _ in range(5))], axis=1)))
    assert found.observed_gain > 0, "of five equal ones the best looks better"
    assert (found.chosen, found.gain) == ("a", 0.0) and "a stays" in found.reason


@pytest.mark.parametrize(("others", "alike"), [(1, 0.0), (4, 0.0), (4, 0.9)])
def test_over_equal_candidates_the_reported_gain_is_nothing_on_the_mean(others: int, alike: float):
    """The naive report, the best one's observed gain, is far above zero in the same worlds."""
    rng = np.random.default_rng(3)
    reported, naive, taken = [], [], 0
    worlds, n = 300, 80
    for world in range(worlds):
        common = rng.normal(0, 0.1, n)
        columns = [np.sqrt(alike) * common + np.sqrt(1 - alike) * rng.normal(0, 0.1, n) for _ in range(others)]
        found = choose(candidates(np.stack([np.zeros(n), *columns], axis=1)), seed=world, resamples=400)
        reported.append(found.gain)
        naive.append(max(found.observed_gain, 0.0))
        taken += found.chosen != "a"
    error = float(np.std(reported) / np.sqrt(worlds))
    assert np.mean(reported) < 2.5 * error
    assert np.mean(naive) > 4 * max(error, 1e-4)
    assert taken / worlds < 0.25


def test_a_true_gain_is_not_reported_too_high():
    rng = np.random.default_rng(4)
    gains = []
    for world in range(120):
        columns = [np.zeros(100), rng.normal(0.03, 0.1, 100), rng.normal(0.0, 0.1, 100)]
        gains.append(choose(candidates(np.stack(columns, axis=1)), seed=world, resamples=400).gain)
    assert np.mean(gains) <= 0.03


def test_one_candidate_is_chosen_without_a_gain():
    found = choose([Scored("only", 0.5, np.array([0.2, 0.4]))])
    assert (found.chosen, found.gain, found.p_value) == ("only", 0.0, 1.0)


def test_equal_scores_keep_the_least_change():
    same = np.linspace(0, 1, 30)
    found = choose([Scored("far", 1.0, same), Scored("near", 0.5, same)])
    assert found.chosen == "near" and found.gain == 0.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "different names"),
        ([Scored("a", 0, np.ones(3)), Scored("a", 1, np.ones(3))], "different names"),
        ([Scored("a", 0, np.ones(3)), Scored("b", 1, np.ones(4))], "same two or more"),
        ([Scored("a", 0, np.ones(1))], "same two or more"),
        ([Scored("a", 0, np.array([0.1, np.nan]))], "not a number"),
    ],
)
def test_what_cannot_be_compared_is_refused(given: list[Scored], says: str):
    with pytest.raises(BadInput, match=says):
        choose(given)
