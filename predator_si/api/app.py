"""The application: parts, calls, pages, health, and what holds around them.

What belongs here: putting it together. What must not: what any call does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.middleware.cors import CORSMiddleware

from predator_si import __version__
from predator_si.api import answers
from predator_si.api.access import BASE, Door
from predator_si.api.docs_page import docs_page
from predator_si.api.graphql import DagsterGraphQL
from predator_si.api.limits import Envelope, Numbers
from predator_si.api.once import Answers
from predator_si.api.operations.router import router as operations_router
from predator_si.api.operations.session import Session
from predator_si.api.optimizer import Optimizer
from predator_si.api.problems import add_problems
from predator_si.api.routes import Guarded, Parts, outside, parts_of, router
from predator_si.api.tokens import TokenFile
from predator_si.errors import PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.tell import tell
from predator_si.privacy import trace
from predator_si.reports.pages import page_router
from predator_si.settings import Settings

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
BUSY_SECONDS = 5.0
"""How long a call waits for a locked database: far below the limit of a request, so that its caller hears why."""
_LOOK_SECONDS = 30.0
"""How often it is looked whether the daemon lives."""
_SILENT_LOOKS = 4
_DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def token_file(settings: Settings, environment: Mapping[str, str] = os.environ) -> TokenFile:
    """Where the tokens of this installation are: PREDATOR_SI_TOKENS, a mounted secret for example, or ``<home>/api/tokens.json``."""
    named = environment.get("PREDATOR_SI_TOKENS")
    return TokenFile(Path(named) if named else settings.home / "api" / "tokens.json")


def create_app(
    settings: Settings,
    *,
    dagster: httpx.AsyncBaseTransport | None = None,
    search: httpx.AsyncBaseTransport | None = None,
    tokens: TokenFile | None = None,
    **limits: float,
) -> FastAPI:
    """The REST facade of a home.

    Parameters
    ----------
    settings
        Of the contour and the machine.
    dagster, search
        Stand in for the network to the webserver and to the search service in tests.
    tokens
        The tokens; by default those of :func:`token_file`.
    limits
        As :class:`~predator_si.api.limits.Envelope` takes them, ``busy_seconds`` and ``look_seconds``, for tests.
    """
    rules = settings.values.api
    loop = Loop(settings, busy_seconds=limits.get("busy_seconds", BUSY_SECONDS))
    url = rules.dagster or f"http://127.0.0.1:{settings.ports.dagster}"
    numbers = Numbers()
    parts = Parts(
        Optimizer(loop, DagsterGraphQL(url, transport=dagster), search),
        Door(settings.contour, tokens or token_file(settings), rules),
        Answers(settings.home / "api" / "answers.db"),
        numbers,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stand_in = asyncio.create_task(tell_while_silent(parts.optimizer, limits.get("look_seconds", _LOOK_SECONDS))) if settings.enabled else None
        yield
        for task in (*parts.acting, *([stand_in] if stand_in else [])):
            task.cancel()
        await parts.optimizer.close()

    app = FastAPI(
        title="predator_si optimizer",
        version=__version__,
        description="The loop that watches a search service, improves its reranker, proves it, releases it through Git and takes it back.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": f"http://127.0.0.1:{settings.ports.api}", "description": "this machine"}],
    )
    app.state.parts = parts
    app.include_router(router)
    app.include_router(outside)
    app.include_router(operations_router)
    app.include_router(page_router(settings.home, Guarded), include_in_schema=False)
    _add_observation(app)
    add_problems(app, settings.home)
    if rules.cors_origins:
        headers = ["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"]
        app.add_middleware(CORSMiddleware, allow_origins=list(rules.cors_origins), allow_methods=["GET", "POST"], allow_headers=headers)
    app.add_middleware(Session)
    app.add_middleware(Envelope, numbers=numbers, limits=limits)
    return app


def _add_observation(app: FastAPI) -> None:
    from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

    registry = app.state.parts.numbers.registry
    running = Gauge("predator_si_loop_running", "1 where the loop may start cycles by itself.", registry=registry)
    switch = Gauge("predator_si_kill_switch", "1 where the kill switch is on.", registry=registry)
    unwatched = Gauge("predator_si_unwatched_release", "1 where a release that should be watched is not.", registry=registry)
    problems = Gauge("predator_si_loop_problems", "What GET status names under problems.", registry=registry)

    @app.get("/health", tags=["observation"])
    async def health() -> JSONResponse:
        """The process answers."""
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/ready", tags=["observation"], response_model=answers.Ready, responses={503: {"model": answers.Ready}})
    async def ready(request: Request) -> Response:
        """Whether calls are answered, and what does not work besides; 503 where the control database cannot be read."""
        parts = parts_of(request)
        body = await parts.held.body("ready", lambda: readiness(parts))  # held like the status: anybody may ask, and probes must never be told 429
        return Response(body, 503 if answers.Ready.model_validate_json(body).status == "unavailable" else 200, media_type="application/json")

    @app.get("/metrics", tags=["observation"], response_class=PlainTextResponse)
    async def prometheus(request: Request) -> Response:
        """Numbers for Prometheus."""
        parts = parts_of(request)
        parts.door.check_place(request)
        try:
            now = answers.Status.model_validate_json(await parts.held.body("status", parts.optimizer.status))
        except PredatorError:
            running.set(float("nan"))
        else:
            running.set(now.is_running)
            switch.set(now.kill_switch)
            unwatched.set(now.unwatched_release is not None)
            problems.set(len(now.problems))
        return Response(generate_latest(parts.numbers.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        parts_of(request).door.check_place(request)
        return HTMLResponse(docs_page(app.openapi(), BASE), headers={"Content-Security-Policy": _DOCS_POLICY})


async def tell_while_silent(optimizer: Optimizer, seconds: float) -> None:
    """Stand in for ``messenger_sensor`` while the daemon that runs it is not heard of: what people must know is told from here.

    Where both tell after all, the outbox keeps one message of each matter, and one of them claims its delivery.
    """
    silent = 0
    while True:
        await asyncio.sleep(seconds)
        state, problem = await optimizer.known_state()
        if state is not None and not state.unhealthy_daemons:
            silent = 0
            continue
        silent += 1
        if silent < _SILENT_LOOKS:  # a platform that is starting
            continue
        why = problem if state is None else f"Dagster's {', '.join(state.unhealthy_daemons)} has not been heard of lately"
        try:
            await optimizer.changing(tell, optimizer.loop, None, why)
        except PredatorError as error:
            log.warning("messages could not be told in the daemon's place: %s", error)
        except Exception as error:  # the next look must come, whatever a library raises in this one
            log.error("telling in the daemon's place failed\n%s", trace(error))


async def readiness(parts: Parts) -> answers.Ready:
    """What ``GET /ready`` says: ``ready``, ``degraded`` with the problems and what still works, or ``unavailable``."""
    loop, problems = parts.optimizer.loop, []
    _, dagster = await parts.optimizer.known_state()
    if dagster is not None:
        problems.append({"part": "dagster", "problem": dagster, "still_works": "every GET, stop, quality-gates, approvals, feedback; rollback in this process"})
    try:
        parts.door.tokens.tokens()
        if not parts.door.open_locally and not parts.door.tokens.path.is_file() and loop.settings.values.api.proxy is None:
            text = "there is no file of tokens: nobody can come in. `predator-si token create` makes one."
            problems.append({"part": "tokens", "problem": text, "still_works": "/health, /ready, /metrics"})
    except PredatorError as error:
        problems.append({"part": "tokens", "problem": str(error), "still_works": "callers without a token in contour local"})
    try:
        await asyncio.to_thread(loop.control.head)
    except PredatorError as error:
        problems.append({"part": "control", "problem": str(error), "still_works": "/health, /ready"})
        return answers.Ready(status="unavailable", problems=_told(problems, loop))
    return answers.Ready(status="degraded" if problems else "ready", problems=_told(problems, loop))


def _told(problems: list[dict[str, str]], loop: Loop) -> list[answers.PartProblem]:
    return [answers.PartProblem(**{key: text.replace(str(loop.home.path), "<home>") for key, text in one.items()}) for one in problems]
