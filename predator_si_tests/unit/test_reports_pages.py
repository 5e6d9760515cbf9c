"""Pages are handed out as they are, nothing else of the home is."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from predator_si.home import Home
from predator_si.reports.pages import create_app, cycle_url, window_url


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    home = Home(tmp_path)
    home.snapshots.mkdir(parents=True)
    for name in ("local-1.en.html", "local-1.uk.html", "local-1.drift.html"):
        (home.snapshots / name).write_text(f"<p>{name}</p>")
    (home.snapshots / "local-1.json").write_text("{}")
    (home.artifacts / "si_2026_11_23_001").mkdir(parents=True)
    (home.artifacts / "si_2026_11_23_001" / "report.html").write_text("<p>cycle</p>")
    (home.path / "control.db").write_text("secret")
    return TestClient(create_app(tmp_path), base_url="http://127.0.0.1:8000")


def test_pages_and_their_list(client):
    listing = client.get("/").text
    assert 'href="/windows/local-1.en.html"' in listing and 'href="/windows/local-1.uk.html"' in listing and 'href="/cycles/si_2026_11_23_001"' in listing
    assert client.get("/windows/local-1.uk.html").text == "<p>local-1.uk.html</p>"
    assert client.get("/cycles/si_2026_11_23_001").text == "<p>cycle</p>"
    assert client.get("/health").json() == {"status": "ok"}
    for url in (window_url(8000, "local-1.en.html"), cycle_url(8000, "si_2026_11_23_001")):
        assert client.get(url).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/windows/local-1.json", "/windows/..%2Fcontrol.db", "/windows/%2e%2e/control.db", "/windows/local-2.en.html", "/windows/.html", "/cycles/si_1",
     "/control.db", "/openapi.json", "/docs", "/cycles/si_2026_11_23_002"],
)  # fmt: skip
def test_nothing_else_is_handed_out(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and "secret" not in answer.text


def test_scripts_run_on_evidently_s_page_only_and_nothing_is_loaded(client):
    assert "script-src" not in client.get("/windows/local-1.en.html").headers["content-security-policy"]
    policy = client.get("/windows/local-1.drift.html").headers["content-security-policy"]
    assert "script-src 'unsafe-inline'" in policy and "default-src 'none'" in policy and "connect-src" not in policy


def test_other_hosts_and_methods_are_refused(client):
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200
    assert client.post("/windows/local-1.en.html").status_code == 405
