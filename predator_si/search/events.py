"""Reading events: spool and hourly Parquet as frames, with what had to be set aside and what is missing.

What belongs here: files to frames, de-duplication, quarantine. What must not: writing events (``spool``), rolling them up (``rollup``), any metric.

On disk, below one events folder::

    spool/<writer>-<yyyymmddHH>.jsonl            one {"kind": "search" | "action" | "exposure" | "shadow" | "marker", ...} object a line
    hourly/search|action|exposure|shadow/<yyyymmddHH>-<writer>.parquet
    writers/<writer>.seq                         how many events the writer issued (see ``spool``)
    quarantine/<writer>-<yyyymmddHH>.jsonl       lines that could not be used, kept when their hour was rolled up

Where the writer had a vault, ``user_query`` is a sealed token on disk, and ``client_id`` and ``session_id`` are hashes.
The hour in a name is the hour of writing (UTC). An event may be read from spool and Parquet at once (a roll-up was interrupted): it counts once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import ValidationError

from predator_si.errors import BadInput, Unavailable
from predator_si.privacy import Vault
from predator_si.privacy import open_text as open_frame
from predator_si.records import ActionEvent, ExposureEvent, Record, SearchEvent, ShadowEvent
from predator_si.search.event_schemas import ACTION_SCHEMA as ACTION_SCHEMA
from predator_si.search.event_schemas import EXPOSURE_SCHEMA as EXPOSURE_SCHEMA
from predator_si.search.event_schemas import KIND_SCHEMA as KIND_SCHEMA
from predator_si.search.event_schemas import QUARANTINE_SCHEMA as QUARANTINE_SCHEMA
from predator_si.search.event_schemas import SEARCH_SCHEMA as SEARCH_SCHEMA
from predator_si.search.event_schemas import SHADOW_SCHEMA as SHADOW_SCHEMA
from predator_si.search.losses import Stored, WriterRecord, count_losses, read_writers
from predator_si.search.personal import existing_vault
from predator_si.search.spool import writer_start

_RECORD: dict[str, type[Record]] = {"search": SearchEvent, "action": ActionEvent, "exposure": ExposureEvent, "shadow": ShadowEvent}
_BEGINNING = {kind: f'{{"kind":"{kind}",'.encode() for kind in KIND_SCHEMA}
_LATE = timedelta(hours=1)
"""An event is written after it happened: the next hour's file may hold the last of this one. What comes later still (``payloads.OLDEST``) is found in the raw
layer only."""
_CLOCK = timedelta(seconds=30)
"""How far back a writer's clock may be set before a batch of its spool is taken for older than it is. Events and markers of a file have the same clock."""
_MARKER = b'\n{"kind":"marker",'
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EventFrames:
    """Events of a window, and an account of what is not among them.

    Attributes
    ----------
    search, actions
        Frames with the columns of ``SEARCH_SCHEMA`` and ``ACTION_SCHEMA``, ordered by time, one row an event.
    quarantine
        What could not be used, with the reason (``QUARANTINE_SCHEMA``); of the files that were read, so it may be just outside the window.
    lost
        Events that were issued and are stored nowhere. A gap counts when the time between its stored neighbours touches the window, so a gap that
        straddles two windows counts in both. A quarantined event is lost as well.
    losses
        ``lost`` by ``writer`` and ``kind``.
    unknown
        What cannot be known, in words: a loss that may exist beyond ``lost``. Empty when the account is complete.
    exposures, shadows
        Frames with the columns of ``EXPOSURE_SCHEMA`` and ``SHADOW_SCHEMA``, ordered by the time of the request; their losses stand in ``losses``.
    """

    search: pl.DataFrame
    actions: pl.DataFrame
    quarantine: pl.DataFrame
    lost: int
    losses: pl.DataFrame
    unknown: tuple[str, ...] = ()
    exposures: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EXPOSURE_SCHEMA))
    shadows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SHADOW_SCHEMA))


@dataclass(frozen=True, slots=True)
class EventFile:
    """A file of events and what its name says. ``writer`` and ``hour`` are None for a spool file that somebody else named."""

    path: Path
    kind: Literal["spool", "search", "action", "exposure", "shadow", "quarantine"]
    writer: str | None
    hour: str | None


@dataclass(slots=True)
class Parsed:
    """The content of some files: events by kind, markers by writer, unusable lines."""

    events: dict[str, list[pl.DataFrame]] = field(default_factory=lambda: {kind: [] for kind in KIND_SCHEMA})
    markers: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    unread: dict[tuple[str, str], tuple[int, datetime]] = field(default_factory=dict)
    """(writer, kind) -> the last number of what was left unread because it is older than asked for, and when that was written."""

    def frame(self, kind: str) -> pl.DataFrame:
        """All events of a kind, de-duplicated: searches by ``query_id``, actions by their number; in the order they were written."""
        schema = KIND_SCHEMA[kind]
        events = pl.concat([pl.DataFrame(schema=schema), *self.events[kind]])
        if kind == "search":
            return events.unique("query_id", keep="first", maintain_order=True)
        numbered = events.filter(pl.col("seq").is_not_null()).unique(["writer", "seq"], keep="first", maintain_order=True)
        return pl.concat([numbered, events.filter(pl.col("seq").is_null())])


