"""A cycle is one tree whoever makes it: ids, places, what OTLP and LangSmith get on the wire, and that off costs nothing."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from predator_si.control import Control
from predator_si.errors import Unavailable
from predator_si.notify.trace_export import send
from predator_si.notify.tracing import JobRun, SpanFact, StepRun, TimedCall, read_calls, span_id, trace_id, tree, wanted
from predator_si.records import CycleState
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.support.trace_peers import collector
from predator_si_tests.support.waiting import free_port


@pytest.fixture
def facts(tmp_path: Path) -> tuple[str, list[SpanFact]]:
    """A cycle with two runs, one of which failed, three calls, and a ledger that quotes an address of a person."""
    control = Control(tmp_path / "control.db")
    cycle = open_cycle(control).cycle_id
    control.transition(cycle, CycleState.REJECTED, "asked by olena@example.org", "loop", {"verdict": "reject", "nested": {"query": "a secret question"}})
    at = control.cycle(cycle).opened_at

    def after(seconds: float) -> datetime:
        return at + timedelta(seconds=seconds)

    runs = [
        JobRun("run-b", "cycle_train_job", "FAILURE", after(20), after(30), [StepRun("cycle__reranker_model", after(21), after(29), False)]),
        JobRun("run-a", "cycle_prepare_job", "SUCCESS", after(1), after(10), [StepRun("cycle__diagnostic_report", after(2), after(9), True)]),
    ]
    calls = [
        TimedCall(key="call:1", parent=None, name="report_causes", start=after(3), end=after(8), run_id="run-a", step="cycle__diagnostic_report"),
        TimedCall(key="call:2", parent="call:1", name="explain", start=after(4), end=after(5), run_id="run-a", step="cycle__diagnostic_report"),
        TimedCall(key="call:3", parent=None, name="train_model", start=after(22), end=after(28), run_id="gone", step="x", error="ValueError"),
    ]
    return cycle, tree(control.cycle(cycle), control.records(10), runs, calls, 0.25)


def test_the_tree_has_one_root_and_everything_hangs_where_it_belongs(facts: tuple[str, list[SpanFact]]):
    _, made = facts
    parents = {fact.name: next((one.name for one in made if one.key == fact.parent), None) for fact in made}
    root = made[0].name
    assert parents == {
        root: None, "cycle_prepare_job": root, "cycle__diagnostic_report": "cycle_prepare_job", "report_causes": "cycle__diagnostic_report",
        "explain": "report_causes", "cycle_train_job": root, "cycle__reranker_model": "cycle_train_job", "train_model": root,
    }  # fmt: skip
    seen: set[str] = set()
    for fact in made:
        assert fact.parent is None or fact.parent in seen, "parents come first"
        seen.add(fact.key)
    assert made[0].attributes["predator.total_cost_usd"] == 0.25 and made[0].attributes["predator.outcome"] == "rejected"
    assert [name for _, name, _ in made[0].events] == ["cycle_opened", "cycle_rejected"]
    assert "olena@" not in str(made) and "secret question" not in str(made)


def test_ids_follow_from_the_cycle_alone():
    assert trace_id("si_2026_11_23_001") == trace_id("si_2026_11_23_001") != trace_id("si_2026_11_23_002")
    assert 0 < trace_id("a") < 2**128 and 0 < span_id("a", "b") < 2**64 and span_id("a", "b") != span_id("a", "c")


def test_what_otlp_gets(facts: tuple[str, list[SpanFact]]):
    cycle, made = facts
    with collector() as peer:
        env = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{peer.address}/v1/traces", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-team=search"}
        assert send(cycle, made, env) == ["otlp"]
    assert len(peer.spans) == len(made) and peer.headers[0]["x-team"] == "search"
    assert {span.trace_id for span in peer.spans} == {trace_id(cycle).to_bytes(16, "big")}
    by_id = {span.span_id: span.name for span in peer.spans}
    parents = {span.name: by_id.get(span.parent_span_id) for span in peer.spans}
    assert parents["explain"] == "report_causes" and parents["report_causes"] == "cycle__diagnostic_report" and parents[made[0].name] is None
    failed = {span.name for span in peer.spans if span.status.code == 2}
    assert failed == {"cycle_train_job", "cycle__reranker_model", "train_model"}
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano > 10**18 for span in peer.spans)
    assert b"olena@" not in peer.raw and b"secret question" not in peer.raw


def test_what_langsmith_gets(facts: tuple[str, list[SpanFact]]):
    cycle, made = facts
    with collector() as peer:
        env = {"LANGSMITH_API_KEY": "lsv2_topsecretkey", "LANGSMITH_ENDPOINT": peer.address, "LANGSMITH_PROJECT": "searching"}
        assert send(cycle, made, env) == ["langsmith"]
    assert {run["name"] for run in peer.runs} == {fact.name for fact in made} and len(peer.runs) == len(made)
    root = next(run for run in peer.runs if not run.get("parent_run_id"))
    by_id = {run["id"]: run for run in peer.runs}
    assert {run["trace_id"] for run in peer.runs} == {root["id"]} and root["session_name"] == "searching"
    for run in peer.runs:
        assert run["inputs"] == {} and run["run_type"] == "chain" and run["dotted_order"].endswith(run["id"])
        if run is not root:
            assert run["dotted_order"].startswith(by_id[run["parent_run_id"]]["dotted_order"] + ".")
    assert peer.headers[0]["x-api-key"] == "lsv2_topsecretkey" and b"topsecretkey" not in peer.raw and b"olena@" not in peer.raw


def test_a_collector_that_is_away_or_refuses_is_unavailable_without_its_key(facts: tuple[str, list[SpanFact]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("predator_si.notify.trace_export.SECONDS", 1.0)
    cycle, made = facts
    with pytest.raises(Unavailable, match="sent again later"):
        send(cycle, made, {"PREDATOR_SI_TRACES": f"http://127.0.0.1:{free_port()}/v1/traces"})
    with pytest.raises(Unavailable, match="MLflow server does not answer"):
        send(cycle, made, {"PREDATOR_SI_TRACES": f"mlflow:http://127.0.0.1:{free_port()}"})
    with collector() as peer:
        peer.status = 403
        with pytest.raises(Unavailable) as caught:
            send(cycle, made, {"LANGSMITH_API_KEY": "lsv2_topsecretkey", "LANGSMITH_ENDPOINT": peer.address})
    assert "topsecretkey" not in str(caught.value)


def test_wanted():
    assert not wanted({}) and not wanted({"PREDATOR_SI_TRACES": ""})
    assert wanted({"LANGSMITH_API_KEY": "k"}) and wanted({"PREDATOR_SI_TRACES": "mlflow:http://127.0.0.1:5000"})
    assert not wanted({"LANGSMITH_API_KEY": "k", "PREDATOR_SI_TRACES": "off"}) and not wanted({"LANGSMITH_API_KEY": "k", "OTEL_SDK_DISABLED": "true"})


def test_a_half_written_line_is_left_out():
    call = TimedCall(key="k", parent=None, name="n", start=datetime.fromisoformat("2026-11-23T00:00:00Z"), end=datetime.fromisoformat("2026-11-23T00:00:01Z"))
    assert read_calls([call.model_dump_json(), call.model_dump_json()[:40]]) == [call]


def test_off_loads_no_library_and_writes_nothing(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
for name in ("PREDATOR_SI_TRACES", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "LANGSMITH_API_KEY"):
    os.environ.pop(name, None)
from predator_si.orchestration.traces import send_ended, traced
class Loop:
    def artifacts(self, cycle_id):
        raise SystemExit("a trace was written")
@traced
def work(loop, cycle_id):
    return 7
assert work(Loop(), "si_2026_11_23_001") == 7 and send_ended(Loop(), None) == 0
bad = sorted(name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "langsmith"))
sys.exit(f"loaded: {bad[:5]}" if bad else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
