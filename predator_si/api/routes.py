"""The calls of CONTRACT.md section 1: one small function each, and the route class that stands before all of them.

What belongs here: paths, parameters, which function answers. What must not: the answers themselves (``readings``, ``optimizer``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from predator_si.api import answers, readings
from predator_si.api.access import BASE, NEEDS, Caller, Door
from predator_si.api.limits import Numbers
from predator_si.api.once import Answers
from predator_si.api.optimizer import Optimizer
from predator_si.api.problems import MEDIA_TYPE
from predator_si.errors import Unavailable
from predator_si.records import CYCLE_ID

log = logging.getLogger(__name__)

_HELD_SECONDS = 0.5
"""How long a read answer is used again: many readers cost what one does. A change through this process ends it."""
_STALE_SECONDS = 3.0
"""How old an answer may get while many ask and the next one is being made: otherwise they all would wait for it, twice a second."""
_JSON = "application/json"
_BEARER = HTTPBearer(auto_error=False, description="A token of `predator-si token create`. In contour local a caller on the same machine needs none.")


class Held:
    """Answers used again for a moment; one at a time is made for each key, and nobody waits for it while the one before is not old.

    Parameters
    ----------
    seconds
        An answer of this age is made anew.
    stale
        Up to this age it is still given to those who ask meanwhile.
    """

    def __init__(self, seconds: float = _HELD_SECONDS, stale: float = _STALE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._stale, self._clock = seconds, stale, clock
        self._known: dict[str, tuple[float, bytes]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._renewing: dict[str, asyncio.Task[bytes]] = {}
        self._generation = 0

    async def body(self, key: str, make: Callable[[], Awaitable[BaseModel]]) -> bytes:
        """The JSON of an answer, made now or a moment ago."""
        found = self._known.get(key)
        age = self._stale if found is None else self._clock() - found[0]
        if found is None or age >= self._stale:
            return await self._made(key, make)
        if age >= self._seconds and key not in self._renewing:
            task = asyncio.create_task(self._made(key, make))
            self._renewing[key] = task
            task.add_done_callback(
                lambda done: (self._renewing.pop(key, None), done.cancelled() or done.exception())
            )  # a failure is met by whoever waits for it
        return found[1]

    async def _made(self, key: str, make: Callable[[], Awaitable[BaseModel]]) -> bytes:
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._known.get(key)
            if found is not None and self._clock() - found[0] < self._seconds:
                return found[1]
            generation = self._generation
            content = (await make()).model_dump_json().encode()
            if generation == self._generation:
                self._known[key] = (self._clock(), content)
            return content

    def clear(self) -> None:
        """Something was changed: everything is read again."""
        self._generation += 1
        self._known.clear()


@dataclass
class Parts:
    """What the calls work with; ``app.state.parts``."""

    optimizer: Optimizer
    door: Door
    once: Answers
    numbers: Numbers
    held: Held = field(default_factory=Held)
    acting: set[asyncio.Task[Response]] = field(default_factory=set)
    """Acts with an idempotency key that are under way, whether or not somebody still waits for the answer."""


class Guarded(APIRoute):
    """A call that only admitted callers reach, by the table of roles; a POST with an idempotency key is done once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the door."""
        inner = super().get_route_handler()
        path = self.path_format

        async def handler(request: Request) -> Response:
            parts: Parts = request.app.state.parts
            parts.door.check_place(request)
            needed = NEEDS.get((request.method, path))
            if needed is None:
                raise HTTPException(403, "nobody may make this call: it stands in no table of roles")
            caller = await parts.door.admit(request, needed)
            request.state.caller = caller
            if request.method != "POST":
                return await inner(request)
            try:
                key = request.headers.get("idempotency-key")
                return await inner(request) if key is None else await _done_once(parts, caller, key, request, inner)
            finally:
                parts.held.clear()

        return handler


async def _done_once(parts: Parts, caller: Caller, key: str, request: Request, inner: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
    who = f"{caller.how}:{caller.name}"
    asked = b"\n".join([request.method.encode(), request.url.path.encode(), request.url.query.encode(), await request.body()])
    changing = parts.optimizer.changing
    before = await changing(parts.once.begin, who, key, asked)
    if before is not None:
        return Response(before.body, before.status, {"Idempotency-Replayed": "true"}, before.media_type)

    async def act() -> Response:
        try:
            response = await inner(request)
        except Exception:
            await changing(parts.once.forget, who, key)
            raise
        finally:
            parts.held.clear()
        try:
            await changing(parts.once.finish, who, key, response.status_code, response.media_type or _JSON, bytes(response.body))
        except Unavailable as error:  # it is done: an error would make the caller do it again. The key stays taken
            log.warning("%s %s was done, but its answer is not remembered: %s", request.method, request.url.path, error)
        return response

    task = asyncio.create_task(act())
    parts.acting.add(task)
    task.add_done_callback(parts.acting.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # met by whoever waits, or by nobody any more
    return await asyncio.shield(task)  # who asked may go, or be told 504: the act ends, and the same key gets its answer then


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": answers.ProblemDocument, "content": {MEDIA_TYPE: {}}} for status in statuses}


RESPONSES = _problems(400, 401, 403, 404, 405, 408, 409, 413, 421, 422, 429, 500, 503, 504)
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200, description="The same request with the same key is done once within a day.")]
_CURSOR = "next_cursor of the page before."
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}\+00:00$"
Limit = Annotated[int, Query(ge=1, le=500, description="At most so many.")]
CycleId = Annotated[str, Path(pattern=CYCLE_ID.pattern, description="si_YYYY_MM_DD_NNN", examples=["si_2026_11_23_001"])]


def parts_of(request: Request) -> Parts:
    """The parts of the application that a request came to."""
    found: Parts = request.app.state.parts
    return found


def _caller(request: Request) -> Caller:
    found: Caller = request.state.caller
    return found


def _json(content: BaseModel, status: int = 200) -> Response:
    return Response(content.model_dump_json().encode(), status, media_type=_JSON)


def language(accepted: str | None) -> Literal["en", "uk"]:
    """Ukrainian where the reader prefers it to English, by Accept-Language; else English."""
    best: tuple[float, Literal["en", "uk"]] = (0.0, "en")
    for part in (accepted or "").split(","):
        name, _, rest = part.strip().partition(";")
        try:
            weight = float(rest.strip().removeprefix("q=") or 1.0)
        except ValueError:
            continue
        if name.lower().split("-")[0] == "uk" and weight > best[0]:
            best = (weight, "uk")
        elif name.lower().split("-")[0] == "en" and weight >= best[0] and weight > 0:
            best = (weight, "en")
    return best[1]


router = APIRouter(prefix=BASE, route_class=Guarded, responses=RESPONSES, dependencies=[Security(_BEARER)], tags=["optimizer"])


@router.get("/status", response_model=answers.Status)
async def status(request: Request) -> Response:
    """What the loop does now."""
    parts = parts_of(request)
    return Response(await parts.held.body("status", parts.optimizer.status), media_type=_JSON)


@router.get("/metrics", response_model=answers.Metrics)
async def metrics(request: Request) -> Response:
    """The newest snapshot of the metrics; unknown is null, with the reason in details."""
    parts = parts_of(request)

    async def make() -> BaseModel:
        return await asyncio.to_thread(readings.read_metrics, parts.optimizer.loop)

    return Response(await parts.held.body("metrics", make), media_type=_JSON)


@router.get("/history", response_model=answers.History)
async def history(
    request: Request,
    limit: Limit = 20,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$", description=_CURSOR)] = None,
) -> Response:
    """The ledger, newest first."""
    return _json(await asyncio.to_thread(readings.read_history, parts_of(request).optimizer.loop, limit, None if cursor is None else int(cursor)))


@router.get("/quality-gates", response_model=answers.Gates)
async def quality_gates(request: Request, accept_language: Annotated[str | None, Header(max_length=200)] = None) -> Response:
    """The gates with their thresholds, what they say now, and overrides in force; described in English or Ukrainian."""
    parts, chosen = parts_of(request), language(accept_language)

    async def make() -> BaseModel:
        return await asyncio.to_thread(readings.read_gates, parts.optimizer.loop, chosen)

    return Response(await parts.held.body(f"gates {chosen}", make), headers={"Content-Language": chosen}, media_type=_JSON)


@router.post("/quality-gates/{metric}", response_model=answers.GateChanged)
async def override_gate(
    request: Request,
    metric: Annotated[str, Path(min_length=1, max_length=64, examples=["ndcg_at_10"])],
    threshold: Annotated[float, Query(allow_inf_nan=False, examples=[0.7])],
    expires_in_minutes: Annotated[int, Query(ge=1, le=43_200, description="1440: a day.")] = 1440,
    reason: Annotated[str, Query(max_length=2000)] = "",
    key: Key = None,
) -> Response:
    """Another absolute threshold for a metric, for a time; in the ledger, and gone by itself."""
    optimizer = parts_of(request).optimizer
    actor = _caller(request).actor
    return _json(await optimizer.changing(optimizer.override, metric, threshold, timedelta(minutes=expires_in_minutes), actor, reason))


@router.post("/quality-gates/{metric}/end", response_model=answers.GateEnded)
async def end_override(
    request: Request,
    metric: Annotated[str, Path(min_length=1, max_length=64, examples=["ndcg_at_10"])],
    reason: Annotated[str, Query(max_length=2000)] = "",
    key: Key = None,
) -> Response:
    """The contour's own threshold again, before the override ends by itself."""
    optimizer = parts_of(request).optimizer
    return _json(await optimizer.changing(optimizer.end_override, metric, _caller(request).actor, reason))


