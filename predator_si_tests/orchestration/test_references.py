"""What a window is judged against, from tick to tick, in a prepared home: baseline, gates that remember, anomalies, drift with real events."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.monitor import Skip, Start
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metadata import anomaly_check
from predator_si.orchestration.steps import drift, observe, references
from predator_si.orchestration.steps.telemetry import take_in
from predator_si.proof.prepare import build_first_index
from predator_si.records import Answer, DriftReport, MetricsSnapshot, SearchEvent, utc_now
from predator_si.settings import Settings
from predator_si_tests.support.platform import fake_model, on_free_port, prepare, write_snapshot, write_toy_corpus

WORDS = {"files": "open read file path write folder binary lines close stream copy rename", "models": "tensor train gradient layer batch loss token epoch"}


@pytest.fixture
def loop(settings: Settings, tmp_path: Path) -> Loop:
    found = Loop(on_free_port(settings))
    prepare(found, fake_model(found, "champion"), corpus=write_toy_corpus(tmp_path / "toy"))
    return found


def ticks(loop: Loop, values: list[float | None], first: datetime) -> list[MetricsSnapshot]:
    """One healthy window each 15 minutes but for NDCG; each is brought up as a tick does."""
    found = []
    for i, value in enumerate(values):
        snapshot = write_snapshot(loop, loop.serving().model, first + timedelta(minutes=15 * i), {"ndcg_at_10": value})
        references.refresh(loop, snapshot)
        found.append(snapshot)
    return found


def gate(loop: Loop, snapshot: MetricsSnapshot) -> tuple[Answer, bool, str]:
    result = next(one for one in observe.gates(loop, snapshot, snapshot.created_at) if one.criterion.metric == "ndcg_at_10")
    return result.answer, result.recovering, result.reason


def test_a_drop_fails_its_gate_recovers_and_clears_and_the_baseline_stays(loop: Loop) -> None:
    first = utc_now() - timedelta(hours=2)
    healthy = ticks(loop, [0.60, 0.61, 0.60], first)
    assert gate(loop, healthy[-1])[0] is Answer.PASS
    (fallen,) = ticks(loop, [0.5], first + timedelta(minutes=45))
    assert gate(loop, fallen)[:2] == (Answer.FAIL, False) and isinstance(observe.next_step(loop, fallen.created_at), Start)
    (better,) = ticks(loop, [0.60], first + timedelta(minutes=60))
    answer, recovering, reason = gate(loop, better)
    assert (answer, recovering) == (Answer.FAIL, True) and "in 1 of 2 windows in a row that clear it" in reason
    for _ in range(3):  # sensors look every minute: looking does not count
        assert gate(loop, better)[0] is Answer.FAIL
    assert isinstance(observe.next_step(loop, better.created_at), Skip)
    (good,) = ticks(loop, [0.60], first + timedelta(minutes=75))
    assert gate(loop, good)[0] is Answer.PASS
    known = loop.baseline()
    assert known is not None and known.values["ndcg_at_10"] == 0.60 and known.windows == 5 and known.left_out == {"ndcg_at_10 had fallen": 1}
    assert "5 healthy windows" in references.baseline_note(loop, good) and "1 left out: ndcg_at_10 had fallen" in references.baseline_note(loop, good)


def test_a_tick_scores_its_window_and_carries_the_sequential_tests_on(loop: Loop) -> None:
    first = utc_now() - timedelta(hours=5)
    values = (0.60 + 0.002 * np.random.default_rng(0).normal(size=14)).tolist()
    champion = loop.serving().model
    for i, value in enumerate([*values, 0.45, 0.45]):
        snapshot = write_snapshot(loop, champion, first + timedelta(minutes=15 * i), {"ndcg_at_10": value})
        per_query = pl.DataFrame({"query_id": [f"q{j}" for j in range(60)], "ndcg_at_10": [value] * 60, "recall_at_20": [0.9] * 60})
        per_query.write_parquet(loop.home.snapshots / f"{snapshot.snapshot_id}.parquet")
        references.refresh(loop, snapshot)
    report = references.anomalies(loop, snapshot.snapshot_id)
    assert report is not None and report.false_alarms_per_month == loop.settings.values.evidence.false_alarms_per_month
    score = next(one for one in report.scores if one.metric == "ndcg_at_10")
    change = next(one for one in report.changes if one.stream == "ndcg_at_10 by query")
    assert score.anomalous and change.active and change.alarms == 1 and change.last.windows == 13, "three windows make the reference, the others are watched"
    shown = anomaly_check(["observe", "metrics_snapshot"], report, "why")
    assert not shown.passed and shown.severity.value == "WARN" and "deviations below the usual" in str(shown.metadata["alarms"].value)
    assert "a change was called" in str(shown.metadata["alarms"].value)
    assert anomaly_check(["observe", "metrics_snapshot"], None, "why").passed


def test_an_old_home_is_thinned_evenly_and_the_newest_window_stays(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    first = utc_now() - timedelta(days=2)
    for i in range(120):
        write_snapshot(loop, loop.serving().model, first + timedelta(minutes=15 * i))
    monkeypatch.setattr(references, "HISTORY", 40)
    kept = references.history(loop)
    assert 20 <= len(kept) <= 65 and kept[-1].snapshot_id == loop.snapshots(1)[0].snapshot_id
    assert sum(one.window_end < first + timedelta(hours=15) for one in kept) >= 8, "the first half is there too"


def search(loop: Loop, at: datetime, topic: str, n: int) -> None:
    """Served requests in the spool of the embedded service, as people sent them; the next tick takes them in."""
    rng = np.random.default_rng(len(topic))
    lines = []
    for i in range(n):
        text = " ".join(rng.choice(WORDS[topic].split(), 3, replace=False)) + f" {rng.integers(1000)}"
        results = [{"object_id": f"d{rank}", "score": float(rng.normal(5, 1)) - rank} for rank in range(3)]
        event = SearchEvent(
            query_id=f"{topic}{i}", timestamp=at + timedelta(seconds=i), user_query=text, client_id=f"c{i}", variant="champion",
            model_digest=loop.serving().model, status=200, latency_ms=50.0, results=results,
        )  # fmt: skip
        lines.append(json.dumps({"kind": "search", **event.model_dump(mode="json")}))
    spool = loop.home.events / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    (spool / f"{topic}-{at:%Y%m%d%H}.jsonl").write_text("\n".join(lines) + "\n")


def test_the_drift_of_a_window_is_measured_on_opened_texts_and_stored(loop: Loop) -> None:
    build_first_index(loop, part=None)
    now, champion = utc_now(), loop.serving().model
    assert isinstance(drift.measure(loop), BadInput)
    before, after = now - timedelta(hours=3), now - timedelta(minutes=20)
    search(loop, before, "files", 80)
    search(loop, after, "models", 80)
    take_in(loop, now)
    for start in (before, after):
        write_snapshot(loop, champion, start + timedelta(minutes=15))
    stored = pl.read_parquet(next(loop.home.telemetry_search.glob("*/*.parquet")))
    assert not stored["user_query"].str.contains("file|tensor").any(), "texts lie sealed"
    found = drift.measure(loop)
    assert not isinstance(found, BadInput), found
    report, page = found
    by_name = {item.name: item for item in report.items}
    assert by_name["query_domain"].drifted and by_name["query_domain"].n == (80, 80) and by_name["new_tokens"].drifted and not by_name["top_score"].drifted
    assert page is not None and "<html" in page.read_text()[:2000].lower() and report.html == page.name
    path = loop.home.snapshots / "drift" / f"{report.snapshot_id}.json"
    assert DriftReport.read(path) == report and references.newest_drift(loop) == report and loop.snapshots()[-1].snapshot_id == report.snapshot_id
    assert "no sample of an earlier index generation" in by_name["document_domain"].reason
    again = drift.measure(loop)
    assert not isinstance(again, BadInput)
    documents = next(item for item in again[0].items if item.name == "document_domain")
    assert documents.drifted is False and documents.n == (60, 60), "the same documents as when the champion was first looked at"
    assert all(one.answer is not Answer.FAIL for one in observe.gates(loop, loop.snapshots(1)[-1])), "drift alone fails no gate"
    assert isinstance(observe.next_step(loop), Skip)
