"""Leaving words out: exact effects on a model that is a sum of words, budgets that hold, and what was cut that is said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from predator_si.diagnose.budget import Budget
from predator_si.diagnose.occlusion import MAX_WORDS, MarginPair, occlude_margins
from predator_si.errors import BadInput

WEIGHTS = {"join": 2.0, "python": -1.5, "frames": 0.5, "7": 1.0}


def overlap(query: str, texts: Sequence[str]) -> np.ndarray:
    """A reranker that adds up the weights of the words that query and text share."""
    return np.array([sum(WEIGHTS.get(word, 0.0) for word in query.lower().split() if word in text.split()) for text in texts])


class Counted:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, query: str, texts: Sequence[str]) -> np.ndarray:
        self.calls.append((query, len(texts)))
        return overlap(query, texts)


PAIRS = [
    MarginPair("a", "Join python frames", "join frames", "python python snakes"),
    MarginPair("b", "python 7", "7 notes", "python python snakes"),
    MarginPair("c", "join python", "join", "python snakes"),
]


def test_effects_are_those_of_the_model():
    found = occlude_margins(PAIRS, overlap, Budget(60, 1000), document_frequency={"join": 3, "frames": 2, "7": 1})
    first = found.queries[0]
    assert first["margin"] == pytest.approx(2.0 + 0.5 + 1.5)
    effects = {row["word"]: row["effect"] for row in first["words"]}
    assert effects == pytest.approx({"join": 2.0, "python": 1.5, "frames": 0.5})
    words = {row["word"]: row for row in found.words}
    assert words["python"]["n"] == 3 and words["python"]["mean"] == pytest.approx(1.5)
    assert words["join"]["n"] == 2 and words["join"]["ci_low"] == pytest.approx(2.0)
    assert words["frames"]["ci_low"] is None, "one query gives no interval"
    groups = {row["word"]: row for row in found.groups}
    assert groups["unindexed words"]["mean"] == pytest.approx(1.5) and groups["with digits"]["n"] == 1
    assert found.reason is None


def test_a_word_that_speaks_for_the_wrong_document_is_negative_and_first():
    found = occlude_margins([MarginPair("a", "python join", "python", "join")], overlap, Budget(60, 100))
    assert found.words[0]["word"] == "join" and found.words[0]["mean"] == pytest.approx(-2.0)
    assert found.words[1]["word"] == "python" and found.words[1]["mean"] == pytest.approx(-1.5)


def test_a_query_costs_at_most_fifteen_passes_of_its_two_documents():
    score = Counted()
    long = " ".join(f"word{i}" for i in range(40)) + " join"
    budget = Budget(60, 1000)
    table = {f"word{i}": 100 for i in range(40)}
    found = occlude_margins([MarginPair("a", long, "join", "x")], score, budget, document_frequency=table)
    assert len(score.calls) == MAX_WORDS + 1 == 15 and all(n == 2 for _, n in score.calls)
    assert budget.spent_forwards == found.forwards == 30
    assert {"word": "join", "effect": 2.0} in found.queries[0]["words"], "the rarest words are the ones left out"


@pytest.mark.parametrize("words", [1, 5, 14, 15])
def test_every_call_is_counted(words: int):
    score, budget = Counted(), Budget(60, 1000)
    occlude_margins([MarginPair("a", " ".join(f"w{i}" for i in range(words)), "x", "y")], score, budget)
    assert budget.spent_forwards == 2 * len(score.calls) == 2 * (1 + min(words, MAX_WORDS))


def test_forwards_and_seconds_and_queries_end_it_and_the_reason_is_said():
    budget = Budget(60, 15)
    found = occlude_margins(PAIRS, overlap, budget)
    assert len(found.queries) == 2 and budget.spent_forwards == 14 <= 15
    assert found.reason is not None and found.reason.startswith("2 of 3 queries")
    assert len(occlude_margins(PAIRS, overlap, Budget(60, 1000), max_queries=1).queries) == 1
    assert occlude_margins(PAIRS, overlap, Budget(60, 30), share=0.5).reason is not None
    now = [0.0]

    def slow(query: str, texts: Sequence[str]) -> np.ndarray:
        now[0] += 2.0
        return overlap(query, texts)

    timed = Budget(20, 1000, clock=lambda: now[0])
    found = occlude_margins(PAIRS, slow, timed)
    assert len(found.queries) == 2 and timed.spent_seconds <= 20, "the third query is not begun: it could take as long as the slowest"


def test_a_model_without_finite_scores_is_refused():
    with pytest.raises(BadInput, match="finite"):
        occlude_margins(PAIRS, lambda query, texts: np.array([np.nan, 1.0]), Budget(60, 100))


def test_no_pairs_is_an_empty_answer():
    found = occlude_margins([], overlap, Budget(60, 100))
    assert found.queries == [] and found.words == [] and found.reason is None
