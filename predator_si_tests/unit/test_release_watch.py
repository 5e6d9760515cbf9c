"""The watch: what rolls a release back, what keeps it, and how often a good one is taken back by mistake."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from predator_si.errors import BadInput
from predator_si.records import Answer, WatchResult
from predator_si.release.watch import (
    QUESTIONS,
    WatchCheck,
    WatchPlan,
    errors_log_e,
    judge_watch,
    latency_log_e,
    ndcg_log_e,
    ndcg_margin_of,
    slower_log_e,
    watch_criteria,
)
from predator_si.statistics.evidence import needed

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
    assert [gate.answer for gate in kept.gates] == [Answer.PASS] * 3 + [Answer.NOT_APPLICABLE, Answer.PASS]
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
    again = judge_watch(PLAN, [_check(probes=_probes(differences)), _check(probes=_probes(np.full(40, -0.9)))])
    assert _gate(again, "ndcg") == _gate(once, "ndcg"), "the first difference of a query counts"
    fresh = judge_watch(PLAN, [_check(probes=_probes(differences, f"c{n}-")) for n in range(4)])
    assert _gate(fresh, "ndcg").n == 160


def test_small_equal_losses_are_no_proof_and_rare_gains_stay_possible() -> None:
    assert judge_watch(PLAN, [_check(probes=_probes(np.full(50, -0.01)))]).answer == "continue"


def test_zero_variance_of_the_paired_times_shows_nothing() -> None:
    """A hundred pairs that all say "three times slower" have no spread: what was never seen is not zero."""
    pairs, ratio = 100, float(np.log(3.0))
    plan = PLAN.model_copy(update={"shadow_expected": True})
    equal = _check().model_copy(update={"pairs": pairs, "log_ratio_sum": pairs * ratio, "log_ratio_squares": pairs * ratio**2})
    spread = equal.model_copy(update={"log_ratio_squares": pairs * (ratio**2 + 0.01)})
    assert _gate(judge_watch(plan, [equal]), "slower").answer is not Answer.FAIL and judge_watch(plan, [equal]).answer == "continue"
    assert _gate(judge_watch(plan, [spread]), "slower").answer is Answer.FAIL


def test_the_margin_belongs_to_the_trigger() -> None:
    assert (ndcg_margin_of("ndcg_at_10_down"), ndcg_margin_of("p95_latency_ms_up")) == (0.0, 0.01)
    slightly = [_check(probes=_probes(np.random.default_rng(0).normal(-0.009, 0.02, 4000)))]
    assert judge_watch(PLAN, slightly).answer == "rollback"
    assert judge_watch(PLAN.model_copy(update={"ndcg_margin": 0.01}), slightly).answer == "continue"
    assert [criterion.name for criterion in watch_criteria(PLAN)] == ["digest", "errors", "latency", "slower", "ndcg"]


def test_the_evidence_is_that_of_the_formulas_and_the_levels_sum_to_half_a_thousandth() -> None:
    """Literal: the beta-binomial mixture cut at the limit by numerical integration, and the bettors' money by a loop."""
    found = judge_watch(PLAN, [_check(failures=2), _check(failures=5, probes=_probes([-0.3, 0.1, -0.5]))])
    prior = beta(100 * 0.01, 100 * 0.99)

    def likelihood(rate: float) -> float:
        return float((rate / 0.01) ** 7 * ((1 - rate) / 0.99) ** 113 * prior.pdf(rate))

    mixed = quad(likelihood, 0.01, 1.0, points=[0.05, 0.1])[0] / prior.sf(0.01)
    assert found.evidence["errors"][1] == pytest.approx(np.log(mixed), rel=1e-6)
    money = np.mean([np.prod([1 - bet * x for x in (-0.3, 0.1, -0.5)]) for bet in PLAN.design.ndcg_bets])
    assert found.evidence["ndcg"] == pytest.approx([0.0, np.log(money)])
    assert sum(PLAN.level(question) for question in QUESTIONS) == pytest.approx(0.0005) == PLAN.design.watch_alpha
    assert found.needed["ndcg"] == pytest.approx(-np.log(PLAN.design.ndcg_alpha)) and WatchPlan.model_validate(found.plan) == PLAN


def test_pairs_in_shadow_show_a_slower_model() -> None:
    def timed(ratio: float, n: int, seed: int = 0) -> dict[str, Any]:
        logs = np.random.default_rng(seed).normal(np.log(ratio), 0.3, n)
        return {"pairs": n, "log_ratio_sum": float(logs.sum()), "log_ratio_squares": float((logs**2).sum())}

    slow, fine = _check().model_copy(update=timed(1.5, 60)), _check().model_copy(update=timed(1.0, 60))
    assert judge_watch(PLAN, [slow]).answer == "rollback" and "1.5" in _gate(judge_watch(PLAN, [slow]), "slower").reason
    assert _gate(judge_watch(PLAN, [fine]), "slower").answer is Answer.PASS
    accepted = PLAN.model_copy(update={"latency_ratio": 1.6})
    assert judge_watch(accepted, [slow]).answer == "continue", "what was accepted at the promotion is no reason"
    waits = PLAN.model_copy(update={"shadow_expected": True})
    assert _gate(judge_watch(waits, [GOOD]), "slower").answer is Answer.UNKNOWN
    equal = _check().model_copy(update={"pairs": 60, "log_ratio_sum": 60.0, "log_ratio_squares": 60.0})
    assert _gate(judge_watch(PLAN, [equal]), "slower").answer is Answer.PASS, "sixty times the same number shows no spread, so nothing"


