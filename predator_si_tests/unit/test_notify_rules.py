"""Which ledger records and which states are worth a message, what it says, and Alertmanager's payload."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from predator_si.control import Control
from predator_si.errors import BadInput
from predator_si.notify import Place, events_of, from_alertmanager, rules
from predator_si.notify.log import LOG, refused, write_to
from predator_si.records import Answer, Criterion, CycleState, GateResult
from predator_si_tests.support.platform import open_cycle

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PLACE = Place("http://127.0.0.1:8000", "local")


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control.db")


def test_a_cycles_life_as_messages(control: Control):
    cycle = open_cycle(control).cycle_id
    for state in (CycleState.PREPARED, CycleState.RELEASED, CycleState.WATCHING):
        control.transition(cycle, state, "because", "loop")
    control.append("rollback", "loop", cycle, "ndcg below baseline", {"verified": True, "from": "sha256:bad", "to": "sha256:good"})
    control.transition(cycle, CycleState.ROLLED_BACK, "ndcg below baseline", "loop")
    control.set_kill_switch("local", True, "olena", "stop it")
    found = events_of(control.records(), PLACE)
    assert [(event.kind, event.severity) for event in found] == [("degrade", "warning"), ("rollback", "critical"), ("kill_switch", "warning")]
    assert found[1].link == f"http://127.0.0.1:8000/operations/cycles/{cycle}" and "sha256:good" in found[1].title and found[1].text == "ndcg below baseline"
    assert "olena" in found[2].title and all(event.next_step for event in found)
    assert len({event.key for event in found}) == 3


def test_an_exercise_and_a_silenced_degrade_are_not_told(control: Control):
    open_cycle(control, actor="drill")
    assert events_of(control.records(), PLACE) == []
    real = open_cycle(Control(control._database.name + "2"))  # another contour's ledger
    assert real.actor == "test"
    assert events_of(Control(control._database.name + "2").records(), PLACE, alert_on_degrade=False) == []


def test_a_rollback_that_is_not_confirmed_and_a_watch_that_failed_are_critical(control: Control):
    cycle = open_cycle(control).cycle_id
    control.append("rollback", "loop", cycle, "x", {"verified": False, "to": "sha256:old"})
    control.append("run_failed", "dagster", cycle, "boom", {"job": "watch_job"})
    control.append("run_failed", "dagster", cycle, "boom", {"job": "cycle_train_job"})
    control.append("rollback_confirmed", "loop", cycle, "the service reports it", {"to": "sha256:old"})
    found = events_of(control.records(), PLACE)[1:]
    assert [event.severity for event in found] == ["critical", "critical", "info"]
    assert "not confirmed" in found[0].title and "watch_job" in found[1].title and "is confirmed: sha256:old serves again" in found[2].title


def gate(metric: str, answer: Answer, doubt: str | None = None, critical: bool = True) -> GateResult:
    criterion = Criterion(name=f"{metric}_min", metric=metric, direction="min", threshold=0.5, critical=critical)
    return GateResult.model_validate({"criterion": criterion, "answer": answer, "value": None, "reason": f"{metric} is so", "doubt": doubt})


def test_states_that_are_worth_a_message(control: Control):
    assert rules.stale_data(None, [], PLACE, NOW, NOW - timedelta(minutes=44)) == []
    assert rules.stale_data(None, [], PLACE, NOW, NOW - timedelta(minutes=46))[0].severity == "critical"
    blind = [gate("ndcg_at_10", Answer.UNKNOWN, "missing"), gate("gpu", Answer.UNKNOWN, "missing", critical=False), gate("p95", Answer.UNKNOWN, "sample")]
    (stale,) = rules.stale_data(None, blind, PLACE, NOW, NOW)
    assert "ndcg_at_10" in stale.title and "gpu" not in stale.title and "p95" not in stale.title
    low = [gate("ndcg_at_10", Answer.FAIL)]
    assert rules.degraded(low, PLACE, NOW, None) == [] and rules.degraded([gate("x", Answer.PASS)], PLACE, NOW, "why") == []
    assert "the interval is 1h" in rules.degraded(low, PLACE, NOW, "the interval is 1h")[0].text
    cycle = open_cycle(control).cycle_id
    control.transition(cycle, CycleState.RELEASED, "x", "loop")
    release = control.cycle(cycle)
    at = release.updated_at
    assert rules.unwatched(release, at, None, PLACE, at + timedelta(minutes=59)) == []
    assert rules.unwatched(release, at, timedelta(hours=1), PLACE, at + timedelta(hours=2)) == []
    assert rules.unwatched(release, None, None, PLACE, at + timedelta(minutes=61))[0].cycle_id == cycle
    control.transition(cycle, CycleState.STABLE, "x", "loop")
    assert rules.unwatched(control.cycle(cycle), at, None, PLACE, at + timedelta(days=9)) == []


def test_the_budget_warns_at_its_share_and_stops_at_its_limit():
    assert rules.over_budget(79.9, 100.0, 80.0, "2026-11", PLACE, NOW) == []
    near, spent = (rules.over_budget(usd, 100.0, 80.0, "2026-11", PLACE, NOW)[0] for usd in (80.0, 100.0))
    assert (near.severity, spent.severity) == ("warning", "critical") and "No cycle begins" in spent.text and near.key != spent.key


def test_approvals_say_how_to_answer(control: Control):
    cycle = open_cycle(control).cycle_id
    evidence = {"verdict": "promote", "reason": "it is better"}
    asked = control.ask_approval(cycle, "promote", "compute-nvidia", "1" * 64, evidence, timedelta(hours=5), now=NOW)
    (found,) = rules.approvals_waiting([asked], PLACE, NOW + timedelta(hours=3))
    assert f"predator-si cycle approve {cycle}" in found.next_step and "3 h" in found.text and "promote. it is better" in found.text
    assert found.title.startswith("[compute-nvidia]") and found.link == f"{PLACE.base}/operations/cycles/{cycle}", "the page that is there while it waits"
    assert rules.approvals_waiting([asked], PLACE, NOW + timedelta(hours=6)) == [], "it has expired"


def test_a_silent_daemon_is_critical():
    assert rules.silent_daemon(None, PLACE, NOW) == []
    (found,) = rules.silent_daemon("Dagster's SENSOR has not been heard of lately", PLACE, NOW)
    assert (found.kind, found.severity) == ("daemon", "critical") and "SENSOR" in found.text and "predator-si up" in found.next_step


def test_each_record_is_one_line_of_the_log_once_it_is_committed(control: Control, tmp_path: Path):
    write_to(tmp_path / "logs")
    write_to(tmp_path / "logs")
    cycle = open_cycle(control).cycle_id
    control.append("decision_trial", "loop", cycle, "one\nreason", {"verdict": "promote"})
    with pytest.raises(BadInput), control._database.writing() as connection:
        from predator_si.control import ledger

        ledger.append(connection, now=NOW, action="never", actor="loop", cycle_id=None, reason="", payload={})
        raise BadInput("no")
    lines = (tmp_path / "logs" / "optimizer.log").read_text().splitlines()
    assert len(lines) == 2 and all(" AutoOptimizer INFO " in line and cycle in line for line in lines)
    assert lines[1].endswith(f"{cycle} decision_trial verdict=promote by loop: one reason")
    LOG.handlers.clear()
    assert logging.getLogger("AutoOptimizer") is LOG


def test_a_refusal_is_one_line_for_each_new_reason(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "AutoOptimizer")
    for reason in ("the interval is 1h", "the interval is 1h", "the kill switch is on", "the interval is 1h"):
        refused("a sensor of this test", reason, "si_2026_11_23_001")
    assert [record.getMessage() for record in caplog.records] == [
        f"si_2026_11_23_001 refused by a sensor of this test: {reason}" for reason in ("the interval is 1h", "the kill switch is on", "the interval is 1h")
    ]


def test_a_log_that_cannot_be_written_says_so_once_and_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "logs").write_text("a file where a folder is needed")
    write_to(tmp_path / "logs")
    LOG.info("one")
    LOG.info("two")
    assert capsys.readouterr().err.count("cannot be written") == 1
    LOG.handlers.clear()


def payload(**changes: Any) -> dict[str, Any]:
    """As Alertmanager 0.25 posts it (version 4)."""
    alert = {
        "status": "firing",
        "labels": {"alertname": "SearchErrors", "severity": "page", "job": "search"},
        "annotations": {"summary": "1.3% of the requests fail", "description": "For five minutes.", "runbook_url": "https://wiki.example/errors"},
        "startsAt": "2026-11-23T11:58:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph?g0.expr=x",
        "fingerprint": "7ef5a1e2d6f1b2c3",
    }
    body = {"version": "4", "groupKey": '{}:{alertname="SearchErrors"}', "truncatedAlerts": 0, "status": "firing", "receiver": "predator",
            "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://alertmanager:9093", "alerts": [alert]}  # fmt: skip
    return json.loads(json.dumps(body | changes))  # type: ignore[no-any-return]


def test_alertmanagers_payload_becomes_events():
    (found,) = from_alertmanager(payload())
    assert (found.kind, found.severity, found.title, found.link) == ("outside", "critical", "Firing: SearchErrors", "https://wiki.example/errors")
    assert found.text == "1.3% of the requests fail. For five minutes" and found.at.minute == 58
    again = payload()
    assert from_alertmanager(again)[0].key == found.key
    again["alerts"][0] |= {"status": "resolved", "endsAt": "2026-11-23T12:05:00Z"}
    (over,) = from_alertmanager(again)
    assert over.severity == "info" and over.key != found.key and over.title.startswith("Resolved") and over.at.minute == 5
    assert len(from_alertmanager(payload(truncatedAlerts=3))) == 2


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"version": "3"}, "version"),
        ({"alerts": [{}]}, "alerts.0"),
        ({"alerts": "none"}, "alerts"),
        ({"status": "odd"}, "status"),
        ({"alerts": [{}] * 101}, "alerts"),
    ],
)
def test_what_is_no_such_payload_is_refused_with_its_field(change: dict[str, Any], where: str):
    with pytest.raises(BadInput, match=where):
        from_alertmanager(payload(**change))
    with pytest.raises(BadInput):
        from_alertmanager("text")