def hour_name(moment: datetime) -> str:
    """``yyyymmddHH`` in UTC."""
    return f"{moment.astimezone(UTC):%Y%m%d%H}"


def list_files(folder: Path) -> list[EventFile]:
    """All files of events below ``folder``; a folder that does not exist yet has none."""
    found = []
    for path in sorted((folder / "spool").glob("*.jsonl")):
        writer, _, hour = path.stem.rpartition("-")
        named = bool(writer) and len(hour) == 10 and hour.isdigit()
        found.append(EventFile(path, "spool", writer if named else None, hour if named else None))
    kinds: tuple[Literal["search", "action", "exposure", "shadow"], ...] = ("search", "action", "exposure", "shadow")
    for kind in kinds:
        for path in sorted((folder / "hourly" / kind).glob("*.parquet")):
            hour, _, writer = path.stem.partition("-")
            named = bool(writer) and len(hour) == 10 and hour.isdigit()
            found.append(EventFile(path, kind, writer if named else None, hour if named else None))
    for path in sorted((folder / "quarantine").glob("*.jsonl")):
        writer, _, hour = path.stem.rpartition("-")
        found.append(EventFile(path, "quarantine", writer, hour if len(hour) == 10 and hour.isdigit() else None))
    return found


def conform(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The frame with exactly the columns of its kind; a column that an older version did not write takes the record's default."""
    schema = KIND_SCHEMA[kind]
    fields = _RECORD[kind].model_fields
    absent = [name for name in schema if name not in frame.columns]
    for name in absent:
        if fields[name].is_required():
            raise BadInput(f"column {name} is missing")
    return frame.with_columns([pl.lit(None if name == "results" else fields[name].default).cast(schema[name]).alias(name) for name in absent]).select(
        [pl.col(name).cast(dtype) for name, dtype in schema.items()]
    )


def parse_spool(path: Path, origin: str, parsed: Parsed, *, alive: bool, since: datetime | None = None) -> None:
    """Read one spool file into ``parsed``.

    A last line without an end is somebody's write in progress while the writer is ``alive``, and a torn line for the quarantine otherwise. With ``since``,
    batches that were written before it are not read: lines of the quarantine are then numbered from the first one that was.
    """
    text, marker = (path.read_bytes(), None) if since is None else read_tail(path, since)
    if marker is not None:
        for kind in KIND_SCHEMA:
            if f"last_{kind}" in marker:  # older versions knew fewer kinds
                parsed.unread[str(marker["writer"]), kind] = (int(marker[f"last_{kind}"]), datetime.fromisoformat(marker["at"]))
    parse_text(text, origin, parsed, alive=alive)


def parse_text(text: bytes, origin: str, parsed: Parsed, *, alive: bool, before: int = 0) -> int:
    """Read lines of a spool file, of which ``before`` stand before these, into ``parsed``; how many ended."""
    lines = text.split(b"\n")
    torn = lines.pop()
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KIND_SCHEMA}
    for number, line in enumerate(lines, start=before + 1):
        if not line.strip():
            continue
        try:
            kind, event = parse_line(line)
        except ValueError as error:
            parsed.quarantine.append(_aside(origin, number, str(error), line))
            continue
        if kind == "marker":
            parsed.markers.append(event)
        else:
            rows[kind].append(event)
    if torn and not alive:
        parsed.quarantine.append(_aside(origin, before + len(lines) + 1, "torn line: the writer ended in the middle of it", torn))
    for kind, found in rows.items():
        if found:
            parsed.events[kind].append(pl.DataFrame(found, schema=KIND_SCHEMA[kind], orient="row"))
    return len(lines)


def read_tail(path: Path, since: datetime) -> tuple[bytes, dict[str, Any] | None]:
    """The end of a spool file from the last marker that was written before ``since``, and that marker; the whole file and null where there is none.

    Every batch ends with a marker, and an event is written after it happened: what stands before that marker happened before ``since``. The work grows with
    what is asked for, not with the hour.
    """
    wanted = _TAIL_BYTES
    with path.open("rb") as stream:
        while True:
            size = stream.seek(0, 2)
            begin = stream.seek(max(0, size - wanted))
            text = stream.read(size - begin)
            found = text.rfind(_MARKER)
            while found >= 0:
                marker = _marker_before(text[found + 1 : text.find(b"\n", found + 1)], since)
                if marker is not None:
                    return text[found + 1 :], marker
                found = text.rfind(_MARKER, 0, found)
            if begin == 0:
                return text, None
            wanted *= 4