@router.post("/trigger", response_model=answers.TriggerAnswer, responses={202: {"model": answers.TriggerAnswer}})
async def trigger(request: Request, asked: answers.TriggerRequest | None = None, key: Key = None) -> Response:
    """Begin a cycle as the loop itself would; 202 where it goes on in the background."""
    found = await parts_of(request).optimizer.trigger(asked or answers.TriggerRequest(), _caller(request).actor)
    return _json(found, 202 if found.status == "started" else 200)


@router.post("/start", response_model=answers.Started)
async def start(request: Request, asked: answers.Because | None = None, key: Key = None) -> Response:
    """Lift the kill switch and let the loop run."""
    return _json(await parts_of(request).optimizer.start(_caller(request).actor, asked.reason if asked else ""))


@router.post("/stop", response_model=answers.Stopped)
async def stop(request: Request, asked: answers.Because | None = None, key: Key = None) -> Response:
    """Press the kill switch: nothing begins, nothing is promoted, what runs for a cycle ends. Watch and rollback go on."""
    return _json(await parts_of(request).optimizer.stop(_caller(request).actor, asked.reason if asked else ""))


@router.post("/rollback", response_model=answers.RollbackAnswer, responses={202: {"model": answers.RollbackAnswer}})
async def rollback(request: Request, asked: answers.RollbackRequest, key: Key = None) -> Response:
    """Take the newest release back."""
    found = await parts_of(request).optimizer.rollback(asked, _caller(request).actor)
    return _json(found, 202 if found.status == "started" else 200)


