"""Answering queries: retrieve, rerank, fuse, record.

What belongs here: what happens to one request, and the life of the parts that take part in it. What must not: HTTP (``app``), how an index or a model works.

Decisions worth knowing:

- All scoring runs in one worker thread: a cross-encoder uses every core by itself, two at once would only make both slow. The wait for it is ``queue_ms``.
- ``cpu_seconds`` is the *process* time that passed while the worker had the request, because backends compute in threads of their own. It therefore holds
  what the event loop and the spool spent meanwhile (little), and not the handling of HTTP. When a model was being loaded or documents were being indexed
  at the same time, the share of the request cannot be told apart and the value is null.
- What identifies people is redacted, sealed or hashed before an event is taken into the spool, and errors are logged without their messages: the raw query
  and the raw client id live in this process' memory only. The variant is assigned by the raw id.
- A reranker that fails does not fail the search: see ``answer``. The answer is a 200 with ``degraded`` true, in the event as well, counted as an error
  of the variant. When retrieval raises, the answer is a 500 and so is the event.
- What is in shadow scores answered requests again off the user's path: see ``shadow``. Here a job is only put into a queue that never makes anybody wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.errors import Missing, PredatorError
from predator_si.privacy import trace
from predator_si.records import ActionEvent, SearchEvent, utc_now
from predator_si.search.answer import Answered, Asking
from predator_si.search.first_stages import FirstStages, ServedIndex
from predator_si.search.index_versions import IndexVersions
from predator_si.search.ingest import Document, IngestQueue
from predator_si.search.payloads import SearchRequest
from predator_si.search.personal import open_vault
from predator_si.search.ranking import SearchIndex, finite_scores
from predator_si.search.reader import ReadsOnly
from predator_si.search.recent_ids import RecentIds
from predator_si.search.rerank import Reranker
from predator_si.search.rollup import Roller, RollHere
from predator_si.search.score_cache import ScoreCache
from predator_si.search.shadow import InThread, ShadowQueue, ShadowScorer
from predator_si.search.spool import EventSpool
from predator_si.search.telemetry import ServiceState, Telemetry
from predator_si.search.trial import Assignment, assigned
from predator_si.search.variants import Models, ReleaseFollower, Variants

log = logging.getLogger(__name__)
MAX_WAITING = 512
"""Searches that may wait for the worker, unless somebody says otherwise."""
_REMEMBERED_QUERIES = 100_000


class SearchFailed(PredatorError):
    """A search that gets no results: ``status`` is the HTTP status of the answer. It was recorded as an event."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Computed:
    answered: Answered
    queue_ms: float
    cpu_seconds: float | None


