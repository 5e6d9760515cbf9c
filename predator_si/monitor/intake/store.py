"""The raw layer on disk: every valid event once, whatever is read again and wherever a process dies.

What belongs here: windows, parts, the quarantine table, the ledger of what was read, and the one atomic step that changes them. What must not: reading sources,
rules about a record (``rules``).

Below the telemetry folder::

    search/window=<yyyymmddTHHMM>/b<batch>.parquet    windows of 15 minutes (UTC) by the event's own time
    actions/window=<yyyymmddTHHMM>/b<batch>.parquet   in the window of the request where that is known, else by the action's own time
    quarantine/b<batch>.parquet
    ledger.json                                       which files were read how far, totals, windows to be measured again
    .batch/                                           a batch on its way in; .lock is held while anybody changes anything

A batch is written below ``.batch`` first and is decided by one rename, that of its manifest; from then on its files are moved to their places, by whoever
comes next if the first one dies. Before the rename nothing has happened, after it everything will. (Redo logging: Gray and Reuter, Transaction Processing,
1993, section 10.3.) Readers that do not take the lock may miss a part of a batch for the milliseconds of its moving; they never see an event twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from predator_si.errors import BadInput, Unavailable
from predator_si.monitor.sources.reading import FileMark
from predator_si.monitor.sources.rules import LATE, QUARANTINE, RAW_SCHEMA, Kind
from predator_si.records import Record
from predator_si.search.spool import sync_folder

WINDOW = timedelta(minutes=15)
COMPRESSION: Literal["lz4"] = "lz4"
"""Of the parts: 1.7 times the size of zstd, and document ids are decoded in half the time, each time that a window is measured."""
FOLDERS: dict[Kind, str] = {"search": "search", "action": "actions"}
_MANIFEST = "manifest.json"


class Ledger(Record):
    """What the raw layer remembers beside its rows."""

    batch: int = 0
    """Number of the newest batch."""
    read_until: datetime | None = None
    """When the newest intake began: windows that had ended by then are closed."""
    sources: dict[str, datetime] = Field(default_factory=dict)
    """By source: until when it was read, so that a window in which it was down is asked for again."""
    files: dict[str, FileMark] = Field(default_factory=dict)
    markers: dict[str, dict[str, int]] = Field(default_factory=dict)
    """By writer of a spool: the highest number of each kind that a marker names."""
    good: dict[str, int] = Field(default_factory=dict)
    """Events stored so far, by kind."""
    quarantined: dict[str, int] = Field(default_factory=dict)
    """Records set aside so far, by the rule that they broke."""
    dirty: dict[str, datetime] = Field(default_factory=dict)
    """Closed windows (their start) that got events since they were measured, and when the first of these came."""


@dataclass(slots=True)
class Batch:
    """What goes into the raw layer in one step: settled rows by kind, quarantine rows, and the ledger as it is afterwards."""

    rows: dict[Kind, pl.DataFrame] = field(default_factory=dict)
    """With ``window`` (UTC start) beside the columns of ``RAW_SCHEMA``."""
    aside: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=QUARANTINE))
    ledger: Ledger = field(default_factory=Ledger)


def window_of(moment: datetime) -> datetime:
    """Start of the 15-minute window (UTC) that ``moment`` lies in."""
    seconds = int(moment.timestamp() // WINDOW.total_seconds()) * WINDOW.total_seconds()
    return datetime.fromtimestamp(seconds, UTC)


def window_name(start: datetime) -> str:
    """``yyyymmddTHHMM`` in UTC."""
    return f"{start.astimezone(UTC):%Y%m%dT%H%M}"


def window_start(name: str) -> datetime:
    """The start that a window's name says."""
    return datetime.strptime(name, "%Y%m%dT%H%M").replace(tzinfo=UTC)


