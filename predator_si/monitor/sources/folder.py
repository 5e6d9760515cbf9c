"""A folder into which another search service puts its events, as Parquet or as JSON lines.

What belongs here: which file or part of it is new, and getting rows out of it. What must not: names and types (``columns``), storing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.monitor.sources.columns import from_documents, from_table, kind_of
from predator_si.monitor.sources.reading import FileMark, Reading, raw_frame, validated
from predator_si.monitor.sources.rules import Kind
from predator_si.records import Provenance

ROWS = 500_000
"""Events of one reading; where there are more, the next reading goes on."""
QUIET = timedelta(minutes=5)
"""A last line without an end is torn when nobody wrote to its file for this long."""


@dataclass(slots=True)
class _Found:
    frames: dict[Kind, list[pl.DataFrame]] = field(default_factory=lambda: {"search": [], "action": []})
    aside: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[str, FileMark] = field(default_factory=dict)
    rows: int = 0


@dataclass(frozen=True)
class EventFiles:
    """Files of events in UBI names: ``*.parquet``, ``*.jsonl``, ``*.ndjson``, also in folders below. A name that begins with a dot or ``_`` is a draft.

    Parameters
    ----------
    folder
        Where they lie.
    marks
        How far its files were read.
    """

    folder: Path
    marks: Mapping[str, FileMark] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int = ROWS
    name: str = "events"

    def read(self, start: datetime, end: datetime) -> Reading:
        """Everything that was put there since the marks, whatever its time; ``end`` is now."""
        provenance = Provenance(source=self.name, origin=str(self.folder), window_start=start, window_end=end)
        if not self.folder.is_dir():
            return Reading(provenance.model_copy(update={"unknown": (f"{self.folder}: there is no such folder",)}), complete=False)
        found, complete, trouble = _Found(), True, list[str]()
        for path in sorted(path for pattern in ("*.parquet", "*.jsonl", "*.ndjson") for path in self.folder.rglob(pattern)):
            if any(part.startswith((".", "_")) for part in path.relative_to(self.folder).parts):
                continue
            if found.rows >= self.rows:
                complete = False
                break
            try:
                self._file(path, found, end)
            except OSError as error:
                trouble.append(f"{path.name}: {error.strerror or error}; it is read again at the next tick")
        return validated(provenance.model_copy(update={"unknown": tuple(trouble)}), found.frames, found.aside, marks=found.marks, complete=complete)

    def _file(self, path: Path, found: _Found, now: datetime) -> None:
        origin = path.relative_to(self.folder).as_posix()
        name, state = f"{self.name}/{origin}", path.stat()
        mark = self.marks.get(name)
        arrived = min(now, datetime.fromtimestamp(state.st_mtime_ns / 1e9, UTC))
        if path.suffix == ".parquet":
            if mark is None or (mark.size, mark.changed_ns) != (state.st_size, state.st_mtime_ns):
                self._parquet(path, origin, arrived, found)
                found.marks[name] = FileMark(size=state.st_size, changed_ns=state.st_mtime_ns)
        elif mark is None or mark.size != state.st_size:
            found.marks[name] = self._lines(path, origin, mark, arrived, now, found)

    def _parquet(self, path: Path, origin: str, arrived: datetime, found: _Found) -> None:
        try:
            table = pl.read_parquet(path, hive_partitioning=False)
        except pl.exceptions.PolarsError as error:
            found.aside.append(self._aside(origin, None, f"unreadable Parquet: {str(error).splitlines()[0]}", b""))
            return
        kind: Kind = "action" if "action_name" in table.columns else "search"
        self._add(from_table(table, kind, self.columns), kind, origin, arrived, pl.int_range(1, table.height + 1, eager=True), found)

    def _lines(self, path: Path, origin: str, mark: FileMark | None, arrived: datetime, now: datetime, found: _Found) -> FileMark:
        with path.open("rb") as stream:
            if mark is None or mark.size > path.stat().st_size:  # a file that got shorter is another one
                mark = FileMark(size=0)
            stream.seek(mark.size)
            lines = stream.read().split(b"\n")
        torn = lines.pop()
        rows: dict[Kind, list[Mapping[str, Any]]] = {"search": [], "action": []}
        numbers: dict[Kind, list[int]] = {"search": [], "action": []}
        size = mark.size + sum(len(line) + 1 for line in lines)
        if torn and (now - arrived >= QUIET or _is_object(torn)):  # a whole object without a line's end is one all the same
            lines.append(torn)
            size += len(torn)
        for number, line in enumerate(lines, start=mark.lines + 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                found.aside.append(self._aside(origin, number, f"broken UTF-8: {error.reason} at byte {error.start}", line))
                continue
            except (ValueError, RecursionError) as error:
                what = "torn line" if line is torn else "not JSON"
                found.aside.append(self._aside(origin, number, f"{what}: {error}", line))
                continue
            if not isinstance(row, dict):
                found.aside.append(self._aside(origin, number, f"not an event: {type(row).__name__}, an object is needed", line))
                continue
            rows[kind_of(row)].append(row)
            numbers[kind_of(row)].append(number)
        for kind, events in rows.items():
            if events:
                self._add(from_documents(events, kind), kind, origin, arrived, pl.Series(numbers[kind]), found)
        return FileMark(size=size, lines=mark.lines + len(lines))

    def _add(self, events: pl.DataFrame, kind: Kind, origin: str, arrived: datetime, lines: pl.Series, found: _Found) -> None:
        found.frames[kind].append(raw_frame(events, kind, source=self.name, origin=origin, arrived=arrived, lines=lines))
        found.rows += events.height

    def _aside(self, origin: str, line: int | None, reason: str, text: bytes) -> dict[str, Any]:
        return {"source": self.name, "origin": origin, "line": line, "reason": reason, "kind": None, "text": text[:1000].decode("utf-8", "replace")}


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
