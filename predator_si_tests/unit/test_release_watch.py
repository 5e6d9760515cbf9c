"""The watch: what rolls a release back, what keeps it, and how often a good one is taken back by mistake."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import t as student

from predator_si.errors import BadInput
from predator_si.records import Answer, WatchResult
from predator_si.release.watch import WatchCheck, WatchPlan, judge_watch, ndcg_margin_of, watch_criteria

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PLAN = WatchPlan(cycle_id="si_2026_11_22_001", released_digest=MINE, planned_checks=4, min_requests=200, ndcg_margin=0.0)


def _check(requests: int = 60, failures: int = 0, slow: int | None = 0, digest: str | None = MINE, probes: dict[str, float] | None = None) -> WatchCheck:
    return WatchCheck(at=NOW, requests=requests, failures=failures, slow=slow, served_digest=digest, probes={} if probes is None else probes)


def _probes(differences: Any, prefix: str = "q") -> dict[str, float]:
    return {f"{prefix}{index}": float(value) for index, value in enumerate(differences)}


GOOD = _check(probes=_probes([0.1, -0.1, 0.0, 0.05] * 10))


def _gate(result: WatchResult, name: str) -> Any:
    return next(gate for gate in result.gates if gate.criterion.name == name)


def test_a_good_release_is_kept_after_the_planned_checks_and_not_before() -> None:
    answers = [judge_watch(PLAN, [GOOD] * n).answer for n in range(5)]
    assert answers == ["continue", "continue", "continue", "continue", "keep"]
    kept = judge_watch(PLAN, [GOOD] * 4, now=NOW)
    assert (kept.requests, kept.failed_requests, kept.created_at, len(kept.checks)) == (240, 0, NOW, 4)
    assert [gate.answer for gate in kept.gates] == [Answer.PASS] * 4
    assert WatchResult.model_validate_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    ("bad", "gate", "said"),
    [
        (_check(digest=OTHER), "digest", f"serves {OTHER}"),
        (_check(requests=60, failures=20), "errors", "20 of"),
        (_check(requests=60, slow=30), "latency", "slower than the P95 limit"),
        (_check(probes=_probes(np.full(60, -0.3))), "ndcg", "from the old champion"),
    ],
)
def test_one_bad_check_is_enough_when_it_is_bad_enough(bad: WatchCheck, gate: str, said: str) -> None:
    for checks in ([bad], [_check(), _check(), bad]):
        result = judge_watch(PLAN, checks)
        assert result.answer == "rollback", result.reason
        assert _gate(result, gate).answer is Answer.FAIL
        assert said in result.reason


def test_a_little_bad_luck_is_not_enough() -> None:
    one_failure = [_check(requests=20, failures=1), GOOD, GOOD]
    assert judge_watch(PLAN, one_failure).answer == "continue"
    few_losses = [_check(probes=_probes([-0.3] * 3 + [0.0] * 40))]
    assert judge_watch(PLAN, few_losses).answer == "continue"


def test_over_the_limit_without_proof_goes_on_until_there_is_one() -> None:
    checks = [GOOD.model_copy(update={"failures": 1})] * 4  # 1.7%, limit 1%
    result = judge_watch(PLAN, checks)
    assert (result.answer, _gate(result, "errors").answer) == ("continue", Answer.UNKNOWN)
    assert judge_watch(PLAN, [*checks, *[GOOD] * 4]).answer == "keep"
    assert judge_watch(PLAN, checks * 30).answer == "rollback"


@pytest.mark.parametrize(
    ("checks", "gate"),
    [
        ([GOOD.model_copy(update={"requests": 5})] * 9, "errors"),
        ([GOOD.model_copy(update={"requests": 0})] * 9, "errors"),
        ([GOOD.model_copy(update={"slow": None})] * 9, "latency"),
        ([_check()] * 9, "ndcg"),
        ([GOOD] * 8 + [GOOD.model_copy(update={"served_digest": None})], "digest"),
    ],
)
def test_missing_data_neither_keeps_nor_rolls_back(checks: list[WatchCheck], gate: str) -> None:
    result = judge_watch(PLAN, checks)
    assert result.answer == "continue"
    assert _gate(result, gate).answer is Answer.UNKNOWN


def test_what_the_contour_does_not_have_does_not_apply() -> None:
    plan = PLAN.model_copy(update={"p95_limit_ms": None, "probes_expected": False})
    result = judge_watch(plan, [_check(slow=None)] * 4)
    assert result.answer == "keep"
    assert [_gate(result, name).answer for name in ("latency", "ndcg")] == [Answer.NOT_APPLICABLE] * 2
    assert judge_watch(plan, [_check(probes=_probes(np.full(60, -0.3)))]).answer == "rollback"  # probes that come all the same are used


def test_the_same_probe_asked_again_is_no_new_evidence() -> None:
    differences = [-0.2, 0.12] * 20
    once = judge_watch(PLAN, [_check(probes=_probes(differences))])
    four = judge_watch(PLAN, [_check(probes=_probes(differences))] * 4)
    assert _gate(once, "ndcg") == _gate(four, "ndcg")
    fresh = judge_watch(PLAN, [_check(probes=_probes(differences, f"c{n}-")) for n in range(4)])
    assert _gate(fresh, "ndcg").n == 160


def test_small_equal_losses_are_no_proof_and_rare_gains_stay_possible() -> None:
    assert judge_watch(PLAN, [_check(probes=_probes(np.full(50, -0.01)))]).answer == "continue"


def test_the_margin_belongs_to_the_trigger() -> None:
    assert (ndcg_margin_of("ndcg_at_10_down"), ndcg_margin_of("p95_latency_ms_up")) == (0.0, 0.01)
    slightly = [_check(probes=_probes(np.random.default_rng(0).normal(-0.009, 0.02, 4000)))]
    assert judge_watch(PLAN, slightly).answer == "rollback"
    assert judge_watch(PLAN.model_copy(update={"ndcg_margin": 0.01}), slightly).answer == "continue"
    assert [criterion.name for criterion in watch_criteria(PLAN)] == ["digest", "errors", "latency", "ndcg"]


def test_the_bounds_are_those_of_the_books() -> None:
    """Against scipy's own Clopper-Pearson and Student quantile; the level is alpha over 3 questions and 4 planned checks."""
    level = 0.05 / 12
    exact = binomtest(7, 60).proportion_ci(confidence_level=1 - 2 * level, method="exact").low
    assert f"surely above {exact:.2%}" in _gate(judge_watch(PLAN, [_check(failures=7)]), "errors").reason
    differences = np.random.default_rng(3).normal(0.0, 0.3, 80).clip(-1, 1)
    sample = np.append(differences, 1.0)
    bound = sample.mean() + student.ppf(1 - level, 80) * sample.std(ddof=1) / 9.0
    assert f"surely below {bound:+.4f}" in _gate(judge_watch(PLAN, [_check(probes=_probes(differences))]), "ndcg").reason


