"""rollback_sensor and service_guard_sensor: what looks after a release and a service between two snapshots."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.errors import Unavailable
from predator_si.orchestration import runs
from predator_si.orchestration import sensors as sensors_module
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import REASON
from predator_si.orchestration.steps.keep import order_rollback
from predator_si.records import CycleState, utc_now
from predator_si.settings import Settings
from predator_si_tests.support import windows
from predator_si_tests.support.platform import write_snapshot
from predator_si_tests.support.sensors import HEALTHY_INGEST, Sensors, contour, decision, released, watched
from predator_si_tests.support.sensors import flushed as flushed
from predator_si_tests.support.sensors import instance as instance
from predator_si_tests.support.sensors import sensors as sensors
from predator_si_tests.support.sensors import storage as storage

# --------------------------------------------------------------------------- rollback_sensor


def test_a_watch_that_asks_for_a_rollback_gets_it_once(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.WATCHING)
    released(sensors, cycle_id, utc_now())
    watched(sensors, cycle_id, "continue")
    assert sensors.skip("rollback_sensor") == "no released cycle asks for a rollback"
    watched(sensors, cycle_id, "rollback")
    request = sensors.request("rollback_sensor")
    assert (request.run_key, request.partition_key) == (f"rollback:{cycle_id}:0", cycle_id)
    assert sensors.skip("cycle_advance_sensor") == "the watch asked for a rollback"
    sensors.run(request, dg.DagsterRunStatus.STARTED)
    assert sensors.skip("rollback_sensor") == f"the rollback of {cycle_id} is under way"


@pytest.mark.parametrize("end", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_rollback_that_failed_is_tried_again_for_ever_with_growing_waits(sensors: Sensors, monkeypatch: pytest.MonkeyPatch, end: dg.DagsterRunStatus) -> None:
    """Git is away, or the worker was killed: the bad model must not stay because its one run did not do it."""
    cycle_id, now = sensors.cycle(CycleState.WATCHING), utc_now()
    watched(sensors, cycle_id, "rollback")
    monkeypatch.setattr(sensors_module, "utc_now", lambda: now)
    keys, waits = [], []
    for _ in range(9):
        keys.append(sensors.request("rollback_sensor").run_key)
        sensors.run(sensors.request("rollback_sensor"), end)
        began = now = utc_now()
        while "is tried again at" in (sensors.tick("rollback_sensor").skip_message or ""):
            now += timedelta(seconds=5)
        waits.append((now - began).total_seconds())
    assert keys == [f"rollback:{cycle_id}:{number}" for number in range(9)], "Dagster takes no key twice, even if its run failed"
    assert waits[0] == 0 and waits == sorted(waits) and waits[1] <= 15 and 300 <= waits[-1] <= 305


def test_a_rollback_whose_worker_is_gone_does_not_count_as_under_way(sensors: Sensors, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle_id = sensors.cycle(CycleState.WATCHING)
    watched(sensors, cycle_id, "rollback")
    run = sensors.run(sensors.request("rollback_sensor"), dg.DagsterRunStatus.STARTED)
    monkeypatch.setattr(runs, "is_orphan", lambda instance, one: True)
    assert sensors.request("rollback_sensor").run_key == f"rollback:{cycle_id}:1"
    assert (found := sensors.instance.get_run_by_id(run.run_id)) is not None and found.status is dg.DagsterRunStatus.FAILURE


def test_what_a_person_ordered_is_done_even_if_the_run_that_was_launched_for_it_failed(sensors: Sensors, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle_id = sensors.cycle(CycleState.RELEASED, CycleState.WATCHING, CycleState.STABLE)
    decision(sensors, cycle_id)
    assert sensors.skip("rollback_sensor") == "no released cycle asks for a rollback"
    order_rollback(sensors.loop, cycle_id, "anna", "people complain")
    assert sensors.skip("rollback_sensor") == f"the rollback of {cycle_id} was just asked for"
    later = utc_now() + timedelta(minutes=1)
    monkeypatch.setattr(sensors_module, "utc_now", lambda: later)
    request = sensors.request("rollback_sensor")
    assert (request.partition_key, request.tags[REASON]) == (cycle_id, "ordered by a person")
    sensors.run(request, dg.DagsterRunStatus.FAILURE)
    assert sensors.request("rollback_sensor").run_key == f"rollback:{cycle_id}:1"
    sensors.loop.control.transition(cycle_id, CycleState.ROLLED_BACK, "a test", "test")
    assert sensors.skip("rollback_sensor") == "no released cycle asks for a rollback"


def test_a_watch_that_cannot_be_read_is_unknown(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.WATCHING)
    (sensors.loop.artifacts(cycle_id) / "watch.json").write_text("{")
    assert sensors.skip("rollback_sensor").startswith("unknown: ")


def test_the_kill_switch_does_not_stop_a_rollback(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.WATCHING)
    watched(sensors, cycle_id, "rollback")
    sensors.loop.control.set_kill_switch("local", True, "anna", "stop")
    assert sensors.request("rollback_sensor").partition_key == cycle_id


def test_what_was_rolled_back_is_not_rolled_back_again(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.WATCHING, CycleState.ROLLED_BACK)
    watched(sensors, cycle_id, "rollback")
    assert sensors.skip("rollback_sensor") == "no released cycle asks for a rollback"


def test_a_contour_may_leave_the_rollback_to_a_person(tmp_path: Path, settings: Settings, instance: dg.DagsterInstance) -> None:
    sensors = Sensors(contour(settings.home, tmp_path, "  features: {rollbackOnDegrade: false}\n"), instance)
    cycle_id = sensors.cycle(CycleState.WATCHING)
    watched(sensors, cycle_id, "rollback")
    assert sensors.skip("rollback_sensor") == f"{cycle_id} is degraded, and this contour leaves the rollback to a person"


# --------------------------------------------------------------------------- service_guard_sensor


@pytest.fixture
def info(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {"ingest": dict(HEALTHY_INGEST)}
    monkeypatch.setattr(Loop, "info", lambda self: found)
    return found


def failing_traffic(sensors: Sensors, share: float, n: int = 100) -> None:
    now = utc_now()
    rows = [windows.search(i, timestamp=now - timedelta(seconds=5), model_digest=sensors.champion, status=500 if i < share * n else 200) for i in range(n)]
    folder = sensors.loop.home.events / "hourly" / "search"
    folder.mkdir(parents=True, exist_ok=True)
    windows.frames(rows).search.write_parquet(folder / f"{now:%Y%m%d%H}-w.parquet")


def test_the_guard_is_quiet_while_all_is_well(sensors: Sensors, info: dict[str, Any]) -> None:
    failing_traffic(sensors, 0.0)
    assert sensors.skip("service_guard_sensor") == "service: errors, latency and index are within their limits"


def test_errors_call_for_a_snapshot_now(sensors: Sensors, info: dict[str, Any]) -> None:
    failing_traffic(sensors, 0.3)
    request = sensors.request("service_guard_sensor")
    assert "error_rate 0.3" in request.tags[REASON] and request.run_key is not None and request.run_key.startswith("guard:")
    assert sensors.tick("service_guard_sensor").run_requests[0].job_name in (None, "observe_job")


def test_lag_and_dead_letters_call_for_a_snapshot_now(sensors: Sensors, info: dict[str, Any]) -> None:
    info["ingest"] |= {"lag_seconds": 300.0, "dead_letters": 9}
    said = sensors.request("service_guard_sensor").tags[REASON]
    assert "etl_lag_seconds 300" in said and "index_errors 9" in said


def test_latency_calls_for_a_snapshot_now(sensors: Sensors, info: dict[str, Any]) -> None:
    """CONTRACT.md section 3: latency reacts within five minutes, so each minute is looked at."""
    now = utc_now()
    rows = [windows.search(i, timestamp=now - timedelta(seconds=5), model_digest=sensors.champion, latency_ms=2000.0) for i in range(100)]
    folder = sensors.loop.home.events / "hourly" / "search"
    folder.mkdir(parents=True, exist_ok=True)
    windows.frames(rows).search.write_parquet(folder / f"{now:%Y%m%d%H}-w.parquet")
    assert "p95_latency_ms 2000" in sensors.request("service_guard_sensor").tags[REASON]


def test_the_guard_asks_for_no_second_snapshot_of_the_same_fault_within_five_minutes(sensors: Sensors, info: dict[str, Any]) -> None:
    failing_traffic(sensors, 0.3)
    write_snapshot(sensors.loop, sensors.champion, utc_now() - timedelta(minutes=6))
    assert sensors.request("service_guard_sensor")
    write_snapshot(sensors.loop, sensors.champion, utc_now() - timedelta(minutes=4))
    assert sensors.request("service_guard_sensor"), "a healthy snapshot of four minutes ago knows nothing of errors since"
    write_snapshot(sensors.loop, sensors.champion, utc_now() - timedelta(minutes=3), values={"error_rate": 0.3})
    assert sensors.skip("service_guard_sensor")


def test_the_guard_says_when_the_service_is_away(sensors: Sensors, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Loop) -> dict[str, Any]:
        raise Unavailable("http://127.0.0.1:8080/info does not answer. Start the service: `predator-si up`.")

    monkeypatch.setattr(Loop, "info", away)
    assert sensors.skip("service_guard_sensor") == "unknown: http://127.0.0.1:8080/info does not answer. Start the service: `predator-si up`."
