"""`cycle run`: which cycle it takes, how far it goes, and that a killed run goes on. Control database and Dagster instance are real; the jobs are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
import filelock
import pytest
from dagster._core.events import DagsterEvent, EngineEventData

from predator_si.errors import BadInput, Refused
from predator_si.home import Home
from predator_si.monitor import Skip
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.begin import open_or_resume
from predator_si.proof.drive import drive
from predator_si.records import Cycle, CycleState
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_baseline, write_snapshot

AFTER = {
    "cycle_prepare_job": CycleState.PREPARED,
    "cycle_train_job": CycleState.TRAINED,
    "cycle_evaluate_job": CycleState.EVALUATED,
    "cycle_trial_job": CycleState.REJECTED,
}


class Jobs:
    """Jobs that only move the cycle, or fail."""

    def __init__(self, loop: Loop, instance: dg.DagsterInstance, during: Callable[[str], None] = lambda job: None, failing: str | None = None) -> None:
        self.loop, self.instance, self.during, self.failing = loop, instance, during, failing
        self.ran: list[str] = []
        self.last_failure: str | None = None

    def run(self, job: str, cycle_id: str | None = None, config: Mapping[str, Any] | None = None) -> bool:
        assert cycle_id is not None
        self.ran.append(job)
        self.during(job)
        if job == self.failing:
            self.last_failure = "no space left"
            return False
        self.loop.control.transition(cycle_id, AFTER[job], "a job", "test")
        return True


@dg.op
def _nothing() -> None: ...


@dg.job
def cycle_train_job() -> None:
    _nothing()


@pytest.fixture
def instance(home: Home) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home.dagster)) as made:
        yield made


@pytest.fixture
def loop(settings: Settings) -> Loop:
    made = Loop(settings.model_copy(update={"search_url": "http://127.0.0.1:1"}))
    champion = fake_model(made, "champion")
    prepare(made, champion)
    write_baseline(made, champion, ndcg_at_10=0.7)
    return made


def snapshot(loop: Loop, ndcg: float) -> None:
    write_snapshot(loop, loop.serving().model, values={"ndcg_at_10": ndcg})


def test_a_failed_gate_opens_a_cycle_and_a_second_call_goes_on_with_it(loop: Loop):
    snapshot(loop, 0.5)
    opened = open_or_resume(loop, "cli:olena", reason="new documents")
    assert isinstance(opened, Cycle) and opened.trigger.type == "ndcg_at_10_down" and opened.actor == "cli:olena" and "new documents" in opened.reason
    again = open_or_resume(loop, "cli:petro", "p95_latency_ms_up", force=True)
    assert isinstance(again, Cycle) and again.cycle_id == opened.cycle_id, "one cycle at a time"


def test_without_a_failed_gate_only_a_person_who_insists_and_names_a_trigger_opens_one(loop: Loop):
    snapshot(loop, 0.7)
    answer = open_or_resume(loop, "cli:olena", force=True)
    assert isinstance(answer, Skip) and "no gate asks for a cycle" in answer.reason
    assert isinstance(open_or_resume(loop, "cli:olena", "ndcg_at_10_down"), Skip)
    with pytest.raises(BadInput, match="there are error_rate_up"):
        open_or_resume(loop, "cli:olena", "nonsense", force=True)
    loop.control.set_kill_switch(loop.contour, True, "test", "freeze")
    with pytest.raises(Refused, match="kill switch"):
        open_or_resume(loop, "cli:olena", "ndcg_at_10_down", force=True)
    loop.control.set_kill_switch(loop.contour, False, "test", "over")
    opened = open_or_resume(loop, "cli:olena", "ndcg_at_10_down", "to see", force=True)
    assert isinstance(opened, Cycle) and opened.trigger.value == pytest.approx(0.7) and "a person insists: to see" in opened.reason


def test_another_trigger_than_the_one_asked_for_opens_nothing(loop: Loop):
    snapshot(loop, 0.5)
    answer = open_or_resume(loop, "cli:olena", "user_satisfaction_down")
    assert isinstance(answer, Skip) and "asks for ndcg_at_10_down, not user_satisfaction_down" in answer.reason
    assert loop.control.active_cycle(loop.contour) is None


def test_it_drives_as_far_as_no_service_is_needed(loop: Loop, instance: dg.DagsterInstance):
    cycle = open_cycle(loop.control)
    jobs = Jobs(loop, instance)
    driven = drive(loop, jobs, cycle.cycle_id)  # type: ignore[arg-type]
    assert jobs.ran == list(driven.jobs) == ["cycle_prepare_job", "cycle_train_job", "cycle_evaluate_job"]
    assert driven.cycle.state is CycleState.EVALUATED and "cycle_trial_job needs the search service" in driven.why and driven.failure is None


def test_a_failed_job_stops_it_and_the_next_call_tries_again(loop: Loop, instance: dg.DagsterInstance):
    cycle = open_cycle(loop.control)
    driven = drive(loop, Jobs(loop, instance, failing="cycle_train_job"), cycle.cycle_id)  # type: ignore[arg-type]
    assert driven.failure == "no space left" and driven.cycle.state is CycleState.PREPARED
    jobs = Jobs(loop, instance)
    assert drive(loop, jobs, cycle.cycle_id).jobs[0] == "cycle_train_job"  # type: ignore[arg-type]


def test_the_kill_switch_stops_it_between_jobs(loop: Loop, instance: dg.DagsterInstance):
    cycle = open_cycle(loop.control)
    jobs = Jobs(loop, instance, during=lambda job: loop.control.set_kill_switch(loop.contour, True, "test", "freeze") and None)
    driven = drive(loop, jobs, cycle.cycle_id)  # type: ignore[arg-type]
    assert jobs.ran == ["cycle_prepare_job"] and driven.why == "the kill switch is on"


@pytest.mark.parametrize("alive", [True, False])
def test_a_run_that_somebody_works_on_is_left_alone_and_one_that_was_killed_is_replaced(loop: Loop, instance: dg.DagsterInstance, alive: bool):
    cycle = open_cycle(loop.control)
    loop.control.transition(cycle.cycle_id, CycleState.PREPARED, "a job", "test")
    worker = subprocess.Popen([sys.executable, "-c", "pass"])
    worker.wait(30)
    run = instance.create_run_for_job(cycle_train_job, tags={"dagster/partition": cycle.cycle_id}, status=dg.DagsterRunStatus.STARTED)
    works = EngineEventData.in_process(os.getpid() if alive else worker.pid)
    instance.report_dagster_event(DagsterEvent("ENGINE_EVENT", run.job_name, message="works", event_specific_data=works), run.run_id)
    jobs = Jobs(loop, instance)
    driven = drive(loop, jobs, cycle.cycle_id)  # type: ignore[arg-type]
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    if alive:
        assert jobs.ran == [] and "cycle_train_job is under way already" in driven.why and stored.status is dg.DagsterRunStatus.STARTED
    else:
        assert jobs.ran[0] == "cycle_train_job" and stored.status is dg.DagsterRunStatus.FAILURE
        assert [record.payload["run_id"] for record in loop.control.records() if record.action == "run_failed"] == [run.run_id]


def test_two_do_not_drive_one_home(loop: Loop, instance: dg.DagsterInstance):
    cycle = open_cycle(loop.control)
    with filelock.FileLock(loop.home.path / "drive.lock"), pytest.raises(Refused, match=r"another `predator-si cycle run`"):
        drive(loop, Jobs(loop, instance), cycle.cycle_id)  # type: ignore[arg-type]


def test_the_command_says_no_with_every_reason(loop: Loop, capsys: pytest.CaptureFixture[str]):
    snapshot(loop, 0.7)
    assert loop.control.records() == []
    cli = CommandLine(loop.home.path, capsys)
    answer = cli("cycle", "run", "--json")
    assert answer.code == 1 and answer.json["cycle_id"] is None and "no gate asks for a cycle" in answer.json["why"][0]
    assert "no cycle was started: " in cli("cycle", "run").out