def test_impossible_numbers_are_refused() -> None:
    for bad in (_check(requests=5, failures=6), _check(requests=5, failures=2, slow=4), _check(probes={"q": 1.5}), _check(probes={"q": float("nan")})):
        with pytest.raises(BadInput, match="watch check 2"):
            judge_watch(PLAN, [GOOD, bad])


def _false_rollbacks(lives: int, seed: int, draw: Callable[[np.random.Generator], WatchCheck]) -> int:
    rng, taken_back = np.random.default_rng(seed), 0
    for _ in range(lives):
        checks: list[WatchCheck] = []
        for _ in range(PLAN.planned_checks):
            checks.append(draw(rng))
            if judge_watch(PLAN, checks).answer == "rollback":
                taken_back += 1
                break
    return taken_back


@pytest.mark.parametrize(
    ("what", "draw"),
    [
        ("errors exactly at the limit", lambda rng: _check(requests=60, failures=int(rng.binomial(60, 0.01)))),
        ("P95 exactly at the limit", lambda rng: _check(requests=60, slow=int(rng.binomial(60, 0.05)))),
        ("no difference, most queries equal", lambda rng: _check(probes=_fresh(rng, rng.choice([0.0, -0.4, 0.4], 25, p=[0.8, 0.1, 0.1])))),
        ("no difference, many small losses and few large gains", lambda rng: _check(probes=_fresh(rng, rng.choice([-0.02, 0.38], 25, p=[0.95, 0.05])))),
    ],
)
def test_a_good_release_is_rolled_back_at_most_as_often_as_alpha_says(what: str, draw: Callable[[np.random.Generator], WatchCheck]) -> None:
    lives = 250
    found = _false_rollbacks(lives, seed=7, draw=draw)
    # each question alone may use a third of alpha; a count this high has probability below 0.001 then
    assert found <= 13, f"{what}: {found} of {lives}"


def _fresh(rng: np.random.Generator, differences: Any) -> dict[str, float]:
    return _probes(differences, f"{rng.integers(1 << 60)}-")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 20), st.booleans()), max_size=8))
def test_it_never_keeps_what_it_has_not_seen(numbers: list[tuple[int, int, bool]]) -> None:
    checks = [GOOD.model_copy(update={"requests": n, "failures": min(bad, n), "served_digest": MINE if known else None}) for n, bad, known in numbers]
    result = judge_watch(PLAN, checks)
    if result.answer == "keep":
        assert len(checks) >= 4
        assert sum(check.requests for check in checks) >= 200
        assert checks[-1].served_digest == MINE
        assert result.failed_requests <= 0.01 * result.requests


def test_a_lag_must_be_gone_by_the_last_planned_check_and_not_before() -> None:
    plan = PLAN.model_copy(update={"max_lag_seconds": 120.0, "probes_expected": False})

    def after(*lags: float | None) -> WatchResult:
        return judge_watch(plan, [_check().model_copy(update={"lag_seconds": lag}) for lag in lags])

    assert [after(*[300.0] * n).answer for n in (1, 2, 3, 4)] == ["continue", "continue", "continue", "rollback"]
    assert "300 s, at most 120 s" in after(300.0, 300.0, 300.0, 300.0).reason
    assert after(300.0, 200.0, 100.0, 60.0).answer == "keep"
    assert after(60.0, 60.0, 60.0, None).answer == "continue", "a service that does not say is unknown"
    assert [gate.criterion.name for gate in judge_watch(PLAN, [GOOD]).gates] == ["digest", "errors", "latency", "ndcg"]


def test_a_scheduled_training_may_lose_no_relevance_either() -> None:
    assert ndcg_margin_of("schedule") == ndcg_margin_of("ndcg_at_10_down") == 0.0 < ndcg_margin_of("p95_latency_ms_up")