def test_a_drill_is_over_within_its_probes() -> None:
    """A reversed ranking loses .3 to .4; one that loses .2 is at least doubtful after 60 probes, and taken back with the next ones."""
    rng = np.random.default_rng(5)
    lost = np.where(rng.random(120) < 0.3, 0.0, rng.normal(-0.2 / 0.7, 0.3, 120).clip(-1, 1))
    first, second = _probes(lost[:60], "a"), _probes(lost[60:], "b")
    plan = PLAN.model_copy(update={"planned_checks": 2, "min_requests": 100})
    assert judge_watch(plan, [_check(probes=first), _check(probes=second)]).answer == "rollback"
    half = judge_watch(plan, [_check(probes=_probes(lost[:45])), _check(), _check()])
    assert half.answer == "continue" and "doubtful" in half.reason and len(half.checks) > plan.planned_checks
    assert judge_watch(plan, [_check(probes=_probes(lost[:45])), *[_check()] * 3]).answer == "keep", "doubt alone does not last for ever"
    damaged = np.where(rng.random(60) < 0.3, 0.0, rng.normal(-0.5, 0.35, 60).clip(-1, 1))
    assert judge_watch(plan, [_check(probes=_probes(damaged))]).answer == "rollback"


def test_a_clock_that_goes_backwards_is_refused() -> None:
    with pytest.raises(BadInput, match="clock went backwards"):
        judge_watch(PLAN, [GOOD, GOOD.model_copy(update={"at": NOW - timedelta(minutes=5)})])


def test_impossible_numbers_are_refused() -> None:
    for bad in (_check(requests=5, failures=6), _check(requests=5, failures=2, slow=4), _check(probes={"q": 1.5}), _check(probes={"q": float("nan")})):
        with pytest.raises(BadInput, match="watch check 2"):
            judge_watch(PLAN, [GOOD, bad])


LIVES, LOOKS, EACH = 4000, 60, 25


@pytest.mark.parametrize(
    ("question", "draw"),
    [
        ("errors", lambda rng, shape: rng.random(shape) < 0.01),
        ("latency", lambda rng, shape: rng.random(shape) < 0.05),
        ("ndcg", lambda rng, shape: rng.choice([0.0, -0.4, 0.4], shape, p=[0.8, 0.1, 0.1])),
        ("ndcg", lambda rng, shape: rng.choice([-0.02, 0.38], shape, p=[0.95, 0.05])),
        ("slower", lambda rng, shape: rng.normal(np.log(1.05), 0.4, shape)),
    ],
)
def test_a_release_at_the_limit_is_rolled_back_at_most_as_often_as_promised(question: str, draw: Callable[[np.random.Generator, Any], Any]) -> None:
    """Sixty looks, the functions that the verdict calls. Each level is at most .0003: 6 of 4000 lives or more have probability below .002."""
    x = np.asarray(draw(np.random.default_rng(7), (LIVES, LOOKS * EACH)), dtype=np.float64)
    at = np.arange(EACH, LOOKS * EACH + 1, EACH)
    sums, squares = np.cumsum(x, axis=-1)[:, at - 1], np.cumsum(x * x, axis=-1)[:, at - 1]
    n = np.broadcast_to(at, sums.shape)
    log_e = {
        "errors": lambda: errors_log_e(PLAN, sums, n),
        "latency": lambda: latency_log_e(PLAN, sums, n),
        "ndcg": lambda: ndcg_log_e(PLAN, x[:, : 20 * EACH])[:, EACH - 1 :: EACH],
        "slower": lambda: slower_log_e(PLAN, n, sums, squares),
    }[question]()
    found = int((log_e.max(axis=-1) >= needed(PLAN.level(question))).sum())
    assert found <= 5, f"{question}: {found} of {LIVES}"


def test_one_life_is_judged_by_the_same_numbers_as_thousands() -> None:
    rng = np.random.default_rng(1)
    failed, differences = rng.binomial(60, 0.02, 8), rng.normal(-0.03, 0.2, (8, 20)).clip(-1, 1)
    checks = [_check(failures=int(failed[i]), probes=_probes(np.sort(differences[i]), f"{i}-")) for i in range(8)]
    found = judge_watch(PLAN, checks)
    ordered = np.concatenate([[checks[i].probes[name] for name in sorted(checks[i].probes)] for i in range(8)])
    assert found.evidence["errors"] == errors_log_e(PLAN, failed.cumsum(), 60 * np.arange(1, 9)).tolist()
    assert found.evidence["ndcg"] == ndcg_log_e(PLAN, ordered)[19::20].tolist()


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
    assert [gate.criterion.name for gate in judge_watch(PLAN, [GOOD]).gates] == ["digest", "errors", "latency", "slower", "ndcg"]


def test_a_scheduled_training_may_lose_no_relevance_either() -> None:
    assert ndcg_margin_of("schedule") == ndcg_margin_of("ndcg_at_10_down") == 0.0 < ndcg_margin_of("p95_latency_ms_up")
