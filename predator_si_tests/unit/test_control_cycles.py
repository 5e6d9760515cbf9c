"""Cycles in the control database: ids, the state machine, one at a time, and what it says about a bad file."""

from __future__ import annotations

import multiprocessing
import re
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.control import ACTIVE, ENDED, Control, is_legal
from predator_si.errors import BadInput, Missing, PredatorError, Refused, Unavailable
from predator_si.records import CYCLE_ID, CycleState, Trigger

TRIGGER = Trigger(type="ndcg_at_10", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.2, actions=("diagnose",), reason="0.40 is below 0.97 x 0.50")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "home" / "control.db", clock=lambda: NOON)


def test_a_cycle_is_opened_with_its_trigger_and_one_ledger_record(control: Control) -> None:
    cycle = control.open_cycle("local", TRIGGER, "sensor", "gate failed")
    assert cycle.cycle_id == "si_2026_11_22_001"
    assert (cycle.state, cycle.trigger, cycle.actor, cycle.opened_at) == (CycleState.OPENED, TRIGGER, "sensor", NOON)
    assert control.cycle(cycle.cycle_id) == cycle == control.active_cycle("local")
    (record,) = control.records()
    assert (record.action, record.actor, record.cycle_id, record.reason) == ("cycle_opened", "sensor", cycle.cycle_id, "gate failed")
    assert record.payload["trigger"]["value"] == 0.4


def test_one_cycle_at_a_time_per_contour(control: Control) -> None:
    first = control.open_cycle("local", TRIGGER, "a", "r")
    with pytest.raises(Refused, match=first.cycle_id):
        control.open_cycle("local", TRIGGER, "a", "r")
    assert control.open_cycle("edge-oracle", TRIGGER, "a", "r").cycle_id == "si_2026_11_22_002"  # the sequence is shared, the lock is not
    control.transition(first.cycle_id, "released", "r", "a")
    control.transition(first.cycle_id, "watching", "r", "a")
    with pytest.raises(Refused, match="watching"):
        control.open_cycle("local", TRIGGER, "a", "r")
    control.transition(first.cycle_id, "stable", "r", "a")
    assert control.active_cycle("local") is None
    assert control.open_cycle("local", TRIGGER, "a", "r").cycle_id == "si_2026_11_22_003"
    assert len(control.records(cycle_id=first.cycle_id)) == 4  # refusals leave no trace in the ledger


def test_the_database_itself_holds_one_active_cycle(control: Control, tmp_path: Path) -> None:
    control.open_cycle("local", TRIGGER, "a", "r")
    with sqlite3.connect(tmp_path / "home" / "control.db") as raw, pytest.raises(sqlite3.IntegrityError):
        raw.execute("INSERT INTO cycles SELECT 'si_2026_11_22_900', contour, state, trigger, opened_at, updated_at, reason, actor, opened_seq FROM cycles")


def test_the_kill_switch_stops_new_cycles_of_its_contour_only(control: Control) -> None:
    assert control.set_kill_switch("local", True, "olena", "maintenance") is True
    assert control.set_kill_switch("local", True, "olena", "again") is False
    with pytest.raises(Refused, match="kill switch"):
        control.open_cycle("local", TRIGGER, "a", "r")
    control.open_cycle("edge-oracle", TRIGGER, "a", "r")
    assert control.set_kill_switch("local", False, "olena", "done") is True
    control.open_cycle("local", TRIGGER, "a", "r")
    assert [record.action for record in control.records()] == ["kill_switch_on", "cycle_opened", "kill_switch_off", "cycle_opened"]


def test_the_kill_switch_lets_a_released_cycle_be_rolled_back(control: Control) -> None:
    cycle = control.open_cycle("local", TRIGGER, "a", "r")
    control.transition(cycle.cycle_id, "released", "r", "a")
    control.set_kill_switch("local", True, "olena", "stop")
    assert control.transition(cycle.cycle_id, "rolled_back", "degraded", "watch").state is CycleState.ROLLED_BACK


