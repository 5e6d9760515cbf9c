"""The HTTP face of the search service (CONTRACT.md section 5).

What belongs here: routes, limits, problem documents, putting a service together from a home folder. What must not: any work on a request.

``/ready`` says 200 whenever searches are answered; what is wrong besides (a release that cannot be followed, events or documents that cannot be written)
stands in its ``problems`` and in the metrics. A 503 there would take the service out of rotation for a fault that no searcher feels.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predator_si import __version__
from predator_si.errors import Unavailable
from predator_si.privacy import trace
from predator_si.search.ingest import Document
from predator_si.search.payloads import Documents, RerankRequest, SearchRequest, field_errors, problem
from predator_si.search.pushes import read_pushed
from predator_si.search.ranking import SearchIndex
from predator_si.search.reader import unready
from predator_si.search.rerank import Reranker
from predator_si.search.rollup import Roller, RollProcess
from predator_si.search.service import MAX_WAITING, SearchFailed, SearchService
from predator_si.search.shadow import ShadowScorer, WorkerProcess
from predator_si.search.variants import Models

log = logging.getLogger(__name__)

BODY_LIMITS = {"/documents": 64 * 1024 * 1024, "/rerank": 16 * 1024 * 1024}
BODY_LIMIT = 1024 * 1024
"""Largest request body in bytes, where ``BODY_LIMITS`` has no other for the path."""
_TITLES = {400: "Bad request", 404: "Not found", 405: "Method not allowed", 409: "Conflict", 413: "Body too large", 422: "Invalid input", 503: "Unavailable"}


def create_app(
    home: Path,
    *,
    contour: str = "local",
    embedder: Path | None = None,
    threads: int | None = None,
    models: Models | None = None,
    load_index: Callable[[Path], SearchIndex] | None = None,
    load_reranker: Callable[[Path], Reranker] | None = None,
    prepare: Callable[[Sequence[Document]], None] | None = None,
    poll_seconds: float = 0.3,
    flush_seconds: float = 1.0,
    score_cache: int = 0,
    max_waiting: int = MAX_WAITING,
    reader: bool = False,
) -> FastAPI:
    """The search service of a home folder as an ASGI application; index and models are loaded before it returns.

    Parameters
    ----------
    home
        The home folder: ``service/index``, ``models`` and ``applied/release-<contour>.yaml`` must be there.
    embedder
        Folder of the bi-encoder that the index was built with. Needed unless ``load_index`` is given.
    threads
        Threads of a reranker's backend; by default what the backend chooses.
    models, load_index, load_reranker, prepare
        Stand-ins for the model store, ``HybridIndex.load``, ``rerank.load_reranker`` and the embedding of documents ahead of indexing (by default the
        embedders of the indexes do that).
    poll_seconds
        How often the applied release file is looked at.
    flush_seconds
        How long an event may wait in memory.
    score_cache
        Scores of pairs kept in memory; 0 for none.
    max_waiting
        Searches that may wait; more are refused with 503.
    reader
        Answer only: another process owns the home (``reader``).

    Raises
    ------
    PredatorError
        No index, no release file, a malformed one, a missing or denied model, a folder that cannot be written.
    """
    if load_index is None:
        load_index = _hybrid_index(embedder)
    if models is None:
        from predator_si.search.models import ModelStore

        models = ModelStore(Path(home) / "models")
    shadow_scorer: ShadowScorer | None = None
    roller: Roller | None = None
    if load_reranker is None:
        shadow_scorer, roller = WorkerProcess(Path(home) / "models", threads), RollProcess()
        from predator_si.search.rerank import load_reranker as load_by_card

        def load_reranker(folder: Path) -> Reranker:
            return load_by_card(folder, threads)

    service = SearchService(
        home,
        contour=contour,
        load_index=load_index,
        load_reranker=load_reranker,
        models=models,
        prepare=prepare,
        poll_seconds=poll_seconds,
        flush_seconds=flush_seconds,
        score_cache=score_cache,
        max_waiting=max_waiting,
        embedder=embedder,
        shadow_scorer=shadow_scorer,
        roller=roller,
        reader=reader,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)

    app = FastAPI(title="predator_si search", version=__version__, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(BodyLimit)
    _add_problems(app)
    _add_search(app, service)
    _add_ingest(app, service)
    _add_observation(app, service)
    return app


def _hybrid_index(embedder: Path | None) -> Callable[[Path], SearchIndex]:
    from predator_si.errors import Missing
    from predator_si.search.index_builds import embedder_of
    from predator_si.search.prepared import PreparedEmbedder
    from predator_si.search.retrieve import HybridIndex, load_embedder

    if embedder is None:
        raise Missing("no embedder was given: the index cannot be asked without the bi-encoder that it was built with. Pass its folder.")

    @functools.cache
    def prepared(folder: Path) -> PreparedEmbedder:  # loaded only once the cheap checks of a start have passed
        return PreparedEmbedder(load_embedder(folder), lambda: load_embedder(folder))

    return lambda folder: HybridIndex.load(folder, prepared(embedder_of(folder, embedder)))


def _answer(status: int, detail: str, errors: list[dict[str, str]] | None = None, title: str | None = None) -> JSONResponse:
    body = problem(status, title or _TITLES.get(status, "Internal error" if status >= 500 else "Request refused"), detail, errors)
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = field_errors(list(error.errors()))
        return _answer(422, "; ".join(f"{one['field']}: {one['message']}" for one in errors), errors)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _answer(error.status_code, str(error.detail))

    @app.exception_handler(SearchFailed)
    async def failed(_: Request, error: SearchFailed) -> JSONResponse:
        return _answer(error.status, str(error))

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> JSONResponse:
        return _answer(503, str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed\n%s", request.method, request.url.path, trace(error))
        return _answer(500, f"{request.method} {request.url.path} failed ({type(error).__name__}). The service's log has the details.")


def _add_search(app: FastAPI, service: SearchService) -> None:
    @app.post("/search")
    async def search(request: SearchRequest) -> JSONResponse:
        """Ranked documents for a query."""
        answer = await service.search(request)
        return JSONResponse(answer, headers={"x-model-digest": answer["model_digest"] or answer["variant"]})

    @app.post("/rerank")
    async def rerank(request: RerankRequest) -> JSONResponse:
        """Scores of texts for a query, in the shape of Text Embeddings Inference (``texts``) or of Cohere v2 (``documents``)."""
        texts = request.texts if request.texts is not None else request.documents or []
        try:
            digest, logits = await service.rerank(request.query, texts, request.model)
        except SearchFailed as error:
            service.telemetry.rerank_requests.labels(str(error.status)).inc()
            raise
        service.telemetry.rerank_requests.labels("200").inc()
        order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))
        headers = {"x-model-digest": digest}
        if request.texts is not None:
            found: list[dict[str, Any]] = [{"index": i, "score": logits[i] if request.raw_scores else _sigmoid(logits[i])} for i in order]
            return JSONResponse([{**row, "text": texts[row["index"]]} if request.return_text else row for row in found], headers=headers)
        ranked = [{"index": i, "relevance_score": _sigmoid(logits[i])} for i in order[: request.top_n]]
        return JSONResponse({"id": str(uuid.uuid4()), "results": ranked, "model_digest": digest}, headers=headers)

    @app.post("/events", status_code=202)
    async def events(body: Annotated[Any, Body()]) -> JSONResponse:
        """Clicks, dwells and ratings, and searches that another service answered, one or many, in UBI's names.

        An action for a query that this process does not remember is recorded too, and counted. Of many the good ones are taken and the others named by index.
        """
        pushed = read_pushed(body)
        unknown = service.record(pushed.actions, pushed.searches, refused=len(pushed.refused))
        accepted = len(pushed.actions) + len(pushed.searches)
        return JSONResponse({"accepted": accepted, "refused": pushed.refused, "unknown_query_id": unknown}, 202)


def _add_ingest(app: FastAPI, service: SearchService) -> None:
    @app.post("/documents", status_code=202)
    async def put(request: Documents) -> JSONResponse:
        """Take documents into the ingest queue; they are durable when this answers, and found a little later."""
        documents = [Document(one.doc_id, one.title, one.text) for one in request.documents]
        await asyncio.to_thread(service.ingest.put, documents)
        return _accepted(service, len(documents))

    @app.delete("/documents/{doc_id:path}", status_code=202)
    async def delete(doc_id: str) -> JSONResponse:
        """Take the removal of a document into the ingest queue. Removing one that is not there changes nothing."""
        if not 1 <= len(doc_id) <= 512:
            return _answer(422, "doc_id: 1 to 512 characters", [{"field": "doc_id", "message": "1 to 512 characters"}])
        await asyncio.to_thread(service.ingest.delete, doc_id)
        return _accepted(service, 1)


def _accepted(service: SearchService, count: int) -> JSONResponse:
    state = service.ingest.state()
    return JSONResponse({"accepted": count, "queued": state.queued if state is not None else None}, 202)


def _add_observation(app: FastAPI, service: SearchService) -> None:
    @app.post("/flush")
    async def flush() -> JSONResponse:
        """Make all events so far durable."""
        state = await asyncio.to_thread(service.spool.flush)
        if state.error is not None:
            return _answer(503, f"events could not be written: {state.error}; {state.pending} wait in memory.")
        return JSONResponse({"writer": state.writer, "issued": state.issued, "durable": state.durable, "dropped": state.dropped, "pending": state.pending})

    @app.get("/health")
    async def health() -> JSONResponse:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready(champion: str | None = None, release: str | None = None) -> JSONResponse:
        """Searches are answered; ``problems`` says what is wrong besides. 503 until the ``champion`` (digest) and ``release`` (sha256) asked for serve."""
        why_not = unready(service.follower, service.served.build, champion, release)
        if why_not is not None:
            return _answer(503, why_not)
        problems = service.problems()
        return JSONResponse({"status": "degraded" if problems else "ready", "problems": problems})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/info")
    async def info(facts: bool = False) -> JSONResponse:
        """What is being served, by what, since when; with ``facts`` also what the indexed documents are like."""
        body = describe(service)
        if facts:
            served = service.served
            found = await asyncio.to_thread(lambda: served.facts)  # the first time after a reindex it reads every document
            body["index"] = {**body["index"], "facts": found}
        return JSONResponse(body)


def describe(service: SearchService) -> dict[str, Any]:
    """The body of ``GET /info``. Digests are those of the loaded bytes, ``release.sha256`` is that of the file in force."""
    variants, served, ingest, shadow = service.follower.current, service.served, service.ingest.state(), service.shadow.state()

    def model(variant: Literal["champion", "candidate", "shadow"]) -> dict[str, Any] | None:
        reranker = variants.reranker(variant)
        if reranker is None:
            return None
        card = reranker.card
        depth, weight = variants.release.settings_of(variant)
        return {
            "model_id": card.name,
            "model_sha": reranker.digest,
            "backend": card.backend,
            "max_length": card.max_length,
            "source_digest": card.source_digest,
            "depth": depth,
            "fusion_weight": weight,
            "early_exit": variants.release.stops_early(variant),
            "index_build": service.first.of(variant).build,
        }

    champion = variants.champion
    return {
        "model_id": champion.card.name,
        "model_sha": champion.digest,
        "contour": service.contour,
        "variants": {"champion": model("champion"), "candidate": model("candidate"), "shadow": model("shadow")},
        "candidate_weight": variants.candidate_weight,
        "mode": variants.release.candidate_mode if variants.candidate is not None else None,
        "shadow": {
            "share": variants.release.shadow_share if variants.previous is not None else 0.0,
            "error": variants.shadow_error or shadow.error,
            "scored": shadow.scored,
            "dropped": shadow.dropped,
            "failed": shadow.failed,
            "queued": shadow.queued,
            "priority": shadow.priority,
        },
        "depth": variants.release.depth,
        "fusion_weight": variants.release.fusion_weight,
        "early_exit": {digest: rule.model_dump(mode="json") for digest, rule in variants.depth_rules.items()},
        "score_cache": service.cache.capacity,
        "replicas": variants.release.replicas,
        "index_build": served.build,
        "release": {"sha256": variants.release.sha256, "error": service.follower.error, "loading": service.follower.loading},
        "index": {
            "documents": served.index.n_documents,
            "fingerprint": served.index.fingerprint,
            "built_at": served.built_at.isoformat(),
            "version": served.version,
        },
        "ingest": None  # of a process that only answers: the owner knows
        if ingest is None
        else {
            "queued": ingest.queued,
            "lag_seconds": ingest.lag_seconds,
            "applied": ingest.applied,
            "dead_letters": ingest.unsettled,
            "documents_per_second": ingest.documents_per_second,
            "workers": ingest.workers,
            "building": ingest.building,
            "error": ingest.error,
        },
        "events": {"writer": service.spool.writer, "error": service.spool.state().error},
        "version": __version__,
    }


class BodyLimit:
    """Reads a request's body before anybody else does, and answers 413 when it is larger than its path allows."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        limit = BODY_LIMITS.get(scope["path"], BODY_LIMIT)
        too_large = _answer(413, f"the body of {scope['path']} may have {limit} bytes at most. Send less at a time.")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await too_large(scope, receive, send)
            return
        parts: list[bytes] = []
        more, size = True, 0
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client left
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                await too_large(scope, receive, send)
                return
            more = message.get("more_body", False)
        body: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return body.pop() if body else await receive()

        await self.app(scope, replay, send)


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
