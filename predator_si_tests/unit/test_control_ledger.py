"""The hash chain: what it detects, and what it says it cannot."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.control import Control, chain_problems, ledger_hash
from predator_si.errors import BadInput
from predator_si.records import LedgerRecord

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(lambda text: text.strip())


def _filled(path: Path, n: int = 5) -> Control:
    control = Control(path)
    for index in range(n):
        control.append("tested", "pytest", cycle_id="si_2026_11_22_001" if index % 2 else None, reason=f"r{index}", payload={"index": index})
    return control


def _sql(path: Path, *statements: str) -> None:
    """What somebody does who owns the file: the database's own guards go first."""
    raw = sqlite3.connect(path)
    for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        raw.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        raw.execute(statement)
    raw.commit()
    raw.close()


def test_the_hash_is_what_the_docstring_says(tmp_path: Path) -> None:
    control = Control(tmp_path / "c.db", clock=lambda: datetime(2026, 11, 22, 12, 30, tzinfo=UTC))
    record = control.append("підписано", "olena", reason="тест", payload={"b": 1.5, "a": [None, True]})
    body = {"action": "підписано", "actor": "olena", "cycle_id": None, "payload": {"a": [None, True], "b": 1.5}, "previous_hash": "0" * 64, "reason": "тест"}
    body |= {"seq": 1, "timestamp": "2026-11-22T12:30:00.000000+00:00"}
    assert record.hash == hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert control.head() == (1, record.hash)


def test_a_whole_ledger_has_no_problems(tmp_path: Path) -> None:
    assert Control(tmp_path / "empty.db").verify() == []
    assert _filled(tmp_path / "c.db").verify() == []


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE ledger SET reason = 'nicer' WHERE seq = 3"], "record 3 was changed"),
        (["UPDATE ledger SET payload = '{\"index\":7}' WHERE seq = 3"], "record 3 was changed"),
        (["UPDATE ledger SET timestamp = '2020-01-01T00:00:00.000000+00:00' WHERE seq = 2"], "record 2 was changed"),
        (["UPDATE ledger SET actor = 'nobody' WHERE seq = 5"], "record 5 was changed"),
        (["UPDATE ledger SET payload = '{' WHERE seq = 3"], "record 3 cannot be read"),
        (["UPDATE ledger SET hash = previous_hash WHERE seq = 3"], "record 3 was changed"),
        (["DELETE FROM ledger WHERE seq = 3"], "record 3 is missing"),
        (["DELETE FROM ledger WHERE seq IN (2, 3)"], "records 2 to 3 are missing"),
        (["DELETE FROM ledger WHERE seq = 1"], "record 1 is missing"),
        (["DELETE FROM ledger WHERE seq = 3", "UPDATE ledger SET seq = seq - 1 WHERE seq > 3"], "record 3"),
        (["UPDATE ledger SET seq = -1 WHERE seq = 2", "UPDATE ledger SET seq = 2 WHERE seq = 3", "UPDATE ledger SET seq = 3 WHERE seq = -1"], "record 2"),
        (["DELETE FROM ledger WHERE seq = 5"], "the tail was cut"),
        (["DELETE FROM ledger"], "the tail was cut"),
        (["DELETE FROM ledger_head"], "the head row is missing"),
        (["UPDATE ledger_head SET hash = 'x'"], "does not agree"),
        (["INSERT INTO ledger SELECT 6, timestamp, action, actor, cycle_id, reason, payload, hash, hash FROM ledger WHERE seq = 5"], "head row does not know"),
    ],
)
def test_tampering_is_seen(tmp_path: Path, statements: list[str], said: str) -> None:
    control = _filled(tmp_path / "c.db")
    _sql(tmp_path / "c.db", *statements)
    problems = control.verify()
    assert any(said in problem for problem in problems), problems


def test_a_cycle_moved_behind_the_ledgers_back_is_seen(tmp_path: Path) -> None:
    from predator_si_tests.unit.test_control_cycles import TRIGGER

    control = Control(tmp_path / "c.db")
    cycle = control.open_cycle("local", TRIGGER, "a", "r")
    _sql(tmp_path / "c.db", "UPDATE cycles SET state = 'stable'")
    assert control.verify() == [f"cycle {cycle.cycle_id} stands at stable, the ledger says opened"]


