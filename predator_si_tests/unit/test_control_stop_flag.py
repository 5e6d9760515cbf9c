"""The kill switch as a file: it holds while the database cannot be written, and its word reaches the ledger."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from predator_si.control import Control
from predator_si.control.stop_flag import Press, StopFlags, press_switch
from predator_si.errors import Refused, Unavailable
from predator_si.records import Trigger

TRIGGER = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.2, actions=("diagnose",), reason="it dropped")


def locked(path: Path) -> sqlite3.Connection:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder


def press(control: Control, flags: StopFlags, actor: str = "olena") -> tuple[bool, str | None]:
    found = press_switch(lambda: control.set_kill_switch("local", True, actor, "freeze"), flags, "local", actor, "freeze")
    return found.changed, found.problem


def test_a_locked_database_is_stopped_by_a_file_whose_word_reaches_the_ledger(tmp_path: Path) -> None:
    control, flags = Control(tmp_path / "control.db", busy_seconds=0.05), StopFlags(tmp_path)
    holder = locked(tmp_path / "control.db")
    changed, problem = press(control, flags)
    assert changed and problem is not None and "locked" in problem
    assert control.kill_switch("local") and not control.kill_switch("edge-oracle")
    assert press(control, flags)[0] is False
    holder.execute("ROLLBACK")
    holder.close()
    with pytest.raises(Refused, match="kill switch"):
        control.open_cycle("local", TRIGGER, "a", "r")
    assert control.settle_stop("local") and not control.settle_stop("local")
    assert flags.pressed("local") is None and control.kill_switch("local")
    (record,) = control.records()
    assert (record.action, record.actor, record.reason) == ("kill_switch_on", "olena", "freeze")


def test_lifting_a_file_leaves_both_records(tmp_path: Path) -> None:
    control, flags = Control(tmp_path / "control.db"), StopFlags(tmp_path)
    flags.press("local", "olena", "freeze")
    assert control.set_kill_switch("local", False, "petro", "over") is True
    assert not control.kill_switch("local") and not flags.path("local").exists()
    assert [(one.action, one.actor) for one in control.records()] == [("kill_switch_on", "olena"), ("kill_switch_off", "petro")]


def test_a_full_database_is_stopped_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    control, flags = Control(path), StopFlags(tmp_path)
    sa.event.listen(control._database._engine, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count=1"))  # SQLite takes the pages there are
    for size in (2000, 1):  # the last gaps, too
        with pytest.raises(Unavailable, match="disk refuses"):
            for number in range(1000):
                control.append("noted", "test", None, "x" * size, {"n": number})
    before = control.head()
    changed, problem = press(control, flags)
    assert changed and problem is not None and "disk refuses" in problem
    assert control.kill_switch("local") and control.head() == before
    assert not Control(path).verify() and Control(path).settle_stop("local") and Control(path).records()[-1].action == "kill_switch_on"


def test_an_empty_or_broken_file_stops_too_and_one_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    control, flags = Control(tmp_path / "control.db"), StopFlags(tmp_path)
    for text in ("", "{", "[1]"):
        flags.path("local").write_text(text)
        assert control.kill_switch("local") and flags.pressed("local") == Press("unknown", "stop-local.flag was there; it does not say whose it is")
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be made"):
        StopFlags(tmp_path / "file").press("local", "a", "r")
    assert StopFlags(tmp_path).path("../x").parent == tmp_path
