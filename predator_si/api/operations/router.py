"""The pages as routes: who may see them, in which language, and what the forms on them do.

What belongs here: addresses, form fields, security headers. What must not: what a page shows (``views``), what an act does (``optimizer``).

Every act is a form post that works without scripts. A browser says with ``Origin`` from which page it comes; a post without that word, or with a foreign one,
is refused, and so is one whose caller's role is too low. Acts call the same functions as the REST facade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from predator_si.api import answers
from predator_si.api.access import LOOPBACK, NEEDS, PUBLIC, Caller
from predator_si.api.operations import commits, session, views
from predator_si.api.operations.assurance import assurance
from predator_si.api.operations.drawing import draw
from predator_si.api.operations.texts import LANGUAGES, Language, preferred
from predator_si.api.routes import Parts, parts_of
from predator_si.control.pages import RecordQuery
from predator_si.control.secrets import redacted
from predator_si.errors import BadInput, Missing, PredatorError, Refused, Unavailable

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
STATIC = Path(__file__).parent / "static"
_FILES = {"operations.css": "text/css; charset=utf-8", "operations.js": "text/javascript; charset=utf-8"}
_LANGUAGE_COOKIE = "predator_si_language"
_FORM = "application/x-www-form-urlencoded"
_PAGE = 50
_MOST_DAYS = 31
_STATUS: tuple[tuple[type[PredatorError], int], ...] = ((BadInput, 422), (Missing, 404), (Refused, 409), (Unavailable, 503))
_DONE = frozenset({"approve", "reject", "stop", "start"})


class Page(APIRoute):
    """A page: whatever goes wrong behind it is said as a page, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with its security headers and its errors."""
        inner, path = super().get_route_handler(), self.path_format

        async def handler(request: Request) -> Response:
            try:
                await _admit(request, path)
                response = await inner(request)
            except HTTPException as error:
                response = _refusal(request, error.status_code, str(error.detail), error.headers)
            except PredatorError as error:
                status = next((status for kind, status in _STATUS if isinstance(error, kind)), 409)
                home = str(parts_of(request).optimizer.loop.home.path)
                response = _refusal(request, status, redacted(str(error).replace(home, "<home>")), None)
            response.headers["Content-Security-Policy"] = POLICY
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Referrer-Policy"] = "same-origin"  # "no-referrer" would make a browser send "Origin: null" with our own forms
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return handler


def language_of(request: Request) -> Language:
    """What the reader chose: in the address, earlier by the switch, else by the browser's settings."""
    asked = request.query_params.get("lang") or request.cookies.get(_LANGUAGE_COOKIE)
    return next((lang for lang in LANGUAGES if lang == asked), None) or preferred(request.headers.get("accept-language", ""))


def _html(request: Request, template: str, status: int = 200, caller: Caller | None = None, **content: Any) -> HTMLResponse:
    lang = language_of(request)
    others = [(key, value) for key, value in request.query_params.multi_items() if key not in ("lang", "done")]
    here = (request.url.hostname or "") in LOOPBACK
    frame = {"here": here, "me": caller, "loop": parts_of(request).optimizer.loop, "path": request.url.path, "query": others}
    response = HTMLResponse(draw(template, lang, **frame, **content), status)
    if request.query_params.get("lang") == lang:
        response.set_cookie(_LANGUAGE_COOKIE, lang, max_age=365 * 86400, path="/", httponly=True, samesite="lax")
    response.headers["Content-Language"] = lang
    response.headers["Vary"] = "Accept-Language, Cookie"
    return response


def _refusal(request: Request, status: int, why: str, headers: Mapping[str, str] | None) -> HTMLResponse:
    caller = getattr(request.state, "caller", None)
    if status == 401:
        page = _html(request, "sign_in.html", status, failed=False)
    else:
        page = _html(request, "refused.html", status, caller, gone=status == 404, why=why)
    for name, value in (headers or {}).items():
        if name.lower() in ("retry-after", "www-authenticate"):
            page.headers[name] = value
    return page


async def _admit(request: Request, path: str) -> None:
    """Let the caller in by the table of roles, as for every other call."""
    parts, call = parts_of(request), (request.method, path)
    parts.door.check_place(request)
    if call in NEEDS:
        request.state.caller = await parts.door.admit(request, NEEDS[call])
    elif call not in PUBLIC:
        raise HTTPException(403, "nobody may make this call: it stands in no table of roles")


def _who(request: Request) -> tuple[Parts, Caller]:
    caller: Caller = request.state.caller
    return parts_of(request), caller


