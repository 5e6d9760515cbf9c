"""Runs of cycles that are to end: asked for by a person, or left behind by a process that died.

What belongs here: what Dagster needs to end a run of one machine. What must not: who may ask (``control``), what a cycle does next.

Dagster's own run monitoring cannot tell: its default launcher has no health check, so a run whose process was killed stays STARTED for ever.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import dagster as dg
from dagster._core.launcher import DefaultRunLauncher

from predator_si.orchestration.op_tags import LANE, Lane

UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_LAUNCH_SECONDS = 180.0
"""A run that nobody works on may be one whose process only begins: as long as ``start_timeout_seconds`` of the instance it is given."""


@dataclass(frozen=True)
class EndedRun:
    """A run, and what became of it: ``canceled``, ``asked`` (its process was told), ``flagged`` (it ends at its next look at the kill switch)."""

    run_id: str
    job: str
    how: str


def unfinished(instance: dg.DagsterInstance, lanes: Collection[Lane] = (), cycle_id: str | None = None) -> list[dg.DagsterRun]:
    """Runs that have not ended, newest first; of these lanes or this cycle only, where given."""
    tags: dict[str, str | list[str]] = {LANE: [lane.value for lane in lanes]} if lanes else {}
    if cycle_id is not None:
        tags["dagster/partition"] = cycle_id
    return list(instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED), tags=tags)))


def is_orphan(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process that worked on the run is gone; a queued run has none yet, and is not one.

    Only for runs of this machine: another launcher's workers are not seen from here, and never called orphans.
    """
    if run.status is dg.DagsterRunStatus.QUEUED or not isinstance(instance.run_launcher, DefaultRunLauncher):
        return False
    worker = _worker(instance, run.run_id)
    if worker is not None:
        return not _lives(*worker)
    record = instance.get_run_record_by_id(run.run_id)
    return record is not None and time.time() - record.create_timestamp.timestamp() > _LAUNCH_SECONDS


def _worker(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """Process id of the newest process that said it works on the run, and when it said so."""
    for record in reversed(instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records):
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        text = str(pid.value) if pid is not None else ""
        if text.isdigit():
            return int(text), record.event_log_entry.timestamp
    return None


def _lives(pid: int, at: float) -> bool:
    """Whether the process that had this id at that moment lives: ids are used again, but only by processes that begin later."""
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(process.create_time() <= at + 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def fail_orphans(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun]) -> list[dg.DagsterRun]:
    """Report as failed those of ``runs`` whose process is gone, so that their cycle can go on; which ones."""
    found = [run for run in runs if is_orphan(instance, run)]
    for run in found:
        instance.report_run_failed(run, "The process of this run is gone. The cycle goes on with another run.")
    return found


def terminate_runs(instance: dg.DagsterInstance, lanes: Collection[Lane] = (Lane.CYCLE, Lane.TRAIN)) -> list[EndedRun]:
    """End queued and running runs of these lanes; one that was told before is not told again.

    A run inside a command of ours (``predator-si cycle run``) has no server that could pass a signal on: it is marked, and ends when it looks at
    the kill switch next.
    """
    return [ended for run in unfinished(instance, lanes) if (ended := _terminate(instance, run)) is not None]


def _terminate(instance: dg.DagsterInstance, run: dg.DagsterRun) -> EndedRun | None:
    if is_orphan(instance, run):
        instance.report_run_canceled(run, message="Stopped by a person; the process of this run was gone already.")
        return EndedRun(run.run_id, run.job_name, "canceled")
    if run.status is dg.DagsterRunStatus.CANCELING:
        return None
    if run.status is dg.DagsterRunStatus.NOT_STARTED:
        instance.report_run_canceled(run, message="Stopped by a person before it began.")
        return EndedRun(run.run_id, run.job_name, "canceled")
    try:
        told = instance.run_coordinator.cancel_run(run.run_id)
    except dg.DagsterError as error:  # the server that launched it does not answer: the mark is set, the kill switch does the rest
        instance.report_engine_event(f"The server of this run could not be told to end it: {error}", run)
        told = False
    queued = run.status is dg.DagsterRunStatus.QUEUED
    return EndedRun(run.run_id, run.job_name, "canceled" if queued else "asked" if told else "flagged")


__all__ = ["UNFINISHED", "EndedRun", "fail_orphans", "is_orphan", "terminate_runs", "unfinished"]
