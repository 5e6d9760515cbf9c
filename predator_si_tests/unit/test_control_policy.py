"""May a cycle start? Each rule alone, their order, and what force may pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predator_si.control import ACTIVE, Allowed, Refusal, may_start_cycle
from predator_si.records import Cycle, CycleState, Trigger

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RULES: dict[str, Any] = {
    "now": NOW,
    "enabled": True,
    "kill_switch": False,
    "max_cycles_per_day": 6,
    "cycle_interval": timedelta(hours=1),
    "cool_down": timedelta(hours=4),
}


def _cycle(state: str, hours_ago: float, trigger: str = "ndcg_at_10", number: int = 1) -> Cycle:
    cause = Trigger(type=trigger, metric=trigger, value=None, baseline=None, delta=None, actions=(), reason="")
    at = NOW - timedelta(hours=hours_ago)
    return Cycle(cycle_id=f"si_2026_11_22_{number:03d}", contour="local", state=CycleState(state), trigger=cause, opened_at=at, updated_at=at)


def test_nothing_in_the_way() -> None:
    assert may_start_cycle("ndcg_at_10", [], **RULES).allowed
    assert may_start_cycle("ndcg_at_10", [_cycle("stable", 2)], **RULES).allowed


@pytest.mark.parametrize(
    ("rule", "recent", "changes", "retry"),
    [
        ("kill_switch", [], {"kill_switch": True}, None),
        ("disabled", [], {"enabled": False}, None),
        ("active_cycle", [_cycle("watching", 9)], {}, None),
        ("max_cycles_per_day", [_cycle("stable", 2), _cycle("stable", 3)], {"max_cycles_per_day": 2}, datetime(2026, 11, 23, tzinfo=UTC)),
        ("max_cycles_per_day", [], {"max_cycles_per_day": 0}, datetime(2026, 11, 23, tzinfo=UTC)),
        ("cycle_interval", [_cycle("stable", 0.75), _cycle("stable", 7)], {}, NOW + timedelta(minutes=15)),
        ("cool_down", [_cycle("rejected", 3)], {}, NOW + timedelta(hours=1)),
        ("cool_down", [_cycle("rolled_back", 3)], {}, NOW + timedelta(hours=1)),
    ],
)
def test_each_rule_refuses_with_its_name_and_its_end(rule: str, recent: list[Cycle], changes: dict[str, Any], retry: datetime | None) -> None:
    answer = may_start_cycle("ndcg_at_10", recent, **{**RULES, **changes})
    assert isinstance(answer, Refusal)
    assert (answer.rule, answer.retry_at) == (rule, retry)
    if retry is not None and not changes:
        assert may_start_cycle("ndcg_at_10", recent, **{**RULES, "now": retry}).allowed
        assert not may_start_cycle("ndcg_at_10", recent, **{**RULES, "now": retry - timedelta(microseconds=1)}).allowed


def test_the_cool_down_is_for_the_same_trigger_only() -> None:
    assert may_start_cycle("p95_latency_ms", [_cycle("rejected", 3)], **RULES).allowed


def test_cycles_of_yesterday_do_not_use_up_today() -> None:
    recent = [_cycle("stable", 13, number=index) for index in range(1, 9)]
    assert may_start_cycle("ndcg_at_10", recent, **RULES).allowed


def test_force_passes_interval_and_cool_down_only() -> None:
    assert may_start_cycle("ndcg_at_10", [_cycle("rejected", 0.1)], **RULES, force=True).allowed
    for changes, recent in (({"kill_switch": True}, []), ({"enabled": False}, []), ({}, [_cycle("opened", 5)]), ({"max_cycles_per_day": 0}, [])):
        assert not may_start_cycle("ndcg_at_10", recent, **{**RULES, **changes}, force=True).allowed


@given(st.lists(st.tuples(st.sampled_from(list(CycleState)), st.floats(0, 48)), max_size=8), st.booleans(), st.booleans(), st.booleans())
def test_never_past_the_kill_switch_nor_beside_an_active_cycle(history: list[tuple[CycleState, float]], on: bool, enabled: bool, force: bool) -> None:
    recent = [_cycle(state.value, ago) for state, ago in history]
    answer = may_start_cycle("ndcg_at_10", recent, **{**RULES, "kill_switch": on, "enabled": enabled}, force=force)
    if on or not enabled or any(cycle.state in ACTIVE for cycle in recent):
        assert not answer.allowed
    if isinstance(answer, Allowed):
        assert sum(cycle.opened_at.date() == NOW.date() for cycle in recent) < 6
    else:
        assert answer.reason


@pytest.mark.parametrize("years", [1, 10])
def test_a_cycle_from_before_the_clock_went_back_holds_nobody_up(years: int) -> None:
    ahead = -years * 365 * 24.0
    assert may_start_cycle("ndcg_at_10", [_cycle("rejected", ahead)], **RULES).allowed
    found = may_start_cycle("ndcg_at_10", [_cycle("rejected", ahead), _cycle("stable", 0.5)], **RULES)
    assert isinstance(found, Refusal) and found.rule == "cycle_interval", "and hides no later one"
    found = may_start_cycle("ndcg_at_10", [_cycle("rejected", -0.2)], **RULES)
    assert isinstance(found, Refusal), "another machine's clock may be a little ahead"
