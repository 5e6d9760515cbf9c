"""Every example of docs/telemetry.md is executed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from predator_si.monitor.sources import plan
from predator_si.monitor.sources.prometheus import EXPRESSIONS, selectors
from predator_si.search.pushes import read_pushed
from predator_si.settings import load_settings
from predator_si_tests.unit.test_monitor_sources import ubi

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_values_can_be_used_in_any_contour(tmp_path: Path, text: str):
    file = tmp_path / "values.yaml"
    file.write_text(text)
    for contour in ("local", "edge-oracle", "compute-nvidia"):
        sources = load_settings(contour, values_file=file, env={}).sources
        assert sources.postgres is not None or sources.metrics


def test_its_promql_reads_what_it_says(tmp_path: Path):
    file = tmp_path / "values.yaml"
    file.write_text(blocks("yaml")[1])
    sources = load_settings("local", values_file=file, env={}).sources
    one = plan(sources)["p95_latency_ms"][0]
    assert selectors(one.query or "") == ['http_request_duration_seconds_bucket{handler="/search"}'] and "p95_latency_ms" in EXPRESSIONS


def test_its_pushed_events_are_answered_as_it_shows():
    request, answer = map(json.loads, blocks("json"))
    found = read_pushed(request)
    assert answer["accepted"] == len(found.searches) + len(found.actions) and answer["refused"] == found.refused
    assert found.searches[0].latency_ms == 41.5 and found.actions[0].position == 2


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Path("foreign").mkdir()
    Path("foreign/a.jsonl").write_text(json.dumps(ubi(1, timestamp=datetime.now(UTC).isoformat())) + "\n{oops\n")
    (code,) = blocks("python")
    exec(compile(code, "docs/telemetry.md", "exec"), {})
    said = capsys.readouterr().out
    assert "{'search': 1} {'not JSON': 1} ()" in said and said.splitlines()[1].startswith("1 0") and "a.jsonl" in said