def test_a_transition_repeated_changes_nothing(control: Control) -> None:
    cycle = control.open_cycle("local", TRIGGER, "a", "r")
    once = control.transition(cycle.cycle_id, CycleState.PREPARED, "dataset made", "job", payload={"examples": 3}, now=NOON + timedelta(minutes=1))
    again = control.transition(cycle.cycle_id, CycleState.PREPARED, "other words", "job", expected={CycleState.OPENED}, now=NOON + timedelta(minutes=2))
    assert once == again
    assert once.updated_at == NOON + timedelta(minutes=1)
    assert [record.payload.get("examples") for record in control.records()] == [None, 3]


def test_an_unexpected_state_is_refused_and_named(control: Control) -> None:
    cycle = control.open_cycle("local", TRIGGER, "a", "r")
    control.transition(cycle.cycle_id, "cancelled", "stop", "olena")
    with pytest.raises(Refused, match="is cancelled, not on_trial"):
        control.transition(cycle.cycle_id, "decided", "r", "a", expected={CycleState.ON_TRIAL})
    with pytest.raises(Refused, match="it has ended"):
        control.transition(cycle.cycle_id, "decided", "r", "a")


def test_a_stable_release_may_still_be_taken_back_while_the_next_cycle_runs(control: Control) -> None:
    first = control.open_cycle("local", TRIGGER, "a", "r")
    for state in ("released", "stable"):
        control.transition(first.cycle_id, state, "r", "a")
    control.open_cycle("local", TRIGGER, "a", "r")
    assert control.current_release("local").cycle_id == first.cycle_id  # type: ignore[union-attr]
    control.transition(first.cycle_id, "rolled_back", "complaints", "olena")
    assert control.current_release("local") is None


def test_unknown_cycle_and_unknown_state_are_named(control: Control) -> None:
    with pytest.raises(Missing, match="si_2026_01_01_001"):
        control.cycle("si_2026_01_01_001")
    cycle = control.open_cycle("local", TRIGGER, "a", "r")
    with pytest.raises(BadInput, match="'done' is no state"):
        control.transition(cycle.cycle_id, "done", "r", "a")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 3), timezones=st.sampled_from([UTC, None])), min_size=1, max_size=6))  # noqa: DTZ001
def test_ids_are_unique_well_formed_and_of_the_utc_day(tmp_path_factory: pytest.TempPathFactory, moments: list[datetime]) -> None:
    control = Control(tmp_path_factory.mktemp("ids") / "control.db")
    seen: list[str] = []
    for index, moment in enumerate(moments):
        if moment.tzinfo is None:
            with pytest.raises(BadInput, match="no time zone"):
                control.open_cycle(f"c{index}", TRIGGER, "a", "r", now=moment)
            continue
        cycle_id = control.open_cycle(f"c{index}", TRIGGER, "a", "r", now=moment).cycle_id
        assert CYCLE_ID.match(cycle_id)
        assert cycle_id.startswith(moment.strftime("si_%Y_%m_%d_"))
        seen.append(cycle_id)
    assert len(set(seen)) == len(seen)
    for prefix in {cycle_id[:-3] for cycle_id in seen}:
        numbers = [int(cycle_id[-3:]) for cycle_id in seen if cycle_id.startswith(prefix)]
        assert numbers == list(range(1, len(numbers) + 1))


STATES = st.sampled_from(list(CycleState))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STATES, max_size=7))
def test_any_walk_follows_the_state_machine_and_the_ledger_tells_it(tmp_path_factory: pytest.TempPathFactory, walk: list[CycleState]) -> None:
    control = Control(tmp_path_factory.mktemp("walk") / "control.db")
    cycle = control.open_cycle("local", TRIGGER, "a", "r")
    state, told = CycleState.OPENED, ["opened"]
    for to in walk:
        if to is state:
            control.transition(cycle.cycle_id, to, "r", "a")
        elif is_legal(state, to):
            state = control.transition(cycle.cycle_id, to, "r", "a").state
            told.append(state.value)
            assert state is to
        else:
            with pytest.raises(Refused):
                control.transition(cycle.cycle_id, to, "r", "a")
        assert control.cycle(cycle.cycle_id).state is state
    assert [record.payload["to"] for record in control.records()] == told
    assert (control.active_cycle("local") is not None) == (state in ACTIVE)
    assert control.verify() == []


