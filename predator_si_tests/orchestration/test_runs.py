"""Ending runs: queued, running, running in a process that was killed; watch and rollback are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from predator_si.control import Control
from predator_si.home import Home
from predator_si.orchestration.op_tags import LANE, Lane
from predator_si.orchestration.runs import fail_orphans, is_orphan, terminate_runs, unfinished
from predator_si_tests.support.command_line import CommandLine

CYCLE = "si_2026_01_31_001"
Status = dg.DagsterRunStatus


@pytest.fixture
def instance(home: Home) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home.dagster)) as made:
        yield made


@dg.op
def _nothing() -> None: ...


@dg.job
def some_job() -> None:
    _nothing()


def some_job_origin() -> Any:
    return dg.reconstructable(some_job).get_python_origin()


def run_of(instance: dg.DagsterInstance, lane: Lane, status: Status, pid: int | None = None) -> dg.DagsterRun:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=__name__, attribute="some_job"), location_name="here")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "some_job")
    tags = {LANE: lane.value, "dagster/partition": CYCLE}
    run = instance.create_run_for_job(some_job, tags=tags, status=status, remote_job_origin=origin, job_code_origin=some_job_origin())
    if pid is not None:
        event = DagsterEvent(event_type_value="ENGINE_EVENT", job_name=run.job_name, message="works", event_specific_data=EngineEventData.in_process(pid))
        instance.report_dagster_event(event, run.run_id)
    return run


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Status:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait(30)
    return process.pid


def test_a_run_whose_process_was_killed_is_an_orphan_and_fails_once(instance: dg.DagsterInstance, dead_pid: int):
    dead = run_of(instance, Lane.TRAIN, Status.STARTED, dead_pid)
    alive = run_of(instance, Lane.TRAIN, Status.STARTED, os.getpid())
    begins = run_of(instance, Lane.CYCLE, Status.STARTING)
    queued = run_of(instance, Lane.CYCLE, Status.QUEUED)
    assert [is_orphan(instance, run) for run in (dead, alive, begins, queued)] == [True, False, False, False]
    assert [run.run_id for run in fail_orphans(instance, unfinished(instance, cycle_id=CYCLE))] == [dead.run_id]
    assert status(instance, dead) is Status.FAILURE and status(instance, alive) is Status.STARTED
    assert fail_orphans(instance, unfinished(instance, cycle_id=CYCLE)) == []


def test_an_id_that_was_used_again_is_not_the_process_of_the_run(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    run = run_of(instance, Lane.TRAIN, Status.STARTED, os.getpid())
    assert not is_orphan(instance, run)
    # the same id, said a day before this process began
    monkeypatch.setattr("predator_si.orchestration.runs._worker", lambda *_: (os.getpid(), 1_000_000.0))
    assert is_orphan(instance, run)


def test_stop_ends_cycle_and_training_runs_only_and_says_so_once(home: Home, instance: dg.DagsterInstance, dead_pid: int, capsys: pytest.CaptureFixture[str]):
    queued = run_of(instance, Lane.TRAIN, Status.QUEUED)
    running = run_of(instance, Lane.CYCLE, Status.STARTED, os.getpid())
    dead = run_of(instance, Lane.CYCLE, Status.STARTED, dead_pid)
    free = [run_of(instance, lane, Status.STARTED, os.getpid()) for lane in (Lane.WATCH, Lane.ROLLBACK, Lane.OBSERVE)]
    cli = CommandLine(home.path, capsys)
    answer = cli("stop", "--reason", "freeze")
    assert answer.code == 0 and "kill switch is on" in answer.out
    assert {status(instance, run) for run in (queued, dead)} == {Status.CANCELED}
    assert status(instance, running) is Status.CANCELING, "it runs in a process that no server can signal: it is marked"
    assert [status(instance, run) for run in free] == [Status.STARTED] * 3
    record = next(record for record in Control(home.control_db).records() if record.action == "runs_terminated")
    assert {run["run_id"]: run["how"] for run in record.payload["runs"]} == {queued.run_id: "canceled", running.run_id: "flagged", dead.run_id: "canceled"}
    assert "was on already" in cli("stop").out
    assert [record.action for record in Control(home.control_db).records()].count("runs_terminated") == 1
    assert terminate_runs(instance) == []


def test_stop_of_a_home_without_dagster_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cli = CommandLine(tmp_path / "home", capsys)
    assert cli("stop").code == 0
    assert not (cli.home / "dagster" / "history").exists()
