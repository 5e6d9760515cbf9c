"""What a long life leaves behind goes once a day: runs, partitions and files of cycles that ended long ago, old snapshots; old ledger records are sealed.

What belongs here: what may go. What must not: events and keys (``steps.retention``), models (``steps.store``), backups (``steps.keep_copy``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import dagster as dg

from predator_si.control import ACTIVE
from predator_si.errors import Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import cycles as partitions
from predator_si.orchestration.runs import UNFINISHED
from predator_si.orchestration.steps.seal import seal_old_records
from predator_si.records import Cycle

_PAGE = 500
_SERVED = 50
"""Newest champions whose cycles keep their files: they are what the way back, and replay, may ask for."""


@dataclass(frozen=True)
class Cleared:
    """How much went."""

    runs: int = 0
    partitions: int = 0
    cycles: int = 0
    snapshots: int = 0
    records_sealed: int = 0


def clear_history(loop: Loop, instance: dg.DagsterInstance, now: datetime, most_runs: int = 2000) -> Cleared:
    """Let go what is older than ``backup.historyDays``, with one ledger record where that is anything. Safe to repeat and to be killed.

    The newest snapshot, cycles that are active and those whose models served lately keep what they have. Cycles themselves stay in the control database.

    Parameters
    ----------
    most_runs
        Dagster's runs that go in one call: the rest waits for the next day.
    """
    days = loop.settings.values.backup.history_days
    if days is None:
        return Cleared()
    cutoff = now - timedelta(days=days)
    old = list(_ended_before(loop, cutoff))
    served = {span.cycle_id for span in loop.control.champions(loop.contour, _SERVED)}
    known = set(instance.get_dynamic_partitions(str(partitions.name)))
    gone = [cycle for cycle in old if cycle.cycle_id not in served]
    listed = [cycle.cycle_id for cycle in gone if cycle.cycle_id in known]
    for cycle_id in listed:
        instance.delete_dynamic_partition(str(partitions.name), cycle_id)
    folders = [loop.home.artifacts / cycle.cycle_id for cycle in gone]
    folders = [folder for folder in folders if folder.is_dir()]
    try:
        for folder in folders:
            shutil.rmtree(folder)
        snapshots = _drop_snapshots(loop, cutoff)
    except OSError as error:
        raise Unavailable(f"{error.filename}: cannot be deleted although it is older than {days} days ({error.strerror}). Change its owner.") from error
    ended = [status for status in dg.DagsterRunStatus if status not in UNFINISHED]
    records = instance.get_run_records(dg.RunsFilter(statuses=ended, created_before=cutoff), limit=most_runs, ascending=True)
    for record in records:
        instance.delete_run(record.dagster_run.run_id)
    segment = seal_old_records(loop, now)
    sealed = 0 if segment is None else segment.last_seq - segment.first_seq + 1
    done = Cleared(len(records), len(listed), len(folders), snapshots, sealed)
    if done != Cleared():
        loop.control.append("history_cleared", "loop", None, f"older than {days} days", {"before": cutoff.isoformat(), **asdict(done)})
    return done


def _ended_before(loop: Loop, cutoff: datetime) -> Iterator[Cycle]:
    """Cycles of the contour that were last moved before a moment and are not active, newest first."""
    before: str | None = None
    while page := loop.control.cycles(_PAGE, loop.contour, before):
        yield from (cycle for cycle in page if cycle.updated_at < cutoff and cycle.state not in ACTIVE)
        before = page[-1].cycle_id


def _drop_snapshots(loop: Loop, cutoff: datetime) -> int:
    """Snapshots are named by their moment, so none is read to know its age."""
    oldest = f"{loop.contour}-{cutoff:%Y%m%dT%H%M%S%f}"
    found = sorted(loop.home.snapshots.glob(f"{loop.contour}-????????T*.json"))[:-1]
    old = [path for path in found if path.stem < oldest]
    for path in old:
        path.with_suffix(".parquet").unlink(missing_ok=True)
        path.unlink()
    return len(old)
