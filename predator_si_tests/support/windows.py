"""Windows of events made by hand: small frames with the columns that the spool writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from predator_si.search.events import ACTION_SCHEMA, QUARANTINE_SCHEMA, SEARCH_SCHEMA, EventFrames

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CHAMPION = "sha256:" + "a" * 64
CHALLENGER = "sha256:" + "b" * 64


def search(i: int, **changes: Any) -> dict[str, Any]:
    """One answered request of the champion, ``i`` seconds into the window, with ten results d0..d9."""
    results = [{"object_id": f"d{rank}", "score": 10.0 - rank, "first_stage_score": 1.0 / (rank + 1), "rerank_score": 10.0 - rank} for rank in range(10)]
    row: dict[str, Any] = {
        "query_id": f"r{i}",
        "timestamp": START + timedelta(seconds=i),
        "user_query": f"how to read file {i}",
        "client_id": f"c{i}",
        "session_id": None,
        "variant": "champion",
        "model_digest": CHAMPION,
        "status": 200,
        "latency_ms": 100.0,
        "retrieve_ms": 20.0,
        "rerank_ms": 70.0,
        "queue_ms": 0.0,
        "cpu_seconds": 0.1,
        "depth": 20,
        "results": results,
        "simulated": False,
        "probe": False,
        "degraded": False,
        "seq": i,
        "writer": "w",
    }
    return row | changes


def action(query_id: str, name: str = "click", **changes: Any) -> dict[str, Any]:
    """A click on the first result, or whatever ``changes`` make of it."""
    row: dict[str, Any] = dict.fromkeys(ACTION_SCHEMA) | {"query_id": query_id, "timestamp": START, "action_name": name, "object_id": "d0", "simulated": False}
    return row | changes


def frames(searches: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]] = (), *, lost: int = 0, quarantined: int = 0) -> EventFrames:
    """The rows as ``read_events`` would give them."""
    aside = [{"origin": "spool/x.jsonl", "line": i + 1, "reason": "not JSON", "text": "{"} for i in range(quarantined)]
    return EventFrames(
        search=pl.DataFrame(list(searches), schema=SEARCH_SCHEMA, orient="row"),
        actions=pl.DataFrame(list(actions), schema=ACTION_SCHEMA, orient="row"),
        quarantine=pl.DataFrame(aside, schema=QUARANTINE_SCHEMA, orient="row"),
        lost=lost,
        losses=pl.DataFrame({"writer": ["w"], "kind": ["search"], "lost": [lost]}),
    )
