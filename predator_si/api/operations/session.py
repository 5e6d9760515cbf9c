"""A browser's way to be known: the token in a cookie that no script and no other site can use.

What belongs here: the cookie, and turning it into the header that the door reads. What must not: who may do what (``access``).

The REST facade never sees it: a cookie counts for pages alone, so that no page of another site can make a browser use the API.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from predator_si.api.access import BASE
from predator_si.api.tokens import PATTERN

COOKIE = "predator_si_session"
_SECONDS = 8 * 3600


class Session:
    """Middleware: outside the REST facade, a session's token stands in for a missing ``Authorization``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and not scope["path"].startswith(BASE):
            headers = Headers(scope=scope)
            token = session_of(headers.get("cookie", ""))
            if token is not None and "authorization" not in headers:
                scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {token}".encode("ascii"))]
        await self.app(scope, receive, send)


def session_of(cookies: str) -> str | None:
    """The token in a ``Cookie`` header; null where there is none that looks like one."""
    try:
        found = SimpleCookie(cookies[:4096]).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None and PATTERN.fullmatch(found.value) else None


def keep(request: Request, response: Response, token: str) -> None:
    """Let the browser keep a token for eight hours, for this host's pages alone."""
    response.set_cookie(COOKIE, token, max_age=_SECONDS, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https")


def forget(response: Response) -> None:
    """Let it go."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
