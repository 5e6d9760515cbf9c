"""Turning finished spool hours into Parquet, exactly once; ``python -m predator_si.search.rollup`` does it in a process of its own.

What belongs here: the atomic step from spool to hourly files. What must not: reading events for use (``events``).

The order is: write the Parquet under a temporary name, fsync, rename, fsync the folder, and only then delete the spool file. Killed anywhere in between,
the next roll-up does it again and arrives at the same files; a reader that sees both forms takes each event once.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import polars as pl

from predator_si.background import lower_priority
from predator_si.errors import PredatorError, Unavailable
from predator_si.privacy import Vault, protect, redact
from predator_si.records import utc_now
from predator_si.search.events import KIND_SCHEMA, Parsed, home_of, list_files, parse_parquet, parse_text, read_aside
from predator_si.search.losses import read_writers
from predator_si.search.personal import open_vault
from predator_si.search.spool import sync_folder

_PART_BYTES = 4 << 20
"""Of a spool file that are read at once."""
_GROUP_ROWS = 8192
"""Events of a row group."""


class Roller(Protocol):
    """What rolls up for a service: a process (``RollProcess``), or this one (``RollHere``)."""

    def roll(self, folder: Path, before_hour: str, writer: str, vault: Vault, *, seal: bool) -> int:
        """``roll_up`` for the writer itself, then ``seal_hours`` where ``seal`` says so; how many files were sealed."""
        ...

    def close(self) -> None:
        """End what is under way; nothing is lost by that."""
        ...


class RollHere:
    """In the calling thread: for tests."""

    def roll(self, folder: Path, before_hour: str, writer: str, vault: Vault, *, seal: bool) -> int:
        """See ``Roller``."""
        roll_up(folder, before_hour, writer, vault)
        return seal_hours(folder, vault) if seal else 0

    def close(self) -> None:
        """Nothing is under way."""


class RollProcess:
    """In a process at low priority, with the vault of the folder's home: the service goes on answering, and takes no memory for it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._changing, self._closed = threading.Lock(), False

    def roll(self, folder: Path, before_hour: str, writer: str, vault: Vault, *, seal: bool) -> int:
        """See ``Roller``.

        Raises
        ------
        Unavailable
            The process says why it could not, or was ended.
        """
        vault.sync()
        command = [sys.executable, "-m", "predator_si.search.rollup", str(folder), "--before", before_hour, "--writer", writer, *(["--seal"] if seal else [])]
        with self._changing:
            if self._closed:
                raise Unavailable("the service is ending: the hour is rolled up at its next start.")
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said, why = self._process.communicate()
        if self._process.returncode:
            words = why.strip().splitlines() or [f"it ended with {self._process.returncode} and said nothing"]
            raise Unavailable(f"{folder}: the process that rolls up failed ({words[-1]}); the spool is kept, and it is tried again.")
        return int(json.loads(said)["sealed"])

    def close(self) -> None:
        """End the process, whatever it does: what it has not finished is done again."""
        with self._changing:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()


def roll_up(folder: Path, before_hour: str, writer: str | None = None, vault: Vault | None = None) -> int:
    """Roll every finished spool file up and return how many there were.

    A file is finished when its hour is before ``before_hour`` (``yyyymmddHH``, UTC) and its writer is dead, or is ``writer``: the caller itself, who knows
    that nothing more comes for those hours. Lines that cannot be used go to ``quarantine/`` and stay visible to ``read_events``. With a ``vault`` whatever an
    older version wrote in plain text is protected on the way, and the lines in quarantine are redacted and sealed under the key of their day.

    Raises
    ------
    Unavailable
        The folder cannot be written; the spool files are still there.
    """
    folder = Path(folder)
    writers = read_writers(folder)
    rolled = 0
    for file in list_files(folder):
        if file.kind != "spool" or file.hour is None or file.writer is None or file.hour >= before_hour:
            continue
        record = writers.get(file.writer)
        if record is not None and record.alive and file.writer != writer:
            continue
        try:
            rolled += _roll_file(folder, file.path, file.hour, file.writer, vault)
        except FileNotFoundError:
            continue  # somebody else rolled it up in the meantime
        except OSError as error:
            raise Unavailable(
                f"{folder}: hourly files cannot be written ({error}); the spool is kept. Make the folder writable and free some space."
            ) from error
    return rolled


def seal_hours(folder: Path, vault: Vault) -> int:
    """Protect hourly files that an older version wrote in plain text, each whole or not at all; how many there were.

    For the one process that writes here: it must not run beside ``roll_up``.

    Raises
    ------
    Unavailable
        A file cannot be written; those that were not reached are as before.
    """
    folder, found = Path(folder), 0
    for file in list_files(folder):
        if file.kind not in KIND_SCHEMA:
            continue
        parsed = Parsed()
        parse_parquet(file.path, file.path.name, file.kind, parsed)
        for frame in parsed.events[file.kind]:  # none when the file is damaged: readers see it in the quarantine
            sealed = protect(frame, vault, stored=True)
            if not sealed.equals(frame):
                _write_parquet(sealed, file.path)
                found += 1
    return found


