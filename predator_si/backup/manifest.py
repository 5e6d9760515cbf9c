"""``manifest.json`` of a backup: written last, so a backup without one was cut short."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.records import Record

NAME = "manifest.json"
FORM = 1


class Part(Record):
    """One file of a backup."""

    name: str = Field(pattern=r"^[a-z]+\.tar\.gz$")
    sha256: str
    bytes: int
    entries: int


class BackupManifest(Record):
    """What a backup holds."""

    form: int = FORM
    contour: str
    created_at: datetime
    home: str
    """Where the home lay: paths below it that stand in files are changed when it is put back elsewhere."""
    parts: tuple[Part, ...]
    databases: tuple[str, ...]
    ledger_seq: int
    """Newest ledger record; 0: there was no ledger."""
    ledger_hash: str | None
    left_out: dict[str, str]
    """What of a home is not in it, and why."""
    outside: tuple[str, ...] = ()
    """Folders that the home needs and that lie elsewhere."""
    control_outside: str | None = None
    """The PostgreSQL database that holds the ledger, without its password: its server keeps copies of it. Null: the ledger is in the backup."""


def file_system(url: str) -> tuple[Any, str]:
    """The file system of any fsspec URL, and the path in it.

    Raises
    ------
    BadInput
        No such protocol, or its package is not installed.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise BadInput(f"{url.partition('://')[0]}://: cannot be written to ({error}). Give a folder or an fsspec URL whose package is installed.") from error
    return files, str(path)


def read_manifest(source: str) -> BackupManifest:
    """The manifest of the backup at an fsspec URL.

    Raises
    ------
    Missing
        There is none: no backup, or one that was cut short.
    BadInput
        It cannot be read, or a later program wrote it.
    Unavailable
        The place does not answer.
    """
    files, path = file_system(source)
    try:
        raw = files.cat_file(f"{path}/{NAME}")
    except FileNotFoundError as error:
        raise Missing(f"{source}: holds no {NAME}, so it is no backup, or one that was cut short. Give the folder of a whole one.") from error
    except OSError as error:
        raise Unavailable(f"{source}: cannot be read ({type(error).__name__}: {error}). See that the place answers, and the credentials.") from error
    try:
        found = BackupManifest.model_validate_json(raw)
    except ValidationError as error:
        raise BadInput(f"{source}/{NAME}: not a backup's manifest ({error.errors()[0]['msg']}). Give another backup.") from error
    if found.form != FORM:
        raise BadInput(f"{source}: form {found.form}, this program knows {FORM}. Use the version that wrote it.")
    return found
