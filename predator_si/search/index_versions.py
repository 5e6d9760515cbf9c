"""Index versions on disk: numbered folders and one pointer, replaced atomically.

What belongs here: publishing and finding an index folder. What must not: what is inside one.

::

    <root>/<n>/       an index, never changed once it is there
    <root>/current    the number of the one that serves
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from predator_si.errors import BadInput, Missing
from predator_si.search.spool import sync_folder


class Saveable(Protocol):
    """Anything that can be written to a folder that does not exist yet."""

    def save(self, folder: Path) -> None:
        """Write to ``folder``."""
        ...


class IndexVersions:
    """The index versions below one folder.

    Parameters
    ----------
    root
        The folder, ``<home>/service/index``.
    keep
        How many versions stay when another is published: the current one and those before it, for readers that still open them.
    """

    def __init__(self, root: Path, keep: int = 2) -> None:
        self.root, self.keep = Path(root), keep

    def versions(self) -> list[int]:
        """Numbers of the version folders, ascending."""
        return sorted(int(path.name) for path in self.root.glob("[0-9]*") if path.name.isdigit() and path.is_dir())

    def current(self) -> int:
        """The version that serves.

        Raises
        ------
        Missing
            No index was published here.
        BadInput
            The pointer names nothing that is there.
        """
        pointer = self.root / "current"
        try:
            text = pointer.read_text().strip()
        except FileNotFoundError as error:
            raise Missing(f"{pointer}: no index was published here. Build one first: `predator-si demo`, or publish a corpus' index to this home.") from error
        if not text.isdigit() or not self.folder(int(text)).is_dir():
            known = ", ".join(map(str, self.versions())) or "none"
            raise BadInput(f"{pointer}: it says {text[:40]!r}, but the versions here are: {known}. Write one of them into the file, or reindex.")
        return int(text)

    def folder(self, version: int) -> Path:
        """Folder of a version."""
        return self.root / str(version)

    def publish(self, index: Saveable, notes: Mapping[str, str] | None = None) -> int:
        """Save ``index`` as the next version, make it current, and return its number. Killed at any moment, the former version stays current.

        ``notes`` are further files of the version: name -> text.

        Raises
        ------
        OSError
            The disk refuses; nothing was changed for readers.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        version = max(self.versions(), default=0) + 1
        folder = self.folder(version)
        index.save(folder)
        for name, text in (notes or {}).items():
            (folder / name).write_text(text)
        for path in folder.rglob("*"):
            _sync(path)
        sync_folder(self.root)
        temporary = self.root / f".current.{os.getpid()}"
        temporary.write_text(f"{version}\n")
        _sync(temporary)
        temporary.replace(self.root / "current")
        sync_folder(self.root)
        for old in self.versions():
            if old <= version - self.keep:
                shutil.rmtree(self.folder(old), ignore_errors=True)
        return version


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
