"""The quality page of the newest window: evidence gathered from what is stored, drawn by ``reports.window``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.corpora.words import token_lists
from predator_si.diagnose import latency_by_stage, subset_deficits
from predator_si.diagnose.misses import relevant_documents
from predator_si.diagnose.slices import query_slices
from predator_si.errors import Missing, PredatorError
from predator_si.monitor import Start, quality_gates_status
from predator_si.monitor.exposition import write_exposition
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import drift as measured
from predator_si.orchestration.steps import observe
from predator_si.records import CycleState, DriftItem, GateResult, MetricsSnapshot, utc_now
from predator_si.reports.language import Language
from predator_si.reports.window import DriftLine, WindowEvidence, WorstSlice, worst_slices, write_window_pages
from predator_si.search.events import read_events

_RELEASES = {"cycle_released": "release", "rollback": "rollback"}
_LEDGER_REACH = 2_000
_COUNTED = 1_000
"""Newest cycles that are counted by their state."""


def write_quality_report(loop: Loop) -> dict[str, Any]:
    """Everything that the asset ``observe/quality_report`` makes.

    ``english`` and ``ukrainian`` (paths of the pages), ``evidently`` (path of its drift page, or absent), and plain facts: ``status``,
    ``drift_json`` (where our own report lies), ``drifted`` (names) and each item's statistic, or ``drift`` (why nothing was compared).
    """
    snapshot = loop.snapshots(1)[-1:]
    gates = observe.gates(loop, snapshot[0], snapshot[0].created_at) if snapshot else []
    found = measured.measure(loop)
    if isinstance(found, PredatorError):
        pages = write_quality_pages(loop, gates, drift_missing=str(found))
        facts: dict[str, Any] = {"drift": str(found)}
    else:
        report, evidently = found
        pages = write_quality_pages(loop, gates, drift=[_line(item) for item in report.items], drift_report=evidently.name if evidently is not None else None)
        named = ", ".join(item.name for item in report.items if item.drifted) or "none"
        facts = {"drifted": named, **{item.name: item.statistic for item in report.items if item.statistic is not None}}
        facts |= {"drift_json": str(loop.home.snapshots / "drift" / f"{report.snapshot_id}.json")} | ({"evidently": evidently} if evidently is not None else {})
    return {**facts, "status": quality_gates_status(gates), "english": pages["en"], "ukrainian": pages["uk"]}


def _line(item: DriftItem) -> DriftLine:
    low, high = item.interval or (None, None)
    return DriftLine(item.name, item.statistic, low, high, item.adjusted_p, item.n[1], item.drifted, item.reason)


def write_quality_pages(
    loop: Loop, gates: Sequence[GateResult], *, drift: Sequence[DriftLine] = (), drift_missing: str = "", drift_report: str | None = None
) -> dict[Language, Path]:
    """The newest window's page in both languages, and its numbers in the Prometheus text format (``telemetry/quality.prom``).

    Parameters
    ----------
    gates
        What the gates said about this window.
    drift, drift_missing, drift_report
        What was measured of drift, why nothing was, and the file name of evidently's page beside this one.

    Raises
    ------
    Missing
        No window was measured yet.
    """
    history = loop.snapshots()
    if not history:
        raise Missing(f"{loop.home.snapshots}: no metrics snapshot. Materialize observe/metrics_snapshot first.")
    snapshot, now = history[-1], utc_now()
    answer = observe.next_step(loop, now)
    starts = isinstance(answer, Start)
    events = read_events(loop.home.events, snapshot.window_start, snapshot.window_end, open_text=False)
    people = events.search.filter(~pl.col("probe") & pl.col("stands_for").is_null())
    shares = latency_by_stage(people)
    evidence = WindowEvidence(
        snapshot=snapshot,
        history=history,
        gates=gates,
        baseline=loop.baseline(),
        status=quality_gates_status(gates),
        starts=starts,
        reasons=[answer.reason] if isinstance(answer, Start) else answer.reasons,
        retry_at=None if isinstance(answer, Start) else answer.retry_at,
        releases=_releases(loop),
        slices=_slices(loop, snapshot),
        stages={"all_requests": shares["shares"], "slow_requests": shares["tail_shares"]},
        latencies=people.filter(pl.col("status") == 200)["latency_ms"].to_list(),
        drift=drift,
        drift_missing=drift_missing,
        drift_report=drift_report,
        aside=events.quarantine.group_by("reason").len().sort("len", "reason", descending=[True, False]).rows(),
        simulated=bool(people["simulated"].any()),
    )
    held = Counter(cycle.state for cycle in loop.control.cycles(_COUNTED, loop.contour))
    write_exposition(loop.home.path / "telemetry" / "quality.prom", snapshot, gates, loop.baseline(), {state.value: held[state] for state in CycleState})
    return write_window_pages(loop.home.snapshots, evidence)


def _releases(loop: Loop) -> list[tuple[Any, str]]:
    return [(record.timestamp, _RELEASES[record.action]) for record in loop.control.records(_LEDGER_REACH) if record.action in _RELEASES]


def _slices(loop: Loop, snapshot: MetricsSnapshot) -> list[WorstSlice]:
    """Slices of the judged probes that are surely worse than the rest; none where no probe was sent."""
    try:
        probes = loop.probes(snapshot.snapshot_id)
    except PredatorError:
        return []
    judged = probes.filter(pl.col("ndcg_at_10").is_not_null())
    relevant = relevant_documents(loop.corpus.judgments(split="dev"))
    parts = dict(loop.corpus.queries(split="dev").select("query_id", "part").iter_rows())
    documents = loop.corpus.documents()
    categories: Mapping[str, str] = dict(documents.select("doc_id", "package").iter_rows())
    ids = judged["query_id"].to_list()
    subsets = query_slices(ids, token_lists(judged["text"].to_list()), [parts.get(query_id) for query_id in ids], relevant, categories, frozenset())
    deficits = subset_deficits(judged["ndcg_at_10"].to_numpy(), subsets, seed=loop.plan.scale.seed)
    titles = dict(documents.select("doc_id", "title").iter_rows())
    members = {name: [ids[index] for index in chosen] for name, chosen in subsets}
    return worst_slices(judged, deficits, members, relevant, lambda doc_id: titles.get(doc_id, ""))
