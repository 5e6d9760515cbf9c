"""The database refuses to change the ledger, also for somebody who comes past the program; what wall clocks do does not change who is the newest."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from predator_si.control import Control
from predator_si.records import Trigger
from predator_si_tests.unit.test_control_migrations import old_database

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRIGGER = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.1, actions=(), reason="a drop")
SEGMENT = "INSERT INTO ledger_segments VALUES (1, 2, 'a', 'b', 'c', 'd', 'e', 'f')"
REFUSED = (
    "UPDATE ledger SET reason = 'nicer' WHERE seq = 2",
    "UPDATE ledger SET seq = seq + 10",
    "DELETE FROM ledger WHERE seq = 3",
    "DELETE FROM ledger",
    "INSERT OR REPLACE INTO ledger SELECT 2, timestamp, action, 'mallory', cycle_id, reason, payload, previous_hash, hash FROM ledger WHERE seq = 2",
    "INSERT INTO ledger SELECT 0, timestamp, action, actor, cycle_id, reason, payload, previous_hash, hash FROM ledger WHERE seq = 1",
)


def filled(path: Path) -> Control:
    control = Control(path)
    for number in range(3):
        control.append("note", "test", payload={"n": number})
    return control


@pytest.mark.parametrize("statement", REFUSED)
def test_no_statement_changes_a_record(tmp_path: Path, statement: str) -> None:
    control = filled(tmp_path / "c.db")
    before = control.records()
    with sqlite3.connect(tmp_path / "c.db") as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(statement)
    assert control.records() == before and control.verify() == []


def test_an_upgraded_database_refuses_too(tmp_path: Path) -> None:
    Control(old_database(tmp_path))
    with sqlite3.connect(tmp_path / "control.db") as raw:
        for statement in REFUSED:
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


def test_only_a_sealed_prefix_may_go_and_a_segment_never(tmp_path: Path) -> None:
    filled(tmp_path / "c.db")
    with sqlite3.connect(tmp_path / "c.db") as raw:
        raw.execute(SEGMENT)
        with pytest.raises(sqlite3.IntegrityError, match="before it is sealed"):
            raw.execute("DELETE FROM ledger WHERE seq <= 3")
        assert raw.execute("DELETE FROM ledger WHERE seq <= 2").rowcount == 2
        for statement in ("DELETE FROM ledger_segments", "UPDATE ledger_segments SET last_seq = 3"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)
        assert raw.execute("SELECT seq FROM ledger").fetchall() == [(3,)]


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1), timedelta(days=365), timedelta(days=-365)], ids=str)
def test_a_jump_of_the_clock_does_not_change_which_cycle_is_the_newest(tmp_path: Path, jump: timedelta) -> None:
    now = [NOON]
    control = Control(tmp_path / "c.db", clock=lambda: now[0])
    opened = []
    for step in (timedelta(0), jump, timedelta(0)):  # there and back again
        now[0] = NOON + step + timedelta(minutes=len(opened))
        cycle = control.open_cycle("local", TRIGGER, "test", "r")
        control.transition(cycle.cycle_id, "failed", "over", "test")
        control.champion_changed("local", f"sha256:{len(opened):064d}", "a test", cycle_id=cycle.cycle_id)
        opened.append(cycle.cycle_id)
    assert [cycle.cycle_id for cycle in control.cycles()] == opened[::-1]
    assert [cycle.cycle_id for cycle in control.cycles(1, before=opened[2])] == [opened[1]]
    assert [span.cycle_id for span in control.champions("local")] == opened[::-1]
    assert control.verify() == [] and len(set(opened)) == 3
    hour_ago = NOON - timedelta(hours=1)
    assert control.actions_since(hour_ago)["cycle_opened"] == (3 if jump > timedelta(0) else 2), "counted by the time that each record says"
