"""A raw layer made by hand, written by the very class that the intake writes with, and snapshots measured from it as the tick measures them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from predator_si.home import Home
from predator_si.monitor import measure_window
from predator_si.monitor.intake import RawLayer, read_window
from predator_si.monitor.intake.store import Batch
from predator_si.monitor.sources.rules import QUARANTINE, RAW_SCHEMA
from predator_si.records import MetricsSnapshot
from predator_si_tests.support.windows import CHAMPION

WINDOW = timedelta(minutes=15)


def store_rows(home: Home, searches: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]] = (), aside: Iterable[Mapping[str, Any]] = ()) -> None:
    """Add events to the raw layer, each action in the window of its request; rows lack what is null."""
    layer = RawLayer(home.telemetry)
    found = pl.DataFrame([dict(row) for row in searches], schema=RAW_SCHEMA["search"], orient="row").with_columns(
        source=pl.lit("spool"), window=pl.col("timestamp").dt.truncate("15m")
    )
    acted = pl.DataFrame([dict(row) for row in actions], schema=RAW_SCHEMA["action"], orient="row").with_columns(source=pl.lit("spool"))
    requests = pl.concat([found.select("query_id", request="timestamp"), *_stored_requests(layer)]).unique("query_id")
    acted = acted.join(requests, on="query_id", how="left").with_columns(window=pl.coalesce("request", "timestamp").dt.truncate("15m")).drop("request")
    with layer.locked():
        ledger = layer.ledger()
        rows = {kind: frame for kind, frame in (("search", found), ("action", acted)) if frame.height}
        batch = Batch(rows, pl.DataFrame(list(aside), schema=QUARANTINE, orient="row"), ledger.model_copy(update={"batch": ledger.batch + 1}))  # type: ignore[arg-type]
        layer.store(batch)


def _stored_requests(layer: RawLayer) -> list[pl.DataFrame]:
    parts = sorted(layer.folder.glob("search/window=*/*.parquet"))
    return [pl.read_parquet(path, hive_partitioning=False).select("query_id", request="timestamp") for path in parts]


def snapshot(home: Home, start: datetime, end: datetime, at: datetime | None = None, probes: pl.DataFrame | None = None) -> MetricsSnapshot:
    """The fast path's snapshot of ``start <= t < end``, stored as the tick stores it."""
    name = f"local-{end:%Y%m%dT%H%M%S%f}"
    found = measure_window(read_window(home.telemetry, start, end), start, end, at or end, champion=CHAMPION, contour="local", snapshot_id=name)
    home.snapshots.mkdir(parents=True, exist_ok=True)
    (home.snapshots / f"{name}.json").write_text(found.to_json())
    if probes is not None:
        probes.write_parquet(home.snapshots / f"{name}.parquet")
    return found
