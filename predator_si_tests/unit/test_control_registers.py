"""Approvals, overrides, champions and flags: each change is one row with one ledger record, and says no where it must."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.control import Control
from predator_si.errors import BadInput, Missing, Refused
from predator_si.records import ChampionSpan, Trigger

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRIGGER = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.1, actions=(), reason="a drop")
DAY = timedelta(days=1)
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def control(tmp_path: Path, clock: Clock) -> Control:
    return Control(tmp_path / "control.db", clock=clock)


def asked(control: Control, evidence: str = "e1") -> str:
    active = control.active_cycle("local") or control.open_cycle("local", TRIGGER, "sensor", "a gate failed")
    control.ask_approval(active.cycle_id, "promote", "local", evidence, {"verdict": "promote", "numbers": {"ndcg": 0.02}}, 3 * DAY)
    return active.cycle_id


def said(control: Control) -> list[str]:
    return [record.action for record in control.records()]


# --------------------------------------------------------------------------- approvals


def test_a_question_waits_with_its_evidence_until_a_person_answers(control: Control, clock: Clock) -> None:
    cycle_id = asked(control)
    (waiting,) = control.approvals("local", waiting=True)
    assert (waiting.state(NOON), waiting.evidence["numbers"], waiting.expires_at) == ("waiting", {"ndcg": 0.02}, NOON + 3 * DAY)
    found = control.decide_approval(cycle_id, "approved", "cli:ann", "the interval convinces me")
    assert (found.decision, found.actor, found.at) == ("approved", "cli:ann", NOON)
    assert control.approvals("local", waiting=True) == [] and control.approvals("edge-oracle") == []
    record = control.records()[-1]
    assert (record.action, record.actor, record.payload["evidence_hash"]) == ("approval_approved", "cli:ann", "e1")
    assert control.decide_approval(cycle_id, "approved", "cli:ann", "again") == found, "the same answer again changes nothing"
    assert said(control) == ["cycle_opened", "approval_asked", "approval_approved"]


@pytest.mark.parametrize("other", ["approved", "rejected"])
def test_an_answer_is_final(control: Control, other: str) -> None:
    cycle_id = asked(control)
    control.decide_approval(cycle_id, "rejected", "cli:ann", "not before the freeze")
    with pytest.raises(Refused, match="was rejected by cli:ann"):
        control.decide_approval(cycle_id, other, "cli:bob", "I think otherwise")  # type: ignore[arg-type]
    assert not control.close_approval(cycle_id, "expired", "too late")


def test_the_same_evidence_is_asked_once_and_other_evidence_voids_the_answer(control: Control) -> None:
    cycle_id = asked(control)
    control.decide_approval(cycle_id, "approved", "cli:ann", "yes")
    asked(control)
    assert control.approval(cycle_id).decision == "approved"  # type: ignore[union-attr]
    asked(control, "e2")
    again = control.approval(cycle_id)
    assert again is not None and (again.decision, again.evidence_hash) == (None, "e2")
    assert control.records()[-1].payload["voids"] == "e1"


def test_a_question_expires_by_the_clock_alone(control: Control, clock: Clock) -> None:
    cycle_id = asked(control)
    clock.now = NOON + 3 * DAY - timedelta(microseconds=1)
    assert control.approvals(waiting=True)
    clock.now = NOON + 3 * DAY
    assert control.approvals(waiting=True) == [] and control.approval(cycle_id).state(clock.now) == "expired"  # type: ignore[union-attr]
    with pytest.raises(Refused, match="expired at 2026-11-26"):
        control.decide_approval(cycle_id, "approved", "cli:ann", "yes")
    assert control.close_approval(cycle_id, "expired", "nobody answered within 3 days")
    assert control.approval(cycle_id).decision == "expired" and said(control)[-1] == "approval_expired"  # type: ignore[union-attr]


def test_who_overrode_a_gate_cannot_approve_whatever_door_they_come_through(control: Control, clock: Clock) -> None:
    control.override_gate("local", "ndcg_at_10", 0.6, "api:Ann", "an old one", old=None, expires_in=timedelta(hours=1))
    clock.now += timedelta(hours=2)
    cycle_id = asked(control)
    control.decide_approval(asked(control), "approved", "cli:ann", "the override ended before the cycle was opened")
    control.transition(cycle_id, "cancelled", "next", "test")
    clock.now += timedelta(hours=1)
    cycle_id = asked(control)
    control.override_gate("local", "ndcg_at_10", 0.6, "api:Ann", "noise", old=0.75)
    with pytest.raises(Refused, match="overrode the gate of ndcg_at_10"):
        control.decide_approval(cycle_id, "approved", "cli:ann", "yes")
    assert control.approval(cycle_id).decision is None  # type: ignore[union-attr]
    assert control.decide_approval(cycle_id, "approved", "cli:bob", "yes").decision == "approved"
    assert [one.metric for one in control.overrides_of_cycle(cycle_id)] == ["ndcg_at_10"]


def test_in_a_contour_of_one_person_it_is_recorded_instead(control: Control) -> None:
    cycle_id = asked(control)
    control.override_gate("local", "ndcg_at_10", 0.6, "cli:ann", "noise", old=None)
    control.decide_approval(cycle_id, "approved", "cli:ann", "yes", separated=False)
    assert control.records()[-1].payload["overrode"] == ["ndcg_at_10"]


def test_an_answer_needs_a_question_a_name_and_a_reason(control: Control) -> None:
    cycle_id = control.open_cycle("local", TRIGGER, "sensor", "r").cycle_id
    with pytest.raises(Missing, match="nobody was asked"):
        control.decide_approval(cycle_id, "approved", "cli:ann", "yes")
    for actor, reason in (("", "yes"), ("cli:ann", " ")):
        with pytest.raises(BadInput):
            control.decide_approval(cycle_id, "approved", actor, reason)


# --------------------------------------------------------------------------- overrides


def test_an_override_ends_by_itself_and_a_new_one_replaces_it(control: Control, clock: Clock) -> None:
    control.override_gate("local", "ndcg_at_10", 0.70, "api:ann", "noise", old=0.75, expires_in=timedelta(hours=2))
    clock.now += timedelta(hours=1)
    control.override_gate("local", "ndcg_at_10", 0.65, "api:bob", "more noise", old=0.70, expires_in=timedelta(hours=2))
    assert {name: one.threshold for name, one in control.gate_overrides("local").items()} == {"ndcg_at_10": 0.65}
    assert control.gate_overrides("edge-oracle") == {}
    clock.now += timedelta(hours=2)
    assert control.gate_overrides("local") == {}
    assert said(control) == ["gate_overridden", "gate_overridden"]


def test_an_override_can_be_taken_back(control: Control) -> None:
    control.override_gate("local", "ndcg_at_10", 0.70, "api:ann", "noise", old=0.75)
    assert control.end_override("local", "ndcg_at_10", "api:bob", "it was no noise")
    assert not control.end_override("local", "ndcg_at_10", "api:bob", "again")
    assert control.gate_overrides("local") == {} and said(control) == ["gate_overridden", "gate_override_ended"]


@pytest.mark.parametrize("lasts", [timedelta(0), timedelta(days=31)])
def test_an_override_lasts_neither_no_time_nor_for_good(control: Control, lasts: timedelta) -> None:
    with pytest.raises(BadInput, match="lasts up to 30 days"):
        control.override_gate("local", "ndcg_at_10", 0.7, "api:ann", "noise", old=None, expires_in=lasts)


# --------------------------------------------------------------------------- champions and flags


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_champions_follow_each_other_without_gap_or_overlap(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    clock = Clock()
    control = Control(tmp_path_factory.mktemp("champions") / "control.db", clock=clock)
    for name in names:
        control.champion_changed("local", "sha256:" + name * 64, f"{name} is better", commit=name * 40)
        clock.now += timedelta(minutes=1)
    spans = control.champions("local")[::-1]
    changes = [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]
    assert [one.digest[7] for one in spans] == changes
    assert [one.until for one in spans] == [*(one.since for one in spans[1:]), None][: len(spans)]
    assert [record.payload["before"] for record in control.records()] == [None, *(one.digest for one in spans[:-1])][: len(spans)]


def test_a_lost_history_is_put_back_and_one_that_cannot_be_is_refused(control: Control) -> None:
    control.champion_changed("local", B, "wrong")
    control.champion_changed("edge-oracle", B, "another contour's")
    first = ChampionSpan(contour="local", digest=A, cycle_id=None, since=NOON - DAY, until=NOON, why="seed", commit="1" * 40)
    second = ChampionSpan(contour="local", digest=B, cycle_id="si_2026_11_23_001", since=NOON, why="deploy", commit="2" * 40)
    control.restore_champions("local", [second, first], "cli:ann", "lost")
    assert control.champions("local") == [second, first] and len(control.champions("edge-oracle")) == 1
    for wrong in ([second, first.model_copy(update={"until": None})], [first.model_copy(update={"contour": "edge-oracle"})]):
        with pytest.raises(BadInput, match="Derive the history"):
            control.restore_champions("local", wrong, "cli:ann", "lost")
    assert control.champions("local") == [second, first]


def test_a_flag_is_turned_once_per_change(control: Control) -> None:
    assert control.set_feature_flag("local", "promote", False, "api:ann", "freeze")
    assert not control.set_feature_flag("local", "promote", False, "api:bob", "freeze")
    assert control.set_feature_flag("local", "promote", True, "api:bob", "over")
    assert {name: flag.on for name, flag in control.feature_flags("local").items()} == {"promote": True}
    assert control.feature_flags("edge-oracle") == {} and said(control) == ["feature_flag_set"] * 2
    assert control.verify() == []
