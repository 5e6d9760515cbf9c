"""The pages of one home over HTTP on loopback, so that the Dagster UI can link to them: ``python -m predator_si.reports.pages --home .predator``.

What belongs here: handing out pages that exist, and a list of them. What must not: making a page, any other file of the home, any change.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from predator_si.home import Home
from predator_si.records import CYCLE_ID
from predator_si.reports.dataset_card import DATASET_CARD
from predator_si.reports.page import Markup, element, joined, page, section, table

TRIAL_PAGE = "ab_test_results.html"
"""As ``reports.trial`` writes it; named here so that serving pages imports no statistics."""

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI, Request, Response
    from fastapi.routing import APIRoute

_WINDOW = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,120}(\.(en|uk|drift))?\.html$")
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_LISTED = 100
_NOTHING = "default-src 'none'; frame-ancestors 'none'; style-src 'unsafe-inline'"
_OURS = f"{_NOTHING}; img-src data:"
_EVIDENTLY = f"{_NOTHING}; img-src data: blob:; font-src data:; script-src 'unsafe-inline' 'unsafe-eval'"
"""Evidently's page draws with scripts of its own, all inside the file; it may load and send nothing."""


def window_url(port: int, name: str) -> str:
    """Address of a window's page."""
    return f"http://127.0.0.1:{port}/windows/{name}"


def cycle_url(port: int, cycle_id: str) -> str:
    """Address of a cycle's report."""
    return f"http://127.0.0.1:{port}/cycles/{cycle_id}"


def dataset_url(port: int, cycle_id: str) -> str:
    """Address of the card of a cycle's data set."""
    return f"http://127.0.0.1:{port}/cycles/{cycle_id}/dataset"


def trial_url(port: int, cycle_id: str) -> str:
    """Address of the page of a cycle's trial."""
    return f"http://127.0.0.1:{port}/cycles/{cycle_id}/trial"


def create_app(home: Path) -> FastAPI:
    """``/`` lists the pages, ``/windows/<name>``, ``/cycles/<cycle_id>``, ``/cycles/<cycle_id>/dataset`` and ``/cycles/<cycle_id>/trial`` are the pages.

    GET only, and only for this machine's names in ``Host``.
    """
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse
    from fastapi.routing import APIRoute

    app = FastAPI(title="predator_si pages", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def this_machine_only(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        name = request.url.hostname or ""
        if name not in _LOCAL:  # a foreign page could otherwise read these through a name that it points here
            return HTMLResponse(f"Host {Markup(re.sub(r'[^A-Za-z0-9.:-]', '', name))}: these pages are for 127.0.0.1 and localhost only.", 403)
        return await go_on(request)

    app.include_router(page_router(home, APIRoute))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def page_router(home: Path, route_class: type[APIRoute]) -> APIRouter:
    """The pages of a home as routes of a class, which may ask who wants them."""
    from fastapi import APIRouter
    from fastapi.responses import HTMLResponse

    folders = Home(Path(home))
    app = APIRouter(route_class=route_class)

    def answer(path: Path, policy: str = _OURS) -> HTMLResponse:
        try:
            content = path.read_bytes()
        except OSError:
            return HTMLResponse(page("404", "en", element("h1", f"No page {path.name}")), 404, {"Content-Security-Policy": _OURS})
        return HTMLResponse(content, 200, {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"})

    @app.get("/windows/{name}")
    async def window(name: str) -> HTMLResponse:
        if not _WINDOW.match(name):
            return answer(Path("window.html"))
        return answer(folders.snapshots / name, _EVIDENTLY if name.endswith(".drift.html") else _OURS)

    @app.get("/cycles/{cycle_id}")
    async def cycle(cycle_id: str) -> HTMLResponse:
        return answer(folders.artifacts / cycle_id / "report.html" if CYCLE_ID.match(cycle_id) else Path("report.html"))

    @app.get("/cycles/{cycle_id}/dataset")
    async def dataset(cycle_id: str) -> HTMLResponse:
        return answer(folders.artifacts / cycle_id / DATASET_CARD if CYCLE_ID.match(cycle_id) else Path(DATASET_CARD))

    @app.get("/cycles/{cycle_id}/trial")
    async def trial(cycle_id: str) -> HTMLResponse:
        return answer(folders.artifacts / cycle_id / TRIAL_PAGE if CYCLE_ID.match(cycle_id) else Path(TRIAL_PAGE))

    @app.get("/")
    async def everything() -> HTMLResponse:
        return HTMLResponse(_listing(folders), headers={"Content-Security-Policy": _OURS})

    return app


def _listing(folders: Home) -> str:
    windows = sorted((path.name.removesuffix(".en.html") for path in folders.snapshots.glob("*.en.html")), reverse=True)[:_LISTED]
    cycles = sorted((path.parent.name for path in folders.artifacts.glob("*/report.html")), reverse=True)[:_LISTED]
    cards = {path.parent.name for path in folders.artifacts.glob(f"*/{DATASET_CARD}")}
    trials = {path.parent.name for path in folders.artifacts.glob(f"*/{TRIAL_PAGE}")}
    listed = [
        (element("a", n, href=f"/cycles/{n}"), element("a", "data / дані", href=f"/cycles/{n}/dataset") if n in cards else "",
         element("a", "trial / випробування", href=f"/cycles/{n}/trial") if n in trials else "")
        for n in cycles
    ]  # fmt: skip
    rows = [(name, element("a", "English", href=f"/windows/{name}.en.html"), element("a", "Українською", href=f"/windows/{name}.uk.html")) for name in windows]
    parts = [
        element("header", element("h1", "predator_si")),
        section("Windows / Вікна", table(["", "", ""], rows) if rows else element("p", "None yet: materialize observe/quality_report.")),
        section("Cycles / Цикли", table(["", "", ""], listed) if cycles else element("p", "None yet.")),
    ]
    return page("predator_si", "en", joined(parts))


def main(words: list[str] | None = None) -> int:
    """Serve until a signal comes; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m predator_si.reports.pages", description="The pages of one home on loopback.")
    parser.add_argument("--home", type=Path, required=True, help="home folder")
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1 (default: %(default)s)")
    chosen = parser.parse_args(words)
    import uvicorn

    uvicorn.run(create_app(chosen.home), host="127.0.0.1", port=chosen.port, log_level="warning", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
