"""cycle_advance_sensor: each state of a cycle gets its job once, and waits for what it must wait for."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from predator_si.orchestration.op_tags import CYCLE, TRIGGER
from predator_si.orchestration.partitions import add_cycle
from predator_si.orchestration.sensors import reason_to_wait
from predator_si.records import CycleState, utc_now
from predator_si.settings import Settings
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.support.sensors import Sensors, contour, decision, degraded, deployed, released, sensors_with_traffic
from predator_si_tests.support.sensors import flushed as flushed
from predator_si_tests.support.sensors import instance as instance
from predator_si_tests.support.sensors import sensors as sensors
from predator_si_tests.support.sensors import storage as storage


def test_no_cycle_no_job(sensors: Sensors) -> None:
    assert sensors.skip("cycle_advance_sensor") == "no cycle is active"


READY = [
    ((), "cycle_prepare_job"),
    ((CycleState.PREPARED,), "cycle_train_job"),
    ((CycleState.TRAINED,), "cycle_evaluate_job"),
    ((CycleState.EVALUATED,), "cycle_trial_job"),
    ((CycleState.DECIDED,), "cycle_release_job"),
]


@pytest.mark.parametrize(("states", "job"), READY, ids=[job for _, job in READY])
def test_each_state_gets_its_job_once(sensors: Sensors, states: tuple[CycleState, ...], job: str) -> None:
    cycle_id = sensors.cycle(*states)
    request = sensors.request("cycle_advance_sensor")
    assert (request.job_name, request.partition_key) == (job, cycle_id)
    assert request.tags[CYCLE] == cycle_id and request.tags[TRIGGER] == "ndcg_at_10_down"
    assert request.run_key == sensors.request("cycle_advance_sensor").run_key, "the daemon drops a second request with the same key"


def test_a_cycle_that_somebody_opened_by_hand_gets_its_partition(sensors: Sensors) -> None:
    """Also one whose sensor died between opening it and asking for its partition: without the key no run of it could ever start."""
    cycle_id = open_cycle(sensors.loop.control).cycle_id
    found = sensors.tick("cycle_advance_sensor")
    assert found.run_requests[0].partition_key == cycle_id
    assert [request.partition_keys for request in found.dynamic_partitions_requests] == [[cycle_id]]


def test_two_sensors_do_not_start_the_same_job(sensors: Sensors) -> None:
    """Between the tick that opens a cycle and the daemon's run for it, the other sensor looks: run keys are known per sensor only."""
    degraded(sensors)
    request = sensors.request("quality_gate_sensor")
    add_cycle(sensors.instance, str(request.partition_key))
    assert "was just asked for" in sensors.skip("cycle_advance_sensor")


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED], ids=lambda status: status.value)
def test_a_job_that_is_under_way_is_not_asked_for_again(sensors: Sensors, status: dg.DagsterRunStatus) -> None:
    cycle_id = sensors.cycle(CycleState.PREPARED)
    sensors.run(sensors.request("cycle_advance_sensor"), status)
    assert sensors.skip("cycle_advance_sensor") == f"cycle_train_job of {cycle_id} is under way"


def test_a_killed_run_is_tried_again_and_three_failures_end_the_cycle(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.PREPARED)
    keys = set()
    for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE):
        request = sensors.request("cycle_advance_sensor")
        keys.add(request.run_key)
        sensors.run(request, status)
    assert len(keys) == 3, "each try has its own key, or the daemon would drop it"
    assert sensors.skip("cycle_advance_sensor") == f"{cycle_id} has failed: cycle_train_job did not succeed in 3 runs"
    cycle = sensors.loop.control.cycle(cycle_id)
    assert cycle.state is CycleState.FAILED and "failed 3 times in state prepared" in cycle.reason
    assert sensors.skip("cycle_advance_sensor") == "no cycle is active"


def test_failures_of_an_earlier_state_do_not_count(sensors: Sensors) -> None:
    cycle_id = sensors.cycle()
    for _ in range(2):
        sensors.run(sensors.request("cycle_advance_sensor"), dg.DagsterRunStatus.FAILURE)
    sensors.loop.control.transition(cycle_id, CycleState.PREPARED, "the third try", "test")
    for _ in range(2):
        sensors.run(sensors.request("cycle_advance_sensor"), dg.DagsterRunStatus.FAILURE)
    assert sensors.request("cycle_advance_sensor").job_name == "cycle_train_job"
    assert sensors.loop.control.cycle(cycle_id).state is CycleState.PREPARED


