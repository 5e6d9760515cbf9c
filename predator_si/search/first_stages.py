"""Which index answers which variant, and how one takes another's place.

What belongs here: the index that serves, the one that a candidate is tried with, and the swap. What must not: what is in an index, who decides about it.

The release file names the champion's index build and, where one is tried, the candidate's. A build was made at some moment; whatever the ingest queue has
accepted since is carried over from the index that serves before the build takes its place, so nothing that people fed in is lost on the way there, nor on
the way back: the index that steps aside is parked as a build of its own name.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.errors import Refused
from predator_si.records import utc_now
from predator_si.search.index_builds import FIRST, NOTE, IndexBuild, IndexBuilds, note_of
from predator_si.search.index_facts import index_facts
from predator_si.search.index_versions import IndexVersions
from predator_si.search.ingest import Document, IngestQueue
from predator_si.search.ranking import SearchIndex

log = logging.getLogger(__name__)
_SCHEMA = {"doc_id": pl.String, "title": pl.String, "text": pl.String}


@dataclass(frozen=True)
class ServedIndex:
    """An index in use, which version it is (0: a candidate's, of which no version is published), when that was put up, and which build it goes back to."""

    index: SearchIndex
    version: int
    built_at: datetime
    note: IndexBuild | None = None

    @property
    def build(self) -> str:
        """Name of the build."""
        return FIRST if self.note is None else self.note.name

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What its documents are like (``index_facts``), computed when first asked for and once."""
        return index_facts(self.index.documents())


class FirstStages:
    """The indexes of one service.

    Parameters
    ----------
    service
        ``<home>/service``.
    load_index
        Opens an index folder with the bi-encoder it was built with.
    embedder
        Folder of the home's own bi-encoder: a parked index remembers it.

    Raises
    ------
    PredatorError
        There is no index to serve, or it cannot be read.
    """

    def __init__(self, service: Path, load_index: Callable[[Path], SearchIndex], embedder: Path | None = None) -> None:
        self.versions, self.builds = IndexVersions(service / "index"), IndexBuilds(service / "builds")
        self._load, self._embedder, self._lock = load_index, embedder, threading.Lock()
        version = self.versions.current()
        folder = self.versions.folder(version)
        self.served = ServedIndex(load_index(folder), version, datetime.fromtimestamp(folder.stat().st_mtime, UTC), note_of(folder))
        self.candidate: ServedIndex | None = None
        """The index that the candidate alone is tried with; null where it has the champion's."""

    def of(self, variant: str) -> ServedIndex:
        """What a variant's first stage asks."""
        own = self.candidate if variant == "candidate" else None
        return own or self.served

    def prepare(self, documents: Sequence[Document]) -> None:
        """Embed documents ahead of time, for each index whose embedder remembers."""
        for one in (self.served, self.candidate):
            ahead = getattr(getattr(one.index, "embedder", None), "prepare", None) if one is not None else None
            if ahead is not None:
                ahead(documents)

    def reindex(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Build the next version, publish it, and let it serve; a candidate's index takes the same changes."""
        frame = pl.DataFrame([(one.doc_id, one.title, one.text) for one in upserts], schema=_SCHEMA, orient="row")
        with self._lock:
            self._publish(self.served.index.updated(frame, list(deletes)), self.served.note)
            if self.candidate is None:
                return
            try:
                self.candidate = replace(self.candidate, index=self.candidate.index.updated(frame, list(deletes)))
            except Exception:  # the champion's index has the documents: they must not wait for a candidate
                log.exception("the candidate's index %s did not take %d documents", self.candidate.build, len(upserts))

    def follow(self, champion: str, candidate: str | None, queue: IngestQueue) -> bool:
        """Serve with the builds that the release names, or leave everything as it is and raise; whether the champion's index changed.

        Parameters
        ----------
        champion, candidate
            Names of builds; null for a candidate with the champion's index.
        queue
            Says what was accepted since a build was made, and hears which dead letters it answers for.

        Raises
        ------
        Missing
            A build is not there.
        BadInput
            A build cannot be read.
        """
        with self._lock:
            wanted = candidate if candidate not in (None, champion) else None
            tried = self._opened(wanted, queue) if wanted is not None else None
            moved = champion != self.served.build
            if moved:
                after, before = self._opened(champion, queue), self.served
                assert after.note is not None  # a build has one
                self._park(before, queue)
                self._publish(after.index, after.note)
                if after.note.settled:
                    queue.settle(after.note.settled)
                log.info("index build %s serves instead of %s", champion, before.build)
            self.candidate = tried
            return moved

    def catch_up(self, build: str, candidate: str | None = None) -> bool:
        """Of a process that only answers: serve the newest published version, once it is of ``build``; whether another one serves now.

        Raises
        ------
        Refused
            A candidate has an index of its own: only the process that owns the home can try that.
        """
        if candidate not in (None, build):
            raise Refused(f"index.candidateBuild {candidate} cannot be tried by a process that only answers (--reader). Try it with one process for all.")
        with self._lock:
            version = self.versions.current()
            if version == self.served.version:
                return False
            folder = self.versions.folder(version)
            note = note_of(folder)
            if (FIRST if note is None else note.name) != build:
                return False  # the owner follows a newer release than this process, or an older one
            self.served = ServedIndex(self._load(folder), version, utc_now(), note)
            log.info("index version %d serves %d documents", version, self.served.index.n_documents)
            return True

    def _opened(self, name: str, queue: IngestQueue) -> ServedIndex:
        """A build with everything that was accepted since it was made."""
        if self.candidate is not None and self.candidate.build == name:
            return self.candidate  # it took every change while it was tried
        note = self.builds.note(name)
        index = self._load(self.builds.folder(name))
        later = queue.changed_since(note.last_seq)
        if later:
            there = self.served.index.documents().filter(pl.col("doc_id").is_in(list(later)))
            gone = sorted(later - set(there["doc_id"].to_list()))
            index = index.updated(there.select("doc_id", "title", "text"), gone)
        return ServedIndex(index, 0, utc_now(), note)

    def _publish(self, index: SearchIndex, note: IndexBuild | None) -> None:
        version = self.versions.publish(index, {} if note is None else {NOTE: note.to_json()})
        self.served = ServedIndex(index, version, utc_now(), note)
        log.info("index version %d serves %d documents", version, index.n_documents)

    def _park(self, served: ServedIndex, queue: IngestQueue) -> None:
        """Keep the index that steps aside, as it is now, under its own name."""
        known = served.note
        note = IndexBuild(
            name=served.build,
            embedder=str(getattr(getattr(served.index, "embedder", None), "name", "unknown")),
            embedder_folder=known.embedder_folder if known is not None and known.embedder_folder is not None else self._embedder,
            documents=served.index.n_documents,
            last_seq=queue.applied_through,
            set_aside={} if known is None else known.set_aside,
            created_at=utc_now(),
        )
        self.builds.add(served.index, note)
