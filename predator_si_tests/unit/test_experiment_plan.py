"""A trial's way through its chain: what comes next, when a look is due, how it ends, and that a file keeps all of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Refused
from predator_si.experiment.plan import Experiment, ExperimentPlan, Step, after_look, begin, chain, counted_from, longest_of, reason_to_wait
from predator_si.records import Answer, Criterion, ExperimentResult, GateResult, Verdict
from predator_si_tests.support.trials import CYCLE

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CHAIN = chain(("ab", "shadow", "interleave"), split=0.2, ramp=(0.05, 0.1), min_samples=1000)


def plan(**changes: Any) -> ExperimentPlan:
    facts: dict[str, Any] = {
        "cycle_id": CYCLE,
        "contour": "edge-oracle",
        "champion": "a",
        "challenger": "b",
        "steps": CHAIN,
        "min_days": 1.0,
        "max_samples": 5000,
    }
    return ExperimentPlan(**facts | changes)


def said(verdict: Verdict, reason: str = "as measured", mode: Any = "ab", broken: Sequence[str] = ()) -> ExperimentResult:
    rules = [Criterion(name=name, metric=name, direction="max", threshold=0.0) for name in broken]
    return ExperimentResult(
        cycle_id=CYCLE,
        mode=mode,
        started_at=NOW,
        ended_at=NOW,
        requests={},
        simulated=False,
        arms={},
        guardrails=[],
        sample_ratio_p=None,
        verdict=verdict,
        reason=reason,
        quality=[GateResult(criterion=rule, answer=Answer.FAIL, value=1.0, n=1, reason=reason) for rule in rules],
    )


def test_the_chain_is_in_order_and_rises() -> None:
    assert [(step.mode, step.share) for step in CHAIN] == [("shadow", 0.1), ("interleave", 0.2), ("ab", 0.05), ("ab", 0.1), ("ab", 0.2)]
    assert CHAIN[-1].min_samples == 1000 and CHAIN[2].min_samples == 250
    assert [step.mode for step in chain((), split=0.2, min_samples=100)] == ["ab"]
    for wrong in ({"modes": ("ab", "ab")}, {"modes": ("ab",), "ramp": (0.3,)}, {"modes": ("ab",), "ramp": (0.1, 0.05)}):
        with pytest.raises(BadInput):
            chain(**({"split": 0.2, "min_samples": 10} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only rises"):
        plan(steps=(Step(mode="ab", share=0.2, min_samples=1), Step(mode="ab", share=0.1, min_samples=1)))


def test_a_trial_goes_through_its_chain_and_a_file_keeps_it() -> None:
    trial = begin(plan(), NOW)
    for number in range(5):
        assert trial.step == number and trial.ended_at is None
        trial = Experiment.model_validate_json(after_look(trial, said(Verdict.PROMOTE), 300, NOW + timedelta(days=2, hours=number)).to_json())
    assert (trial.step, trial.verdict, trial.ended_at) == (4, Verdict.PROMOTE, NOW + timedelta(days=2, hours=4))
    assert [look.step for look in trial.looks] == [0, 1, 2, 3, 4]
    with pytest.raises(Refused, match="not judged again"):
        after_look(trial, said(Verdict.PROMOTE), 1, NOW)


def test_harm_ends_it_at_any_step_and_nothing_shown_goes_on_until_the_maximum() -> None:
    trial = begin(plan(), NOW)
    assert after_look(trial, said(Verdict.REJECT, "slow", "shadow"), 100, NOW).verdict is Verdict.REJECT
    waiting = after_look(trial, said(Verdict.INCONCLUSIVE, "open", "shadow"), 200, NOW)
    assert waiting.ended_at is None and waiting.step == 0
    assert reason_to_wait(waiting, 249, NOW) == "the trial has 249 of 250 requests in step 1 of 5 (shadow at 10%)", "a quarter more than at the last look"
    assert reason_to_wait(waiting, 250, NOW) is None
    assert longest_of(waiting, 250, NOW) is None and longest_of(waiting, 5000, NOW) == "7 days or 5000 requests"
    assert longest_of(waiting, 0, NOW + timedelta(days=7)) is not None and reason_to_wait(waiting, 0, NOW + timedelta(days=7)) is None


def test_what_is_broken_ends_held_unless_more_traffic_mends_it() -> None:
    trial = begin(plan(), NOW)
    broken = after_look(trial, said(Verdict.INCONCLUSIVE, "invalid: assignment is not sticky", broken=["single_exposure"]), 900, NOW)
    assert broken.verdict is Verdict.INCONCLUSIVE and broken.ended_at == NOW
    stale = said(Verdict.INCONCLUSIVE, "invalid: the data are stale", broken=["freshness"])
    assert after_look(trial, stale, 900, NOW).ended_at is None
    both = said(Verdict.INCONCLUSIVE, "invalid: the data are stale; assignment is not sticky", broken=["freshness", "single_exposure"])
    assert after_look(trial, both, 900, NOW).ended_at == NOW, "what is broken beside it, no traffic mends"


@pytest.mark.parametrize(("requests", "days"), [(10, 7), (5000, 1)])
def test_a_broken_trial_too_ends_at_its_maximum_and_makes_room(requests: int, days: int) -> None:
    trial, at = begin(plan(), NOW), NOW + timedelta(days=days)
    ended = after_look(trial, said(Verdict.INCONCLUSIVE, "invalid: the data are stale", broken=["freshness"]), requests, at)
    assert (ended.ended_at, ended.verdict) == (at, Verdict.INCONCLUSIVE) and "the trial ends here, after 7 days or 5000 requests" in ended.reason
    assert begin(plan(cycle_id="si_2026_11_22_002"), at, ended).opened_at == at, "another cycle's trial may begin"


def test_novelty_counts_once_from_the_first_ab_step() -> None:
    trial = begin(plan(novelty_days=2.0), NOW)
    assert counted_from(trial) == NOW, "nobody sees a shadow"
    for number in range(2):  # shadow, interleave
        trial = after_look(trial, said(Verdict.PROMOTE), 300, NOW + timedelta(days=number + 1))
    first = NOW + timedelta(days=2)
    assert counted_from(trial) == first + timedelta(days=2)
    trial = after_look(trial, said(Verdict.PROMOTE), 300, NOW + timedelta(days=3))
    assert trial.now.share == 0.1 and counted_from(trial) == first + timedelta(days=2), "a raised share is nothing new to those who saw it before"
    late = after_look(trial, said(Verdict.PROMOTE), 300, NOW + timedelta(days=6))
    assert counted_from(late) == late.step_started_at == NOW + timedelta(days=6)
    only = begin(plan(novelty_days=1.0, steps=chain((), split=0.2, min_samples=10)), NOW)
    assert counted_from(only) == NOW + timedelta(days=1)
    with pytest.raises(ValueError, match="nothing would ever count"):
        plan(novelty_days=7.0)


def test_days_clocks_and_one_trial_at_a_time() -> None:
    only = begin(plan(steps=chain((), split=0.2, min_samples=100)), NOW)
    assert reason_to_wait(only, 500, NOW + timedelta(hours=23)) == "the trial runs for at least 1 days"
    assert reason_to_wait(only, 99, NOW + timedelta(days=1)) == "the trial has 99 of 100 requests"
    assert reason_to_wait(only, 100, NOW + timedelta(days=1)) is None
    assert "a clock went backwards" in str(reason_to_wait(only, 500, NOW - timedelta(hours=1)))
    with pytest.raises(Refused, match="one trial at a time"):
        begin(plan(cycle_id="si_2026_11_22_002"), NOW, only)
    assert begin(plan(), NOW, only).opened_at == NOW, "its own state is no other trial"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(Verdict)), st.integers(0, 6000)), max_size=30))
def test_it_never_goes_back_and_ends_once(looks: list[tuple[Verdict, int]]) -> None:
    trial, at = begin(plan(), NOW), NOW
    for verdict, requests in looks:
        if trial.ended_at is not None:
            break
        before, at = trial, at + timedelta(hours=1)
        trial = after_look(trial, said(verdict), requests, at)
        assert before.step <= trial.step <= before.step + 1 and len(trial.looks) == len(before.looks) + 1
        assert (trial.ended_at is None) == (trial.verdict is None)
        if trial.verdict is Verdict.PROMOTE:
            assert trial.step == len(CHAIN) - 1 and [look.verdict for look in trial.looks].count(Verdict.PROMOTE) == len(CHAIN)
