"""A loopback peer of OpenAI-compatible chat completions: holds its callers to the contract, and answers as it is told.

It refuses what the real ones refuse: another path or method, a body that is not JSON, unknown roles, a missing model, a wrong key.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = int | bytes | str | dict[str, Any]
"""An HTTP status, a raw body, the text of a message, or a whole completion."""


@dataclass
class ChatPeer:
    """What the peer was asked, and what it says: ``reply(query, document, number of the call)``."""

    url: str
    reply: Callable[[str, str, int], Reply]
    key: str | None = None
    usage: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def judge(self, body: dict[str, Any]) -> tuple[str, str]:
        """Query and document of a request that keeps the contract."""
        roles = [message.get("role") for message in body["messages"]]
        if roles != ["system", "user"]:
            raise ValueError(f"roles {roles}")
        if body.get("temperature") != 0 or not isinstance(body.get("model"), str) or not 0 < body.get("max_tokens", 0) <= 4096:
            raise ValueError("model, temperature or max_tokens")
        text = body["messages"][1]["content"]
        mark = re.match(r"--- query (\w+)\n", text)
        if mark is None or mark[1] not in body["messages"][0]["content"]:
            raise ValueError("the fence that the instructions name does not begin the material")
        fence = mark[1]
        parts = re.fullmatch(rf"--- query {fence}\n(.*)\n--- end of query {fence}\n--- document {fence}\n(.*)\n--- end of document {fence}", text, re.DOTALL)
        if parts is None or text.count(fence) != 4:
            raise ValueError("the material is not between its fences")
        return parts[1], parts[2]


@contextmanager
def chat_peer(reply: Callable[[str, str, int], Reply], key: str | None = None, usage: bool = True) -> Iterator[ChatPeer]:
    """Serve on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # headers and body in one packet

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if peer.key is not None and self.headers.get("Authorization") != f"Bearer {peer.key}":
                return self._send(401, b'{"error": {"message": "Incorrect API key provided"}}')
            if self.path != "/v1/chat/completions":
                return self._send(404, b"{}")
            try:
                body = json.loads(raw)
                query, document = peer.judge(body)
            except (ValueError, KeyError, TypeError) as error:
                peer.refused.append(str(error))
                return self._send(400, b"{}")
            peer.asked.append(body)
            said = peer.reply(query, document, len(peer.asked))
            if isinstance(said, int):
                return self._send(said, b"{}", {"Retry-After": "7"} if said == 429 else {})
            if isinstance(said, bytes):
                return self._send(200, said)
            if isinstance(said, str):
                said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}
                if peer.usage:
                    said["usage"] = {"prompt_tokens": len(raw) // 4, "completion_tokens": 6, "total_tokens": len(raw) // 4 + 6}
            return self._send(200, json.dumps(said).encode())

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
    peer = ChatPeer(f"http://127.0.0.1:{server.server_port}", reply, key, usage)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
