"""Probes over real HTTP on loopback: scored, failures counted, nothing dropped in silence."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.monitor import keep_labels, probe
from predator_si.monitor.snapshot import snapshot_of
from predator_si.monitor.windows import Windows
from predator_si_tests.support.raw_layer import store_rows
from predator_si_tests.support.windows import search

QUERIES = pl.DataFrame({"query_id": ["a", "b", "c", "unjudged"], "text": ["one", "two", "three", "four"]})
JUDGMENTS = pl.DataFrame({"query_id": ["a", "b", "c"], "doc_id": ["d0", "d1", "d9"], "relevance": [1.0, 1.0, 1.0]})


def answer(ids, depth=20):
    results = [{"object_id": doc, "score": 1.0 - i, "first_stage_score": float(i), "rerank_score": 0.0, "title": ""} for i, doc in enumerate(ids)]
    return {"query_id": "x", "variant": "champion", "model_digest": "sha256:x", "took_ms": 5, "depth": depth, "results": results}


@pytest.fixture
def service():
    """A server whose replies are set by query text: an object, a status, or raw bytes; it records what it was asked."""
    replies, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            reply = replies.get(body["query"], answer(["d0", "d1", "d2"]))
            status, content = (reply, b"{}") if isinstance(reply, int) else (200, reply if isinstance(reply, bytes) else json.dumps(reply).encode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", replies, asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_scores_and_marks_every_judged_query(service, concurrency):
    url, _, asked = service
    seen = []
    result = probe(url, QUERIES, JUDGMENTS, variant="champion", concurrency=concurrency, on_progress=lambda done, total: seen.append((done, total)))
    assert result.per_query["query_id"].to_list() == ["a", "b", "c"]
    assert result.per_query["ndcg_at_10"].to_list() == pytest.approx([1.0, 0.6309297535, 0.0])
    assert result.per_query["recall_at_20"].to_list() == [1.0, 1.0, 0.0]
    assert result.failed == 0 and result.digests == {"sha256:x"} and seen[-1] == (3, 3)
    assert all(body["probe"] is True and body["variant"] == "champion" and body["k"] == 20 for body in asked) and len(asked) == 3
    assert (result.per_query["latency_ms"] > 0).all() and result.per_query["took_ms"].to_list() == [5.0] * 3


def test_candidates_are_known_only_when_all_of_them_came_back(service):
    url, replies, _ = service
    replies["one"] = answer(["d0", "d1"], depth=2)
    result = probe(url, QUERIES, JUDGMENTS)
    assert result.per_query["candidate_ids"].to_list()[:2] == [["d1", "d0"], None]


@pytest.mark.parametrize(
    ("reply", "said"),
    [(500, "HTTP 500"), (b"<html>", "unreadable"), (b"{}", "unreadable"), (b"[]", "unreadable"), (answer(["d0", "d0"]), "twice")],
)
def test_a_failed_probe_is_counted_and_not_scored(service, reply, said):
    url, replies, _ = service
    replies["two"] = reply
    result = probe(url, QUERIES, JUDGMENTS)
    row = result.per_query.row(1, named=True)
    assert result.failed == 1 and result.failed_share == pytest.approx(1 / 3)
    assert row["ndcg_at_10"] is None and said in row["error"]
    assert result.per_query["ndcg_at_10"].to_list()[0] == 1.0


def test_an_answer_without_results_scores_zero(service):
    url, replies, _ = service
    replies["one"] = answer([])
    result = probe(url, QUERIES, JUDGMENTS)
    assert result.failed == 0 and result.per_query["ndcg_at_10"][0] == 0.0


def test_a_service_that_is_down_fails_every_probe(service):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    result = probe(f"http://127.0.0.1:{port}", QUERIES, JUDGMENTS)
    assert result.failed == 3 and result.digests == frozenset() and "Connect" in result.per_query["error"][0]


def test_nothing_judged_is_refused():
    with pytest.raises(BadInput, match="none of the 4"):
        probe("http://127.0.0.1:1", QUERIES, JUDGMENTS.clear())


def test_labels_beside_the_requests_let_the_engine_measure_probes_by_every_measure(service, home):
    url, replies, _ = service
    replies["one"], replies["two"] = answer(["d0", "d5"]) | {"query_id": "r1"}, answer(["d7", "d1"]) | {"query_id": "r2"}
    replies["three"] = 503
    result = probe(url, QUERIES, JUDGMENTS)
    blank = dict.fromkeys(("object_id", "score", "first_stage_score", "rerank_score"))
    rows = [
        search(i, query_id=row["request_id"], timestamp=row["asked_at"], probe=True, results=[blank | {"object_id": one} for one in row["result_ids"]])
        for i, row in enumerate(result.per_query.filter(pl.col("error").is_null()).iter_rows(named=True))
    ]
    store_rows(home, rows)
    written = keep_labels(home.telemetry, "round", result, JUDGMENTS)
    assert written and all(path.stem == "round" for path in written) and keep_labels(home.telemetry, "round", result, JUDGMENTS) == written
    windows = Windows(home.telemetry)
    found = windows.between(result.started_at - timedelta(hours=1), result.ended_at + timedelta(hours=1), result.ended_at)
    judged = found.cell([key for key in found.cells if key.kind == "probe"]).families["judged"]
    assert judged.observations == 2 and judged.sum("nDCG@10") == pytest.approx(result.per_query["ndcg_at_10"].sum()) and judged.sum("judged@10") == 1.0
    assert found.counts["missing"] == 0
    cells = snapshot_of(found, result.started_at, result.ended_at, result.ended_at, champion=None, contour="local").cells
    assert [(cell.kind, cell.counts["judged"]) for cell in cells] == [("probe", 2)]
    assert cells[0].metrics["nDCG@10"].value == pytest.approx(result.per_query["ndcg_at_10"].mean()) and "avg_latency_ms" not in cells[0].metrics
