"""A tick over several sources: what the snapshot takes from where, and that a source that is down fails nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from predator_si.home import Home
from predator_si.monitor.intake import RawLayer
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metadata import snapshot_metadata
from predator_si.orchestration.steps.observe import take_snapshot
from predator_si.records import utc_now
from predator_si.settings import Settings, load_settings
from predator_si_tests.support import windows
from predator_si_tests.support.peers import UbiIndexes, allocation, opencost, opensearch
from predator_si_tests.support.platform import fake_model, prepare
from predator_si_tests.support.waiting import free_port


def settings_with(home: Home, tmp_path: Path, sources: str) -> Settings:
    file = tmp_path / "more.yaml"
    file.write_text(f"selfImprovement:\n  sources:\n{sources}")
    return load_settings("local", home=home.path, values_file=file, env={"PREDATOR_SI_PORTS": f"search={free_port()}"})


def spool(loop: Loop, champion: str, n: int = 60) -> None:
    """Requests of the last minutes in the embedded service's hourly files, one of them impossible."""
    now = utc_now()
    rows = [windows.search(i, seq=i + 1, timestamp=now - timedelta(seconds=120 - i), model_digest=champion) for i in range(n)]
    rows[7]["latency_ms"] = -1.0
    folder = loop.home.events / "hourly" / "search"
    folder.mkdir(parents=True, exist_ok=True)
    windows.frames(rows).search.write_parquet(folder / f"{now:%Y%m%d%H}-w.parquet")


def test_a_tick_reads_every_source_and_one_that_is_down_makes_only_its_own_metrics_unknown(home: Home, tmp_path: Path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    stamp = (utc_now() - timedelta(minutes=2)).isoformat()
    (foreign / "a.jsonl").write_text(json.dumps({"query_id": "f1", "timestamp": stamp, "user_query": "boots", "status": 200, "latency_ms": 80}) + "\n{oops\n")
    ubi = {"query_id": "u1", "timestamp": stamp, "user_query": "boots", "query_response_hit_ids": ["d1"], "query_attributes": {}}
    hour = (utc_now() - timedelta(minutes=60), utc_now())
    with opensearch(UbiIndexes([ubi])) as search, opencost({"search": allocation("search", 0.031, *hour)}) as cost:
        text = f"""
    events: {{path: "{foreign}"}}
    opensearch: {{address: "{search.address}"}}
    opencost: "{cost.address}"
    prometheus: http://127.0.0.1:{free_port()}
    metrics:
      p95_latency: [{{source: prometheus, maxAge: 10m}}, {{source: events}}]
      cost_per_1k_requests: [{{source: opencost, query: namespace=search, maxAge: 2h}}, {{source: prices}}]
"""
        loop = Loop(settings_with(home, tmp_path, text))
        champion = fake_model(loop, "champion")
        prepare(loop, champion)
        spool(loop, champion)
        snapshot = take_snapshot(loop, probes=False)

    said = {one.source: one for one in snapshot.sources}
    assert set(said) == {"spool", "events", "opensearch", "prometheus", "opencost"}
    assert (said["spool"].rows_good, said["spool"].rows_quarantined) == (59, 1) and said["events"].rows_quarantined == 1
    assert snapshot.quarantined == 2 and RawLayer(home.telemetry).ledger().good == {"search": 61}
    assert any("cannot be reached" in reason for reason in said["prometheus"].unknown)
    p95 = snapshot.metrics["p95_latency_ms"]
    assert p95.value == 100.0 and [(one.source, one.chosen) for one in snapshot.candidates["p95_latency_ms"]] == [("prometheus", False), ("events", True)]
    assert "cannot be reached" in snapshot.candidates["p95_latency_ms"][0].reason
    bill = snapshot.metrics["cost_per_1k_requests"]
    assert bill.value == pytest.approx(0.031 / 0.061) and bill.source.startswith("opencost: namespace=search") and bill.n == 61
    assert [one.chosen for one in snapshot.candidates["cost_per_1k_requests"]] == [True, False], "the estimate stays as evidence"
    assert "cannot be reached" in (snapshot.metrics["gpu_utilization"].reason or ""), "there is a source, and it is silent: unknown"
    shown = snapshot_metadata(snapshot, [])
    assert shown["quarantined"] == 2 and "prometheus" in shown["silent_sources"] and loop.snapshots(1)[0] == snapshot


def test_without_sources_the_contour_says_so_and_the_service_may_be_down(home: Home, tmp_path: Path):
    loop = Loop(settings_with(home, tmp_path, "    prometheus: null\n"))
    champion = fake_model(loop, "champion")
    prepare(loop, champion)
    spool(loop, champion)
    first = take_snapshot(loop)
    assert first.metrics["gpu_utilization"].reason == "not applicable: this contour has no source for gpu_utilization"
    assert first.metrics["avg_latency_ms"].n == 59 and first.metrics["etl_lag_seconds"].value is None and first.candidates == {}
    second = take_snapshot(loop)
    assert second.metrics["avg_latency_ms"].n == 0 and RawLayer(home.telemetry).ledger().good == {"search": 59}
    assert (home.telemetry / "search").is_dir() and len(list(home.telemetry.rglob("*.parquet"))) >= 2
