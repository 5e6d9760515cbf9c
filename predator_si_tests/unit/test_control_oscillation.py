"""The oscillation guard and the policy decision point, as laws over random histories and as one table of every rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.control.policy import ACTIONS, FREE, LONGEST_COOL_DOWN, Refusal, Standing, back_off, decide, fruitless_streak, may_start_cycle
from predator_si.records import Cycle, CycleState, Trigger

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FREE_TO_ACT = Standing(enabled=True, kill_switch=False, cool_down=timedelta(hours=2), month_budget_usd=100.0, spent_month_usd=1.0)
FRUITLESS = ("rejected", "rolled_back", "expired", "failed")
ENDED = st.sampled_from([*FRUITLESS, "stable", "cancelled"])
TRIGGERS = st.sampled_from(["ndcg_at_10_down", "p95_latency_ms_up"])


def cycle(state: str, ended: datetime, trigger: str = "ndcg_at_10_down", number: int = 1, actor: str = "quality_gate_sensor") -> Cycle:
    cause = Trigger(type=trigger, metric=trigger, value=None, baseline=None, delta=None, actions=(), reason="")
    name = f"si_2026_11_{(number // 900) + 1:02d}_{number % 900 + 1:03d}"
    return Cycle(cycle_id=name, contour="local", state=CycleState(state), trigger=cause, opened_at=ended - timedelta(minutes=30), updated_at=ended, actor=actor)


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(1, 100_000), st.integers(1, 1_000_000))
def test_back_off_never_shrinks_doubles_and_is_bounded(count: int, cool_down: int, longest: int) -> None:
    base, most = timedelta(seconds=cool_down), timedelta(seconds=longest)
    wait, following = back_off(count, base, most), back_off(count + 1, base, most)
    assert wait <= following <= max(most, base)
    assert following in (base, min(2 * wait, max(most, base)))
    assert back_off(0, base, most) == timedelta(0) and back_off(1, base, most) == base


@settings(max_examples=60)
@given(st.lists(st.tuples(ENDED, TRIGGERS), max_size=12))
def test_however_a_history_went_the_wait_ends_when_it_was_said_to_end(history: list[tuple[str, str]]) -> None:
    recent = [cycle(state, NOW - timedelta(days=20) + timedelta(hours=9 * n), trigger, n) for n, (state, trigger) in enumerate(history)]
    rules: dict[str, Any] = {"enabled": True, "kill_switch": False, "max_cycles_per_day": 99, "cycle_interval": timedelta(0), "cool_down": timedelta(hours=2)}
    now = max((one.updated_at for one in recent), default=NOW)
    answer = may_start_cycle("ndcg_at_10_down", recent, now=now, **rules)
    mine = [state for state, trigger in history if trigger == "ndcg_at_10_down"]
    streak = 0
    for state in reversed(mine):
        if state == "stable":
            break
        streak += state in FRUITLESS
    assert len(fruitless_streak("ndcg_at_10_down", recent)) == streak
    if isinstance(answer, Refusal):
        assert streak and answer.rule == "cool_down" and answer.retry_at is not None
        assert may_start_cycle("ndcg_at_10_down", recent, now=answer.retry_at, **rules).allowed
        assert not may_start_cycle("ndcg_at_10_down", recent, now=answer.retry_at - timedelta(microseconds=1), **rules).allowed


def test_a_fault_that_training_cannot_mend_is_tried_ever_more_rarely() -> None:
    """A month of a gate that always fails and cycles that are always rejected: at one an hour it would be 720."""
    recent: list[Cycle] = []
    now = NOW
    for minute in range(0, 30 * 24 * 60, 15):
        now = NOW + timedelta(minutes=minute)
        if decide("start_cycle", replace(FREE_TO_ACT, cycles=recent), now=now, trigger="ndcg_at_10_down").answer == "allow":
            recent.append(cycle("rejected", now, number=len(recent)))
    gaps = [later.updated_at - earlier.updated_at for earlier, later in pairwise(recent)]
    assert gaps == sorted(gaps) and gaps[-1] <= LONGEST_COOL_DOWN + timedelta(minutes=15)
    assert len(recent) == 10


def test_drills_and_other_triggers_do_not_slow_a_trigger_down() -> None:
    recent = [cycle("rolled_back", NOW, actor="drill"), cycle("rejected", NOW, "p95_latency_ms_up", 2)]
    standing = replace(FREE_TO_ACT, cycles=recent, cycle_interval=timedelta(0))
    assert decide("start_cycle", standing, now=NOW, trigger="ndcg_at_10_down").answer == "allow"
    assert decide("start_cycle", standing, now=NOW, trigger="p95_latency_ms_up").rule == "cool_down"
    assert decide("start_cycle", standing, now=NOW, trigger="p95_latency_ms_up", force=True).answer == "allow"


@pytest.mark.parametrize("action", ACTIONS)
def test_the_kill_switch_stops_everything_but_the_way_back_and_telling(action: Any) -> None:
    found = decide(action, replace(FREE_TO_ACT, kill_switch=True), now=NOW, trigger="ndcg_at_10_down", approved=True, force=True)
    assert (found.answer == "allow") is (action in FREE)
    if action not in FREE:
        assert found.rule == "kill_switch"


@pytest.mark.parametrize(
    ("action", "changes", "asked", "answer", "rule"),
    [
        ("start_cycle", {}, {}, "allow", "none"),
        ("start_cycle", {"enabled": False}, {}, "deny", "disabled"),
        ("start_cycle", {"flags": {"start_cycle": False}}, {"force": True}, "deny", "flag"),
        ("start_cycle", {"spent_month_usd": 100.0}, {"force": True}, "deny", "month_budget"),
        ("start_cycle", {"max_cycles_per_day": 0}, {"force": True}, "deny", "max_cycles_per_day"),
        ("train", {"flags": {"train": False}}, {}, "deny", "flag"),
        ("train", {"flags": {"train": True, "promote": False}}, {}, "allow", "none"),
        ("train", {"spent_month_usd": 100.0}, {}, "deny", "month_budget"),
        ("train", {"spent_cycle_usd": 5.0, "cycle_budget_usd": 5.0}, {}, "deny", "cycle_budget"),
        ("train", {"spent_month_usd": None}, {}, "allow", "none"),
        ("trial", {"spent_month_usd": 100.0}, {}, "allow", "none"),
        ("trial", {"enabled": False}, {}, "deny", "disabled"),
        ("promote", {}, {}, "allow", "none"),
        ("promote", {"approval_required": True}, {}, "needs_approval", "person"),
        ("promote", {"approval_required": True}, {"approved": True}, "allow", "none"),
        ("promote", {"flags": {"auto_promote": False}}, {}, "needs_approval", "person"),
        ("promote", {"flags": {"promote": False}, "approval_required": True}, {"approved": True}, "deny", "flag"),
        ("promote_next", {}, {}, "needs_approval", "person"),
        ("promote_next", {}, {"approved": True}, "allow", "none"),
        ("rollback", {"enabled": False, "spent_month_usd": 1000.0}, {}, "allow", "none"),
        ("rollback", {"rollback_on_degrade": False}, {}, "needs_approval", "person"),
        ("rollback", {"rollback_on_degrade": False, "flags": {"rollback": False}}, {"by_person": True}, "allow", "none"),
        ("index_change", {"spent_month_usd": 100.0}, {}, "deny", "month_budget"),
        ("spend", {"spent_month_usd": 99.99}, {}, "allow", "none"),
        ("spend", {"spent_month_usd": 100.0}, {}, "deny", "month_budget"),
        ("notify", {"spent_month_usd": 1000.0, "enabled": False}, {}, "allow", "none"),
        ("notify", {"flags": {"notify": False}}, {}, "deny", "flag"),
    ],
)
def test_each_rule_with_its_name(action: Any, changes: dict[str, Any], asked: dict[str, Any], answer: str, rule: str) -> None:
    found = decide(action, replace(FREE_TO_ACT, **changes), now=NOW, trigger="ndcg_at_10_down", **asked)
    assert (found.answer, found.rule) == (answer, rule), found.reason
    assert found.reason


def test_a_budget_ends_with_its_month_and_unknown_spending_is_said() -> None:
    spent = replace(FREE_TO_ACT, spent_month_usd=100.0)
    assert decide("train", spent, now=NOW).retry_at == datetime(2026, 12, 1, tzinfo=UTC)
    assert decide("train", spent, now=datetime(2026, 12, 31, 23, tzinfo=UTC)).retry_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert "unknown" in decide("train", replace(FREE_TO_ACT, spent_month_usd=None), now=NOW).reason