async def _form(request: Request) -> dict[str, str]:
    """Fields of a form post that comes from a page of this host.

    Raises
    ------
    HTTPException
        403 where the browser does not say that it does, 415 for something that is no form.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is None and site != "same-origin":
        raise HTTPException(403, "this form must be sent from the operations page itself")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(415, f"a form is {_FORM}")
    try:
        found = parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise BadInput("this form has more fields than the page's.") from error
    return {name: values[-1] for name, values in found.items()}


def _reason(form: Mapping[str, str]) -> str:
    reason = form.get("reason", "").strip()
    if not reason or len(reason) > 2000:
        raise BadInput("say why, in words (2000 characters at most): the reason goes into the ledger.")
    return reason


router = APIRouter(route_class=Page, include_in_schema=False)


@router.get("/")
async def overview(request: Request) -> Response:
    """The first page."""
    parts, caller = _who(request)
    status = await parts.optimizer.status()
    shown = await asyncio.to_thread(views.overview, parts.optimizer.loop, status)
    done = request.query_params.get("done")
    return await asyncio.to_thread(_html, request, "overview.html", 200, caller, shown=shown, done=done if done in _DONE else None)


@router.get("/operations/cycles/{cycle_id}")
async def cycle(request: Request, cycle_id: str) -> Response:
    """One cycle."""
    parts, caller = _who(request)
    story = await asyncio.to_thread(views.story_of, parts.optimizer.loop, cycle_id)
    done = request.query_params.get("done")
    return _html(request, "cycle.html", 200, caller, story=story, took=views.took(story.cycle), done=done if done in _DONE else None)


@router.get("/operations/audit")
async def audit(request: Request) -> Response:
    """The ledger, searched and leafed through."""
    parts, caller = _who(request)
    asked = {name: request.query_params.get(name, "").strip()[:200] for name in ("cycle", "actor", "action", "from", "to", "text")}
    before = request.query_params.get("before", "")
    query = RecordQuery(
        cycle_id=asked["cycle"],
        actor=asked["actor"],
        action=asked["action"],
        since=_day(asked["from"], "from"),
        until=_day(asked["to"], "to", 1),
        text=asked["text"],
    )
    control = parts.optimizer.loop.control
    cursor = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None
    found = await asyncio.to_thread(control.search, query, _PAGE + 1, cursor)
    total = await asyncio.to_thread(control.count_records)
    older = found[_PAGE - 1].seq if len(found) > _PAGE else None
    return _html(request, "audit.html", 200, caller, asked=asked, records=found[:_PAGE], total=total, older=older, paged=cursor is not None)


@router.get("/operations/results")
async def results(request: Request) -> Response:
    """What the newest days brought: before and after, and the key figures."""
    parts, caller = _who(request)
    asked = request.query_params.get("days", "7")
    if not (asked.isascii() and asked.isdigit() and 1 <= int(asked[:4]) <= _MOST_DAYS):
        raise BadInput(f"days: {asked!r} is no number from 1 to {_MOST_DAYS}.")
    table, figures = await asyncio.to_thread(views.results, parts.optimizer.loop, int(asked))
    sure = await asyncio.to_thread(assurance, parts.optimizer.loop)
    return _html(request, "results.html", 200, caller, table=table, figures=figures, sure=sure, days=int(asked))


@router.get("/operations/commits/{commit}")
async def commit(request: Request, commit: str) -> Response:
    """What a commit of the GitOps repository changed."""
    parts, caller = _who(request)
    text, whole = await asyncio.to_thread(commits.commit_text, parts.optimizer.loop, commit)
    return _html(request, "commit.html", 200, caller, commit=commit, text=text, whole=whole)


@router.get("/operations/kill-switch")
async def kill_switch(request: Request) -> Response:
    """The second step of the kill switch: what it means, why, and yes or no. What it would do is read, not asked for."""
    parts, caller = _who(request)
    loop = parts.optimizer.loop
    on = await asyncio.to_thread(loop.control.kill_switch, loop.contour)
    return _html(request, "kill_switch.html", 200, caller, on=on, by_values=loop.settings.kill_switch)


@router.post("/operations/kill-switch")
async def turn_kill_switch(request: Request) -> Response:
    """Press or lift it."""
    parts, caller = _who(request)
    form = await _form(request)
    wanted, reason = form.get("switch"), _reason(form)
    if wanted == "stop":
        await parts.optimizer.stop(caller.actor, reason)
    elif wanted == "start":
        await parts.optimizer.start(caller.actor, reason)
    else:
        raise BadInput("the switch goes to stop or to start.")
    parts.held.clear()
    return RedirectResponse(f"/?done={wanted}", 303)


@router.post("/operations/cycles/{cycle_id}/decision")
async def decide(request: Request, cycle_id: str) -> Response:
    """A person's answer to a cycle that waits for it."""
    parts, caller = _who(request)
    form = await _form(request)
    wanted, reason = form.get("decision"), _reason(form)
    if wanted not in ("approve", "reject"):
        raise BadInput("the decision is approve or reject.")
    asked = answers.ApprovalRequest(decision="approve" if wanted == "approve" else "reject", reason=reason)
    await parts.optimizer.changing(parts.optimizer.decide, cycle_id, asked, caller.actor)
    parts.held.clear()
    return RedirectResponse(f"/operations/cycles/{cycle_id}?done={wanted}", 303)


@router.post("/operations/sign-in")
async def sign_in(request: Request) -> Response:
    """Take a token from a form and keep it in a cookie, where it is a good one."""
    token = (await _form(request)).get("token", "").strip()
    scope = {**request.scope, "headers": [pair for pair in request.scope["headers"] if pair[0] != b"authorization"]}
    scope["headers"].append((b"authorization", b"Bearer " + token.encode("utf-8", "replace")))
    try:
        await parts_of(request).door.identify(Request(scope))
    except HTTPException as error:
        if error.status_code != 401:
            raise
        return _html(request, "sign_in.html", 401, failed=True)
    response = RedirectResponse("/", 303)
    session.keep(request, response, token)
    return response


@router.post("/operations/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the token."""
    await _form(request)
    response = RedirectResponse("/", 303)
    session.forget(response)
    return response


@router.get("/operations/static/{name}")
async def static(request: Request, name: str) -> Response:
    """The style and the script; they hold nothing of this home."""
    if name not in _FILES:
        raise Missing(f"{name!r} is no file of this page.")
    return FileResponse(STATIC / name, media_type=_FILES[name], headers={"Cache-Control": "max-age=60"})


@router.get("/operations/{rest:path}")
async def nothing(request: Request, rest: str) -> Response:
    """Any other address below this page."""
    raise Missing(f"there is no page {rest!r} here.")


def _day(text: str, field: str, days_after: int = 0) -> datetime | None:
    if not text:
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{field}: {text!r} is no day; write it as 2026-11-23.") from error
    return datetime(found.year, found.month, found.day, tzinfo=UTC) + timedelta(days=days_after)