class _Background:
    """Says whether other heavy work of this process overlapped with a span of time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = self._started = 0

    def __enter__(self) -> None:
        with self._lock:
            self._active += 1
            self._started += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active -= 1

    def mark(self) -> tuple[bool, int]:
        with self._lock:
            return self._active > 0, self._started

    def overlapped(self, mark: tuple[bool, int]) -> bool:
        return mark[0] or self.mark() != mark


class SearchService:
    """One search service in one home folder.

    Parameters
    ----------
    home
        The home folder; the service writes below ``service/`` and reads ``applied/``.
    contour
        Whose release file is followed: ``applied/release-<contour>.yaml``.
    load_index
        Opens an index folder.
    load_reranker
        Opens a model folder.
    models
        Where model folders are.
    prepare
        Embeds documents ahead of indexing; see ``ingest.IngestQueue``. Null: the embedders of the indexes do, where they can.
    embedder
        Folder of the home's own bi-encoder.
    poll_seconds
        How often the applied files are looked at.
    max_waiting
        Searches that may wait for the worker; more are refused with 503 rather than answered after everybody has left.
    score_cache
        Scores of pairs kept in memory, 0 for none: then every latency is that of a query that comes for the first time.
    shadow_scorer
        Scores requests again for models in shadow; null: a thread of this process does, which is for tests.
    roller
        Turns finished hours of events into Parquet; null: this process does, which is for tests.
    clock
        Seconds that latencies are measured in; a proof that must not depend on how busy the machine is brings its own.
    reader
        Answer only: another process owns the home, takes the documents and publishes the index.

    Raises
    ------
    PredatorError
        Something to serve with is missing or unusable, or a folder cannot be written.
    """

    def __init__(
        self,
        home: Path,
        *,
        contour: str,
        load_index: Callable[[Path], SearchIndex],
        load_reranker: Callable[[Path], Reranker],
        models: Models,
        prepare: Callable[[Sequence[Document]], None] | None = None,
        poll_seconds: float = 0.3,
        flush_seconds: float = 1.0,
        max_waiting: int = MAX_WAITING,
        score_cache: int = 0,
        embedder: Path | None = None,
        shadow_scorer: ShadowScorer | None = None,
        roller: Roller | None = None,
        clock: Callable[[], float] = time.perf_counter,
        reader: bool = False,
    ) -> None:
        home = Path(home)
        self.contour, self._poll_seconds, self._max_waiting, self._clock = contour, poll_seconds, max_waiting, clock
        self._background = _Background()
        self.cache = ScoreCache(score_cache)
        IndexVersions(home / "service" / "index").current()  # the cheap checks first
        self.follower = ReleaseFollower(
            home / "applied" / f"release-{contour}.yaml",
            home / "applied" / "deny.yaml",
            models,
            self._alone(load_reranker),
            self._release_changed,
            self._follow_index,
        )
        self.cache.keep(self.follower.current.loaded())
        self.first = FirstStages(home / "service", load_index, embedder)
        workers, ahead = self.follower.current.release.ingest_workers, self._alone(prepare or self.first.prepare)
        self.ingest: IngestQueue | ReadsOnly = (
            ReadsOnly() if reader else IngestQueue(home / "service" / "ingest", prepare=ahead, apply=self._reindex, workers=workers)
        )
        self.follower.settle_in()
        events, self._roller = home / "service" / "events", roller or RollHere()
        try:
            self.vault = open_vault(home)
            self.spool = EventSpool(events, flush_seconds=flush_seconds, on_roll=lambda hour: self._roll(events, hour), vault=self.vault)
        except PredatorError:
            self.ingest.stop()
            raise
        local = InThread(lambda digest: load_reranker(models.path(digest)))
        self.shadow = ShadowQueue(shadow_scorer or local, self.spool.add_shadow)
        self._draft_secret = os.urandom(32)
        self.telemetry = Telemetry(self.state)
        self._worker = ThreadPoolExecutor(1, "rerank")
        self._waiting = 0
        self._issued = RecentIds(_REMEMBERED_QUERIES)
        self._hours_sealed = False
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="release-watch", daemon=True)

    def start(self) -> None:
        """Start the threads that watch the release file, ingest documents and flush events."""
        self.spool.start()
        self.ingest.start()
        self.shadow.start()
        self.shadow.follow(self.follower.current.in_shadow)
        self._watcher.start()

    def stop(self) -> None:
        """End the threads, flush the events, let go of the files."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join(60)
        self.ingest.stop()
        self._worker.shutdown(wait=True)
        self.shadow.stop()
        self._roller.close()
        self.spool.close()

    @property
    def served(self) -> ServedIndex:
        """The champion's index."""
        return self.first.served

    @property
    def versions(self) -> IndexVersions:
        """The versions of the champion's index."""
        return self.first.versions

    def state(self) -> ServiceState:
        """What all parts say about themselves now."""
        follower, served = self.follower, self.served
        return ServiceState(
            variants=follower.current,
            release_error=follower.error,
            release_refused=follower.errors,
            release_applied=follower.swaps,
            spool=self.spool.state(),
            ingest=self.ingest.state(),
            documents=served.index.n_documents,
            index_version=served.version,
            cache=self.cache.state(),
            shadow=self.shadow.state(),
        )

    def problems(self) -> list[str]:
        """What is wrong although searches are answered: a release that cannot be followed, events or documents that cannot be written."""
        state = self.state()
        found = [("release", state.release_error), ("events", state.spool.error), ("ingest", state.ingest.error if state.ingest else None)]
        found.append(("shadow", state.variants.shadow_error))
        return [f"{part}: {error}" for part, error in found if error is not None]

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """The answer to a search, recorded as an event.

        Raises
        ------
        SearchFailed
            Too many wait (503), retrieval broke (500), or the pinned candidate is not there (409, no event: nobody was served).
        """
        arrived, when, query_id = self._clock(), utc_now(), str(uuid.uuid4())
        variants = self.follower.current
        try:
            given = assigned(variants, request, query_id, lambda variant: self.first.of(variant).index, self._draft_secret)
        except Missing as error:
            raise SearchFailed(409, str(error)) from error
        computed: _Computed | None = None
        failure: SearchFailed | None = None
        if self._waiting >= self._max_waiting:
            failure = SearchFailed(503, f"{self._waiting} searches wait already. Try again in a moment.")
        else:
            self._waiting += 1
            try:
                computed = await asyncio.get_running_loop().run_in_executor(self._worker, self._compute, given, self._clock())
            except Exception as error:  # a broken retrieval is the answer's and the event's business, not the process' end
                log.error("search %s failed\n%s", query_id, trace(error))
                failure = SearchFailed(500, f"the search failed: {type(error).__name__}. The service's log has the details under query_id {query_id}.")
            finally:
                self._waiting -= 1
        took_ms = max(0.0, (self._clock() - arrived) * 1e3)
        answered = computed.answered if computed else None
        ranked = answered.ranked if answered else None
        status = failure.status if failure else 200
        self._count(given.name, status, took_ms, computed, stood_in=given.stands_for is not None)
        self.spool.add_search(
            SearchEvent(
                query_id=query_id,
                timestamp=when,
                user_query=request.query,
                client_id=request.client_id,
                session_id=request.session_id,
                variant=given.name,
                model_digest=given.digest,
                status=status,
                latency_ms=took_ms,
                retrieve_ms=ranked.retrieve_ms if ranked else None,
                rerank_ms=ranked.rerank_ms if ranked else None,
                queue_ms=computed.queue_ms if computed else None,
                cpu_seconds=computed.cpu_seconds if computed else None,
                depth=given.depth,
                results=ranked.results if ranked else (),
                simulated=request.simulated,
                probe=request.probe,
                stands_for=given.stands_for,
                degraded=ranked.degraded if ranked else False,
            )
        )
        exposure = given.exposure(when, answered)
        if exposure is not None:
            self.spool.add_exposure(exposure)
        for job in given.jobs(when, answered) if answered else ():
            self.shadow.offer(job)
        self._issued.add(query_id)
        if failure or computed is None or ranked is None or answered is None:
            raise failure or SearchFailed(500, "the search gave no answer")
        return {
            "query_id": query_id,
            "variant": given.name,
            "model_digest": given.digest,
            "answered_by": given.digest if given.stands_for is not None else answered.answered_by,
            "stands_for": given.stands_for,
            "took_ms": took_ms,
            "queue_ms": computed.queue_ms,
            "retrieve_ms": ranked.retrieve_ms,
            "rerank_ms": ranked.rerank_ms,
            "depth": given.depth,
            "scored": ranked.scored,
            "degraded": ranked.degraded,
            "results": [{**result.model_dump(), "title": title} for result, title in zip(ranked.results, ranked.titles, strict=True)],
            **({"legs": {"lexical": ranked.lexical_ids, "dense": ranked.dense_ids}} if request.explain else {}),
        }

    async def rerank(self, query: str, texts: Sequence[str], model_name: str | None) -> tuple[str, list[float]]:
        """Digest of the model that scored, and the score (a logit) of each text.

        ``model_name`` "candidate" or the candidate's digest asks for the candidate; anything else, also the foreign names that clients of other services
        send, gets the champion.

        Raises
        ------
        SearchFailed
            Too many wait (503) or the model failed (500): there is no first stage to fall back to.
        """
        variants = self.follower.current
        candidate = variants.candidate
        model = candidate if candidate is not None and model_name in ("candidate", candidate.digest) else variants.champion
        if self._waiting >= self._max_waiting:
            raise SearchFailed(503, f"{self._waiting} searches wait already. Try again in a moment.")
        self._waiting += 1
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._worker, finite_scores, model, query, list(texts))
        except Exception as error:
            log.error("rerank failed\n%s", trace(error))
            raise SearchFailed(500, f"model {model.digest} could not score these texts ({type(error).__name__}). The service's log has the details.") from error
        finally:
            self._waiting -= 1
        return model.digest, [float(score) for score in scores]

    def record(self, actions: Sequence[ActionEvent], searches: Sequence[SearchEvent] = (), *, refused: int = 0) -> int:
        """Take actions, and searches that another service answered, into the record.

        Returns how many actions named a query that this process does not remember (they count in a metric, and are kept). ``refused`` events are counted only.
        """
        for search in searches:
            self.spool.add_search(search)
            self._issued.add(search.query_id)
        unknown = 0
        for action in actions:
            self.spool.add_action(action)
            self.telemetry.actions.labels(action.action_name).inc()
            unknown += action.query_id not in self._issued
        self.telemetry.unknown_query.inc(unknown)
        self.telemetry.pushed.inc(len(searches))
        self.telemetry.refused.inc(refused)
        return unknown

    def _compute(self, given: Assignment, queued: float) -> _Computed:
        """The work on one request, in the worker thread."""
        started, cpu, mark = self._clock(), time.process_time(), self._background.mark()
        request = given.request
        answered = given.answer(Asking(request.query, request.k, self._clock, finite_scores if request.probe else self._remembered))
        used = time.process_time() - cpu
        return _Computed(answered, (started - queued) * 1e3, None if self._background.overlapped(mark) else used)

    def _remembered(self, model: Reranker, query: str, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        return self.cache.scores(model, query, texts, finite_scores)

    def _count(self, name: str, status: int, took_ms: float, computed: _Computed | None, *, stood_in: bool) -> None:
        telemetry = self.telemetry
        telemetry.requests.labels(name, str(status)).inc()
        if stood_in:  # its times are not the variant's
            return
        telemetry.stages.labels("total", name).observe(took_ms / 1e3)
        if computed is not None:
            ranked = computed.answered.ranked
            for stage, spent in (("queue", computed.queue_ms), ("retrieve", ranked.retrieve_ms), ("rerank", ranked.rerank_ms)):
                if spent is not None:
                    telemetry.stages.labels(stage, name).observe(spent / 1e3)
            if computed.cpu_seconds is not None:
                telemetry.cpu.labels(name).inc(computed.cpu_seconds)
            telemetry.pairs.labels(name).inc(ranked.scored)
            if ranked.degraded:
                telemetry.degraded.labels(name).inc()
                if computed.answered.answered_by is not None:
                    telemetry.fallbacks.labels(name).inc()

    def _alone(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``work``, noted as background work while it runs."""

        def noted(argument: Any) -> Any:
            with self._background:
                return work(argument)

        return noted

    def _reindex(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Build the next index, publish it, and let it serve."""
        with self._background:
            self.first.reindex(upserts, deletes)

    def _follow_index(self, variants: Variants) -> None:
        """Serve with the index builds that a release names; raises, and nothing has changed, where they are not there."""
        build, tried = variants.release.index_build, variants.release.candidate_index
        with self._background:
            if isinstance(self.ingest, ReadsOnly):
                self.first.catch_up(build, tried)
            else:
                self.first.follow(build, tried, self.ingest)

    def _release_changed(self, variants: Variants) -> None:
        self.cache.keep(variants.loaded())
        self.ingest.set_workers(variants.release.ingest_workers)
        self.shadow.follow(variants.in_shadow)

    def _roll(self, events: Path, hour: str) -> None:
        sealed = self._roller.roll(events, hour, self.spool.writer, self.vault, seal=not self._hours_sealed)
        self._hours_sealed = True  # once: what a version before the vault left in plain text
        if sealed:
            log.info("%d hourly files of an older version were sealed", sealed)

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.follower.poll()
                if isinstance(self.ingest, ReadsOnly):
                    self.first.catch_up(self.follower.current.release.index_build)
            except Exception:  # a release that was applied but could not be announced; following goes on
                log.exception("watching the release file")
