"""Errors as problem documents (RFC 9457): what was wrong, what to do next, the request's id; never a stack trace, a secret or this machine's folders.

What belongs here: the shape of an error. What must not: deciding that something is one.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from predator_si.control.secrets import redacted
from predator_si.errors import BadInput, Missing, PredatorError, Refused, Unavailable
from predator_si.privacy import trace

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_TITLES = {
    400: "Bad request", 401: "Who are you?", 403: "Not allowed", 404: "Not found", 405: "Method not allowed", 408: "Too slow", 409: "Refused",
    413: "Body too large", 415: "Unsupported media type", 421: "Not this host", 422: "Invalid input", 429: "Too many requests", 500: "Internal error",
    503: "Unavailable", 504: "Took too long",
}  # fmt: skip
_NEXT = {
    400: "Look at the request in /docs.",
    401: "Send Authorization: Bearer TOKEN; `predator-si token create` makes one.",
    403: "Ask somebody whose role allows it, or for a token of that role.",
    404: "GET /openapi.json names every call, GET cycles every cycle.",
    405: "The header Allow names the methods of this address.",
    408: "Send the whole body at once.",
    409: "Read the detail; GET status says how things stand.",
    413: "Send less.",
    421: "Use 127.0.0.1 or localhost in the address.",
    422: "Correct the fields that errors names.",
    429: "Wait as long as Retry-After says.",
    500: "The log of the API has the details under this request_id.",
    503: "Try again in a moment; GET /ready says what does not answer.",
    504: "GET status says how far it came.",
}
_STATUS: tuple[tuple[type[PredatorError], int], ...] = ((BadInput, 422), (Missing, 404), (Refused, 409), (Unavailable, 503))


def problem(
    status: int, detail: str, *, request_id: str | None = None, errors: list[dict[str, str]] | None = None, next_step: str | None = None
) -> dict[str, Any]:
    """The body of a problem document."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(status, "Refused" if status < 500 else "Internal error"),
        "status": status,
        "detail": redacted(detail),
        "next_step": next_step or _NEXT.get(status, "GET /docs shows what this API understands."),
        "request_id": request_id,
    }
    if errors is not None:
        body["errors"] = errors
    return body


def respond(
    status: int,
    detail: str,
    *,
    request_id: str | None = None,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
    next_step: str | None = None,
) -> Response:
    """A problem document as an answer."""
    content = json.dumps(problem(status, detail, request_id=request_id, errors=errors, next_step=next_step), ensure_ascii=False).encode()
    return Response(content, status, headers=headers, media_type=MEDIA_TYPE)


def field_errors(errors: list[Any]) -> list[dict[str, str]]:
    """Field and message of each validation error; the offending value is left out, since it may be a secret."""
    found = []
    for error in errors:
        path = [str(part) for part in error["loc"]]
        if path and path[0] in ("body", "query", "path", "header"):
            path = path[1:]
        found.append({"field": ".".join(path) or "body", "message": str(error["msg"]).removeprefix("Value error, ")})
    return found


def add_problems(app: FastAPI, home: Path) -> None:
    """Answer every error of the application with a problem document."""

    def told(error: Exception) -> str:
        return str(error).replace(str(home), "<home>")

    def id_of(request: Request) -> str | None:
        found: str | None = request.scope.get("state", {}).get("request_id")
        return found

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = field_errors(list(error.errors()))
        return respond(422, "; ".join(f"{one['field']}: {one['message']}" for one in errors)[:2000], request_id=id_of(request), errors=errors)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        return respond(error.status_code, str(error.detail), request_id=id_of(request), headers=headers)

    @app.exception_handler(PredatorError)
    async def known(request: Request, error: PredatorError) -> Response:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 409)
        return respond(status, told(error), request_id=id_of(request), headers={"Retry-After": "2"} if status == 503 else None)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        log.error("request %s: %s %s failed\n%s", id_of(request), request.method, request.url.path, trace(error))
        return respond(500, f"{request.method} {request.url.path} failed ({type(error).__name__}).", request_id=id_of(request))
