"""The search service's own events: its spool and hourly Parquet, read from where the last reading stopped.

What belongs here: which part of which file is new. What must not: validating beyond what ``search.events`` says of a line, storing.

``search.events.read_events`` answers for a window, with queries readable; here files are followed to the byte and the sealed text stays sealed, since what is
read goes into another store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.errors import BadInput
from predator_si.monitor.sources.reading import FileMark, Reading, raw_frame, validated
from predator_si.monitor.sources.rules import Kind
from predator_si.privacy.vault import TOKEN
from predator_si.records import Provenance
from predator_si.search.events import KIND_SCHEMA, EventFile, conform, list_files, parse_line, read_aside
from predator_si.search.losses import WriterRecord, read_writers
from predator_si.search.spool import KINDS

ROWS = 500_000
"""Events of one reading; where there are more, the next reading goes on."""
_KINDS: dict[str, Kind] = {"search": "search", "action": "action"}
"""What the raw layer holds: exposures and shadows belong to trials and watches, which read them where they were written."""


@dataclass(slots=True)
class _Found:
    frames: dict[Kind, list[pl.DataFrame]] = field(default_factory=lambda: {"search": [], "action": []})
    aside: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[str, FileMark] = field(default_factory=dict)
    markers: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: int = 0


@dataclass(frozen=True)
class Spool:
    """Events of the embedded search service, in one events folder.

    Parameters
    ----------
    folder
        The events folder.
    marks
        How far its files were read, by origin below the folder with ``spool/`` and so on in front.
    rows
        Events of one reading.
    """

    folder: Path
    marks: Mapping[str, FileMark] = field(default_factory=dict)
    rows: int = ROWS
    name: str = "spool"

    def read(self, start: datetime, end: datetime) -> Reading:
        """Everything written since the marks, whatever its time; ``end`` is now, ``start`` only names the window."""
        provenance = Provenance(source=self.name, origin="service/events", window_start=start, window_end=end)
        for _ in range(5):
            found = _Found()
            try:
                complete = self._read(found, end)
            except FileNotFoundError:
                continue  # rolled up between the listing and the reading: the Parquet file is there by now
            return validated(provenance, found.frames, found.aside, marks=found.marks, markers=found.markers, complete=complete)
        unknown = ("files kept vanishing while events were read; the next reading tries again",)
        return Reading(provenance.model_copy(update={"unknown": unknown}), complete=False)

    def _read(self, found: _Found, now: datetime) -> bool:
        writers = read_writers(self.folder)
        for file in list_files(self.folder):
            if found.rows >= self.rows:
                return False
            if file.kind not in ("spool", "quarantine", *_KINDS):
                continue
            origin = file.path.relative_to(self.folder).as_posix()
            state = file.path.stat()
            mark = self.marks.get(f"{self.name}/{origin}")
            if file.kind == "spool":
                if mark is None or mark.size != state.st_size:
                    self._lines(file, origin, mark, found, now, writers)
            elif mark is None or (mark.size, mark.changed_ns) != (state.st_size, state.st_mtime_ns):
                self._whole(file, origin, found, now)
                found.marks[f"{self.name}/{origin}"] = FileMark(size=state.st_size, changed_ns=state.st_mtime_ns)
        return True

    def _lines(self, file: EventFile, origin: str, mark: FileMark | None, found: _Found, now: datetime, writers: Mapping[str, WriterRecord]) -> None:
        with file.path.open("rb") as stream:
            if mark is None or mark.size > file.path.stat().st_size:  # a file that got shorter is another one
                mark = FileMark(size=0)
            stream.seek(mark.size)
            lines = stream.read().split(b"\n")
        torn = lines.pop()
        rows: dict[Kind, list[dict[str, Any]]] = {"search": [], "action": []}
        numbers: dict[Kind, list[int]] = {"search": [], "action": []}
        for number, line in enumerate(lines, start=mark.lines + 1):
            if not line.strip():
                continue
            try:
                kind, event = parse_line(line)
            except ValueError as error:
                found.aside.append(self._aside(origin, number, str(error), line))
                continue
            if kind == "marker":
                known = found.markers.setdefault(str(event["writer"]), dict.fromkeys(KINDS, 0))
                known.update({name: max(known[name], int(event.get(f"last_{name}", 0))) for name in KINDS})
            elif kind in _KINDS:
                rows[_KINDS[kind]].append(event)
                numbers[_KINDS[kind]].append(number)
        size = mark.size + sum(len(line) + 1 for line in lines)
        record = writers.get(file.writer or "")
        if torn and (record is None or not record.alive):
            found.aside.append(self._aside(origin, mark.lines + len(lines) + 1, "torn line: the writer ended in the middle of it", torn))
            size += len(torn)
        found.marks[f"{self.name}/{origin}"] = FileMark(size=size, lines=mark.lines + len(lines))
        for name, events in rows.items():
            if events:
                frame = pl.DataFrame(events, schema=KIND_SCHEMA[name], orient="row")
                self._add(found, name, frame, origin, _arrival(file, now), pl.Series(numbers[name]))

    def _whole(self, file: EventFile, origin: str, found: _Found, now: datetime) -> None:
        if file.kind == "quarantine":
            for row in read_aside(file.path, origin):
                found.aside.append({"source": self.name, "kind": None, **row})
            return
        kind = _KINDS[file.kind]
        try:
            frame = conform(pl.read_parquet(file.path, hive_partitioning=False), kind)
        except FileNotFoundError:
            raise
        except (pl.exceptions.PolarsError, BadInput, OSError) as error:
            found.aside.append(self._aside(origin, None, f"unreadable Parquet: {str(error).splitlines()[0]}", b"", kind))
            return
        self._add(found, kind, frame, origin, _arrival(file, now), pl.int_range(1, frame.height + 1, eager=True))

    def _add(self, found: _Found, kind: Kind, frame: pl.DataFrame, origin: str, arrived: datetime, lines: pl.Series) -> None:
        sealed = pl.col("user_query").str.contains(TOKEN).fill_null(False) if kind == "search" else False
        found.frames[kind].append(raw_frame(frame, kind, source=self.name, origin=origin, arrived=arrived, lines=lines, sealed=sealed))
        found.rows += frame.height

    def _aside(self, origin: str, line: int | None, reason: str, text: bytes, kind: str | None = None) -> dict[str, Any]:
        return {"source": self.name, "origin": origin, "line": line, "reason": reason, "kind": kind, "text": text[:1000].decode("utf-8", "replace")}


def _arrival(file: EventFile, now: datetime) -> datetime:
    """When the events of a file were written: the end of the hour that its name says, so that reading it again later judges them alike."""
    if file.hour is None:
        return min(now, datetime.fromtimestamp(file.path.stat().st_mtime, UTC))
    return min(now, datetime.strptime(file.hour, "%Y%m%d%H").replace(tzinfo=UTC) + timedelta(hours=1))
