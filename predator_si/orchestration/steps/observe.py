"""Snapshot of the newest window, its gates, and whether a cycle should start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.monitor import GateState, PriceTable, Skip, Start, decide, keep_labels, probe
from predator_si.monitor.intake import read_window
from predator_si.monitor.judgments import PROBED_SPLIT, Panel, panel
from predator_si.monitor.snapshot import snapshot_of
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import judge, references
from predator_si.orchestration.steps.compare import keep_evidence
from predator_si.orchestration.steps.permission import standing_facts
from predator_si.orchestration.steps.remeasure import counted, remeasure
from predator_si.orchestration.steps.telemetry import choose, take_in
from predator_si.privacy import open_text
from predator_si.records import GateResult, MetricsSnapshot, utc_now
from predator_si.search.events import EventFrames
from predator_si.search.personal import existing_vault

_FIRST_WINDOW = timedelta(hours=1)
_ASKED = 2000
"""Requests whose text tells what people ask about."""


def take_snapshot(loop: Loop, *, probes: bool = True, on_progress: Callable[[int, int], None] | None = None) -> MetricsSnapshot:
    """Measure the window since the last snapshot (at most one hour) and remember it; events that came late correct the snapshots before.

    A service that does not answer makes its metrics unknown, with the reason; it does not make the snapshot fail.
    """
    now = utc_now()
    before = loop.snapshots(1)
    start = max(before[-1].window_end, now - _FIRST_WINDOW) if before else now - _FIRST_WINDOW
    champion, ingest, asked = loop.serving().model, None, None
    try:
        loop.flush()
        info = loop.info(facts=True)
        ingest = info["ingest"]
    except Unavailable:
        info = None
    taken = take_in(loop, now)
    remeasure(loop, taken.dirty, now)
    events = read_window(loop.home.telemetry, start, now, events=loop.home.events, results=False)
    if probes and info is not None:
        scale = loop.plan.scale
        chosen = probe_panel(loop, events, scale.probe_queries, now)
        judgments = loop.corpus.judgments(split="dev")
        asked = probe(loop.search_url, chosen.queries, judgments, k=max(20, scale.depth), variant="champion", fast=True, on_progress=on_progress)
        labels = judgments.join(chosen.queries, on="query_id", how="semi").height
        asked = replace(asked, panel=f"{chosen.source}, labels: {judge.corpus_origin(loop)} {labels}")
    # `now` stays the moment at which the events were read: what is served while the probes run belongs to the next window
    snapshot = snapshot_of(
        counted(loop, start, now, now),
        start,
        now,
        now,
        champion=champion,
        contour=loop.contour,
        probes=asked,
        prices=PriceTable(usd_per_vcpu_hour=loop.settings.prices.usd_per_vcpu_hour),
        ingest=ingest,
        mock=False,
        snapshot_id=f"{loop.contour}-{now:%Y%m%dT%H%M%S%f}",
        lost_events=events.lost,
        quarantined=events.quarantine.height,
    )
    snapshot = judge.add_judged(loop, snapshot, events, asked)
    snapshot = choose(loop, snapshot, events, taken)
    loop.home.snapshots.mkdir(parents=True, exist_ok=True)
    if asked is not None:
        asked.per_query.write_parquet(loop.home.snapshots / f"{snapshot.snapshot_id}.parquet")
        keep_labels(loop.home.telemetry, snapshot.snapshot_id, asked, loop.corpus.judgments(split=PROBED_SPLIT))
        keep_evidence(loop, snapshot.snapshot_id, None if info is None else info["index"], loop.corpus.judgments(split="dev"))
    partial = loop.home.snapshots / f".{snapshot.snapshot_id}.partial"
    partial.write_text(snapshot.to_json())
    partial.replace(loop.home.snapshots / f"{snapshot.snapshot_id}.json")
    references.refresh(loop, snapshot)
    return snapshot


def probe_panel(loop: Loop, events: EventFrames | None, n: int, now: datetime) -> Panel:
    """Judged dev queries, as many of each part as people ask about it in the window; frozen within a period of the calendar, and never a sealed one.

    The part of a request is found by its text among the known queries; without traffic every part whose documents are indexed is asked alike.
    """
    pool = loop.corpus.queries(split=PROBED_SPLIT)
    if pool.is_empty():
        raise BadInput(f"corpus {loop.corpus.name} has no judged dev queries; the quality of the service cannot be probed. Build it with a dev split.")
    shares = _traffic_shares(loop, events, pool["part"].unique().sort().to_list())
    wanted = {part: round(n * share) for part, share in shares.items()}
    return panel(pool, wanted, now, rotation=loop.settings.values.probes.rotation, stays=loop.settings.values.probes.stays, seed=loop.plan.scale.seed)


def _traffic_shares(loop: Loop, events: EventFrames | None, parts: Sequence[str]) -> dict[str, float]:
    if events is not None and events.search.height:
        people = events.search.filter(~pl.col("probe"))
        sample = people.sample(min(_ASKED, people.height), seed=0)  # opening sealed text takes its time
        asked = open_text(sample, existing_vault(loop.home.path)).select(text="user_query")
        known = asked.join(loop.corpus.queries(split="train").select("text", "part").unique("text"), on="text", how="inner")
        if known.height:
            counts = dict(known.group_by("part").len().iter_rows())
            return {part: counts.get(part, 0) / known.height for part in parts}
    indexed = set(loop.index().doc_ids)
    present = [part for part in parts if not indexed.isdisjoint(loop.corpus.documents(part)["doc_id"].to_list())]
    return {part: (1 / len(present) if part in present else 0.0) for part in parts}


def frozen_sample(queries: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """At most ``n`` queries, the same ones every time, in an order that depends on their ids and the seed alone."""
    from predator_si.corpora.text import stable_fraction

    keyed = queries.with_columns(
        pl.col("query_id").map_elements(lambda query_id: stable_fraction(f"{seed}:{query_id}"), return_dtype=pl.Float64).alias("_order")
    )
    return keyed.sort("_order").head(n).drop("_order")


def gates(loop: Loop, snapshot: MetricsSnapshot | None, now: datetime | None = None) -> list[GateResult]:
    """The contour's quality gates on a snapshot."""
    return references.judge(loop, snapshot, now)


def next_step(loop: Loop, now: datetime | None = None, *, force: bool = False) -> Start | Skip:
    """Start a cycle, or not, and why; from the newest snapshot."""
    now = now or utc_now()
    newest = loop.snapshots(1)
    snapshot = newest[-1] if newest else None
    values = loop.settings.values
    state = GateState(**standing_facts(loop, now), mock_signals=values.mock_signals, cost_optimization=values.kubecost.cost_optimization)
    return decide(snapshot, gates(loop, snapshot, now), state, now, force=force)
