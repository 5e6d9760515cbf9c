"""The quality page says what was measured and what was not, in both languages, and trusts no text."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.monitor import default_criteria, evaluate_gates
from predator_si.monitor.exposition import exposition, write_exposition
from predator_si.records import Answer, Baseline, CellMetrics, Metric, MetricsSnapshot
from predator_si.reports.plots import metric_history, stage_shares
from predator_si.reports.window import DriftLine, WindowEvidence, worst_slices, write_window_pages

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
CHAMPION = "sha256:" + "a" * 64


def snapshot(index: int, ndcg: float | None) -> MetricsSnapshot:
    end = NOW - timedelta(minutes=15 * (9 - index))
    metrics = [
        Metric(name="ndcg_at_10", value=ndcg, n=120, ci_low=None if ndcg is None else ndcg - 0.03, ci_high=None if ndcg is None else ndcg + 0.03,
               source="judged probes over HTTP", age_seconds=12.0, reason=None if ndcg is not None else "every probe failed"),
        Metric(name="p95_latency_ms", value=640.0, n=300, unit="ms", direction="down", source="search events", age_seconds=12.0),
        Metric(name="error_rate", value=0.031, n=400, ci_low=0.018, ci_high=0.052, direction="down", source="search events", age_seconds=12.0),
    ]  # fmt: skip
    return MetricsSnapshot(
        snapshot_id=f"local-{index}", contour="local", created_at=end, window_start=end - timedelta(minutes=15), window_end=end, champion=CHAMPION,
        metrics={metric.name: metric for metric in metrics}, lost_events=2, quarantined=3,
    )  # fmt: skip


def evidence(weird: str = "", ndcg: float | None = 0.52) -> WindowEvidence:
    history = [snapshot(index, 0.6) for index in range(9)] + [snapshot(9, ndcg)]
    baseline = Baseline(champion=CHAMPION, created_at=NOW, windows=9, values={"ndcg_at_10": 0.6, "p95_latency_ms": 610.0})
    gates = evaluate_gates(default_criteria("local"), history[-1], baseline, NOW)
    probes = pl.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(24)],
            "text": [f"torch{weird} number {i}" for i in range(24)],
            "ndcg_at_10": [0.0] * 12 + [1.0] * 12,
            "result_ids": [["d9", f"d{i}"] for i in range(24)],
        }
    )
    deficits = pl.DataFrame(
        {"name": ["part=torch", "part=numpy"], "n": [12, 12], "mean": [0.1, 0.9], "mean_rest": [0.9, 0.1], "deficit": [0.8, -0.8], "ci_low": [0.7, -0.9],
         "ci_high": [0.9, -0.7], "q_value": [0.001, 1.0]}
    )  # fmt: skip
    slices = worst_slices(probes, deficits, {"part=torch": [f"q{i}" for i in range(12)]}, {"q0": {"d0": 1.0}}, lambda doc: f"title of {doc}{weird}")
    return WindowEvidence(
        snapshot=history[-1], history=history, gates=gates, baseline=baseline, status="failing", starts=False,
        reasons=[f"the kill switch is on{weird}"], retry_at=NOW, releases=[(NOW - timedelta(hours=1), "release")], slices=slices,
        stages={"all_requests": {"retrieve": 0.2, "rerank": 0.8}, "slow_requests": {"queue": 0.5, "rerank": 0.5}}, latencies=[10.0, 20.0, 640.0],
        drift=[DriftLine("query embeddings", 0.81, 0.7, 0.9, 0.001, 300, True), DriftLine("language mix", None, None, None, None, 0, None, f"no text{weird}")],
        drift_report="local-9.drift.html", aside=[(f"negative latency{weird}", 3)],
    )  # fmt: skip


class Shape(HTMLParser):
    """Collects tags and visible text; fails on a tag that is never closed."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key == "href"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def read(path) -> Shape:
    shape = Shape()
    shape.feed(path.read_text(encoding="utf-8"))
    assert shape.open == []
    return shape


def test_pages_say_what_was_measured_and_why_nothing_starts(tmp_path):
    pages = write_window_pages(tmp_path, evidence())
    english, ukrainian = read(pages["en"]), read(pages["uk"])
    for shape in (english, ukrainian):
        assert "0.520" in shape.text and "0.490 … 0.550" in shape.text and "0.600" in shape.text  # value, interval, baseline
        assert "−13.3%" in shape.text  # change against the baseline
        assert "the kill switch is on" in shape.text
        assert "torch number 0" in shape.text and "part=torch" in shape.text and "part=numpy" not in shape.text
        assert "negative latency" in shape.text
        assert "script" not in shape.tags
    assert "A gate fails" in english.text and "No cycle starts" in english.text and "not before 2026-11-23 03:00 UTC" in english.text
    assert "Поріг порушено" in ukrainian.text and "Цикл не починається" in ukrainian.text and "Найгірші зрізи" in ukrainian.text
    assert "local-9.uk.html" in english.links and "local-9.en.html" in ukrainian.links and "local-9.drift.html" in english.links
    assert sum(path.stat().st_size for path in pages.values()) < 1_500_000


