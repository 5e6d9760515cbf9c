"""Make a backup while everything runs: databases by SQLite's online copy, files as they lie, each part with its hash.

The databases are copied before the files. So files may be newer than the ledger that comes back with them, never older: what the ledger knows is there.
Within a Git repository references are copied before objects, so that each one points at what is there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from predator_si.backup.manifest import NAME, BackupManifest, Part, file_system
from predator_si.control import Control
from predator_si.control.opening import is_there, open_control
from predator_si.errors import Missing, Unavailable
from predator_si.home import Home
from predator_si.records import utc_now

Progress = Callable[[int, int], None]
LEFT_OUT = {
    "privacy": "keys of people's queries: never in the same place as what they open. Copy privacy/ to a place of its own",
    "logs": "what processes wrote",
    "gitops": "a clone; it is made again from gitops.git",
    "reconcile": "a clone; it is made again from gitops.git",
    "warehouse": "the marts; they are built again from telemetry",
    "pair_scores.db": "scores that can be computed again",
    "datasets/.dvc/tmp": "DVC's own caches",
    "datasets/.dvc/config.local": "paths of this home; it is written again",
}
_PASSING = (".lock", ".partial", ".pid", "-wal", "-shm", "-journal", ".sock")
_SQLITE = b"SQLite format 3\x00"
_LARGE = 64 << 20
"""Larger files are weights and indexes, which nobody writes to once they are there."""


def create_backup(
    home: Home, destination: str, contour: str, *, now: datetime | None = None, on_progress: Progress | None = None
) -> tuple[str, BackupManifest]:
    """Copy a home to ``<destination>/<contour>-<UTC time>``.

    Parameters
    ----------
    destination
        A folder, or any fsspec URL.

    Returns
    -------
    tuple
        Where the backup lies, and what it holds.

    Raises
    ------
    Missing
        There is nothing to copy: no ledger in this home.
    Unavailable
        The place does not take it, or the disk is full. What was written there has no manifest and is no backup.
    """
    if not is_there(home):
        raise Missing(f"{home.control_db}: this home has no control database, so there is nothing to keep. Give another home.")
    moment = (now or utc_now()).astimezone(UTC)
    files, base = file_system(destination)
    folder = f"{base.rstrip('/')}/{contour}-{moment:%Y%m%dT%H%M%SZ}"
    databases, others = _listed(home.path)
    total, done = len(databases) + len(others), 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    try:
        files.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=home.path) as scratch:
            copies = Path(scratch)
            for name in databases:
                _copy_database(home.path / name, copies / name)
            held = home.control_db.name in databases  # else a server holds it, and keeps copies of it
            head = (Control(copies / home.control_db.name) if held else open_control(home)).head()
            first = _write(files, f"{folder}/databases.tar.gz", "databases.tar.gz", copies, databases, tick)
        second = _write(files, f"{folder}/files.tar.gz", "files.tar.gz", home.path, others, tick)
        manifest = BackupManifest(
            contour=contour,
            created_at=moment,
            home=str(home.path),
            parts=(first, second),
            databases=tuple(databases),
            ledger_seq=head[0] if head is not None else 0,
            ledger_hash=head[1] if head is not None else None,
            left_out=LEFT_OUT,
            outside=_outside(home),
            control_outside=None if held else open_control(home).name,
        )
        files.pipe_file(f"{folder}/{NAME}", manifest.to_json().encode())
    except OSError as error:
        raise Unavailable(
            f"{destination}: the backup cannot be written ({type(error).__name__}: {error}). Free space, or see that the place answers."
        ) from error
    return f"{destination.rstrip('/')}/{folder.rsplit('/', 1)[1]}", manifest


def drop_older(destination: str, contour: str, keep: int) -> list[str]:
    """Delete all but the newest ``keep`` whole backups of a contour, and what older ones were cut short; the names that went.

    Raises
    ------
    Unavailable
        The place does not answer, or does not let them go.
    """
    files, base = file_system(destination)
    form = re.compile(rf"{re.escape(contour)}-\d{{8}}T\d{{6}}Z")
    try:
        names = sorted(name for name in (str(path).rstrip("/").rsplit("/", 1)[-1] for path in files.ls(base, detail=False)) if form.fullmatch(name))
        whole = [name for name in names if files.exists(f"{base.rstrip('/')}/{name}/{NAME}")]
        if len(whole) <= keep:
            return []
        gone = [name for name in names if name < whole[-keep]]
        for name in gone:
            folder = f"{base.rstrip('/')}/{name}"
            if files.exists(f"{folder}/{NAME}"):
                files.rm(f"{folder}/{NAME}")  # first: without it nobody takes the rest for a backup
            files.rm(folder, recursive=True)
    except OSError as error:
        raise Unavailable(f"{destination}: older backups cannot be deleted ({type(error).__name__}: {error}). See that we may delete there.") from error
    return gone


def _listed(root: Path) -> tuple[list[str], list[str]]:
    """(SQLite databases, other files and links) of a home, relative; what is left out is in neither."""
    databases: list[str] = []
    others: list[str] = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        own = here.relative_to(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in linked and (own / name).as_posix() not in LEFT_OUT and not name.startswith(".backup-"))
        if not folders and not names and here != root:
            others.append(own.as_posix())  # Git knows a repository by its folders, empty or not
        for name in sorted([*names, *linked]):
            path = (own / name).as_posix()
            if path in LEFT_OUT or name.endswith(_PASSING):
                continue
            (databases if _is_database(here / name) else others).append(path)
    return databases, sorted(others, key=lambda path: ("/objects/" in path, path))


def _is_database(path: Path) -> bool:
    if path.is_symlink() or path.suffix != ".db":
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def _copy_database(source: Path, target: Path) -> None:
    """SQLite's online copy: consistent although others write, without locking them out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30.0)) as one, closing(sqlite3.connect(target)) as other:
            one.backup(other, pages=1024, sleep=0.01)
    except sqlite3.Error as error:
        raise Unavailable(f"{source}: cannot be copied ({error}). See that the file is whole and the disk has room.") from error


class _Hashed:
    """A stream that hashes and counts what passes through it."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.digest, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


def _write(files: Any, path: str, name: str, root: Path, members: Iterable[str], tick: Callable[[int], None]) -> Part:
    """One part: members below ``root`` as a compressed tar file; what was deleted meanwhile is left out."""
    count = 0
    with files.open(path, "wb") as stream:
        hashed = _Hashed(stream)
        with (
            gzip.GzipFile(fileobj=hashed, mode="wb", compresslevel=1, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):  # type: ignore[arg-type]
            for member in members:
                if _add(tar, root / member, member):
                    count += 1
                tick(1)
    return Part(name=name, sha256=hashed.digest.hexdigest(), bytes=hashed.bytes, entries=count)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> bool:
    """Add one file as it is now; what others append to it, or cut off, while it is read does no harm."""
    try:
        if path.is_symlink() or path.is_dir():
            tar.add(path, name, recursive=False)
            return True
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            about = tar.gettarinfo(name=None, arcname=name, fileobj=stream)
            if about.size > _LARGE:
                tar.addfile(about, stream)
                return True
            content = stream.read()
        about.size = len(content)
        tar.addfile(about, io.BytesIO(content))
    except FileNotFoundError:
        return False
    return True


def _outside(home: Home) -> tuple[str, ...]:
    """Folders that ``plan.json`` names outside the home."""
    import json

    try:
        plan = json.loads((home.path / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    named = (str(plan.get(key, "")) for key in ("corpus", "embedder"))
    return tuple(sorted(path for path in named if path and not Path(path).is_relative_to(home.path)))
