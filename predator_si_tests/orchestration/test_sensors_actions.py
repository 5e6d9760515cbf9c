"""Which job a cycle begins with, and which ones it leaves out: by its trigger and its contour. Control database and snapshots are real; nothing runs."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import TRIGGER
from predator_si.orchestration.sensors import job_for
from predator_si.records import CycleState, utc_now
from predator_si_tests.support.platform import write_baseline, write_snapshot
from predator_si_tests.support.sensors import Sensors, contour, degraded
from predator_si_tests.support.sensors import instance as instance
from predator_si_tests.support.sensors import sensors as sensors
from predator_si_tests.support.sensors import storage as storage


@pytest.mark.parametrize(
    ("metric", "value", "trigger"),
    [
        ("p95_latency_ms", 2000.0, "p95_latency_ms_up"),
        ("recall_at_20", 0.5, "recall_at_20_down"),
        ("error_rate", 0.5, "error_rate_up"),
        ("etl_lag_seconds", 900.0, "etl_lag_seconds_up"),
        ("cost_per_1k_requests", 9.0, "cost_per_1k_requests_up"),
        ("index_errors", 9.0, "index_errors_up"),
    ],
)
def test_triggers_with_actions_begin_with_these_and_come_to_training_only_after(sensors: Sensors, metric: str, value: float, trigger: str) -> None:
    write_baseline(sensors.loop, sensors.champion)
    write_snapshot(sensors.loop, sensors.champion, values={metric: value})
    request = sensors.request("quality_gate_sensor")
    assert (request.tags[TRIGGER], request.job_name) == (trigger, "cycle_act_job")
    cycle_id = request.partition_key
    assert cycle_id is not None
    plan = {"cycle_id": cycle_id, "trigger": trigger, "goal": "latency", "champion": {"model": sensors.champion, "depth": 8}, "tried": [], "not_built": {},
            "action": None, "config": None, "train": True, "reason": "nothing helps", "n_queries": 0, "seconds": 0.0, "created_at": utc_now()}  # fmt: skip
    sensors.loop.save(cycle_id, "actions.json", plan)
    assert job_for(sensors.loop, cycle_id) == "cycle_prepare_job"


def test_a_relevance_drop_goes_to_the_data_at_once(sensors: Sensors) -> None:
    degraded(sensors)
    assert sensors.request("quality_gate_sensor").job_name == "cycle_prepare_job"


def test_a_repair_and_a_contour_without_trials_go_from_the_evaluation_to_the_release(tmp_path: Path, sensors: Sensors, instance: dg.DagsterInstance) -> None:
    repair = sensors.cycle(CycleState.TRAINED, CycleState.EVALUATED, type="error_rate_up", metric="error_rate")
    assert job_for(sensors.loop, repair) == "cycle_release_job"
    sensors.loop.control.transition(repair, CycleState.FAILED, "a test", "test")
    model = sensors.cycle(CycleState.TRAINED, CycleState.EVALUATED)
    assert job_for(sensors.loop, model) == "cycle_trial_job"
    without = Loop(contour(sensors.settings.home, tmp_path, "  features: {abTesting: false}\n"))
    assert job_for(without, model) == "cycle_release_job"
