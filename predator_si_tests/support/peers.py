"""Loopback peers that answer as OpenCost and OpenSearch do, and refuse what these would refuse.

What the contracts say was read in their documentation; no such server can be installed here. A peer keeps every request, so that a test can look at it.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]


@dataclass
class Peer:
    """A running peer: its address, and every request that it got as (method, path, query or body)."""

    address: str
    requests: list[tuple[str, str, Any]] = field(default_factory=list)


@contextmanager
def serve(answer: Callable[[str, str, dict[str, str], dict[str, str], bytes], Answer]) -> Iterator[Peer]:
    """Serve ``answer(method, path, query, headers, body)`` on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._any()

        def do_POST(self) -> None:
            self._any()

        def _any(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            peer.requests.append((self.command, url.path, query if self.command == "GET" else json.loads(body or b"null")))
            status, found = answer(self.command, url.path, query, {name.lower(): value for name, value in self.headers.items()}, body)
            text = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peer = Peer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --------------------------------------------------------------------------- OpenCost


def allocation(name: str, cost: float, start: datetime, end: datetime) -> dict[str, Any]:
    """One allocation as OpenCost answers it."""
    window = {"start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    minutes = (end - start).total_seconds() / 60
    costs = {"cpuCost": cost * 0.6, "gpuCost": 0.0, "ramCost": cost * 0.3, "pvCost": cost * 0.1, "networkCost": 0.0, "sharedCost": 0.0, "externalCost": 0.0}
    return {"name": name, "properties": {"cluster": "cluster-one"}, "window": window, **window, "minutes": minutes, **costs, "totalCost": cost}


@contextmanager
def opencost(rows: dict[str, dict[str, Any]] | None, *, aggregate: str = "namespace", prefix: str = "", token: str | None = None) -> Iterator[Peer]:
    """An OpenCost that holds ``rows`` for whatever window is asked; ``None`` is one that has no data yet. ``prefix`` "/model" makes it a Kubecost."""

    def answer(method: str, path: str, query: dict[str, str], headers: dict[str, str], _: bytes) -> Answer:
        if token is not None and headers.get("authorization") != f"Bearer {token}":
            return 401, {"code": 401, "message": "unauthorized"}
        if path != f"{prefix}/allocation":
            return 404, b"404 page not found\n"
        if method != "GET":
            return 405, {"code": 405, "message": "method not allowed"}
        start, _comma, end = query.get("window", "").partition(",")
        try:
            began, ended = datetime.fromisoformat(start), datetime.fromisoformat(end)
        except ValueError:
            return 400, {"code": 400, "message": f"Invalid 'window' parameter: {query.get('window')}"}
        if began.tzinfo is None or ended <= began:
            return 400, {"code": 400, "message": "Invalid 'window' parameter: illegal window"}
        if query.get("aggregate") != aggregate:
            return 400, {"code": 400, "message": f"Invalid 'aggregate' parameter: {query.get('aggregate')}"}
        if query.get("accumulate") != "true":
            return 200, {"code": 200, "data": [rows or {}, rows or {}]}
        return 200, {"code": 200, "data": [rows] if rows is not None else [{}]}

    with serve(answer) as peer:
        yield peer


# --------------------------------------------------------------------------- OpenSearch


@dataclass
class UbiIndexes:
    """Documents of the two UBI indexes. ``most`` is the largest page (``index.max_result_window``)."""

    queries: Sequence[dict[str, Any]] = ()
    events: Sequence[dict[str, Any]] = ()
    most: int = 10_000
    user: str | None = None
    password: str | None = None
    failed_shards: int = 0


@contextmanager
def opensearch(indexes: UbiIndexes) -> Iterator[Peer]:
    """An OpenSearch that answers ``_search`` with filters on keywords and dates, sorting and ``search_after``; anything else is a 400, as there."""

    def answer(method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Answer:
        if indexes.user is not None:
            wanted = base64.b64encode(f"{indexes.user}:{indexes.password}".encode()).decode()
            if headers.get("authorization") != f"Basic {wanted}":
                return 401, {"error": "Unauthorized", "status": 401}
        name, _, call = path.strip("/").partition("/")
        documents = {"ubi_queries": indexes.queries, "ubi_events": indexes.events}.get(name)
        if documents is None or call != "_search":
            return 404, {"error": {"type": "index_not_found_exception", "reason": f"no such index [{name}]"}, "status": 404}
        if method != "POST" or headers.get("content-type") != "application/json":
            return 406, {"error": "Content-Type header is not supported", "status": 406}
        try:
            return 200, _search(list(documents), json.loads(body), indexes)
        except (KeyError, TypeError, ValueError) as error:
            return 400, {"error": {"type": "parsing_exception", "reason": f"{type(error).__name__}: {error}"}, "status": 400}

    with serve(answer) as peer:
        yield peer


def _search(documents: list[dict[str, Any]], body: dict[str, Any], indexes: UbiIndexes) -> dict[str, Any]:
    unknown = set(body) - {"size", "query", "sort", "search_after", "track_total_hits"}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)}")
    if body["size"] > indexes.most:
        raise ValueError(f"Result window is too large, from + size must be less than or equal to: [{indexes.most}]")
    for one in body["query"]["bool"]["filter"]:
        ((kind, what),) = one.items()
        documents = [document for document in documents if _passes(document, kind, what)]
    keys = [next(iter(one)) for one in body["sort"]]
    if any(one[key] != {"order": "asc"} for one, key in zip(body["sort"], keys, strict=True)):
        raise ValueError("sort")

    def values(document: dict[str, Any]) -> list[Any]:
        return [_millis(document[key]) if key == "timestamp" else str(document.get(key)) for key in keys]

    total = len(documents)
    documents.sort(key=values)
    after = body.get("search_after")
    if after is not None:
        if len(after) != len(keys):
            raise ValueError(f"search_after has {len(after)} value(s) but sort has {len(keys)}")
        documents = [document for document in documents if values(document) > after]
    hits = [{"_index": "ubi", "_id": str(id(document)), "_source": document, "sort": values(document)} for document in documents[: body["size"]]]
    return {
        "took": 1,
        "timed_out": False,
        "_shards": {"total": 1, "successful": 1 - indexes.failed_shards, "skipped": 0, "failed": indexes.failed_shards},
        "hits": {"total": {"value": total, "relation": "eq" if body.get("track_total_hits") is True else "gte"}, "hits": hits},
    }


def _passes(document: dict[str, Any], kind: str, what: dict[str, Any]) -> bool:
    ((name, wanted),) = what.items()
    if kind == "range":
        if set(wanted) - {"gte", "lt", "format"} or name != "timestamp" or not all(wanted[bound].endswith("Z") for bound in ("gte", "lt")):
            raise ValueError(f"range {wanted}")
        return _millis(wanted["gte"]) <= _millis(document[name]) < _millis(wanted["lt"])
    if kind == "terms":
        return document.get(name) in wanted
    if kind == "term":
        return bool(document.get(name) == wanted)
    raise ValueError(f"unknown query [{kind}]")


def _millis(moment: Any) -> int:
    return int(moment) if isinstance(moment, int | float) else round(datetime.fromisoformat(moment).timestamp() * 1000)