class RawLayer:
    """The raw layer in one telemetry folder.

    Parameters
    ----------
    folder
        The telemetry folder; it is made when something is first stored.
    on_step
        Called with the name of each step that a crash could fall before; for tests.
    """

    def __init__(self, folder: Path, *, on_step: Callable[[str], None] | None = None) -> None:
        self.folder = Path(folder)
        self._batch = self.folder / ".batch"
        self._step = on_step or (lambda _: None)

    # ----------------------------------------------------------------- one at a time

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the layer alone, with whatever a dead process left half done put right.

        Raises
        ------
        Unavailable
            The folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise Unavailable(f"{self.folder}: the raw layer cannot be written ({error}). Make the folder writable, or free some space.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._recover()
            yield
        except OSError as error:
            raise Unavailable(f"{self.folder}: the raw layer cannot be written ({error}); nothing was lost, the next intake goes on.") from error
        finally:
            os.close(descriptor)

    def _recover(self) -> None:
        if not self._batch.exists():
            return
        if (self._batch / _MANIFEST).is_file():
            self._apply()
        else:
            shutil.rmtree(self._batch)

    # ----------------------------------------------------------------- the ledger

    def ledger(self) -> Ledger:
        """The ledger as of the newest batch; of an empty layer, or of one that lost it, an empty one.

        Raises
        ------
        BadInput
            The file is damaged. Reading everything again without it stores nothing twice.
        """
        path = self.folder / "ledger.json"
        if not path.exists():
            return Ledger(batch=self._newest_part())
        try:
            return Ledger.read(path)
        except BadInput as error:
            raise BadInput(f"{error} Or remove it: all files are read again then, and nothing is stored twice.") from error

    def dirty_windows(self) -> tuple[datetime, ...]:
        """Starts of closed windows that got events since they were measured, oldest first."""
        return tuple(sorted(window_start(name) for name in self.ledger().dirty))

    def mark_clean(self, windows: Iterable[datetime]) -> None:
        """Say that these windows (their starts) were measured again; one that got more events in the meantime must be read before it is marked."""
        names = {window_name(start) for start in windows}
        with self.locked():
            ledger = self.ledger()
            left = {name: since for name, since in ledger.dirty.items() if name not in names}
            if left != ledger.dirty:
                self._commit([], ledger.model_copy(update={"dirty": left}))

    # ----------------------------------------------------------------- what is stored

    def parts(self, kind: Kind, start: datetime, end: datetime) -> list[Path]:
        """Files of all windows that touch ``start <= t < end``, in order."""
        root = self.folder / FOLDERS[kind]
        if not root.is_dir():
            return []
        first, last = window_name(window_of(start)), window_name(end)
        names = sorted(entry.name for entry in os.scandir(root) if entry.name.startswith("window=") and first <= entry.name[7:] <= last)
        return [path for name in names if window_start(name[7:]) < end for path in sorted((root / name).glob("b*.parquet"))]

    def quarantine(self) -> pl.DataFrame:
        """Everything that was set aside (``rules.QUARANTINE``), in the order it was seen."""
        parts = sorted((self.folder / "quarantine").glob("b*.parquet"))
        return scan(parts, QUARANTINE).collect() if parts else pl.DataFrame(schema=QUARANTINE)

    def matching(self, kind: Kind, keys: pl.DataFrame, columns: list[pl.Expr], near: tuple[datetime, datetime]) -> pl.DataFrame:
        """Stored rows whose key columns are among ``keys``, of windows at most a day from ``near`` (first and last time of what is asked for)."""
        parts = self.parts(kind, near[0] - LATE, near[1] + LATE)
        if not parts or keys.is_empty():
            return pl.DataFrame(schema=RAW_SCHEMA[kind]).select(columns)
        stored = scan(parts, RAW_SCHEMA[kind]).select(columns)
        return stored.join(keys.lazy(), on=keys.columns, how="semi", nulls_equal=True).collect()

    # ----------------------------------------------------------------- the one step

    def store(self, batch: Batch) -> None:
        """Store a batch, all of it or nothing. The lock must be held."""
        name = f"b{batch.ledger.batch:08d}.parquet"
        files: list[tuple[str, pl.DataFrame]] = []
        for kind, rows in batch.rows.items():
            for (start,), part in sorted(rows.partition_by("window", as_dict=True, include_key=False).items(), key=lambda one: str(one[0][0])):
                assert isinstance(start, datetime)
                files.append((f"{FOLDERS[kind]}/window={window_name(start)}/{name}", part.select(list(RAW_SCHEMA[kind]))))
        if batch.aside.height:
            files.append((f"quarantine/{name}", batch.aside))
        self._commit(files, batch.ledger)

    def _commit(self, files: list[tuple[str, pl.DataFrame]], ledger: Ledger) -> None:
        self._step("begin")
        self._batch.mkdir()
        moves: list[tuple[str, str]] = []
        for number, (target, rows) in enumerate(files):
            rows.write_parquet(self._batch / f"{number}.parquet", compression=COMPRESSION, statistics=True)
            _sync(self._batch / f"{number}.parquet")
            moves.append((f"{number}.parquet", target))
            self._step("part written")
        (self._batch / "ledger.json").write_text(ledger.to_json())
        _sync(self._batch / "ledger.json")
        moves.append(("ledger.json", "ledger.json"))
        self._step("ledger written")
        temporary = self._batch / "manifest.tmp"
        temporary.write_text(json.dumps(moves))
        _sync(temporary)
        self._step("manifest written")
        temporary.replace(self._batch / _MANIFEST)
        sync_folder(self._batch)
        self._step("decided")
        self._apply()

    def _apply(self) -> None:
        """Move a decided batch to its places. Whatever was moved already is no longer below ``.batch``."""
        moves = json.loads((self._batch / _MANIFEST).read_text())
        for source, target in moves:
            place = self.folder / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if (self._batch / source).exists():
                (self._batch / source).replace(place)
            self._step("moved")
        for folder in sorted({(self.folder / target).parent for _, target in moves}):
            sync_folder(folder)
        self._step("all moved")
        (self._batch / _MANIFEST).unlink()
        self._step("manifest gone")
        shutil.rmtree(self._batch)
        self._step("end")

    def _newest_part(self) -> int:
        numbers = [int(path.stem[1:]) for folder in ("search/*", "actions/*", "quarantine") for path in self.folder.glob(f"{folder}/b*.parquet")]
        return max(numbers, default=0)


def scan(parts: list[Path], schema: Mapping[str, Any]) -> pl.LazyFrame:
    """Rows of some parts; a column that an older version did not write is null, one that a newer version writes is left out."""
    return pl.scan_parquet(parts, schema=dict(schema), missing_columns="insert", extra_columns="ignore", hive_partitioning=False)


def updated(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Sums by name, names in order."""
    return {name: counts.get(name, 0) + more.get(name, 0) for name in sorted({*counts, *more})}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason_class(reason: Any) -> str:
    """The rule that a reason names: what stands before its first colon."""
    return str(reason).partition(":")[0]
