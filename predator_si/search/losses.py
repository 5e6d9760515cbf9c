"""Counting lost events: numbers that a writer issued and that stand in no file.

What belongs here: the arithmetic of gaps, and whether a writer still lives. What must not: reading event files.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.search.spool import KINDS, writer_start

LOSS_SCHEMA: dict[str, Any] = {"writer": pl.String, "kind": pl.String, "lost": pl.Int64}


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """What a writer's counter file says. ``touched`` is when it issued its last number; ``alive`` whether its process still holds the lock."""

    writer: str
    issued: dict[str, int]
    durable: dict[str, int]
    closed: bool
    alive: bool
    touched: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """The numbers of one writer and kind that stand in files: ``numbers`` ascending, ``times`` in microseconds since 1970 beside them.

    They come from the hours that were asked for, and from the nearest stored hour before and after (``earlier``, ``later``: there was one), so that a gap
    at the edge of the hours has both its neighbours.
    """

    writer: str
    kind: str
    numbers: np.ndarray
    times: np.ndarray
    earlier: bool
    later: bool


def is_alive(path: Path) -> bool:
    """Whether the writer of this counter file still runs: its lock goes with the process, however that ended."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def read_writers(folder: Path) -> dict[str, WriterRecord]:
    """The counters of all writers below an events folder. One that cannot be read is left out; ``count_losses`` then says that its tail is unknown."""
    found = {}
    for path in sorted((Path(folder) / "writers").glob("*.seq")):
        try:
            alive = is_alive(path)
            record = json.loads(path.read_bytes())
            counts = {name: {kind: int(record[name].get(kind, 0)) for kind in KINDS} for name in ("issued", "durable")}
            touched = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            found[path.stem] = WriterRecord(path.stem, counts["issued"], counts["durable"], bool(record["closed"]), alive, touched)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def count_losses(
    stored: Iterable[Stored], writers: Mapping[str, WriterRecord], markers: Iterable[Mapping[str, Any]], start: datetime, end: datetime
) -> tuple[pl.DataFrame, list[str]]:
    """Lost events by writer and kind, for gaps whose time touches ``[start, end)``, and what cannot be known.

    The highest number that must be stored is what the counter issued (a dead or closed writer), what the counter calls durable (a living one), or failing
    a counter what the last marker says. Everything missing below it is lost.
    """
    rows, unknown = [], []
    marked: dict[tuple[str, str], int] = {}
    for marker in markers:
        for kind in KINDS:
            key = (str(marker["writer"]), kind)
            marked[key] = max(marked.get(key, 0), int(marker.get(f"last_{kind}", 0)))  # older versions knew fewer kinds
    window = (_micros(start), _micros(end))
    uncounted = set()
    for one in stored:
        record, born = writers.get(one.writer), writer_start(one.writer)
        numbers, times = one.numbers, one.times
        if record is None:
            uncounted.add(one.writer)
        if not one.earlier and born is not None:
            if born.replace(minute=0, second=0, microsecond=0) >= start.replace(minute=0, second=0, microsecond=0) or (len(numbers) and numbers[0] == 1):
                numbers, times = np.concatenate([[0], numbers]), np.concatenate([[_micros(born)], times])
            elif len(numbers) or (record is not None and record.durable[one.kind]):
                unknown.append(
                    f"writer {one.writer}: its {one.kind} events from before {start.isoformat()} are not stored: lost or removed, that cannot be told"
                )
        if not one.later and len(numbers):
            top, until = marked.get((one.writer, one.kind), 0), int(times[-1])
            if record is not None:
                top = max(top, record.durable[one.kind] if record.alive else record.issued[one.kind])
                until = max(until, window[1] if record.alive else _micros(record.touched))
            if top > numbers[-1]:
                numbers, times = np.concatenate([numbers, [top + 1]]), np.concatenate([times, [until]])
        missing = np.diff(numbers) - 1
        touches = (np.minimum(times[:-1], times[1:]) < window[1]) & (np.maximum(times[:-1], times[1:]) >= window[0])
        lost = int(missing[touches].sum())
        if lost:
            rows.append({"writer": one.writer, "kind": one.kind, "lost": lost})
    for writer in sorted(uncounted):
        unknown.append(f"writer {writer} has no readable counter file: events it lost after its last stored one cannot be counted")
    return pl.DataFrame(rows, schema=LOSS_SCHEMA, orient="row"), unknown


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
