"""A loopback peer of OpenAI-compatible chat completions: holds its callers to the contract, and answers well, slowly, with rubbish or not at all.

It refuses what the real ones refuse: another path or method, a body that is not JSON, unknown roles, a missing or unknown model, a wrong key; with ``modern``
also ``max_tokens`` and ``temperature``, as reasoning models do. And it refuses what our callers never do: material outside its fences.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_FIRST = re.compile(r"--- (?:query|example 1|document 1) (\w{20})\n")


@dataclass(frozen=True)
class Slow:
    """An answer that waits so many seconds; with ``drip`` it begins at once and then sends a byte each time."""

    seconds: float
    reply: Any = "{}"
    drip: bool = False


Reply = int | bytes | str | dict[str, Any] | Slow
"""An HTTP status, a raw body, the text of a message, a whole completion, or one of these slowly."""


@dataclass(frozen=True)
class Asked:
    """One request that kept the contract."""

    body: dict[str, Any]
    parts: list[tuple[str, str]]
    number: int
    """Of the request, from 1."""

    @property
    def model(self) -> str:
        """Whom the request was for."""
        return self.body["model"]

    def texts(self, kind: str) -> list[str]:
        """The material of a kind: ``query``, ``document`` or ``example``."""
        return [text for name, text in self.parts if name.split()[0] == kind]


@dataclass
class ChatPeer:
    """What the peer was asked, and what it says: ``reply(query, document, number of the call)`` to a judge, ``write(request)`` to a writer."""

    url: str
    reply: Callable[[str, str, int], Reply]
    write: Callable[[Asked], Reply] | None = None
    key: str | None = None
    usage: bool = True
    models: Collection[str] | None = None
    modern: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def read(self, body: dict[str, Any]) -> list[tuple[str, str]]:
        """The material of a request that keeps the contract, by name."""
        roles = [message.get("role") for message in body["messages"]]
        if roles != ["system", "user"]:
            raise ValueError(f"roles {roles}")
        limit = body.get("max_completion_tokens" if self.modern else "max_tokens", 0)
        if body.get("temperature") != (None if self.modern else 0) or not isinstance(body.get("model"), str) or not 0 < limit <= 4096:
            raise ValueError("model, temperature or limit of tokens")
        text = body["messages"][1]["content"]
        mark = _FIRST.match(text)
        if mark is None or mark[1] not in body["messages"][0]["content"]:
            raise ValueError("the fence that the instructions name does not begin the material")
        fence = mark[1]
        parts = re.findall(rf"--- (query|(?:document|example)(?: \d+)?) {fence}\n(.*?)\n--- end of \1 {fence}(?:\n|\Z)", text, re.DOTALL)
        if "".join(f"--- {name} {fence}\n{inner}\n--- end of {name} {fence}\n" for name, inner in parts) != text + "\n" or text.count(fence) != 2 * len(parts):
            raise ValueError("the material is not between its fences")
        return [(name, inner) for name, inner in parts]

    def answer(self, body: dict[str, Any], parts: list[tuple[str, str]]) -> Reply:
        """What is said to a request that keeps the contract."""
        self.asked.append(body)
        self.requests.append(Asked(body, parts, len(self.asked)))
        if [name for name, _ in parts] == ["query", "document"]:
            return self.reply(parts[0][1], parts[1][1], len(self.asked))
        return 400 if self.write is None else self.write(self.requests[-1])


def completion(text: str | None, usage: Any = None) -> dict[str, Any]:
    """A whole chat completion; ``usage`` as (tokens in, tokens out), anything else as it is, null for none."""
    said: dict[str, Any] = {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return said if usage is None else said | {"usage": usage}


@contextmanager
def chat_peer(
    reply: Callable[[str, str, int], Reply],
    key: str | None = None,
    usage: bool = True,
    *,
    write: Callable[[Asked], Reply] | None = None,
    models: Collection[str] | None = None,
    modern: bool = False,
) -> Iterator[ChatPeer]:
    """Serve on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # headers and body in one packet

        def do_POST(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have given up
                self._answer()

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if peer.key is not None and self.headers.get("Authorization") != f"Bearer {peer.key}":
                return self._send(401, b'{"error": {"message": "Incorrect API key provided"}}')
            if self.path != "/v1/chat/completions":
                return self._send(404, b"{}")
            try:
                body = json.loads(raw)
                for name in ("max_tokens", "temperature"):
                    if peer.modern and name in body:
                        return self._send(400, json.dumps({"error": {"code": "unsupported_parameter", "param": name}}).encode())
                if peer.models is not None and body["model"] not in peer.models:
                    return self._send(404, b'{"error": {"code": "model_not_found"}}')
                parts = peer.read(body)
            except (ValueError, KeyError, TypeError) as error:
                peer.refused.append(str(error))
                return self._send(400, b"{}")
            said, wait = peer.answer(body, parts), 0.0
            if isinstance(said, Slow):
                wait, drip, said = said.seconds, said.drip, said.reply
                if drip:
                    return self._drip(wait)
                peer.ended.wait(wait)
            if isinstance(said, int):
                return self._send(said, b"{}", {"Retry-After": "7"} if said == 429 else {})
            if isinstance(said, bytes):
                return self._send(200, said)
            if isinstance(said, str):
                said = completion(said, (len(raw) // 4, max(6, len(said) // 4)) if peer.usage else None)
            return self._send(200, json.dumps(said).encode())

        def _drip(self, seconds: float) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            while not peer.ended.wait(seconds):
                self.wfile.write(b" ")
                self.wfile.flush()
            self.close_connection = True

        def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peer = ChatPeer(f"http://127.0.0.1:{server.server_port}", reply, write, key, usage, models, modern)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield peer
    finally:
        peer.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
