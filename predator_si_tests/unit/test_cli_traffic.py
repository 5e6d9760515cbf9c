"""`traffic replay` and `status` against a small HTTP service that answers as the contract says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from predator_si_tests.support.command_line import CommandLine

DIGEST = f"sha256:{'a' * 64}"


class Handler(BaseHTTPRequestHandler):
    broken = False

    def do_GET(self) -> None:
        self._answer(200, {"variants": {"champion": {"model_sha": DIGEST}, "candidate": None}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/search":
            if Handler.broken:
                self._answer(503, {"title": "Unavailable"})
                return
            results = [{"object_id": f"d{i}", "score": 1.0 / (i + 1), "title": ""} for i in range(5)]
            self._answer(200, {"query_id": str(body["query"]), "variant": "champion", "model_digest": DIGEST, "took_ms": 1.0, "results": results})
        else:
            self._answer(200, {})

    def _answer(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    monkeypatch.setattr(Handler, "broken", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PREDATOR_SI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PREDATOR_SI_SEARCH_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("COLUMNS", "300")
    source = tmp_path / "tiny"
    source.mkdir()
    (source / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": f"d{i}", "title": "", "text": f"word{i}"}) for i in range(40)), encoding="utf-8")
    (source / "queries.jsonl").write_text("\n".join(json.dumps({"_id": f"q{i}", "text": f"find word{i} now"}) for i in range(40)), encoding="utf-8")
    (source / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(40)), encoding="utf-8")
    cli = CommandLine(tmp_path / "home", capsys)
    assert cli("corpus", "import", source).code == 0
    yield cli
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_search_answered_is_yes(cli: CommandLine):
    answer = cli("traffic", "replay", "--corpus", "tiny", "--requests", "25", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["requests"] == 25 and answer.json["failed_requests"] == 0 and answer.json["digests"] == {DIGEST: 25}
    assert answer.json["simulated"] is True and 0 < answer.json["p50_ms"] <= answer.json["p95_ms"]
    assert "every search was answered" in cli("traffic", "replay", "--corpus", "tiny", "-n", "3").out


def test_a_failed_search_is_no(cli: CommandLine):
    Handler.broken = True
    answer = cli("traffic", "replay", "--corpus", "tiny", "--requests", "4", "--json")
    assert answer.code == 1 and answer.json["failed_requests"] == 4 and answer.json["failures"] == {"HTTP 503": 4} and answer.json["p95_ms"] is None


def test_an_unknown_part_is_wrong_use(cli: CommandLine):
    answer = cli("traffic", "replay", "--corpus", "tiny", "--part", "shfit")
    assert answer.code == 2 and "there are base, shift and both" in answer.err


def test_status_names_what_is_served(cli: CommandLine):
    assert cli("status", "--json").json["service"]["champion"] == DIGEST
    assert DIGEST in cli("status").out
