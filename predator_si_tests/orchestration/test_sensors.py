"""What starts a cycle, what moves it on, what takes it back, and that each skip says why. Control database, repository and artifacts are real; nothing runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from predator_si.build import build_defs
from predator_si.errors import Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import CYCLE, REASON, TRIGGER
from predator_si.orchestration.partitions import add_cycle, cycles
from predator_si.orchestration.sensors import reason_to_wait
from predator_si.records import Answer, CycleState, Decision, Deployment, GateResult, ServingConfig, Verdict, WatchResult, utc_now
from predator_si.release.watch import WatchPlan, watch_criteria
from predator_si.search.events import EventFrames, read_events
from predator_si.settings import Settings, load_settings
from predator_si_tests.support import windows
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_baseline, write_snapshot

HEALTHY_INGEST = {"lag_seconds": 0.0, "documents_per_second": 10.0, "dead_letters": 0}


class Sensors:
    """The sensors of a prepared home over one Dagster instance."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.loop = Loop(settings)
        self.champion = fake_model(self.loop, "champion")
        prepare(self.loop, self.champion)
        self.definitions = build_defs(settings)
        self._repository = self.definitions.get_repository_def()
        self._sensors = {sensor.name: sensor for sensor in self.definitions.sensors or []}

    def tick(self, name: str) -> Any:
        """What the daemon gets from one look: run requests and partition requests, or a skip message."""
        context = dg.SensorEvaluationContext(  # as a code server makes it for the daemon; build_sensor_context would not resolve partitions
            instance_ref=self.instance.get_ref(),
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=None,
            repository_name=None,
            repository_def=self._repository,
            sensor_name=name,
        )
        with context:
            found = self._sensors[name].evaluate_tick(context)
        assert bool(found.run_requests) != bool(found.skip_message), "a tick asks for a run or says why not"
        return found

    def skip(self, name: str) -> str:
        found = self.tick(name)
        assert found.skip_message is not None
        return str(found.skip_message)

    def request(self, name: str) -> dg.RunRequest:
        found = self.tick(name)
        assert found.run_requests is not None and len(found.run_requests) == 1, found.skip_message
        return found.run_requests[0]

    def cycle(self, *states: CycleState, **trigger: Any) -> str:
        """A cycle that went through ``states``, with its partition."""
        cycle_id = open_cycle(self.loop.control, **trigger).cycle_id
        for state in states:
            self.loop.control.transition(cycle_id, state, "a test", "test")
        add_cycle(self.instance, cycle_id)
        return cycle_id

    def run(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """A stored run for a request, as the daemon would make it, in a status."""
        tags = {**request.tags, "dagster/partition": request.partition_key or ""}
        run = self.instance.create_run_for_job(self.definitions.resolve_job_def(request.job_name or "cycle_prepare_job"), tags=tags)
        if status is not dg.DagsterRunStatus.NOT_STARTED:
            self.instance.report_run_canceling(run) if status is dg.DagsterRunStatus.CANCELING else self._finish(run, status)
        return run

    def _finish(self, run: dg.DagsterRun, status: dg.DagsterRunStatus) -> None:
        if status is dg.DagsterRunStatus.FAILURE:
            self.instance.report_run_failed(run)
        elif status is dg.DagsterRunStatus.CANCELED:
            self.instance.report_run_canceled(run)
        else:
            event = dg.DagsterEvent(event_type_value=f"PIPELINE_{'START' if status is dg.DagsterRunStatus.STARTED else 'SUCCESS'}", job_name=run.job_name)
            self.instance.report_dagster_event(event, run.run_id)


@pytest.fixture(scope="module")
def storage() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


@pytest.fixture
def instance(storage: dg.DagsterInstance) -> dg.DagsterInstance:
    """One instance for all tests, since making its tables takes a second; empty for each."""
    storage.wipe()
    for key in storage.get_dynamic_partitions(str(cycles.name)):
        storage.delete_dynamic_partition(str(cycles.name), key)
    return storage


@pytest.fixture
def sensors(settings: Settings, instance: dg.DagsterInstance) -> Sensors:
    return Sensors(settings, instance)


def contour(home: Path, tmp_path: Path, text: str) -> Settings:
    """Contour ``local`` with a values file laid over it."""
    file = tmp_path / "more.yaml"
    file.write_text(f"selfImprovement:\n{text}")
    return load_settings("local", home=home, values_file=file, env={})


# --------------------------------------------------------------------------- quality_gate_sensor


def degraded(sensors: Sensors, **values: float | None) -> None:
    write_baseline(sensors.loop, sensors.champion)
    write_snapshot(sensors.loop, sensors.champion, values={"ndcg_at_10": 0.4, **values})


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


# --------------------------------------------------------------------------- cycle_advance_sensor


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


def config(digest: str) -> ServingConfig:
    return ServingConfig(model=digest, depth=8)


def decision(sensors: Sensors, cycle_id: str, **changes: Any) -> Decision:
    facts: dict[str, Any] = {
        "cycle_id": cycle_id, "stage": "promote", "verdict": Verdict.PROMOTE, "gates": [], "policy": "full", "approval_required": False,
        "champion": config(sensors.champion), "challenger": config("sha256:" + "c" * 64), "reason": "better", "created_at": utc_now(),
    }  # fmt: skip
    found = Decision(**facts | changes)
    sensors.loop.save(cycle_id, "decision-promote.json", found)
    return found


def deployed(sensors: Sensors, cycle_id: str, name: str, at: datetime, stage: str) -> None:
    digest = "sha256:" + "c" * 64
    facts: dict[str, Any] = {"commit": "1" * 40, "expected_digest": digest, "served_digest": digest, "confirmed": True, "seconds": 1.0, "reason": "served"}
    sensors.loop.save(cycle_id, name, Deployment(cycle_id=cycle_id, stage=stage, created_at=at, **facts))  # type: ignore[arg-type]


def released(sensors: Sensors, cycle_id: str, at: datetime) -> None:
    decision(sensors, cycle_id)
    deployed(sensors, cycle_id, "deployment.json", at, "promote")


def sensors_with_traffic(sensors: Sensors, requests: int, probes: int = 0) -> None:
    """Requests of the last seconds, in the event folder of the home."""
    now = utc_now()
    rows = [windows.search(i, timestamp=now - timedelta(seconds=1), probe=i >= requests) for i in range(requests + probes)]
    folder = sensors.loop.home.events / "hourly" / "search"
    folder.mkdir(parents=True, exist_ok=True)
    frames: EventFrames = windows.frames(rows)
    frames.search.write_parquet(folder / f"{now:%Y%m%d%H}-w.parquet")


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "flush", lambda self: None)


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


# --------------------------------------------------------------------------- rollback_sensor


def watched(sensors: Sensors, cycle_id: str, answer: str) -> None:
    digest, *_ = watch_criteria(WatchPlan(cycle_id=cycle_id, released_digest="sha256:" + "c" * 64))
    gate = GateResult(criterion=digest, answer=Answer.FAIL, value=0.0, reason="another digest")
    result = WatchResult(cycle_id=cycle_id, checks=[], requests=0, failed_requests=0, answer=answer, gates=[gate], reason="x", created_at=utc_now())  # type: ignore[arg-type]
    sensors.loop.save(cycle_id, "watch.json", result)


def test_a_watch_that_asks_for_a_rollback_gets_it_once(sensors: Sensors) -> None:
    cycle_id = sensors.cycle(CycleState.WATCHING)
    released(sensors, cycle_id, utc_now())
    watched(sensors, cycle_id, "continue")
    assert sensors.skip("rollback_sensor") == "no released cycle asks for a rollback"
    watched(sensors, cycle_id, "rollback")
    request = sensors.request("rollback_sensor")
    assert (request.run_key, request.partition_key) == (f"rollback:{cycle_id}", cycle_id)
    assert sensors.skip("cycle_advance_sensor") == "the watch asked for a rollback"


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
