"""Every panel of every Grafana dashboard asks the real Prometheus something it can answer, and every alert rule is evaluated by it."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from predator_si.monitor import default_criteria, evaluate_gates
from predator_si.monitor.exposition import write_exposition
from predator_si.records import Answer, Baseline, GateResult, Metric, MetricsSnapshot
from predator_si.signals import SIGNALS
from predator_si_tests.support.prometheus_server import ABSENT, PrometheusServer, prometheus_is_here, prometheus_server
from predator_si_tests.support.search_fakes import fake_home
from predator_si_tests.support.waiting import free_port, wait_until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$__rate_interval": "6s", "$variant": ".*", "$contour": ".*"}
pytestmark = [pytest.mark.live, pytest.mark.skipif(not prometheus_is_here(), reason=ABSENT)]


def panels(path: Path) -> list[tuple[str, str]]:
    """(title, PromQL with Grafana's variables filled in) of every query of a dashboard, its annotations included."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    filled = []
    for title, expression in found:
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, f"{path.name}: {title}: a variable that the test does not know: {expression}"
        filled.append((title, expression))
    return filled


def window() -> tuple[MetricsSnapshot, list[GateResult], Baseline]:
    """A window in which everything is known: what the panels ask for is there, or they ask for the wrong thing."""
    now = datetime.now(UTC)
    metrics = {name: Metric(name=name, value=0.5, ci_low=0.4, ci_high=0.6, n=100, age_seconds=1.0, direction=one.direction) for name, one in SIGNALS.items()}
    snapshot = MetricsSnapshot(
        snapshot_id="w", contour="local", created_at=now, window_start=now - timedelta(minutes=15), window_end=now, champion="sha256:a", metrics=metrics
    )
    baseline = Baseline(champion="sha256:a", created_at=now, windows=9, values=dict.fromkeys(SIGNALS, 0.5))
    return snapshot, evaluate_gates(default_criteria("local"), snapshot, baseline, now), baseline


class Quiet(SimpleHTTPRequestHandler):
    extensions_map = {"": "text/plain; version=0.0.4"}  # noqa: RUF012 - the base class's own way

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory) -> Iterator[tuple[str, PrometheusServer]]:
    """A search service under a little traffic and the quality file of a window, both scraped by a real Prometheus that evaluates our alert rules."""
    root = tmp_path_factory.mktemp("grafana")
    home = fake_home(root)
    home.release(home.model("keep"), home.model("turned"), 0.5, depth=12)
    write_exposition(root / "published" / "metrics", *window())
    files = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root / "published")))
    threading.Thread(target=files.serve_forever, daemon=True).start()
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "predator_si_tests.support.search_fakes", str(root), str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url, process), 60, "readiness of the search service")
        ask(url, 4)  # labels exist from the first scrape on, so that rates have a beginning
        jobs = {"predator_si_search": port, "predator_si_quality": files.server_address[1]}
        with prometheus_server(jobs, rules=(DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8")) as server:
            yield url, server
    finally:
        process.terminate()
        process.wait(timeout=30)
        files.shutdown()
        files.server_close()


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the service ended"
    try:
        return httpx.get(f"{url}/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def ask(url: str, n: int) -> None:
    with httpx.Client(base_url=url, trust_env=False) as client:
        for i in range(n):
            for client_id in range(8):  # half of the clients get the candidate
                answer = client.post("/search", json={"query": f"number {i}", "client_id": f"c{client_id}"}).raise_for_status().json()
            click = {"query_id": answer["query_id"], "action_name": "click", "object_id": answer["results"][0]["object_id"], "position": 1}
            client.post("/events", json={"events": [click]}).raise_for_status()


def is_answered(server: PrometheusServer, expression: str) -> bool:
    return any(math.isfinite(float(one["value"][1])) for one in server.query(expression))


def test_there_are_dashboards_for_the_service_and_for_quality():
    assert [path.name for path in DASHBOARDS] == ["search-quality.json", "search-service.json"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers) >= 12
        assert all(target["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"] for target in panel["targets"])


def test_every_panel_query_is_answered(telemetry):
    url, server = telemetry
    waiting = {(path.name, title, expression) for path in DASHBOARDS for title, expression in panels(path)}

    def all_answered() -> bool:
        ask(url, 2)
        for one in list(waiting):
            if is_answered(server, one[2]):
                waiting.discard(one)
        return not waiting

    try:
        wait_until(all_answered, 40, "an answer to every panel")
    except TimeoutError:
        pytest.fail(f"no answer to: {sorted(waiting)}")


def test_alert_rules_are_healthy_and_the_failed_gate_fires(telemetry):
    _, server = telemetry

    def rules() -> dict[str, dict[str, Any]]:
        groups = httpx.get(f"{server.url}/api/v1/rules", timeout=10, trust_env=False).json()["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules().values()), 20, "an evaluation of every rule")
    wait_until(lambda: rules()["QualityGateFails"]["state"] == "firing", 20, "the alert of a failed gate")
    fired = {alert["labels"]["gate"] for alert in rules()["QualityGateFails"]["alerts"]}
    assert fired == {gate.criterion.name for gate in window()[1] if gate.answer is Answer.FAIL} != set()
    assert rules()["MonitoringStopped"]["state"] == "inactive"
