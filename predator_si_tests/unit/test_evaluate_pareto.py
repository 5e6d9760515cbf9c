"""Dominance, the order of testing, likeness of rankings, and clocks around arms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.evaluate.pareto import Variant, as_points, front, judged_front, order_of_tests
from predator_si.evaluate.timing import Arm, time_arms
from predator_si.measures import rank_biased_overlap
from predator_si.search.retrieve import Candidates

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=14)


def variant(name: str, p50: float, agreement: float | None = None, **more: Any) -> Variant:
    return Variant(digest=f"sha256:{name}", backend="torch-fp32", p50_ms=p50, p95_ms=p50 * 2, pairs_per_second=1.0, name=name, agreement=agreement, **more)


# --------------------------------------------------------------------------- dominance


@given(POINTS)
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int, int]]):
    kept = front(points, lambda point: point)

    def beats(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    assert all(not beats(a, b) for a in points for b in kept)
    assert all(any(beats(a, b) for a in kept) for b in points if b not in kept), "what was left out is beaten by something that stayed"
    assert bool(kept) == bool(points) and all(point in kept for point in points if point in kept)


@given(POINTS)
def test_the_front_of_the_front_is_itself_and_order_does_not_matter(points: list[tuple[int, int, int]]):
    kept = front(points, lambda point: point)
    assert front(kept, lambda point: point) == kept
    assert sorted(front(points[::-1], lambda point: point)) == sorted(kept)


def test_only_judged_variants_are_on_the_front():
    found = [variant("slow", 9, ndcg=0.8), variant("fast", 1, ndcg=0.7), variant("beaten", 9.5, ndcg=0.75), variant("unjudged", 0.5)]
    assert [one.name for one in judged_front(found)] == ["slow", "fast"]
    points = as_points(found, "fast")
    assert [(point["name"], point["front"], point["chosen"]) for point in points] == [("slow", True, False), ("fast", True, True), ("beaten", False, False)]


def test_cost_keeps_a_variant_on_the_front():
    found = [variant("dear", 1, ndcg=0.8, usd_per_1k=2.0), variant("cheap", 2, ndcg=0.8, usd_per_1k=1.0), variant("neither", 3, ndcg=0.8, usd_per_1k=3.0)]
    assert [one.name for one in judged_front(found)] == ["dear", "cheap"]


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=12, unique=True))
def test_testing_goes_from_the_most_alike_to_the_fastest(measured: list[tuple[float, float]]):
    found = order_of_tests([variant(f"v{number}", p50, agreement) for number, (p50, agreement) in enumerate(measured)])
    assert [one.p50_ms for one in found] == sorted((one.p50_ms for one in found), reverse=True)
    assert [one.agreement for one in found] == sorted((one.agreement or 0.0 for one in found), reverse=True)
    assert found[-1].p50_ms == min(p50 for p50, _ in measured), "the fastest is the last to be tested"


# --------------------------------------------------------------------------- likeness


def textbook(one: list[int], other: list[int], p: float, depth: int) -> float:
    agreements = [len(set(one[:d]) & set(other[:d])) / d for d in range(1, depth + 1)]
    weights = [(1 - p) * p ** (d - 1) for d in range(1, depth + 1)]
    return sum(w * a for w, a in zip(weights, agreements, strict=True)) / sum(weights)


@given(st.permutations(range(12)), st.permutations(range(12)), st.sampled_from([0.5, 0.9]))
def test_overlap_is_the_papers(one: list[int], other: list[int], p: float):
    assert rank_biased_overlap(one, other, p) == pytest.approx(textbook(one, other, p, 10))
    assert rank_biased_overlap(one, other, p) == pytest.approx(rank_biased_overlap(other, one, p))
    assert rank_biased_overlap(one, one, p) == pytest.approx(1.0)


def test_overlap_of_short_disjoint_and_bad_lists():
    assert rank_biased_overlap([1, 2], [3, 4]) == 0.0
    assert rank_biased_overlap([], []) == 1.0
    assert 0.0 < rank_biased_overlap([1, 2, 3], [1]) < 1.0
    with pytest.raises(BadInput, match="twice"):
        rank_biased_overlap([1, 1], [1, 2])
    for bad in ({"persistence": 1.0}, {"depth": 0}):
        with pytest.raises(BadInput, match="persistence"):
            rank_biased_overlap([1], [1], **bad)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- clocks


def test_arms_take_turns_and_are_timed_by_the_clock():
    ranks = np.arange(1, 5)
    own = Candidates(["a", "b", "c", "d"], ["1", "2", "3", "4"], 1.0 / (60.0 + ranks), ranks, ranks)
    now, turns = [0.0], []

    def scorer(name: str, seconds: float) -> Any:
        def score(query: str, texts: Any) -> np.ndarray:
            turns.append((query, name, len(texts)))
            now[0] += seconds
            return np.array([float(text) for text in texts])

        return score

    arms = {"slow": Arm(scorer("slow", 0.2), 4), "fast": Arm(scorer("fast", 0.1), 2)}
    found = time_arms(arms, ["w1", "w2", "q1", "q2", "q3"], [own] * 5, clock=lambda: now[0])
    assert found["slow"].ms == pytest.approx([200] * 3) and found["fast"].ms == pytest.approx([100] * 3)
    assert found["slow"].pairs_per_second == pytest.approx(20) and found["fast"].scored == [2, 2, 2]
    assert [name for query, name, _ in turns if query in ("q1", "q2")] == ["slow", "fast", "fast", "slow"]
    assert found["fast"].orders[0] == ["b", "a", "c", "d"], "what was not scored stays below, in the first stage's order"
    assert found["slow"].orders[0] == ["d", "c", "b", "a"]
