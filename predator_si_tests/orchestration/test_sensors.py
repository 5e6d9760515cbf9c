"""What starts a cycle, what moves it on, what takes it back, and that each skip says why. Control database, repository and artifacts are real; nothing runs."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl

from predator_si.orchestration.op_tags import CYCLE, REASON, TRIGGER
from predator_si.records import CycleState, utc_now
from predator_si.search.events import read_events
from predator_si.settings import Settings
from predator_si_tests.support.platform import write_baseline, write_snapshot
from predator_si_tests.support.sensors import Sensors, contour, degraded, sensors_with_traffic
from predator_si_tests.support.sensors import flushed as flushed
from predator_si_tests.support.sensors import instance as instance
from predator_si_tests.support.sensors import sensors as sensors
from predator_si_tests.support.sensors import storage as storage

# --------------------------------------------------------------------------- quality_gate_sensor


def test_a_failed_gate_starts_a_cycle_with_its_partition(sensors: Sensors) -> None:
    degraded(sensors)
    found = sensors.tick("quality_gate_sensor")
    (request,) = found.run_requests
    cycle = sensors.loop.control.active_cycle("local")
    assert cycle is not None and cycle.state is CycleState.OPENED and cycle.actor == "quality_gate_sensor"
    assert (cycle.trigger.metric, cycle.trigger.value, cycle.trigger.baseline) == ("ndcg_at_10", 0.4, 0.6)
    assert request.partition_key == cycle.cycle_id and found.dynamic_partitions_requests[0].partition_keys == [cycle.cycle_id]
    assert request.tags[CYCLE] == cycle.cycle_id and request.tags[TRIGGER] == "ndcg_at_10_down" and "misses" in request.tags[REASON]
    opened = sensors.loop.control.records(cycle_id=cycle.cycle_id)
    assert [record.action for record in opened] == ["cycle_opened"] and opened[0].payload["trigger"]["reason"] == cycle.trigger.reason


def test_a_second_tick_waits_for_the_cycle_that_runs(sensors: Sensors) -> None:
    degraded(sensors)
    request = sensors.request("quality_gate_sensor")
    assert f"cycle {request.partition_key} is opened: one cycle at a time" in sensors.skip("quality_gate_sensor")
    assert len(sensors.loop.control.cycles()) == 1


def test_no_snapshot_is_no_cycle(sensors: Sensors) -> None:
    assert sensors.skip("quality_gate_sensor") == "there is no metrics snapshot yet"


def test_a_stale_snapshot_is_no_cycle(sensors: Sensors) -> None:
    write_baseline(sensors.loop, sensors.champion)
    write_snapshot(sensors.loop, sensors.champion, utc_now() - timedelta(hours=2), {"ndcg_at_10": 0.1})
    assert re.search(r"the newest snapshot is 72\d\d s old, at most 2700 s are acted upon", sensors.skip("quality_gate_sensor"))
    assert sensors.loop.control.cycles() == []


def test_unknown_is_no_cycle_and_is_named(sensors: Sensors) -> None:
    write_snapshot(sensors.loop, sensors.champion, values={"ndcg_at_10": None, "error_rate": None})
    said = sensors.skip("quality_gate_sensor")
    assert "no gate asks for a cycle" in said
    assert "unknown: ndcg_at_10 is unknown: nobody measured it" in said and "unknown: error_rate is unknown" in said
    assert "unknown: recall_at_20: no baseline yet" in said


def test_health_is_no_cycle(sensors: Sensors) -> None:
    write_baseline(sensors.loop, sensors.champion)
    write_snapshot(sensors.loop, sensors.champion)
    assert re.match(r"no gate asks for a cycle: \d+ of \d+ pass", sensors.skip("quality_gate_sensor"))


def test_another_champions_baseline_starts_nothing(sensors: Sensors) -> None:
    write_baseline(sensors.loop, "sha256:" + "0" * 64)
    write_snapshot(sensors.loop, sensors.champion, values={"ndcg_at_10": 0.1})
    assert "the baseline belongs to sha256:000" in sensors.skip("quality_gate_sensor")


def test_the_kill_switch_stops_the_start(sensors: Sensors) -> None:
    degraded(sensors)
    sensors.loop.control.set_kill_switch("local", True, "anna", "something smells")
    assert "the kill switch is on" in sensors.skip("quality_gate_sensor")
    assert sensors.loop.control.cycles() == []
    sensors.loop.control.set_kill_switch("local", False, "anna", "it was the kitchen")
    assert sensors.request("quality_gate_sensor").partition_key


def test_the_values_own_kill_switch_counts_too(tmp_path: Path, settings: Settings, instance: dg.DagsterInstance) -> None:
    sensors = Sensors(contour(settings.home, tmp_path, "  killSwitch: true\n"), instance)
    degraded(sensors)
    assert "the kill switch is on" in sensors.skip("quality_gate_sensor")


def test_a_contour_that_is_not_enabled_starts_nothing(tmp_path: Path, settings: Settings, instance: dg.DagsterInstance) -> None:
    sensors = Sensors(contour(settings.home, tmp_path, "  enabled: false\n"), instance)
    degraded(sensors)
    assert "selfImprovement.enabled is false" in sensors.skip("quality_gate_sensor")


def test_the_interval_and_the_days_limit_hold(sensors: Sensors) -> None:
    ended = sensors.cycle(CycleState.FAILED)
    degraded(sensors)
    said = sensors.skip("quality_gate_sensor")
    assert "the last cycle started at" in said and "the interval is 1:00:00" in said
    assert [cycle.cycle_id for cycle in sensors.loop.control.cycles()] == [ended]


def test_documents_that_were_given_up_come_before_relevance(sensors: Sensors) -> None:
    degraded(sensors, index_errors=50.0)
    assert sensors.request("quality_gate_sensor").tags[TRIGGER] == "index_errors_up"


def test_a_home_whose_plan_is_lost_is_unknown(sensors: Sensors) -> None:
    sensors.cycle(CycleState.FAILED)
    degraded(sensors)
    (sensors.loop.home.path / "plan.json").unlink()
    assert re.match(r"unknown: .*plan.json: this home was not prepared", sensors.skip("quality_gate_sensor"))


def test_a_damaged_snapshot_is_unknown_and_named(sensors: Sensors) -> None:
    (sensors.loop.home.snapshots / "local-20990101T000000000000.json").write_text("{")
    said = sensors.skip("quality_gate_sensor")
    assert said.startswith("unknown: ") and "local-20990101T000000000000.json: not a MetricsSnapshot" in said


# --------------------------------------------------------------------------- cycle_failure_sensor


def test_a_failed_run_stands_in_the_audit_trail(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.PREPARED)
    request = sensors.request("cycle_advance_sensor")
    job = sensors.definitions.resolve_job_def("cycle_evaluate_job")
    run = sensors.instance.create_run_for_job(job, tags={**request.tags, "dagster/partition": cycle_id})
    event = sensors.instance.report_run_failed(run, message="the worker died")
    sensor = next(sensor for sensor in sensors.definitions.sensors or [] if sensor.name == "cycle_failure_sensor")
    context = dg.build_run_status_sensor_context("cycle_failure_sensor", event, sensors.instance, run).for_run_failure()
    sensor(context)
    record = sensors.loop.control.records(cycle_id=cycle_id)[-1]
    assert (record.action, record.reason) == ("run_failed", "the worker died")
    assert record.payload == {"run_id": run.run_id, "job": "cycle_evaluate_job"}


def test_the_traffic_that_these_tests_write_is_read(sensors: Sensors) -> None:
    """Otherwise "0 requests" would prove nothing."""
    sensors_with_traffic(sensors, 3, probes=2)
    found = read_events(sensors.loop.home.events, utc_now() - timedelta(minutes=1), utc_now()).search
    assert found.height == 5 and found.filter(pl.col("probe")).height == 2