def test_the_kill_switch_holds_a_cycle_and_lets_a_release_be_watched(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.TRAINED)
    sensors.loop.control.set_kill_switch("local", True, "anna", "stop")
    assert sensors.skip("cycle_advance_sensor") == "the kill switch is on"
    sensors.loop.control.transition(cycle_id, CycleState.RELEASED, "a test", "test")
    released(sensors, cycle_id, at=utc_now() - timedelta(minutes=1))
    sensors_with_traffic(sensors, 50)
    assert sensors.request("cycle_advance_sensor").job_name == "watch_job"


# waiting for traffic, for people, for the next check


def test_a_trial_waits_for_its_traffic(sensors: Sensors, flushed: None) -> None:
    cycle_id = sensors.cycle(CycleState.ON_TRIAL)
    deployed(sensors, cycle_id, "deployment-trial.json", utc_now() - timedelta(minutes=1), "trial")
    assert sensors.skip("cycle_advance_sensor") == "the trial has 0 of 120 requests"
    sensors_with_traffic(sensors, 119, probes=30)
    assert sensors.skip("cycle_advance_sensor") == "the trial has 119 of 120 requests", "probes are no traffic"
    sensors_with_traffic(sensors, 120)
    assert sensors.request("cycle_advance_sensor").job_name == "cycle_judge_job"


def test_a_trial_waits_for_its_days(tmp_path: Path, settings: Settings, instance: dg.DagsterInstance, flushed: None) -> None:
    sensors = Sensors(contour(settings.home, tmp_path, "  experiment: {minDays: 2}\n"), instance)
    cycle_id = sensors.cycle(CycleState.ON_TRIAL)
    deployed(sensors, cycle_id, "deployment-trial.json", utc_now() - timedelta(minutes=1), "trial")
    sensors_with_traffic(sensors, 500)
    assert sensors.skip("cycle_advance_sensor") == "the trial runs for at least 2 days"


def test_a_trial_whose_service_is_away_is_unknown(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.ON_TRIAL)
    deployed(sensors, cycle_id, "deployment-trial.json", utc_now(), "trial")
    assert re.match(r"unknown: http://127.0.0.1:\d+/flush failed", sensors.skip("cycle_advance_sensor"))


def test_a_release_waits_for_a_person_and_goes_on_once_approved(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.AWAITING_APPROVAL)
    found = decision(sensors, cycle_id, approval_required=True)
    assert sensors.skip("cycle_advance_sensor") == "the release waits for a person's approval"
    sensors.loop.save(cycle_id, "decision-promote.json", found.model_copy(update={"approved_by": "olena", "approved_at": utc_now()}))
    assert sensors.request("cycle_advance_sensor").job_name == "cycle_release_job"


def test_a_watch_waits_for_requests(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.RELEASED)
    released(sensors, cycle_id, utc_now() - timedelta(minutes=1))
    assert sensors.skip("cycle_advance_sensor") == "0 of 20 requests since the last check"
    sensors_with_traffic(sensors, 20)
    assert sensors.request("cycle_advance_sensor").job_name == "watch_job"


def test_a_watch_waits_for_its_interval(tmp_path: Path, settings: Settings, instance: dg.DagsterInstance) -> None:
    sensors = Sensors(contour(settings.home, tmp_path, "  watch: {checks: 3, interval: 10m, requests: null}\n"), instance)
    cycle_id = sensors.cycle(CycleState.RELEASED)
    released(sensors, cycle_id, utc_now() - timedelta(minutes=9))
    assert sensors.skip("cycle_advance_sensor").startswith("the next check is due at")
    released(sensors, cycle_id, utc_now() - timedelta(minutes=11))
    assert sensors.request("cycle_advance_sensor").job_name == "watch_job"


def test_a_watch_that_fails_does_not_end_a_release(sensors: Sensors) -> None:
    """A released model is watched or taken back, never given up."""
    cycle_id = sensors.cycle(CycleState.RELEASED)
    released(sensors, cycle_id, utc_now() - timedelta(minutes=1))
    sensors_with_traffic(sensors, 20)
    for _ in range(4):
        sensors.run(sensors.request("cycle_advance_sensor"), dg.DagsterRunStatus.FAILURE)
    assert sensors.loop.control.cycle(cycle_id).state is CycleState.RELEASED


def test_a_damaged_artifact_is_unknown_and_named(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.RELEASED)
    released(sensors, cycle_id, utc_now())
    (sensors.loop.artifacts(cycle_id) / "watch.json").write_text("{")
    for name in ("cycle_advance_sensor", "rollback_sensor"):
        said = sensors.skip(name)
        assert said.startswith("unknown: ") and "watch.json: not a WatchResult" in said


def test_an_ended_cycle_says_how_it_ended(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.REJECTED)
    assert reason_to_wait(sensors.loop, cycle_id) == "the cycle is rejected"
