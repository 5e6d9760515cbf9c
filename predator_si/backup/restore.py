"""Make a home from a backup: into an empty folder, every part checked before it is used, the ledger verified before the home is there."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predator_si.backup.manifest import BackupManifest, Part, file_system, read_manifest
from predator_si.control import Control
from predator_si.control.opening import VARIABLE, address, open_control
from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.home import Home

Progress = Callable[[int, int], None]
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Restored:
    """What came back, and what is still missing."""

    manifest: BackupManifest
    entries: int
    missing: tuple[str, ...]
    """Folders outside the home that its plan needs and that are not on this machine."""


def restore_backup(source: str, home: Home, *, actor: str, on_progress: Progress | None = None) -> Restored:
    """Put a backup back into an empty or new folder. The folder appears whole or not at all.

    The ledger goes on from its newest record with one that says that and from where it was restored.

    Parameters
    ----------
    source
        Folder or fsspec URL of one backup, as ``create_backup`` returned it.

    Raises
    ------
    Refused
        The folder is not empty.
    BadInput
        A part is not what the manifest says, or the ledger in it is not whole.
    Missing
        There is no such backup.
    Unavailable
        The place does not answer, or the disk is full.
    """
    target = home.path
    _require_the_same_place(read_manifest(source))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refused(f"{target}: is not empty. Give a new folder with --home, or move this one away; a restore never writes over a home.")
    manifest = read_manifest(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-restore-", dir=target.parent))
    try:
        made = scratch / "home"
        made.mkdir()
        for number, part in enumerate(manifest.parts):
            _bring(source, part, scratch / part.name)
            _unpack(scratch / part.name, made)
            (scratch / part.name).unlink()
            if on_progress is not None:
                on_progress(number + 1, len(manifest.parts))
        if manifest.control_outside is None:
            _check_ledger(made / home.control_db.name, manifest)
        _move_paths(made, manifest.home, str(target))
        payload = {"backup": manifest.created_at.isoformat(), "ledger_seq": manifest.ledger_seq, "parts": {part.name: part.sha256 for part in manifest.parts}}
        said = f"from the backup of {manifest.created_at:%Y-%m-%d %H:%M} UTC"
        control = Control(made / home.control_db.name) if manifest.control_outside is None else open_control(Home(made))
        control.append("home_restored", actor, None, said, payload)
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        made.rename(target)
    except (OSError, tarfile.TarError) as error:
        raise Unavailable(
            f"{source}: cannot be put back into {target} ({type(error).__name__}: {error}). Free space, or see that the place answers."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Restored(manifest, sum(part.entries for part in manifest.parts), tuple(path for path in manifest.outside if not Path(path).exists()))


def _require_the_same_place(manifest: BackupManifest) -> None:
    """A home that kept its ledger on a server needs it again; one that did not must not write into another's."""
    named = address()
    if manifest.control_outside is not None and named is None:
        raise Missing(f"this home kept its ledger in {manifest.control_outside}, which is not in the backup. Put that back, and name it in {VARIABLE}.")
    if manifest.control_outside is None and named is not None:
        raise Refused(f"this backup holds its own ledger, and {VARIABLE} names a database. Unset it for the restored home.")


def _bring(source: str, part: Part, path: Path) -> None:
    """Copy one part here and compare its hash: nothing of it is unpacked before."""
    files, base = file_system(source)
    digest = hashlib.sha256()
    try:
        with files.open(f"{base}/{part.name}", "rb") as stream, path.open("wb") as out:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
    except FileNotFoundError as error:
        raise BadInput(f"{source}/{part.name}: is gone, although the manifest names it. Use another backup.") from error
    if digest.hexdigest() != part.sha256:
        raise BadInput(
            f"{source}/{part.name}: was changed or cut short: its sha256 is {digest.hexdigest()}, the manifest says {part.sha256}. Use another backup."
        )


def _unpack(path: Path, folder: Path) -> None:
    with tarfile.open(path, "r:gz") as tar:
        tar.extractall(folder, filter=_inside)


def _inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Python's own filter for data: no path, link or device may lead out of the folder."""
    return tarfile.data_filter(member, folder)


def _check_ledger(path: Path, manifest: BackupManifest) -> None:
    control = Control(path)
    problems = control.verify()
    head = control.head()
    if (head[0] if head else 0, head[1] if head else None) != (manifest.ledger_seq, manifest.ledger_hash):
        problems.append(f"its head is record {head[0] if head else 0}, the manifest says {manifest.ledger_seq}")
    if problems:
        raise BadInput(f"the ledger of this backup is not whole: {'; '.join(problems[:3])}. Use another backup.")


def _move_paths(folder: Path, old: str, new: str) -> None:
    """Paths of the old home that stand in the plan and in MLflow's store become those of the new one."""
    if old == new:
        return
    plan = folder / "plan.json"
    if plan.is_file():
        plan.write_text(plan.read_text(encoding="utf-8").replace(f'"{old}/', f'"{new}/'), encoding="utf-8")
    store = folder / "mlflow" / "mlflow.db"
    if store.is_file():
        with contextlib.closing(sqlite3.connect(store)) as database, database:
            for table, column in _texts(database):
                database.execute(f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?', (f"{old}/", f"{new}/", f"%{old}/%"))


def _texts(database: sqlite3.Connection) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns: list[tuple[Any, ...]] = database.execute(f'PRAGMA table_info("{table}")').fetchall()
        found += [(table, str(row[1])) for row in columns if "CHAR" in str(row[2]).upper() or "TEXT" in str(row[2]).upper()]
    return found