@given(STATES, STATES)
def test_the_state_machine_as_design_section_3_has_it(current: CycleState, to: CycleState) -> None:
    order = ["opened", "prepared", "trained", "evaluated", "on_trial", "decided", "awaiting_approval", "released", "watching", "stable"]
    ends = {"rejected", "rolled_back", "cancelled", "expired", "failed"}
    assert {state.value for state in ENDED} == ends
    legal = is_legal(current, to)
    if current.value in ends:
        assert not legal
    elif current is CycleState.STABLE:
        assert legal == (to is CycleState.ROLLED_BACK)
    elif to.value in order[:-1]:
        assert legal == (order.index(to.value) > order.index(current.value))
    elif to is CycleState.FAILED:
        assert legal
    elif current.value in ("released", "watching"):
        assert legal == (to.value in ("stable", "rolled_back"))


# --------------------------------------------------------------------------- two at once


def _open_and_append(path: str, worker: int, results: object) -> None:
    control = Control(path)
    opened, refused = [], 0
    for index in range(6):
        try:
            opened.append(control.open_cycle("shared", TRIGGER, f"w{worker}", "race").cycle_id)
        except Refused:
            refused += 1
        opened.append(control.open_cycle(f"own-{worker}-{index}", TRIGGER, f"w{worker}", "race").cycle_id)
        control.append("note", f"w{worker}", payload={"index": index})
    results.put((opened, refused))  # type: ignore[attr-defined]


def test_processes_and_threads_never_share_an_id_or_a_ledger_number(tmp_path: Path) -> None:
    path = str(tmp_path / "control.db")  # nobody made it before: the race includes its creation
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_open_and_append, args=(path, worker, results)) for worker in (1, 2)]
    threads = [threading.Thread(target=_open_and_append, args=(path, worker, results)) for worker in (3, 4)]
    for part in (*processes, *threads):
        part.start()
    outcomes = [results.get(timeout=60) for _ in range(4)]
    for part in (*processes, *threads):
        part.join(timeout=60)
    ids = [cycle_id for opened, _ in outcomes for cycle_id in opened]
    assert len(ids) == len(set(ids)) == 4 * 6 + 1  # "shared" was won exactly once
    assert sum(refused for _, refused in outcomes) == 4 * 6 - 1
    control = Control(path)
    assert [record.seq for record in control.records(limit=1000)] == list(range(1, 25 + 24 + 1))
    assert control.verify() == []


# --------------------------------------------------------------------------- bad places


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=re.escape(str(tmp_path / "file"))):
        Control(tmp_path / "file" / "control.db")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "control.db").mkdir()
    with pytest.raises(BadInput, match="cannot be opened for writing"):
        Control(tmp_path / "control.db")


@pytest.mark.parametrize("damage", [b"hello, I am not a database at all" * 100, None])
def test_a_corrupt_file_is_named_and_kept(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "control.db"
    if damage is None:
        Control(path).append("a", "b")
        damage = path.read_bytes()[:4096] + b"\xff" * 8192
    path.write_bytes(damage)
    with pytest.raises(BadInput, match=r"control\.db: not a usable control database"):
        Control(path)
    assert path.read_bytes() == damage


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Control(tmp_path / "control.db")
    with sqlite3.connect(tmp_path / "control.db") as raw:
        raw.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(BadInput, match="schema version 99"):
        Control(tmp_path / "control.db")


def test_a_database_locked_by_somebody_is_unavailable_not_broken(tmp_path: Path) -> None:
    control = Control(tmp_path / "control.db", busy_seconds=0.05)
    raw = sqlite3.connect(tmp_path / "control.db", isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        control.append("a", "b")
    assert control.records() == []  # readers go on
    raw.execute("ROLLBACK")
    raw.close()
    assert control.append("a", "b").seq == 1


@pytest.mark.parametrize("bad", ["sqlite://", "nonsense://x y", "sqlite:///:memory:"])
def test_urls_that_cannot_work_are_refused(bad: str) -> None:
    with pytest.raises(PredatorError):
        Control(bad)


def test_an_sqlite_url_is_accepted(tmp_path: Path) -> None:
    Control(f"sqlite:///{tmp_path / 'c.db'}").append("a", "b")
    assert Control(tmp_path / "c.db").head() is not None
