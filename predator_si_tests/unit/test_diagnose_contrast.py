"""Weighted log-odds against a loop written from the paper's formulas, and its behaviour where nothing differs."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.diagnose.contrast import weighted_log_odds, worst_quartile
from predator_si.errors import BadInput

WORDS = ("the", "array", "join", "tensor", "cuda", "of", "axis")


def textbook(first: list[list[str]], second: list[list[str]], corpus: dict[str, float], strength: float) -> dict[str, float]:
    """Monroe, Colaresi and Quinn 2008, word by word, with a prior for each group that is in proportion to its size."""
    vocabulary = {word for group in (first, second) for query in group for word in query}
    background = {word: max(float(corpus.get(word, 0)), 0.5) for word in vocabulary}
    total = sum(background.values())
    sizes = [sum(len(query) for query in group) for group in (first, second)]
    if len(vocabulary) < 2:
        return dict.fromkeys(vocabulary, 0.0)
    z = {}
    for word in vocabulary:
        odds, variance = [], 0.0
        for group, size in zip((first, second), sizes, strict=True):
            count, weight = sum(query.count(word) for query in group), strength * size / sum(sizes)
            alpha = weight * background[word] / total
            odds.append(math.log((count + alpha) / (size + weight - count - alpha)))
            variance += 1.0 / (count + alpha)
        z[word] = (odds[0] - odds[1]) / math.sqrt(variance)
    return z


query = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(query, min_size=1, max_size=8), st.lists(query, min_size=1, max_size=8), st.floats(1.0, 1000.0))
def test_it_is_the_textbook_formula(first: list[list[str]], second: list[list[str]], strength: float):
    corpus = {"the": 900, "of": 800, "array": 60, "join": 20, "tensor": 7}
    expected = textbook(first, second, corpus, strength)
    found = weighted_log_odds(first, second, corpus, prior_words=strength, min_count=1)
    assert dict(found.select("token", "z").iter_rows()) == pytest.approx(expected if len(expected) > 1 else {})
    assert found["z"].is_sorted(descending=True)


def test_a_planted_word_is_first_and_a_common_one_is_not_listed_for_being_common():
    rng = np.random.default_rng(0)
    rest = [["the", *rng.choice(WORDS[:3], 3)] for _ in range(300)]
    worst = [["the", *rng.choice(WORDS[:3], 3), "tensor"] for _ in range(100)]
    found = weighted_log_odds(worst, rest, {"the": 1000, "array": 100, "join": 100, "tensor": 10})
    assert found["token"][0] == "tensor" and found["q_value"][0] < 1e-4 and found["ci_low"][0] > 0
    assert (found["n_worst"][0], found["n_rest"][0]) == (100, 0)
    assert found.filter(pl.col("token") == "the")["z"][0] < 2


@pytest.mark.parametrize("foreign", [False, True], ids=["own counts", "a corpus that says other words"])
def test_null_groups_keep_the_false_discovery_rate(foreign: bool):
    """A quarter against three quarters that do not differ, also with a prior that is far from how people ask."""
    corpus = {f"w{i}": 1 + 50 * (i % 7) for i in range(60)} if foreign else None
    any_found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        queries = [list(rng.choice([f"w{i}" for i in range(60)], 5)) for _ in range(200)]
        any_found += bool((weighted_log_odds(queries[:50], queries[50:], corpus)["q_value"] <= 0.1).any())
    assert any_found <= 13, f"{any_found} of 60 null contrasts named a word; 6 are expected at most, 13 is 3 standard errors more"


def test_groups_without_words_give_an_empty_table_and_a_prior_of_nothing_is_refused():
    assert weighted_log_odds([], [["a"]]).is_empty()
    with pytest.raises(BadInput, match="prior"):
        weighted_log_odds([["a"]], [["b"]], prior_words=0.0)


def test_the_worst_quarter_takes_ties_in_and_gives_up_when_they_are_most():
    assert worst_quartile(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])).tolist() == [True, True] + [False] * 6
    assert worst_quartile(np.array([0.0, 0.0, 0.0, 0.4, 0.5, 0.6, 0.7, 0.8])).sum() == 3
    assert not worst_quartile(np.array([0.0] * 6 + [1.0] * 4)).any()
    assert not worst_quartile(np.array([0.0, 1.0])).any()