def test_what_it_cannot_detect_needs_the_anchor(tmp_path: Path) -> None:
    control = _filled(tmp_path / "c.db")
    anchor = control.head()
    last = control.records()[-1]
    forged = last.model_copy(update={"reason": "forged"})
    forged = forged.model_copy(update={"hash": ledger_hash(forged)})
    _sql(tmp_path / "c.db", f"UPDATE ledger SET reason = 'forged', hash = '{forged.hash}' WHERE seq = 5", f"UPDATE ledger_head SET hash = '{forged.hash}'")
    assert control.verify() == []  # as documented
    assert control.head() != anchor  # and this is how it is found


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(WORDS, WORDS, st.dictionaries(st.text(max_size=6), JSON, max_size=3)), min_size=1, max_size=4), st.data())
def test_any_content_survives_storage_and_any_change_breaks_the_chain(tmp_path_factory: pytest.TempPathFactory, entries: list, data: st.DataObject) -> None:
    control = Control(tmp_path_factory.mktemp("chain") / "c.db")
    written = [control.append(action, actor, payload=payload) for action, actor, payload in entries]
    read = control.records()
    assert read == written
    assert control.verify() == []
    victim = data.draw(st.integers(0, len(read) - 1))
    field = data.draw(st.sampled_from(["reason", "actor", "action", "cycle_id", "previous_hash", "hash"]))
    changed = read[victim].model_copy(update={field: (getattr(read[victim], field) or "") + "x"})
    head = control.head()
    assert chain_problems([*read[:victim], changed, *read[victim + 1 :]], head)
    assert chain_problems([*read[:victim], *read[victim + 1 :]], head)
    if len(read) > 1:
        assert chain_problems([read[1], read[0], *read[2:]], head)


@pytest.mark.parametrize("payload", [{"x": math.nan}, {"x": math.inf}, {"x": datetime.now(UTC)}, {1: 2, "1": 3}, {"x": b"raw"}])
def test_a_payload_that_is_not_plain_json_is_refused_and_writes_nothing(tmp_path: Path, payload: dict) -> None:
    control = Control(tmp_path / "c.db")
    with pytest.raises(BadInput, match="plain JSON"):
        control.append("a", "b", payload=payload)
    assert control.records() == []


@pytest.mark.parametrize(("action", "actor", "reason"), [("", "b", ""), ("a", "  ", ""), ("a\0", "b", ""), ("a", "b", "\ud800")])
def test_nameless_or_unwritable_text_is_refused(tmp_path: Path, action: str, actor: str, reason: str) -> None:
    with pytest.raises(BadInput):
        Control(tmp_path / "c.db").append(action, actor, reason=reason)


def test_records_are_paged_oldest_first(tmp_path: Path) -> None:
    control = _filled(tmp_path / "c.db", 6)
    assert [record.seq for record in control.records(limit=2)] == [5, 6]
    assert [record.seq for record in control.records(limit=2, after_seq=1)] == [2, 3]
    assert [record.seq for record in control.records(cycle_id="si_2026_11_22_001")] == [2, 4, 6]
    assert isinstance(control.records()[0], LedgerRecord)


def test_the_sealed_test_set_opens_once_per_evaluation_and_is_counted(tmp_path: Path) -> None:
    control = Control(tmp_path / "c.db")
    assert control.sealed_openings("python-docs") == 0
    assert control.open_sealed("si_2026_11_22_001", "python-docs", "job") == 1
    assert control.open_sealed("si_2026_11_22_001", "python-docs", "job") == 1
    assert control.open_sealed("si_2026_11_22_001", "scifact", "job") == 1
    assert control.open_sealed("si_2026_11_22_002", "python-docs", "job") == 2
    assert control.open_sealed("si_2026_11_22_002", "python-docs", "job", evaluation_id="after-retrain") == 3
    assert control.sealed_openings("python-docs") == 3
    assert [record.payload["opening"] for record in control.records()] == [1, 1, 2, 3]


def test_an_opening_knows_which_of_its_month_it_is(tmp_path: Path) -> None:
    now = [datetime(2026, 11, 3, tzinfo=UTC)]
    control = Control(tmp_path / "c.db", clock=lambda: now[0])
    control.open_sealed("si_2026_11_03_001", "docs", "job")
    now[0] = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    control.open_sealed("si_2026_11_30_001", "docs", "job")
    control.open_sealed("si_2026_11_30_001", "other", "job")
    now[0] = datetime(2027, 2, 1, 1, tzinfo=timezone(timedelta(hours=2)))  # still January by UTC
    for _ in range(2):
        control.open_sealed("si_2027_01_31_001", "docs", "job")
    openings = [control.sealed_opening(cycle, "docs") for cycle in ("si_2026_11_03_001", "si_2026_11_30_001", "si_2027_01_31_001")]
    assert [(one.opening, one.period, one.candidate, one.rotation) for one in openings if one] == [
        (1, "2026-11", 1, 0),
        (2, "2026-11", 2, 0),
        (3, "2027-01", 1, 1),
    ]
    assert control.sealed_opening("si_2026_11_03_001", "other") is None
    said = [record.payload for record in control.records() if record.payload["corpus"] == "docs"]
    assert [(payload["candidate"], payload["rotation"]) for payload in said] == [(1, 0), (2, 0), (1, 1)]


def test_notes_keep_json_and_forget_what_they_replaced(tmp_path: Path) -> None:
    control = Control(tmp_path / "c.db")
    assert control.get_note("cursor") is None
    control.set_note("cursor", {"seq": 3, "runs": ["a"]})
    control.set_note("cursor", {"seq": 4})
    assert Control(tmp_path / "c.db").get_note("cursor") == {"seq": 4}
    with pytest.raises(BadInput, match="note 'bad'"):
        control.set_note("bad", {1, 2})
