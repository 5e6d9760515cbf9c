"""Early exit: it never changes the first page at a limit of 0, keeps its promise on new queries, and saves where the ranking is settled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.search.adaptive_depth import RULE, DepthRule, calibrate, keep_rule, kept_rule, margin, scored_head
from predator_si.search.rerank import fuse

DEPTH = 50
FIRST = 1.0 / (60.0 + np.arange(1, DEPTH + 1))


def world(seed: int, n: int, slope: float) -> list[np.ndarray]:
    """Logits that fall with the first stage's rank by ``slope`` a place, with noise of 1."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=DEPTH) - slope * np.arange(DEPTH) for _ in range(n)]


def rule_of(scores: list[np.ndarray], **more: object) -> DepthRule:
    return calibrate("sha256:m", scores, [FIRST] * len(scores), depth=DEPTH, fusion_weight=float(more.pop("weight", 0.0)), **more)  # type: ignore[arg-type]


def head(rule: DepthRule | None, scores: np.ndarray) -> np.ndarray:
    return scored_head(rule, FIRST[: len(scores)], DEPTH, lambda start, end: scores[start:end])


def page(scores: np.ndarray, weight: float) -> set[int]:
    return set(np.argsort(-fuse(scores, FIRST[: len(scores)], weight), kind="stable")[:10].tolist())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.0, 0.3]), st.integers(1, 120))
def test_a_limit_of_zero_never_changes_the_first_page(seed: int, slope: float, weight: float, n: int):
    rule = rule_of(world(seed, n, slope), limit=0.0, weight=weight)
    assert rule.threshold is None and rule.mean_depth == DEPTH
    for scores in world(seed + 1, 20, slope):
        assert head(rule, scores).tolist() == scores.tolist()


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_promise_holds_on_new_queries(weight: float):
    """Over many calibrations the share of changed pages exceeds the limit in at most a twentieth of them: of 100 in up to 12 by chance (99.9%)."""
    limit, broken, saved = 0.1, 0, []
    fresh = world(10_000, 2_000, 0.12)
    pages = [page(scores, weight) for scores in fresh]
    heads: dict[float, tuple[float, float]] = {}
    for seed in range(100):
        rule = rule_of(world(seed, 120, 0.12), limit=limit, weight=weight)
        if rule.threshold is None:
            continue
        if rule.threshold not in heads:
            own = [head(rule, scores) for scores in fresh]
            heads[rule.threshold] = (float(np.mean([page(a, weight) != b for a, b in zip(own, pages, strict=True)])), float(np.mean([len(a) for a in own])))
        changed, depth = heads[rule.threshold]
        broken += changed > limit
        saved.append(depth)
    assert broken <= 12
    assert len(saved) > 50 and np.mean(saved) < 0.8 * DEPTH, "a rule that never stops would keep any promise"


def test_settled_rankings_stop_early_and_open_ones_do_not():
    settled, open_ = rule_of(world(0, 100, 1.0)), rule_of(world(0, 100, 0.0))
    assert settled.threshold is not None and settled.mean_depth < 25
    assert open_.mean_depth > 45
    assert len(head(settled, world(1, 1, 1.0)[0])) == 20
    assert len(head(settled, world(1, 1, 0.0)[0])) == DEPTH, "a query that is not settled is scored to the end"


def test_too_few_queries_prove_nothing():
    assert rule_of(world(0, 58, 5.0)).threshold is None, ".95 ** 58 is above .05"
    assert rule_of(world(0, 59, 5.0)).threshold is not None


def test_the_same_queries_give_the_same_rule_and_scores_come_in_order():
    one, other = rule_of(world(3, 80, 0.3)), rule_of(world(3, 80, 0.3))
    assert one == other
    asked: list[tuple[int, int]] = []
    scores = world(4, 1, 0.0)[0]

    def score(start: int, end: int) -> np.ndarray:
        asked.append((start, end))
        return scores[start:end]

    found = scored_head(one.model_copy(update={"threshold": 9.0}), FIRST, 45, score)
    assert asked == [(0, 20), (20, 30), (30, 40), (40, 45)] and found.tolist() == scores[:45].tolist()


def test_short_lists_and_caps():
    rule = rule_of(world(0, 100, 1.0))
    assert len(head(rule, world(5, 1, 1.0)[0][:7])) == 7
    assert len(scored_head(rule, FIRST, 15, lambda start, end: np.zeros(end - start))) == 15
    assert scored_head(rule, FIRST[:0], DEPTH, lambda start, end: np.zeros(end - start)).shape == (0,)
    assert margin(np.arange(5.0), FIRST[:5], 0.0) == -np.inf
    short = [scores[:12] for scores in world(0, 100, 1.0)]
    assert calibrate("m", short, [FIRST[:12]] * 100, depth=DEPTH, fusion_weight=0.0).mean_depth == 12


def test_a_rule_is_kept_beside_its_model_and_fits_only_that(tmp_path: Path):
    rule = rule_of(world(0, 100, 1.0))
    assert kept_rule(tmp_path) is None
    keep_rule(tmp_path, rule)
    assert kept_rule(tmp_path) == rule
    assert rule.fits("sha256:m", DEPTH, 0.0)
    assert not any((rule.fits("sha256:n", DEPTH, 0.0), rule.fits("sha256:m", 20, 0.0), rule.fits("sha256:m", DEPTH, 0.3)))
    (tmp_path / RULE).write_text("{")
    with pytest.raises(BadInput, match="depth_rule"):
        kept_rule(tmp_path)


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(BadInput, match="aligned"):
        calibrate("m", [], [], depth=DEPTH, fusion_weight=0.0)
    with pytest.raises(BadInput, match="aligned"):
        calibrate("m", [np.zeros(3)], [np.zeros(4)], depth=DEPTH, fusion_weight=0.0)
    for steps in ((20, 20), (30, 20), (5, 20)):
        with pytest.raises(BadInput, match="ascending"):
            rule_of(world(0, 3, 1.0), steps=steps)
