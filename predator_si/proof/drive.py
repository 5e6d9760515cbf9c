"""Drive a cycle by hand: its real Dagster jobs, one after another, in this process.

What belongs here: running jobs, and knowing which comes next. What must not: deciding whether a cycle may start (``monitor.decide``), any stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from predator_si.errors import Refused, Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.records import Cycle, CycleState, WatchResult
from predator_si.settings import Settings

_ASK_THE_SERVICE = frozenset({"cycle_trial_job", "cycle_judge_job", "cycle_release_job", "watch_job"})
"""Jobs whose answer is the service's word: without it they would commit, wait two minutes and take everything back."""
_CALM = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
"""On the terminal failures only: everything else is in the run's event log, in the UI."""
_REPEATED = frozenset({"watch_job"})


class Dagster:
    """The jobs of this home, run in this process against its real instance: ``make up`` shows their history afterwards."""

    def __init__(self, settings: Settings, actor: str = "demo") -> None:
        import os

        import dagster as dg

        from predator_si.build import build_defs

        os.environ["DAGSTER_HOME"] = str(settings.folders.dagster)
        self.instance = dg.DagsterInstance.get()
        self.last_failure: str | None = None
        self._actor = actor
        self._definitions = build_defs(settings)

    def run(self, job: str, cycle_id: str | None = None, config: Mapping[str, Any] | None = None) -> bool:
        """Run a job to its end; whether it succeeded."""
        from predator_si.orchestration.partitions import add_cycle

        if cycle_id is not None:
            add_cycle(self.instance, cycle_id)
        tags = {"predator/actor": self._actor, **({"predator/cycle": cycle_id} if cycle_id else {})}
        run_config = {**_CALM, **(config or {})}
        result = self._definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=cycle_id, run_config=run_config, tags=tags, raise_on_error=False
        )
        self.last_failure = next((str(event.event_specific_data.error.message if event.event_specific_data.error else event.message)  # type: ignore[union-attr]
                                  for event in result.all_events if event.event_type_value == "STEP_FAILURE"), None)  # fmt: skip
        return bool(result.success)


@dataclass(frozen=True)
class Driven:
    """How far a cycle got: the jobs that ran, and why it stands where it stands. ``failure`` is the message of a job that failed."""

    cycle: Cycle
    jobs: tuple[str, ...]
    why: str
    failure: str | None = None


def recover(loop: Loop, dagster: Dagster, cycle_id: str) -> list[str]:
    """Report as failed what a killed process left running for a cycle, in Dagster and MLflow; the jobs."""
    from predator_si.orchestration.runs import fail_orphans, unfinished

    failed = fail_orphans(dagster.instance, unfinished(dagster.instance, cycle_id=cycle_id))
    for run in failed:
        loop.control.append("run_failed", "cycle run", cycle_id, "its process is gone", {"run_id": run.run_id, "job": run.job_name})
        if run.job_name == "cycle_train_job":
            from predator_si.orchestration.tracking import MlflowTracker

            MlflowTracker(loop.home).close_runs(run.run_id, "FAILED")
    return [run.job_name for run in failed]


def drive(loop: Loop, dagster: Dagster, cycle_id: str, say: Callable[[str], None] = lambda text: None) -> Driven:
    """Run the jobs that the cycle's state asks for, until it has ended or waits for traffic, people, or the service.

    A killed drive is simply driven again: every job finds what the last one left.

    Raises
    ------
    Refused
        Another process drives a cycle of this home.
    """
    ran: list[str] = []
    with _alone(loop):
        recover(loop, dagster, cycle_id)
        while True:
            before = loop.control.cycle(cycle_id)
            job, why = _next(loop, before)
            if job is None:
                return Driven(before, tuple(ran), why)
            if (busy := _under_way(dagster, cycle_id)) is not None:
                return Driven(before, tuple(ran), f"{busy} is under way already; Dagster goes on with it")
            say(f"{cycle_id} is {before.state.value}: {job}")
            succeeded = dagster.run(job, cycle_id)
            ran.append(job)
            after = loop.control.cycle(cycle_id)
            if after.state is before.state and not (succeeded and job in _REPEATED):
                failure = None if succeeded else dagster.last_failure or f"{job} failed"
                return Driven(after, tuple(ran), f"{job} {'moved nothing' if succeeded else 'failed'}", failure)


def _next(loop: Loop, cycle: Cycle) -> tuple[str | None, str]:
    """The job that a cycle needs now, or why it needs none."""
    from predator_si.orchestration.sensors import job_for, reason_to_wait

    if wants_rollback(loop, cycle):
        if loop.settings.rollback_on_degrade:
            return "rollback_job", "the watch asked for a rollback"
        return None, "the release is degraded, and this contour leaves the rollback to a person"
    waiting = reason_to_wait(loop, cycle.cycle_id)
    if waiting is not None:
        return None, waiting
    job = job_for(loop, cycle.cycle_id)
    if job in _ASK_THE_SERVICE:
        try:
            loop.info()
        except Unavailable as error:
            return None, f"{job} needs the search service: {error}"
    return job, ""


def wants_rollback(loop: Loop, cycle: Cycle) -> bool:
    """Whether the newest check of the watch asks to take the cycle's release back."""
    path = loop.home.artifacts / cycle.cycle_id / "watch.json"
    return cycle.state in (CycleState.RELEASED, CycleState.WATCHING) and path.is_file() and WatchResult.read(path).answer == "rollback"


def _under_way(dagster: Dagster, cycle_id: str) -> str | None:
    from predator_si.orchestration.runs import unfinished

    return next((run.job_name for run in unfinished(dagster.instance, cycle_id=cycle_id)), None)


@contextmanager
def _alone(loop: Loop) -> Iterator[None]:
    import filelock

    try:
        with filelock.FileLock(loop.home.path / "drive.lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise Refused(f"{loop.home.path}: another `predator-si cycle run` drives a cycle here. Wait for it, or end it.") from error
