"""What each member of a teacher is worth, from agreement alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from predator_si.augment.reliability import LEAST_QUERIES, estimate, one_factor, weighed
from predator_si.augment.teacher import CROSS_ENCODER, SoftLabels
from predator_si.search.rerank import standardised

WEIGHTS = {CROSS_ENCODER: 1.0, "dense": 0.5, "lexical": 0.5}


def _labels(noise: dict[str, float], queries: int = 80, size: int = 20, seed: int = 0) -> tuple[list[SoftLabels], list[Any]]:
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(queries):
        truth = rng.normal(size=size)
        votes = {name: standardised(truth + sd * rng.normal(size=size)) for name, sd in noise.items()}
        found.append(SoftLabels(sum((WEIGHTS.get(name, 0.5) * vote for name, vote in votes.items()), np.zeros(size)), votes, 0.5))
        truths.append(truth)
    return found, truths


def test_one_factor_finds_the_loadings_that_made_the_correlations() -> None:
    loadings = np.array([0.9, 0.7, 0.4, 0.8])
    correlation = np.outer(loadings, loadings)
    np.fill_diagonal(correlation, 1.0)
    assert one_factor(correlation) == pytest.approx(loadings, abs=1e-4)


def test_a_noisy_member_weighs_less_and_the_sum_knows_more() -> None:
    labels, truths = _labels({CROSS_ENCODER: 0.8, "dense": 0.5, "lexical": 3.0})
    found = estimate(labels, WEIGHTS)
    assert found.reason is None and found.n == 80
    assert found.weights["lexical"] < 0.3 * found.weights["dense"]
    assert sum(found.weights.values()) == pytest.approx(sum(WEIGHTS.values()))
    before = np.mean([np.corrcoef(one.scores, truth)[0, 1] for one, truth in zip(labels, truths, strict=True)])
    after = np.mean([np.corrcoef(weighed(one, found.weights).scores, truth)[0, 1] for one, truth in zip(labels, truths, strict=True)])
    assert after > before + 0.02


def test_given_weights_stay_where_nothing_can_be_told() -> None:
    few, _ = _labels({CROSS_ENCODER: 0.8, "dense": 0.5, "lexical": 3.0}, queries=LEAST_QUERIES - 1)
    assert estimate(few, WEIGHTS).weights == WEIGHTS
    assert "needed" in (estimate(few, WEIGHTS).reason or "")
    two, _ = _labels({CROSS_ENCODER: 0.8, "dense": 0.5})
    assert estimate(two, {CROSS_ENCODER: 1.0, "dense": 0.5}).reason is not None
    assert estimate([], WEIGHTS).weights == WEIGHTS


def test_a_member_that_votes_against_the_others_leaves_the_weights_alone() -> None:
    labels, _ = _labels({CROSS_ENCODER: 0.5, "dense": 0.5, "lexical": 0.5})
    turned = [SoftLabels(one.scores, one.votes | {"lexical": -one.votes["lexical"]}, one.confidence) for one in labels]
    found = estimate(turned, WEIGHTS)
    assert found.weights == WEIGHTS and "against" in (found.reason or "")


def test_clicks_are_no_ranker_and_keep_their_weight() -> None:
    labels, _ = _labels({CROSS_ENCODER: 0.8, "dense": 0.5, "lexical": 3.0})
    with_clicks = WEIGHTS | {"clicks": 1.0}
    found = estimate(labels, with_clicks)
    assert found.weights["clicks"] == 1.0 and found.reason is None and "clicks" not in found.loadings
    assert str(found).startswith("1") or "cross-encoder" in str(found)


def test_a_weight_stays_within_its_range() -> None:
    labels, _ = _labels({CROSS_ENCODER: 6.0, "dense": 0.2, "lexical": 0.2})
    found = estimate(labels, WEIGHTS)
    assert max(found.weights.values()) <= 3.0 * found.weights[CROSS_ENCODER] + 1e-9
