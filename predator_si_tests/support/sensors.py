"""The sensors of a home over a real Dagster instance, with what they look at: snapshots, cycles, decisions, traffic."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.build import build_defs
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.records import Answer, CycleState, Decision, Deployment, GateResult, ServingConfig, Verdict, WatchResult, utc_now
from predator_si.release.watch import WatchPlan, watch_criteria
from predator_si.search.events import EventFrames
from predator_si.settings import Settings, load_settings
from predator_si_tests.support import windows
from predator_si_tests.support.dagster_instance import instance as instance
from predator_si_tests.support.dagster_instance import storage as storage
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


@pytest.fixture
def sensors(settings: Settings, instance: dg.DagsterInstance) -> Sensors:
    return Sensors(settings, instance)


def contour(home: Path, tmp_path: Path, text: str) -> Settings:
    """Contour ``local`` with a values file laid over it."""
    file = tmp_path / "more.yaml"
    file.write_text(f"selfImprovement:\n{text}")
    return load_settings("local", home=home, values_file=file, env={})


def degraded(sensors: Sensors, **values: float | None) -> None:
    write_baseline(sensors.loop, sensors.champion)
    write_snapshot(sensors.loop, sensors.champion, values={"ndcg_at_10": 0.4, **values})


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


def watched(sensors: Sensors, cycle_id: str, answer: str) -> None:
    digest, *_ = watch_criteria(WatchPlan(cycle_id=cycle_id, released_digest="sha256:" + "c" * 64))
    gate = GateResult(criterion=digest, answer=Answer.FAIL, value=0.0, reason="another digest")
    result = WatchResult(cycle_id=cycle_id, checks=[], requests=0, failed_requests=0, answer=answer, gates=[gate], reason="x", created_at=utc_now())  # type: ignore[arg-type]
    sensors.loop.save(cycle_id, "watch.json", result)
