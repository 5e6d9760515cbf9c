"""The score cache: it gives what the model gives, never another model's, and never more than it may hold."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.search.score_cache import ScoreCache


def model(digest: str) -> Any:
    return SimpleNamespace(digest=digest)


class Counting:
    """Scores by model and text, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, given_model: Any, query: str, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([float(hash((given_model.digest, query, text)) % 10_007) for text in texts])


def cache_of(capacity: int, *served: str) -> ScoreCache:
    cache = ScoreCache(capacity)
    cache.keep(served)
    return cache


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 6),
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["q", "r", "q\0"]), st.lists(st.sampled_from(["one", "two", "", "\0one", "three"]), max_size=5)),
        max_size=12,
    ),
)
def test_cached_scores_are_the_models_own_whatever_was_asked_before(capacity: int, requests: list[tuple[str, str, list[str]]]):
    cache, direct = cache_of(capacity, "a", "b"), Counting()
    for digest, query, texts in requests:
        assert cache.scores(model(digest), query, texts, Counting()).tolist() == direct(model(digest), query, texts).tolist()
        assert cache.state().entries <= capacity
    state = cache.state()
    assert state.hits + state.misses == (sum(len(texts) for _, _, texts in requests) if capacity else 0)


def test_only_what_is_missing_is_computed():
    cache, scorer = cache_of(10, "a"), Counting()
    cache.scores(model("a"), "q", ["one", "two"], scorer)
    cache.scores(model("a"), "q", ["two", "three", "one"], scorer)
    assert scorer.asked == ["one", "two", "three"]
    assert (cache.state().hits, cache.state().misses, cache.state().entries) == (2, 3, 3)


def test_another_version_of_a_document_is_scored_anew():
    cache, scorer = cache_of(10, "a"), Counting()
    for text in ("first version", "second version", "first version"):
        cache.scores(model("a"), "q", [text], scorer)
    assert scorer.asked == ["first version", "second version"]


def test_a_swap_empties_the_cache_of_what_no_longer_serves():
    cache, scorer = cache_of(10, "old", "stays"), Counting()
    for digest in ("old", "stays"):
        cache.scores(model(digest), "q", ["one", "two"], scorer)
    cache.keep({"stays", "new"})
    assert cache.state().entries == 2
    scorer.asked.clear()
    cache.scores(model("stays"), "q", ["one", "two"], scorer)
    assert scorer.asked == [], "the one that stays keeps its scores"
    cache.scores(model("new"), "q", ["one"], scorer)
    assert scorer.asked == ["one"], "nobody else's score is handed out"
    cache.scores(model("old"), "q", ["one"], scorer)
    assert cache.state().entries == 3, "a request that still holds the old model leaves nothing behind"


def test_a_model_that_goes_while_it_scores_leaves_nothing_behind():
    cache = cache_of(10, "a")

    def swapped(given_model: Any, query: str, texts: Sequence[str]) -> np.ndarray:
        cache.keep({"b"})
        return np.ones(len(texts))

    assert cache.scores(model("a"), "q", ["one"], swapped).tolist() == [1.0]
    assert cache.state().entries == 0


def test_the_one_that_was_not_asked_for_longest_goes_first():
    cache, scorer = cache_of(2, "a"), Counting()
    for text in ("one", "two", "one", "three", "one", "two"):
        cache.scores(model("a"), "q", [text], scorer)
    assert scorer.asked == ["one", "two", "three", "two"]


def test_a_failure_is_passed_on_and_keeps_nothing():
    cache = cache_of(5, "a")

    def failing(*_: Any) -> np.ndarray:
        raise RuntimeError("this model cannot score")

    with pytest.raises(RuntimeError, match="cannot score"):
        cache.scores(model("a"), "q", ["one"], failing)
    assert cache.state() == type(cache.state())(0, 0, 0)


def test_no_text_stands_in_memory():
    cache = cache_of(5, "a")
    cache.scores(model("a"), "a private query", ["a private document"], Counting())
    assert "private" not in repr(cache._scores)
    other = cache_of(5, "a")
    other.scores(model("a"), "a private query", ["a private document"], Counting())
    assert list(cache._scores) != list(other._scores), "the hash has a key of its process"


def test_off_is_off_and_less_than_nothing_is_refused():
    cache, scorer = cache_of(0, "a"), Counting()
    for _ in range(2):
        cache.scores(model("a"), "q", ["one"], scorer)
    assert scorer.asked == ["one", "one"] and cache.state().misses == 0
    with pytest.raises(BadInput, match="0 \\(off\\) or more"):
        ScoreCache(-1)