@router.get("/approvals", response_model=answers.Approvals)
async def approvals(
    request: Request,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(pattern=rf"{CYCLE_ID.pattern.rstrip('$')}:(trial|promote)$", description=_CURSOR)] = None,
) -> Response:
    """Releases, and promotions to the next contour, that wait, or waited, for a person, with the evidence."""
    return _json(await asyncio.to_thread(readings.read_approvals, parts_of(request).optimizer.loop, limit, None, cursor))


@router.post("/approvals/{cycle_id}", response_model=answers.ApprovalAnswer)
async def decide(request: Request, cycle_id: CycleId, asked: answers.ApprovalRequest, key: Key = None) -> Response:
    """Approve or reject the release of a cycle that waits for it. Who overrode a gate in its time may not approve it."""
    optimizer = parts_of(request).optimizer
    return _json(await optimizer.changing(optimizer.decide, cycle_id, asked, _caller(request).actor))


@router.get("/champions", response_model=answers.Champions)
async def champions(request: Request, limit: Limit = 50, cursor: Annotated[str | None, Query(pattern=_MOMENT, description=_CURSOR)] = None) -> Response:
    """Who served when and why."""
    return _json(await asyncio.to_thread(readings.read_champions, parts_of(request).optimizer.loop, limit, cursor))


@router.get("/cycles", response_model=answers.Cycles)
async def cycles(request: Request, limit: Limit = 20, cursor: Annotated[str | None, Query(pattern=CYCLE_ID.pattern, description=_CURSOR)] = None) -> Response:
    """The cycles of the contour, newest first."""
    return _json(await asyncio.to_thread(readings.read_cycles, parts_of(request).optimizer.loop, limit, cursor))


@router.get("/cycles/{cycle_id}", response_model=answers.CycleStory)
async def cycle(request: Request, cycle_id: CycleId) -> Response:
    """One cycle: its state, verdicts, files, links, audit record."""
    return _json(await asyncio.to_thread(readings.read_cycle, parts_of(request).optimizer.loop, cycle_id))


@router.get("/cycles/{cycle_id}/verdict", response_model=answers.CycleVerdict)
async def verdict(request: Request, cycle_id: CycleId) -> Response:
    """A cycle's newest verdict in plain values, for an analysis of Argo Rollouts."""
    return _json(await asyncio.to_thread(readings.read_verdict, parts_of(request).optimizer.loop, cycle_id))


@router.post("/feedback", status_code=202, response_model=answers.FeedbackAnswer)
async def feedback(request: Request, asked: answers.FeedbackRequest, key: Key = None) -> Response:
    """A score of an answer, or a mark of one result."""
    return _json(await parts_of(request).optimizer.feedback(asked), 202)


outside = APIRouter(route_class=Guarded, responses=RESPONSES, dependencies=[Security(_BEARER)], tags=["outside"])


@outside.post("/alerts/alertmanager", status_code=202, response_model=answers.AlertsAnswer)
async def alertmanager(request: Request, payload: dict[str, Any]) -> Response:
    """Alertmanager's webhook (version 4): its alerts go to the same people by the same channels."""
    from predator_si.notify import from_alertmanager

    loop = parts_of(request).optimizer.loop
    events = from_alertmanager(payload)
    told = await parts_of(request).optimizer.changing(lambda: sum(loop.notify(event) for event in events))
    return _json(answers.AlertsAnswer(status="accepted", alerts=len(events), told=told), 202)
