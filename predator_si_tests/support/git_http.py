"""A Git server over HTTP on loopback: real ``git http-backend`` behind a tiny CGI server that asks for a token."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from predator_si.release.git import clean_environment


@cache
def backend() -> Path:
    """The program; it comes with Git itself."""
    folder = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    found = Path(folder) / "git-http-backend"
    if not found.is_file():
        pytest.skip("git http-backend does not belong to this installation of Git")
    return found


@dataclass
class Mood:
    """What is wrong with the server; a test sets what it wants."""

    away: bool = False
    hangs: threading.Event | None = None
    """Answers only once this is set."""
    deaf_after_push: bool = False
    """The push arrives, its answer does not."""
    redirects_to: str | None = None
    repeats_credentials: bool = False
    """Refuses, and repeats what it was sent."""


@dataclass
class GitServer:
    """Serves the bare repositories of a folder to who knows the token."""

    root: Path
    token: str
    mood: Mood = field(default_factory=Mood)
    asked: list[str] = field(default_factory=list)
    authorised: list[str] = field(default_factory=list)
    """Users that came with the right token, one for each request that did."""

    def __enter__(self) -> GitServer:
        fake = self
        program = backend()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def go(self) -> None:
                parts, mood = urlsplit(self.path), fake.mood
                fake.asked.append(f"{self.command} {parts.path.rpartition('/')[2]}")
                if mood.hangs is not None:
                    mood.hangs.wait(60)
                if mood.away or mood.hangs is not None:
                    self.connection.close()
                    return
                if mood.redirects_to is not None:
                    self._short(301, b"", Location=f"{mood.redirects_to}{self.path}")
                    return
                told = self.headers.get("Authorization") or ""
                user, _, secret = base64.b64decode(told.removeprefix("Basic ")).decode().partition(":") if told else ("", "", "")
                if mood.repeats_credentials and told:
                    self._short(403, f"remote: no such token {secret} ({told})\n".encode(), **{"Content-Type": "text/plain"})
                    return
                if secret != fake.token:
                    self._short(401, b"who are you?\n", **{"WWW-Authenticate": 'Basic realm="git"'})
                    return
                fake.authorised.append(user)
                body = self._body()
                # git http-backend is a CGI program: the request is its environment
                environment = clean_environment() | {
                    "GIT_PROJECT_ROOT": str(fake.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": parts.path, "QUERY_STRING": parts.query, "REMOTE_USER": user,
                    "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                }  # fmt: skip
                done = subprocess.run([str(program)], input=body, capture_output=True, env=environment, check=False)
                if mood.deaf_after_push and parts.path.endswith("git-receive-pack") and self.command == "POST":
                    self.connection.close()
                    return
                self._cgi(done.stdout)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def _cgi(self, output: bytes) -> None:
                head, _, body = output.partition(b"\r\n\r\n")
                headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n") if line)
                self._short(int(headers.pop("Status", "200 OK").split()[0]), body, **headers)

            def _short(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = go

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def command_lines() -> list[str]:
    """What any process of this machine says of itself to all others: its command line."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue  # it ended meanwhile
    return found


def watched_command_lines(stop: threading.Event, needle: str) -> list[str]:
    """Command lines that held ``needle`` at any moment until ``stop``."""
    seen: list[str] = []
    while not stop.is_set():
        seen += [line for line in command_lines() if needle in line]
        time.sleep(0.002)
    return seen
