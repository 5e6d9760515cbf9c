"""What needs no training: which options there are, what is measured of each, and which one is taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput, Missing
from predator_si.evaluate.actions import FirstStageOnly, Option, Tried, choose, cut_options, weigh, widen_options
from predator_si.records import Interval, ModelCard, ServingConfig
from predator_si.search.retrieve import Candidates

N = 40
DIGESTS = {name: "sha256:" + letter * 64 for name, letter in (("old", "a"), ("fast", "b"), ("worse", "c"), ("gone", "d"))}
QUERIES = pl.DataFrame({"query_id": [f"q{i}" for i in range(N)], "text": [f"question {i}" for i in range(N)]})
JUDGMENTS = pl.DataFrame(
    {"query_id": [f"q{i}" for i in range(N)], "doc_id": [f"q{i}-25" if i % 4 == 0 else f"q{i}-2" for i in range(N)], "relevance": [1.0] * N}
)
"""Three queries in four have their document in third place, the fourth has it below the first twenty."""
CHAMPION = ServingConfig(model=DIGESTS["old"], depth=20, fusion_weight=0.0)


def candidates(texts: list[str], depth: int) -> list[Candidates]:
    """Sixty documents a query in a fixed order, none of them relevant but the judged one; a model sees which by its text."""
    found = []
    for text in texts:
        number = int(text.split()[-1])
        right = 25 if number % 4 == 0 else 2
        ids = [f"q{number}-{place}" for place in range(depth)]
        bodies = [f"body {place} {'right' if place == right else 'wrong'}" for place in range(depth)]
        ranks = np.arange(1, depth + 1)
        found.append(Candidates(ids, bodies, 1.0 / (60.0 + ranks), ranks, ranks))
    return found


CLOCK = [0.0]


class Knows:
    """Puts the right document first, or last where it is a bad one; takes its time for each text, by the clock of these tests."""

    def __init__(self, digest: str, likes: float = 1.0, seconds_per_text: float = 0.0) -> None:
        self.digest = digest
        self.card = ModelCard(name="knows", digest=digest, backend="torch-fp32", max_length=64)
        self._likes, self._seconds = likes, seconds_per_text

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        CLOCK[0] += self._seconds * len(texts)
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.array([self._likes * ("right" in text) - 1e-3 * index for index, (_, text) in enumerate(pairs)], np.float32)


MODELS = {
    DIGESTS["old"]: Knows(DIGESTS["old"], seconds_per_text=2e-4),
    DIGESTS["fast"]: Knows(DIGESTS["fast"], seconds_per_text=4e-5),
    DIGESTS["worse"]: Knows(DIGESTS["worse"], likes=-1.0),
}


def model_of(digest: str) -> Knows:
    if digest not in MODELS:
        raise Missing(f"model {digest} is not in the store.")
    return MODELS[digest]


def weighed(options: list[Option], goal: str, champion: ServingConfig = CHAMPION, **more: object) -> list[Tried]:
    return weigh(options, champion, goal, QUERIES, JUDGMENTS, candidates, model_of, model_of, resamples=500, clock=lambda: (CLOCK[0], CLOCK[0]), **more)  # type: ignore[arg-type]


def swapped(name: str) -> Option:
    return Option("quantise", CHAMPION.model_copy(update={"model": DIGESTS[name]}), name)


def test_a_faster_model_that_ranks_alike_passes_and_one_that_ranks_worse_does_not() -> None:
    fast, worse, gone = weighed([swapped("fast"), swapped("worse"), swapped("gone")], "latency", served_p95_ms=50.0)
    assert fast.passes and fast.ndcg_difference is not None and fast.ndcg_difference.estimate == 0.0
    assert fast.rerank_ratio is not None and fast.rerank_ratio.high < 1.0
    assert fast.expected_p95_ms is not None and fast.expected_p95_ms < 50.0
    assert not worse.passes and worse.ndcg_difference is not None and worse.ndcg_difference.high < -0.01
    assert not gone.passes and "not in the store" in gone.reason and gone.ndcg_difference is None


def test_a_cut_depth_costs_less_until_it_loses_the_document() -> None:
    champion = CHAMPION.model_copy(update={"depth": 8})
    tried = {one.config.depth: one for one in weighed(cut_options(champion), "latency", champion)}
    assert set(tried) == {6, 4, 2}
    assert tried[6].passes and tried[4].passes, "the right document is the third"
    assert not tried[2].passes and tried[2].ndcg_difference is not None and tried[2].ndcg_difference.high < 0.0


def test_wider_candidates_raise_recall_and_the_fewest_are_taken() -> None:
    tried = weighed(widen_options(CHAMPION), "recall")
    best, reason = choose("recall", tried)
    assert best is not None and best.config.depth == 30, "the missing documents stand in place 26"
    assert best.recall_difference is not None and best.recall_difference.estimate == pytest.approx(0.25) and "over" in reason
    assert all(one.config.depth > 20 for one in tried if one.passes)


def test_intervals_are_wider_the_more_options_are_looked_at() -> None:
    option = Option("widen_candidates", CHAMPION.model_copy(update={"depth": 30}), "30")
    alone, among = weighed([option], "recall")[0], weighed([option] * 8, "recall")[0]
    assert alone.recall_difference is not None and among.recall_difference is not None
    assert among.recall_difference.low < alone.recall_difference.low
    assert among.ndcg_difference == alone.ndcg_difference


def test_a_champion_that_cannot_score_is_replaced_by_what_can_be_served() -> None:
    broken = CHAMPION.model_copy(update={"model": DIGESTS["gone"]})
    zero = Option("depth_zero", broken.model_copy(update={"depth": 0}), "first stage")
    tried = weighed([Option("previous_model", CHAMPION, "before"), zero], "errors", broken)
    best, _ = choose("errors", tried)
    assert best is not None and best.action == "previous_model" and all(one.passes for one in tried)
    with pytest.raises(Missing):
        weighed([zero], "recall", broken)


def test_the_cheapest_by_processor_time_is_taken() -> None:
    made = [_tried("a", processor=0.8), _tried("b", processor=0.3), _tried("c", processor=0.1, passes=False)]
    assert choose("cost", made)[0] == made[1]


def test_the_first_that_reaches_the_target_else_the_fastest() -> None:
    made = [_tried("quantise", ratio=0.5, expected=950.0), _tried("cut_depth", ratio=0.8, expected=900.0), _tried("both", ratio=0.2, expected=400.0)]
    assert choose("latency", made, 800.0)[0] == made[1], "920 ms are allowed"
    assert choose("latency", made, 300.0)[0] == made[2]
    assert choose("latency", made, None)[0] == made[2]
    none, reason = choose("latency", [_tried("quantise", passes=False)], 800.0)
    assert none is None and "no option passes: quantise" in reason


def test_options_stay_within_what_a_release_may_say() -> None:
    assert cut_options(CHAMPION.model_copy(update={"depth": 1})) == []
    assert [one.config.depth for one in cut_options(CHAMPION)] == [15, 10, 5]
    wide = widen_options(CHAMPION.model_copy(update={"depth": 90, "fusion_weight": 0.25}))
    assert all(0 < one.config.depth <= 100 for one in wide)
    assert {one.action for one in wide} == {"widen_candidates", "tune_fusion"}
    assert all(one.config.depth > 20 for one in widen_options(CHAMPION.model_copy(update={"depth": 10})) if one.action == "tune_fusion")


def test_the_silent_model_is_never_asked() -> None:
    silent = FirstStageOnly(DIGESTS["old"])
    assert silent.score("q", []).size == 0
    with pytest.raises(BadInput, match="depth 0"):
        silent.score("q", ["text"])


def _tried(action: str, *, ratio: float = 0.5, processor: float = 0.5, expected: float | None = None, passes: bool = True) -> Tried:
    def interval(value: float) -> Interval:
        return Interval(estimate=value, low=value, high=value, n=24)

    measured = {"rerank_ratio": interval(ratio), "processor_ratio": interval(processor), "expected_p95_ms": expected}
    return Tried(action=action, config=CHAMPION, note=action, passes=passes, reason="r", **measured)  # type: ignore[arg-type]
