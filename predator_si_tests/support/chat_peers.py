"""Loopback peers that take messages as Slack's incoming webhooks and Apprise's ``json://`` receivers do, and refuse what these would refuse.

Slack's contract (its documentation of incoming webhooks and of Block Kit): POST with JSON, ``text`` and at most 50 ``blocks``; a header has plain text of 150
characters at most, a section 3,000, a context 10 elements; 200 ``ok``, 400 ``invalid_payload`` or ``no_text``, 404 ``no_service``, 429 with ``Retry-After``.
Apprise's: POST with JSON of ``version``, ``title``, ``message``, ``attachments`` and ``type``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET_PATH = "/services/T0000AAAA/B0000BBBB/verysecretpartofit"


@dataclass
class Receiver:
    """A running peer. ``mood`` is what it answers next: ``well``, ``busy`` (429), ``broken`` (500), ``gone`` (404)."""

    address: str = ""
    mood: str = "well"
    taken: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    asked: int = 0


@contextmanager
def _serving(receiver: Receiver, problem_of: Callable[[str, str, Any], str | None], path: str) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            receiver.asked += 1
            try:
                body = json.loads(raw)
                problem = problem_of(self.path, self.headers.get("Content-Type", ""), body)
            except ValueError:
                body, problem = None, "invalid_payload"
            if receiver.mood != "well":
                self._answer(*{"busy": (429, "rate_limited"), "broken": (500, "rollup_error"), "gone": (404, "no_service")}[receiver.mood])
            elif problem is not None:
                receiver.refused.append(problem)
                self._answer(400, problem)
            else:
                receiver.taken.append(body)
                self._answer(200, "ok")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "120")
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.address = f"http://127.0.0.1:{server.server_address[1]}{path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def slack() -> Iterator[Receiver]:
    """An incoming webhook of Slack."""

    def problem(path: str, kind: str, body: Any) -> str | None:
        if path != SECRET_PATH:
            return "no_team"
        if not kind.startswith("application/json") or not isinstance(body, dict):
            return "invalid_payload"
        if not isinstance(body.get("text"), str) or not body["text"]:
            return "no_text"
        blocks = body.get("blocks", [])
        if len(blocks) > 50 or not all(_is_block(block) for block in blocks):
            return "invalid_blocks"
        return None

    with _serving(Receiver(), problem, SECRET_PATH) as receiver:
        yield receiver


def _is_block(block: dict[str, Any]) -> bool:
    if block["type"] == "header":
        return block["text"]["type"] == "plain_text" and 0 < len(block["text"]["text"]) <= 150
    if block["type"] == "section":
        return block["text"]["type"] in ("mrkdwn", "plain_text") and 0 < len(block["text"]["text"]) <= 3000
    return block["type"] == "context" and 0 < len(block["elements"]) <= 10 and all(one["type"] == "mrkdwn" for one in block["elements"])


@contextmanager
def apprise_json() -> Iterator[Receiver]:
    """What Apprise's ``json://`` posts to; ``address`` is the Apprise address, with a password in it."""

    def problem(path: str, kind: str, body: Any) -> str | None:
        if kind != "application/json" or set(body) < {"version", "title", "message", "type"}:
            return "invalid_payload"
        return None if body["type"] in ("info", "success", "warning", "failure") else "invalid type"

    with _serving(Receiver(), problem, "") as receiver:
        receiver.address = receiver.address.replace("http://", "json://robot:correcthorsebattery@") + "/hook/verysecretpath"
        yield receiver
