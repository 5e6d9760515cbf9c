"""Events and judgments made up to measure the metrics engine with: the platform's own files, with ties, holes, failures and repeated clients in them.

What belongs here: making files from a seed. What must not: measuring anything.

Each part holds :data:`PART` requests of one 15-minute window, up to twenty documents each, as ``telemetry/<kind>/window=<name>/b<number>.parquet``. A million
requests are a window.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.monitor.intake import COMPRESSION, WINDOW, window_name
from predator_si.search.events import ACTION_SCHEMA, SEARCH_SCHEMA

PART = 100_000
PARTS_PER_WINDOW = 10
BYTES_PER_EVENT = 700
"""Room that a request takes with its judgments and actions, with a margin; measured."""
START = datetime(2026, 11, 22, tzinfo=UTC)
CHAMPION, CHALLENGER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
_K = 20
_SHOWN, _DOCUMENTS = 149_993, 200_000
"""Documents that may be shown (a prime, so that multiplying permutes them), and all; the rest is judged and never shown."""
_GRADES = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3], dtype=np.float64)


def write_events(folder: Path, events: int, seed: int, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Fill ``folder`` with ``events`` requests, a multiple of :data:`PART`; the same seed gives the same files."""
    names = pl.Series([f"passage-{i:07d}-{i % 97:02d}" for i in range(_DOCUMENTS)])
    for number in range(events // PART):
        rng = np.random.default_rng([seed, number])
        window = START + (number // PARTS_PER_WINDOW) * WINDOW
        for kind, frame in _part(rng, number, window, names).items():
            target = folder / kind / f"window={window_name(window)}"
            target.mkdir(parents=True, exist_ok=True)
            frame.write_parquet(target / f"b{number:08d}.parquet", compression=COMPRESSION, statistics=True)
        if on_progress:
            on_progress((number + 1) * PART, events)


def _part(rng: np.random.Generator, number: int, window: datetime, names: pl.Series) -> dict[str, pl.DataFrame]:
    ids = pl.select(pl.format("{}-{}", pl.Series(rng.integers(10**17, 10**18, PART)), pl.Series(np.arange(PART) + number * PART))).to_series()
    failed = rng.random(PART) < 0.01
    lengths = np.where(failed, 0, np.where(rng.random(PART) < 0.03, rng.integers(0, _K, PART), _K))
    shown = (np.cumsum(rng.integers(1, 60, (PART, _K)), axis=1) + rng.integers(0, _SHOWN, (PART, 1))) * 48_271 % _SHOWN
    clients = rng.zipf(1.3, PART) % 200_000
    search = {
        "query_id": ids,
        "timestamp": pl.Series(np.sort(rng.integers(0, int(WINDOW.total_seconds()) * 1_000_000, PART))).cast(pl.Duration("us")) + window,
        "user_query": "sealed",
        "client_id": pl.select(pl.when(pl.Series(rng.random(PART) < 0.95)).then(pl.format("c{}", pl.Series(clients)))).to_series(),
        "variant": _choice(rng, ["champion", "candidate"], 0.2),
        "status": np.where(failed, 503, 200),
        "latency_ms": rng.lognormal(4.0, 0.6, PART),
        "cpu_seconds": np.round(rng.lognormal(-3.0, 0.4, PART), 4),
        "depth": np.full(PART, 20),
        "results": _results(rng, names, shown, lengths),
        "simulated": np.ones(PART, bool),
        "probe": np.zeros(PART, bool),
        "degraded": np.zeros(PART, bool),
        "script": _choice(rng, ["latin", "cyrillic"], 0.3),
        "seq": np.arange(PART) + number * PART,
        "writer": "bench",
    }
    frame = pl.DataFrame(search).with_columns(model_digest=pl.when(pl.col("variant") == "champion").then(pl.lit(CHAMPION)).otherwise(pl.lit(CHALLENGER)))
    return {
        "search": _conformed(frame, SEARCH_SCHEMA),
        "actions": _conformed(_actions(rng, frame, names, shown, lengths), ACTION_SCHEMA),
        "judgments": _judgments(rng, ids, names, shown),
    }


def _choice(rng: np.random.Generator, names: list[str], share: float) -> pl.Series:
    return pl.Series(names).gather(pl.Series((rng.random(PART) < share).astype(np.int64)))


def _conformed(frame: pl.DataFrame, schema: dict[str, Any]) -> pl.DataFrame:
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    return frame.with_columns(absent).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _results(rng: np.random.Generator, names: pl.Series, shown: np.ndarray, lengths: np.ndarray) -> pl.Series:
    """Lists of scored documents; a tenth of neighbours have the same score."""
    steps = np.where(rng.random((PART, _K)) < 0.1, 0.0, rng.integers(1, 900, (PART, _K)) / 1000.0)
    score = np.round(12.0 - np.cumsum(steps, axis=1), 3)
    structs = pl.DataFrame(
        {
            "object_id": names.gather(pl.Series(shown.ravel())),
            "score": score.ravel(),
            "first_stage_score": np.round(rng.random(PART * _K) / 30.0, 4),
            "rerank_score": score.ravel(),
        }
    ).to_struct("results")
    lists = structs.reshape((PART, _K)).arr.to_list()
    return pl.DataFrame({"results": lists, "length": lengths}).select(pl.col("results").list.head(pl.col("length"))).to_series()


def _actions(rng: np.random.Generator, frame: pl.DataFrame, names: pl.Series, shown: np.ndarray, lengths: np.ndarray) -> pl.DataFrame:
    at = np.flatnonzero((rng.random(PART) < 0.4) & (lengths > 0))
    place = np.minimum(rng.geometric(0.35, at.size) - 1, lengths[at] - 1)
    rated = np.flatnonzero(rng.random(PART) < 0.01)
    clicks = {"action_name": ["click"] * at.size, "object_id": names.gather(pl.Series(shown[at, place])), "position": place + 1}
    base = frame.select("query_id", "client_id", timestamp=pl.col("timestamp") + timedelta(seconds=5))
    first = base.select(pl.all().gather(pl.Series(at))).with_columns(**{name: pl.Series(values) for name, values in clicks.items()})
    second = base.select(pl.all().gather(pl.Series(rated))).with_columns(action_name=pl.lit("rating"), value=pl.Series(rng.integers(1, 6, rated.size) * 1.0))
    return pl.concat([first, second], how="diagonal").with_columns(simulated=pl.lit(value=True))


def _judgments(rng: np.random.Generator, ids: pl.Series, names: pl.Series, shown: np.ndarray) -> pl.DataFrame:
    """Three to nine graded documents for 95 of 100 requests, most of them shown; for 1 of 200 the request is one that nobody made."""
    count = np.where(rng.random(PART) < 0.95, rng.integers(3, 10, PART), 0)
    row = np.repeat(np.arange(PART), count)
    turn = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    step = np.array([1, 3, 7, 9, 11, 13, 17, 19])[rng.integers(0, 8, PART)]  # prime to 20: nine different places
    place = (rng.integers(0, _K, PART)[row] + turn * step[row]) % _K
    unseen = _SHOWN + (rng.integers(0, 40_000, PART)[row] + turn * 1_009) % (_DOCUMENTS - _SHOWN)
    document = np.where(rng.random(row.size) < 0.7, shown[row, place], unseen)
    nobody = (rng.random(PART) < 0.005)[row]
    return pl.DataFrame(
        {"query_id": ids.gather(pl.Series(row)), "doc_id": names.gather(pl.Series(document)), "relevance": _GRADES[rng.integers(0, 10, row.size)]}
    ).with_columns(query_id=pl.when(pl.Series(nobody)).then(pl.format("nobody-{}", "query_id")).otherwise("query_id"))
