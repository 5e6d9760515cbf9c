"""Indexes built beside the one that serves, by name: what a release may put in its place, and what a rollback puts back.

What belongs here: where builds lie and what is written about them. What must not: serving them (``first_stages``), finding out what an index lacks
(``index_repair``), deciding which one to take.

::

    <home>/service/builds/<name>/        an index with ``build.json``; parked or made ahead, never changed once it is there
    <home>/service/index/<n>/build.json  which build a serving version goes back to; the home's first index has none
    <home>/service/index/inventory.parquet  what the first index held: doc_id and fingerprint
"""

from __future__ import annotations

import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Protocol

import polars as pl
from pydantic import Field

from predator_si.errors import BadInput, Missing
from predator_si.records import Record
from predator_si.search.index_versions import Saveable
from predator_si.search.journal import document_digest

FIRST = "first"
"""Name of the index that a home was prepared with, whatever was ingested since."""
NOTE = "build.json"
INVENTORY = "inventory.parquet"
BUILD_NAME = r"^[a-z0-9][a-z0-9_.-]{0,99}$"


class IndexBuild(Record):
    """``build.json``: what an index goes back to."""

    name: str
    embedder: str
    """Name of the bi-encoder, as the index knows it."""
    embedder_folder: Path | None = None
    """Where the bi-encoder lies; null: it is the home's own."""
    documents: int
    last_seq: int = 0
    """Number of the newest change in the ingest journal when its documents were read: whoever serves the build carries later ones over."""
    settled: list[int] = Field(default_factory=list)
    """Dead letters that the build answers for: it holds their documents, or set them aside."""
    set_aside: dict[str, str] = Field(default_factory=dict)
    """Documents that cannot be indexed, with the reason: they are not in the build."""
    created_at: datetime


class Indexed(Saveable, Protocol):
    """What is stored as a build (``retrieve.HybridIndex``)."""

    def documents(self) -> pl.DataFrame:
        """Columns doc_id, title, text."""
        ...


class IndexBuilds:
    """The builds below ``<home>/service/builds``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def __contains__(self, name: str) -> bool:
        return (self.folder(name) / NOTE).is_file()

    def folder(self, name: str) -> Path:
        """Folder of a build, there or not.

        Raises
        ------
        BadInput
            The name could not be one.
        """
        if not re.match(BUILD_NAME, name):
            raise BadInput(f"{name!r} is not the name of an index build: lower-case letters, digits, dot, hyphen and underscore.")
        return self.root / name

    def note(self, name: str) -> IndexBuild:
        """What is written about a build.

        Raises
        ------
        Missing
            There is no such build.
        """
        if name not in self:
            raise Missing(f"{self.folder(name)}: there is no index build of this name. Make it again, or release another one.")
        return IndexBuild.read(self.folder(name) / NOTE)

    def add(self, index: Indexed, note: IndexBuild) -> Path:
        """Store a build, whole or not at all, in place of one of the same name; gives its folder."""
        folder, making = self.folder(note.name), self.root / f".making-{note.name}"
        shutil.rmtree(making, ignore_errors=True)
        index.save(making)
        (making / NOTE).write_text(note.to_json())
        shutil.rmtree(folder, ignore_errors=True)
        making.replace(folder)
        return folder

    def discard(self, name: str) -> None:
        """Remove a build that nobody wants; one that is not there is gone already."""
        shutil.rmtree(self.folder(name), ignore_errors=True)


def note_of(folder: Path) -> IndexBuild | None:
    """What is written about the index in a folder; null for the home's first one, of which nothing is."""
    path = Path(folder) / NOTE
    return IndexBuild.read(path) if path.is_file() else None


def write_inventory(root: Path, documents: pl.DataFrame) -> Path:
    """Write down what the first index was made of: the beginning of what it should hold; ``root`` is the folder of the versions."""
    path = Path(root) / INVENTORY
    path.parent.mkdir(parents=True, exist_ok=True)
    digests = [document_digest(title, text) for title, text in documents.select("title", "text").iter_rows()]
    partial = path.with_name(f".{path.name}")
    pl.DataFrame({"doc_id": documents["doc_id"], "digest": digests}, schema={"doc_id": pl.String, "digest": pl.String}).write_parquet(partial)
    partial.replace(path)
    return path


def read_inventory(root: Path) -> dict[str, str]:
    """Document -> fingerprint of what the first index held.

    Raises
    ------
    Missing
        Nobody wrote it down: a home of an earlier version.
    """
    path = Path(root) / INVENTORY
    if not path.is_file():
        raise Missing(f"{path}: nobody wrote down what the first index held, so nothing says what it lacks. Prepare the home anew, or ingest the corpus again.")
    return dict(pl.read_parquet(path).select("doc_id", "digest").iter_rows())


def embedder_of(folder: Path, default: Path) -> Path:
    """Folder of the bi-encoder that the index in ``folder`` was built with: ``default``, the home's own, unless its note names another."""
    note = note_of(folder)
    return default if note is None or note.embedder_folder is None else note.embedder_folder