def _marker_before(line: bytes, since: datetime) -> dict[str, Any] | None:
    try:
        marker: dict[str, Any] = parse_line(line)[1]
        return marker if datetime.fromisoformat(marker["at"]) < since else None
    except (ValueError, KeyError, TypeError):
        return None


def parse_parquet(path: Path, origin: str, kind: str, parsed: Parsed) -> None:
    """Read one hourly file into ``parsed``; one that is damaged or has another schema goes to the quarantine as a whole."""
    try:
        parsed.events[kind].append(conform(pl.read_parquet(path, hive_partitioning=False), kind))
    except FileNotFoundError:
        raise
    except (pl.exceptions.PolarsError, BadInput, OSError) as error:
        parsed.quarantine.append(_aside(origin, None, f"unreadable Parquet: {str(error).splitlines()[0]}", b""))


def read_events(folder: Path, start: datetime, end: datetime, *, open_text: bool = True) -> EventFrames:
    """All events with ``start <= timestamp < end``, from Parquet and spool, each once, with an account of what is missing.

    What cannot be known is said in ``unknown``: for instance how much a *machine* crash took (the counter of issued events is not fsynced; ``lost`` is then
    a lower bound), or a loss in hours whose files were removed. Events that a living writer has not flushed yet (at most a second's worth) are neither
    returned nor lost.

    Parameters
    ----------
    folder
        The events folder.
    start, end
        The window, with time zones.
    open_text
        Make ``user_query`` readable with the keys of the folder's home; it is null where its key was destroyed (erased, expired) or there is no vault.
        Otherwise it stays the stored token: metrics need no text, and opening costs some 5 us an event.

    Raises
    ------
    BadInput
        A time without a zone, or an end before the start.
    Unavailable
        Files kept vanishing while they were read.
    """
    folder = Path(folder)
    if start.tzinfo is None or end.tzinfo is None:
        raise BadInput("read_events: start and end need a time zone; pass datetime.now(UTC) or the like.")
    if end < start:
        raise BadInput(f"read_events: the window ends ({end.isoformat()}) before it starts ({start.isoformat()}).")
    for _ in range(5):
        try:
            frames = _read_once(folder, start, end)
        except FileNotFoundError:
            continue  # rolled up between the listing and the reading: the Parquet file is there by now
        return _opened(frames, existing_vault(home_of(folder))) if open_text else frames
    raise Unavailable(f"{folder}: files kept vanishing while events were read. Is something deleting them? Try again.")


def home_of(folder: Path) -> Path:
    """The home folder that an events folder (``service/events``) belongs to."""
    return folder.absolute().parents[1]


def _opened(frames: EventFrames, vault: Vault | None) -> EventFrames:
    aside = frames.quarantine.rename({"text": "user_query"})
    return replace(frames, search=open_frame(frames.search, vault), quarantine=open_frame(aside, vault).rename({"user_query": "text"}))


def _read_once(folder: Path, start: datetime, end: datetime) -> EventFrames:
    # The counters come first: whatever a counter calls durable was in the files before we read them.
    writers = read_writers(folder)
    first, last = hour_name(start), hour_name(end + _LATE)
    files = list_files(folder)
    inside = [file for file in files if file.hour is None or first <= file.hour <= last]
    parsed = read_files(folder, inside, writers, since=start - _CLOCK)
    frames = {kind: parsed.frame(kind) for kind in KIND_SCHEMA}
    stored = []
    for kind in KIND_SCHEMA:
        inside_numbers = dict(_numbers(frames[kind]))
        for writer in sorted({file.writer for file in files if file.writer} | set(writers)):
            own = [file for file in files if file.writer == writer and file.hour and file.kind in ("spool", kind)]
            unread = parsed.unread.get((writer, kind))
            if unread is not None:  # 0: there was none before
                columns = {name: KIND_SCHEMA[kind][name] for name in ("writer", "seq", "timestamp")}
                earlier = pl.DataFrame([(writer, *unread)], schema=columns, orient="row") if unread[0] else None
            else:
                earlier = _nearest(folder, sorted((f for f in own if (f.hour or "") < first), key=lambda f: f.hour or "", reverse=True), kind, writers)
            later = _nearest(folder, sorted((f for f in own if (f.hour or "") > last), key=lambda f: f.hour or ""), kind, writers)
            parts = [part for part in (earlier, inside_numbers.get(writer), later) if part is not None]
            numbers = _ordered(pl.concat(parts)) if parts else None
            if numbers is None and (writer not in writers or not _lived(writers[writer], start, end)):
                continue
            stored.append(
                Stored(
                    writer,
                    kind,
                    numbers["seq"].to_numpy() if numbers is not None else np.empty(0, np.int64),
                    numbers["timestamp"].cast(pl.Int64).to_numpy() if numbers is not None else np.empty(0, np.int64),
                    earlier=earlier is not None,
                    later=later is not None,
                )
            )
    losses, unknown = count_losses(stored, writers, parsed.markers, start, end)
    window = pl.col("timestamp").is_between(start, end, closed="left")
    return EventFrames(
        search=frames["search"].filter(window).sort("timestamp", "seq", maintain_order=True),
        actions=frames["action"].filter(window).sort("timestamp", "seq", maintain_order=True),
        quarantine=pl.DataFrame(parsed.quarantine, schema=QUARANTINE_SCHEMA, orient="row"),
        lost=int(losses["lost"].sum()),
        losses=losses,
        unknown=tuple(unknown),
        exposures=frames["exposure"].filter(window).sort("timestamp", "seq", maintain_order=True),
        shadows=frames["shadow"].filter(window).sort("timestamp", "seq", maintain_order=True),
    )