def test_rank_of_the_right_answer_and_its_absence(tmp_path):
    (found,) = evidence().slices
    assert [(one.rank, one.first) for one in found.examples][:2] == [(2, "title of d9"), (None, "title of d9")]
    assert "not shown" in read(write_window_pages(tmp_path, evidence())["en"]).text


def test_unknown_is_said_with_its_reason_and_never_as_zero(tmp_path):
    shape = read(write_window_pages(tmp_path, evidence(ndcg=None))["en"])
    assert "every probe failed" in shape.text and "unknown" in shape.text
    empty = replace(evidence(), slices=(), stages={}, drift=(), drift_missing="two windows are needed", drift_report=None, aside=())
    shape = read(write_window_pages(tmp_path, empty)["en"])
    assert "two windows are needed" in shape.text and "No slice is surely worse" in shape.text and "No request of this window carries stage times" in shape.text


def test_hostile_text_stays_text(tmp_path):
    weird = "<script>alert('x')</script>&\"'"
    for path in write_window_pages(tmp_path, evidence(weird)).values():
        shape = read(path)
        assert "script" not in shape.tags and weird in shape.text
        assert not re.search(r"(src|href)=\"(?!data:)[a-z]+:", path.read_text(encoding="utf-8"))


def test_every_gate_stands_on_the_page_with_its_answer(tmp_path):
    shown = evidence()
    text = read(write_window_pages(tmp_path, shown)["en"]).text
    assert {gate.answer for gate in shown.gates} >= {Answer.FAIL, Answer.UNKNOWN, Answer.PASS}
    for gate in shown.gates:
        assert gate.criterion.name in text and gate.reason in text


def test_judged_probes_are_told_by_every_measure_where_their_labels_are_known(tmp_path):
    shown = evidence()
    assert "Judged probes by every measure" not in read(write_window_pages(tmp_path, shown)["en"]).text
    value = Metric(name="nDCG(exp)@10", value=0.4321, ci_low=0.4, ci_high=0.5, n=80)
    people = CellMetrics(model_digest="m", variant="champion", segment="latin", counts={}, metrics={"ERR@20": value})
    probes = CellMetrics(model_digest="m", variant="champion", segment="cyrillic", kind="probe", counts={"judged": 80}, metrics={"nDCG(exp)@10": value})
    shown = replace(shown, snapshot=shown.snapshot.model_copy(update={"cells": (people, probes)}))
    pages = write_window_pages(tmp_path, shown)
    for lang, title in (("en", "Judged probes by every measure"), ("uk", "Оцінені проби за кожною мірою")):
        text = read(pages[lang]).text
        assert title in text and "nDCG(exp)@10" in text and "0.4320.400 … 0.500" in text and "cyrillic, n=80" in text and "ERR@20" not in text


def test_no_history_is_refused(tmp_path):
    with pytest.raises(BadInput, match="history is empty"):
        write_window_pages(tmp_path, replace(evidence(), history=()))


def test_marks_are_drawn_inside_the_windows_only():
    history = list(evidence().history)
    plain = metric_history(history, "ndcg_at_10")
    assert metric_history(history, "ndcg_at_10", marks=[(NOW - timedelta(days=3), "old")]) == plain
    assert metric_history(history, "ndcg_at_10", marks=[(NOW - timedelta(hours=1), "release")]) != plain


def test_stage_shares_need_a_stage():
    with pytest.raises(BadInput, match="no stage"):
        stage_shares({"all": {}})


def test_exposition_leaves_unknown_metrics_out_and_names_each_gate_once(tmp_path):
    shown = evidence(ndcg=None)
    text = exposition(shown.snapshot, shown.gates, shown.baseline).decode()
    assert 'predator_si_quality_value{contour="local",metric="ndcg_at_10"}' not in text
    assert 'predator_si_quality_value{contour="local",metric="error_rate"} 0.031' in text
    assert 'predator_si_quality_low{contour="local",metric="error_rate"} 0.018' in text
    assert 'predator_si_quality_baseline{contour="local",metric="ndcg_at_10"} 0.6' in text
    lines = [line for line in text.splitlines() if 'gate="error_rate_max"' in line]
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["0.0", "1.0", "0.0", "0.0"]
    other = shown.baseline.model_copy(update={"champion": "sha256:" + "b" * 64})
    assert "quality_baseline{" not in exposition(shown.snapshot, shown.gates, other).decode()
    path = write_exposition(tmp_path / "deep" / "quality.prom", shown.snapshot, shown.gates, shown.baseline)
    assert path.read_text() == text and [file.name for file in path.parent.iterdir()] == ["quality.prom"]
