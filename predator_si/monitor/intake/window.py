"""A window of the raw layer as the frames that metrics are made from, with an account of what is missing.

What belongs here: reading back. What must not: opening sealed text (``privacy.open_text`` does), metrics.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.errors import BadInput
from predator_si.monitor.intake.store import FOLDERS, RawLayer, scan
from predator_si.monitor.sources.rules import LATE, RAW_SCHEMA, Kind
from predator_si.search.events import QUARANTINE_SCHEMA, EventFrames
from predator_si.search.losses import LOSS_SCHEMA, Stored, count_losses, read_writers
from predator_si.search.spool import writer_start

_REACHES = (timedelta(hours=2), LATE)
"""How far beside a window the neighbours of its numbers are looked for; farther once a number seems to be lost, since a late event lies in an old window."""


_NO_LOSSES = pl.DataFrame(schema=LOSS_SCHEMA)


def read_window(folder: Path, start: datetime, end: datetime, *, events: Path | None = None, results: bool = True) -> EventFrames:
    """Everything of ``start <= t < end`` in the raw layer: searches by their time, actions by their time or on those searches.

    Parameters
    ----------
    folder
        The telemetry folder.
    events
        The events folder of the embedded service: with it, lost events are counted by its writers' numbers. Without it ``lost`` is 0 and ``unknown`` says so.
    results
        False leaves the served documents out (null), which are most of a window: an account of what is missing needs none.

    Returns
    -------
    EventFrames
        ``search`` and ``actions`` with the columns of ``RAW_SCHEMA``, ordered by time; the text is sealed. ``quarantine`` holds what was set aside whose own
        time is in the window, or that has none and was seen in it.

    Raises
    ------
    BadInput
        A time without a zone, or an end before the start.
    """
    if start.tzinfo is None or end.tzinfo is None or end < start:
        raise BadInput(f"read_window: {start} .. {end}: it needs time zones, and must not end before it starts.")
    layer = RawLayer(folder)
    with layer.locked():
        search = _read(layer, "search", start, end, results=results).filter(pl.col("timestamp").is_between(start, end, closed="left"))
        actions = _read(layer, "action", start, end)
        inside = pl.col("timestamp").is_between(start, end, closed="left") | pl.col("query_id").is_in(search["query_id"].implode())
        aside = layer.quarantine()
        markers = layer.ledger().markers
        losses, unknown = _NO_LOSSES, list[str]()
        for reach in _REACHES:
            if events is None:
                break
            numbers = {kind: _numbers(layer, kind, start - reach, end + reach) for kind in FOLDERS}
            losses, unknown = _losses(events, numbers, markers, start, end)
            if losses.is_empty():
                break
    timed = pl.col("event_time").is_between(start, end, closed="left")
    untimed = pl.col("event_time").is_null() & pl.col("seen_at").is_between(start, end, closed="right")  # what this tick found counts in its own window
    quarantine = aside.filter(timed | untimed).select(list(QUARANTINE_SCHEMA))
    if events is None:
        unknown.append("events come from outside: how many of them were lost on the way is not known")
    else:
        foreign = search.select((pl.col("seq").is_null() | pl.col("writer").is_null()).sum()).item()
        if foreign:
            unknown.append(f"{foreign} searches came from outside without numbers: how many were lost on their way is not known")
    order = ("timestamp", "seq")
    return EventFrames(
        search=search.sort(order, maintain_order=True),
        actions=actions.filter(inside).sort(order, maintain_order=True),
        quarantine=quarantine,
        lost=int(losses["lost"].sum()),
        losses=losses,
        unknown=tuple(unknown),
    )


def with_results(folder: Path, searches: pl.DataFrame) -> pl.DataFrame:
    """The searches with the documents that they were served, which ``read_window(results=False)`` left out.

    Parameters
    ----------
    folder
        The telemetry folder.
    searches
        Rows of ``read_window``, in any number: only their documents are read.
    """
    times: tuple[Any, Any] = (searches["timestamp"].min(), searches["timestamp"].max())
    if searches.is_empty():
        return searches
    layer = RawLayer(folder)
    with layer.locked():
        stored = layer.matching("search", searches.select("query_id"), [pl.col("query_id"), pl.col("results")], times)
    return searches.drop("results").join(stored, on="query_id", how="left", maintain_order="left").select(searches.columns)


def _read(layer: RawLayer, kind: Kind, start: datetime, end: datetime, *, results: bool = True) -> pl.DataFrame:
    parts, schema = layer.parts(kind, start, end), RAW_SCHEMA[kind]
    if not parts:
        return pl.DataFrame(schema=schema)
    rows = scan(parts, schema)
    return (rows if results else rows.with_columns(pl.lit(None, schema["results"]).alias("results"))).collect()


def _numbers(layer: RawLayer, kind: Kind, start: datetime, end: datetime) -> pl.DataFrame:
    parts = layer.parts(kind, start, end)
    columns = ("writer", "seq", "timestamp")
    if not parts:
        return pl.DataFrame(schema={name: RAW_SCHEMA[kind][name] for name in columns})
    stored = scan(parts, RAW_SCHEMA[kind]).select(columns).drop_nulls(["writer", "seq"])
    return stored.unique(["writer", "seq"]).sort("writer", "seq").collect()


def _losses(
    events: Path, numbers: dict[Kind, pl.DataFrame], markers: dict[str, dict[str, int]], start: datetime, end: datetime
) -> tuple[pl.DataFrame, list[str]]:
    """As ``read_events`` counts, from the numbers in the raw layer."""
    writers = read_writers(events)
    stored = []
    for kind, frame in numbers.items():
        by_writer = {str(key[0]): part for key, part in frame.partition_by("writer", as_dict=True).items()}
        for writer in sorted({*by_writer, *writers}):
            part = by_writer.get(writer)
            record, born = writers.get(writer), writer_start(writer)
            if part is None and (record is None or (born is not None and born >= end) or (not record.alive and record.touched < start)):
                continue
            seq = part["seq"].to_numpy() if part is not None else np.empty(0, np.int64)
            times = part["timestamp"].cast(pl.Int64).to_numpy() if part is not None else np.empty(0, np.int64)
            earlier = bool(len(times)) and bool(times[0] < start.timestamp() * 1e6)
            later = bool(len(times)) and bool(times[-1] >= end.timestamp() * 1e6)
            stored.append(Stored(writer, kind, seq, times, earlier=earlier, later=later))
    said = [{"writer": writer, **{f"last_{kind}": number for kind, number in last.items()}} for writer, last in markers.items()]
    return count_losses(stored, writers, said, start, end)
