"""Columns of what the search service writes down: one schema a kind of event, and that of what was set aside.

What belongs here: names and types, as in ``records``. What must not: reading or writing (``events``, ``spool``).
"""

from __future__ import annotations

from typing import Any

import polars as pl

_TIME = pl.Datetime("us", "UTC")
_RESULT = pl.Struct({"object_id": pl.String, "score": pl.Float64, "first_stage_score": pl.Float64, "rerank_score": pl.Float64})

SEARCH_SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "timestamp": _TIME,
    "user_query": pl.String,
    "client_id": pl.String,
    "session_id": pl.String,
    "variant": pl.String,
    "model_digest": pl.String,
    "status": pl.Int64,
    "latency_ms": pl.Float64,
    "retrieve_ms": pl.Float64,
    "rerank_ms": pl.Float64,
    "queue_ms": pl.Float64,
    "cpu_seconds": pl.Float64,
    "depth": pl.Int64,
    "results": pl.List(_RESULT),
    "simulated": pl.Boolean,
    "probe": pl.Boolean,
    "stands_for": pl.String,
    "degraded": pl.Boolean,
    "query_words": pl.Int64,
    "script": pl.String,
    "query_bucket": pl.Int64,
    "seq": pl.Int64,
    "writer": pl.String,
}
"""Columns of search events, as in ``records.SearchEvent``. Latencies are milliseconds, ``timestamp`` is UTC, ``results`` is best first."""

ACTION_SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "timestamp": _TIME,
    "action_name": pl.String,
    "object_id": pl.String,
    "position": pl.Int64,
    "value": pl.Float64,
    "client_id": pl.String,
    "simulated": pl.Boolean,
    "seq": pl.Int64,
    "writer": pl.String,
}
"""Columns of action events, as in ``records.ActionEvent``."""

EXPOSURE_SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "timestamp": _TIME,
    "release": pl.String,
    "mode": pl.String,
    "weight": pl.Float64,
    "unit": pl.String,
    "bucket": pl.Int64,
    "variant": pl.String,
    "pinned": pl.Boolean,
    "champion_digest": pl.String,
    "candidate_digest": pl.String,
    "shadow_digest": pl.String,
    "answered_by": pl.String,
    "fell_back": pl.Boolean,
    "simulated": pl.Boolean,
    "probe": pl.Boolean,
    "champion_ids": pl.List(pl.String),
    "candidate_ids": pl.List(pl.String),
    "teams": pl.List(pl.String),
    "draft_seed": pl.String,
    "champion_ms": pl.Float64,
    "candidate_ms": pl.Float64,
    "scored_first": pl.String,
    "seq": pl.Int64,
    "writer": pl.String,
}
"""Columns of exposures, as in ``records.ExposureEvent``: one a request while the service had a candidate or a shadow."""

SHADOW_SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "timestamp": _TIME,
    "role": pl.String,
    "status": pl.String,
    "served_digest": pl.String,
    "shadow_digest": pl.String,
    "release": pl.String,
    "depth": pl.Int64,
    "results": pl.List(_RESULT),
    "served_ms": pl.Float64,
    "shadow_ms": pl.Float64,
    "served_cpu_seconds": pl.Float64,
    "shadow_cpu_seconds": pl.Float64,
    "served_scored": pl.Int64,
    "shadow_scored": pl.Int64,
    "scored_first": pl.String,
    "waited_ms": pl.Float64,
    "simulated": pl.Boolean,
    "probe": pl.Boolean,
    "seq": pl.Int64,
    "writer": pl.String,
}
"""Columns of shadow events, as in ``records.ShadowEvent``: one a request that was sampled, also where it was dropped or failed."""

QUARANTINE_SCHEMA: dict[str, Any] = {"origin": pl.String, "line": pl.Int64, "reason": pl.String, "text": pl.String}
"""``origin`` is the file below the events folder, ``line`` counts from 1 (null: the whole file), ``text`` is the beginning of what was there."""

KIND_SCHEMA = {"search": SEARCH_SCHEMA, "action": ACTION_SCHEMA, "exposure": EXPOSURE_SCHEMA, "shadow": SHADOW_SCHEMA}