def _roll_file(folder: Path, path: Path, hour: str, writer: str, vault: Vault | None) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # another process is at it
        if os.fstat(descriptor).st_nlink == 0:
            return 0
        origin = path.relative_to(folder).as_posix()
        aside: list[dict[str, Any]] = []
        with ExitStack() as open_files:
            hours: dict[str, _Hour] = {}
            lines = 0
            for text in _parts(path):
                parsed = Parsed()
                lines += parse_text(text, origin, parsed, alive=False, before=lines)
                for kind, frames in parsed.events.items():
                    if frames and kind not in hours:
                        hours[kind] = open_files.enter_context(_Hour(folder, kind, f"{hour}-{writer}.parquet", vault))
                    for frame in frames:
                        hours[kind].add(frame)
                aside += parsed.quarantine
            for kind in KIND_SCHEMA:
                if kind in hours:
                    aside += hours[kind].finish()
        if aside:
            _write_aside(folder / "quarantine" / path.name, aside, vault)
        path.unlink()
        sync_folder(path.parent)
        return 1
    finally:
        os.close(descriptor)


def _parts(path: Path) -> Iterator[bytes]:
    """The file in pieces that end with a line: the work takes as much memory for a busy hour as for a quiet one."""
    with path.open("rb") as stream:
        while lines := stream.readlines(_PART_BYTES):
            yield b"".join(lines)


class _Hour:
    """One kind's hourly file in the making, each event once; nobody sees it before :meth:`finish`.

    What an earlier roll-up of the same hour stored comes first (the clock may have stepped back, or that roll-up was killed before it deleted the spool).
    """

    def __init__(self, folder: Path, kind: str, name: str, vault: Vault | None) -> None:
        self.kind, self._folder, self._vault = kind, folder, vault
        self._target = folder / "hourly" / kind / name
        self._temporary = self._target.with_name(f".{name}.{os.getpid()}.tmp")
        self._waiting: list[pl.DataFrame] = []
        self._seen: set[Any] = set()
        self._file: Any = None
        self._damaged: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        for left in self._target.parent.glob(f".{self._target.name}.*.tmp"):  # of one that was killed: the spool file is locked, nobody else writes this hour
            left.unlink(missing_ok=True)
        before = Parsed()
        if self._target.exists():
            parse_parquet(self._target, self._target.relative_to(self._folder).as_posix(), self.kind, before)
            self._damaged = before.quarantine
        for frame in before.events[self.kind]:
            self.add(frame)
        return self

    def add(self, frame: pl.DataFrame) -> None:
        """Events in the order they were written."""
        key = ["query_id"] if self.kind == "search" else ["writer", "seq"]
        names = frame.select(key).rows()
        fresh = []
        for name in names:
            fresh.append(None in name or name not in self._seen)
            self._seen.add(name)
        self._waiting.append(frame.filter(pl.Series(fresh, dtype=pl.Boolean)))
        if sum(own.height for own in self._waiting) >= _GROUP_ROWS:
            self._write()

    def finish(self) -> list[dict[str, Any]]:
        """Put the file in its place; what the quarantine gets for a damaged one that was there."""
        self._write()
        self._file.close()
        if self._damaged:  # keep its bytes for a person, and say so where readers look
            (self._folder / "quarantine").mkdir(exist_ok=True)
            self._target.rename(self._folder / "quarantine" / self._target.name)
        _replace(self._temporary, self._target)
        return self._damaged

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self) -> None:
        import pyarrow.parquet as pq

        frame = pl.concat([pl.DataFrame(schema=KIND_SCHEMA[self.kind]), *self._waiting])
        self._waiting.clear()
        table = (frame if self._vault is None else protect(frame, self._vault, stored=True)).to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._file is None:
            self._file = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        if table.num_rows:
            self._file.write_table(table)


def _write_parquet(frame: pl.DataFrame, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        frame.write_parquet(temporary)
        _replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_aside(target: Path, found: list[dict[str, Any]], vault: Vault | None) -> None:
    target.parent.mkdir(exist_ok=True)
    rows = read_aside(target, target.name) if target.exists() else []
    if vault is not None:  # the same text has another token each time
        rows = [{**row, "text": text} for row, text in zip(rows, vault.open([row["text"] for row in rows]), strict=True)]
    fresh = found if vault is None else [{**row, "text": redact(row["text"])} for row in found]
    rows += [row for row in fresh if row not in rows]
    if vault is not None:
        now = utc_now()
        rows = [{**row, "text": None if row["text"] is None else vault.seal(row["text"], None, now)} for row in rows]
        vault.sync()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _replace(temporary, target)


def _replace(temporary: Path, target: Path) -> None:
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(target)
    sync_folder(target.parent)


def main(arguments: list[str] | None = None) -> int:
    """Roll up at low priority; prints what was done as JSON."""
    parser = argparse.ArgumentParser(prog="python -m predator_si.search.rollup", description="Turns finished hours of events into Parquet.")
    parser.add_argument("folder", type=Path, help="the events folder of a home")
    parser.add_argument("--before", required=True, metavar="yyyymmddHH", help="hours before this one are finished")
    parser.add_argument("--writer", help="a writer that lives and adds nothing more to those hours")
    parser.add_argument("--seal", action="store_true", help="also protect hourly files that an older version wrote in plain text")
    chosen = parser.parse_args(arguments)
    lower_priority(idle=False)
    try:
        vault = open_vault(home_of(chosen.folder))
        rolled = roll_up(chosen.folder, chosen.before, chosen.writer, vault)
        sealed = seal_hours(chosen.folder, vault) if chosen.seal else 0
    except PredatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({"rolled": rolled, "sealed": sealed}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
