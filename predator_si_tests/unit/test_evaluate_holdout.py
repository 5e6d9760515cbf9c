"""The sealed queries of a month: which they are, what a candidate may claim on them, what may be told."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.evaluate import holdout_queries, promotion_level, seal_of
from predator_si.records import Evaluation, SealedOpening, ServingConfig
from predator_si.statistics import DEFAULT_DESIGN, candidate_level, paired_interval

POOL = pl.DataFrame({"query_id": [f"q{n}" for n in range(100)], "text": [f"text {n}" for n in range(100)]})


def opening(candidate=1, rotation=0):
    return SealedOpening(opening=candidate, period="2026-11", candidate=candidate, rotation=rotation)


def evaluated(cycle_id, champion, differences):
    return Evaluation(
        cycle_id=cycle_id,
        champion=ServingConfig(model="sha256:a", depth=10, fusion_weight=0.3),
        challenger=ServingConfig(model="sha256:b", depth=10, fusion_weight=0.3),
        corpus="toy",
        split="test",
        n_queries=len(differences),
        ndcg_champion=champion,
        ndcg_challenger=champion + float(np.mean(differences)),
        ndcg_difference=paired_interval(differences, n_boot=500),
        created_at=datetime(2026, 11, 23, tzinfo=UTC),
    )


def test_months_ask_different_queries_until_all_were_asked():
    months = [holdout_queries(POOL, 30, rotation, seed=4) for rotation in range(4)]
    asked = [set(frame["query_id"]) for frame, _, _ in months]
    assert [block for _, block, _ in months] == [0, 1, 2, 0] and {blocks for *_, blocks in months} == {3}
    assert asked[0] == asked[3] and all(len(one) == 30 for one in asked) and len(asked[0] | asked[1] | asked[2]) == 90
    assert holdout_queries(POOL.reverse(), 30, 1, seed=4)[0]["query_id"].to_list() == months[1][0]["query_id"].to_list()  # whatever order the pool comes in
    assert asked[0] != set(holdout_queries(POOL, 30, 0, seed=5)[0]["query_id"])


def test_a_pool_too_small_to_divide_says_so():
    for size in (51, 100, 500):
        first, second = (holdout_queries(POOL, size, rotation) for rotation in (0, 1))
        assert first[1:] == second[1:] == (0, 1) and first[0].equals(second[0]) and first[0].height == min(size, 100)


def test_a_months_candidates_share_its_error():
    levels = [promotion_level(opening(candidate)) for candidate in range(1, 100)]
    assert levels[0] / 2 == candidate_level(1, DEFAULT_DESIGN.promotion_alpha_per_month) and sum(levels) / 2 < DEFAULT_DESIGN.promotion_alpha_per_month
    strict = DEFAULT_DESIGN.replaced({"promotion_alpha_per_month": 0.001})
    assert promotion_level(opening(), strict) == pytest.approx(levels[0] * 0.001 / DEFAULT_DESIGN.promotion_alpha_per_month)


def test_what_is_told_rises_by_rungs_and_a_repeated_evaluation_changes_nothing():
    rng = np.random.default_rng(1)
    small, large = rng.normal(0.0, 0.2, 80), rng.normal(0.15, 0.2, 80)
    small += 0.01 - small.mean()
    frames = {name: pl.DataFrame({"ndcg_difference": values}) for name, values in (("small", small), ("large", large))}
    first, state = seal_of(evaluated("si_1", 0.5, small), frames["small"], opening(1), (0, 3), 240, None)
    assert not first.rose and first.told == 0.5 and state["after"]["uses"] == 1  # a gain within the noise is not told
    second, later = seal_of(evaluated("si_2", 0.5, large), frames["large"], opening(2), (0, 3), 240, state)
    assert second.rose and second.told == pytest.approx(0.5 + large.mean(), abs=1 / 160) and later["after"] == {"best": second.told, "rungs": 1, "uses": 2}
    assert seal_of(evaluated("si_2", 0.5, large), frames["large"], opening(2), (0, 3), 240, later) == (second, later)
    third, _ = seal_of(evaluated("si_3", 0.5, small), frames["small"], opening(3), (0, 3), 240, later)
    assert not third.rose and third.told == second.told
    assert "this set of 80 queries can resolve" in first.power and first.level == promotion_level(opening(1)) and first.pool == 240


def test_a_holdout_needs_queries():
    for pool, size, rotation in ((POOL.head(0), 10, 0), (POOL, 0, 0), (POOL, 10, -1)):
        with pytest.raises(BadInput):
            holdout_queries(pool, size, rotation)