def read_files(
    folder: Path, files: Iterable[EventFile], writers: Mapping[str, WriterRecord], parsed: Parsed | None = None, *, since: datetime | None = None
) -> Parsed:
    """The content of ``files``, added to ``parsed`` when it is given; of spool files only what may have happened from ``since`` on."""
    parsed = parsed or Parsed()
    for file in files:
        origin = file.path.relative_to(folder).as_posix()
        if file.kind == "spool":
            record = writers.get(file.writer or "")
            parse_spool(file.path, origin, parsed, alive=record is not None and record.alive, since=since)
        elif file.kind == "quarantine":
            parsed.quarantine.extend(read_aside(file.path, origin))
        else:
            parse_parquet(file.path, origin, file.kind, parsed)
    return parsed


def read_aside(path: Path, origin: str) -> list[dict[str, Any]]:
    """Rows of a quarantine file; a line of it that is itself damaged becomes a row about that."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({name: row[name] for name in QUARANTINE_SCHEMA})
        except (ValueError, KeyError, TypeError):
            rows.append(_aside(origin, number, "damaged quarantine line", line))
    return rows


def _nearest(folder: Path, files: list[EventFile], kind: str, writers: Mapping[str, WriterRecord]) -> pl.DataFrame | None:
    """Numbers of the first of ``files`` that holds any event of this kind."""
    for file in files:
        for _, numbers in _numbers(read_files(folder, [file], writers).frame(kind)):
            return numbers
    return None


def _numbers(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Writer by writer, the stored numbers with their times."""
    numbered = frame.select("writer", "seq", "timestamp").drop_nulls(["writer", "seq"])
    return [(str(key[0]), _ordered(part)) for key, part in numbered.partition_by("writer", as_dict=True).items()]


def _ordered(numbers: pl.DataFrame) -> pl.DataFrame:
    return numbers.unique("seq", keep="first").sort("seq")


def _lived(record: WriterRecord, start: datetime, end: datetime) -> bool:
    """Whether the writer was issuing numbers at some time of the window."""
    born = writer_start(record.writer)
    return (born is None or born < end) and (record.alive or record.touched >= start)


def _aside(origin: str, line: int | None, reason: str, text: bytes) -> dict[str, Any]:
    return {"origin": origin, "line": line, "reason": reason, "text": text[:200].decode("utf-8", "replace")}


def parse_line(line: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and content of a spool line; raises ValueError with the reason when it is unusable."""
    for kind, beginning in _BEGINNING.items():  # as our own writer puts it: validated without a detour through objects
        if line.startswith(beginning):
            return kind, _event(kind, b"{" + line[len(beginning) :], _RECORD[kind].model_validate_json)
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("kind") not in (*KIND_SCHEMA, "marker"):
        raise ValueError("no object with kind search, action or marker")
    kind = found.pop("kind")
    if kind != "marker":
        return kind, _event(kind, found, _RECORD[kind].model_validate)
    if not isinstance(found.get("writer"), str) or not all(isinstance(found.get(f"last_{name}"), int) for name in ("search", "action")):
        raise ValueError("a marker without writer and last numbers")
    return kind, found


def _event(kind: str, found: Any, validate: Callable[[Any], Record]) -> dict[str, Any]:
    try:
        event = dict(validate(found).__dict__)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"not a {kind} event: {'.'.join(map(str, first['loc'])) or 'event'}: {first['msg']}") from error
    if event["timestamp"].tzinfo is None:
        raise ValueError("timestamp without a time zone")
    if "results" in event:
        event["results"] = [result.__dict__ for result in event["results"]]
    return event
