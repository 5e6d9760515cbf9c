"""Loading: which windows, snapshots and quarantine files are new or have changed, and their rows as the relations of schema ``raw``.

What belongs here: files of the home folder to relations. What must not: judging rows (the models do), metrics.

No query text and no client id ever gets here: the columns that are read are listed, and those two are not among them. On DuckDB the raw events
are views over the Parquet files of the windows at hand, on PostgreSQL tables that are filled by COPY; either way a window is replaced as a whole,
so loading twice changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.home import Home
from predator_si.records import MetricsSnapshot
from predator_si.search.events import ACTION_SCHEMA, SEARCH_SCHEMA
from predator_si.warehouse.engines import Warehouse, text

_TIME = pl.Datetime("us")
_PERSONAL = {"user_query", "client_id", "session_id"}
SEARCH: dict[str, Any] = {
    **{name: kind for name, kind in SEARCH_SCHEMA.items() if name not in _PERSONAL | {"timestamp"}},
    "source": pl.String,
}
"""Columns of raw search events beside ``window_start`` and ``event_time``; what a file lacks is null."""
ACTIONS: dict[str, Any] = {**{name: kind for name, kind in ACTION_SCHEMA.items() if name not in _PERSONAL | {"timestamp"}}, "source": pl.String}
QUARANTINE: dict[str, Any] = {
    "file": pl.String, "source": pl.String, "origin": pl.String, "line": pl.Int64, "reason": pl.String, "kind": pl.String, "seen_at": _TIME,
}  # fmt: skip
SNAPSHOTS: dict[str, Any] = {
    "snapshot_id": pl.String, "window_start": _TIME, "contour": pl.String, "champion": pl.String, "measured_from": _TIME, "measured_to": _TIME,
    "created_at": _TIME, "mock": pl.Boolean, "lost_events": pl.Int64, "quarantined": pl.Int64, "metric": pl.String, "value": pl.Float64, "n": pl.Int64,
    "reason": pl.String, "metric_source": pl.String, "dirty": pl.Boolean,
}  # fmt: skip
PROBES: dict[str, Any] = {
    "snapshot_id": pl.String, "window_start": _TIME, "champion": pl.String, "query_id": pl.String, "model_digest": pl.String, "status": pl.Int64,
    "error": pl.String, "latency_ms": pl.Float64, "ndcg_at_10": pl.Float64, "recall_at_20": pl.Float64, "rr_at_10": pl.Float64,
    "query_words": pl.Int64, "script": pl.String,
}  # fmt: skip
_WINDOWS: dict[str, Any] = {
    "window_start": _TIME, "fingerprint": pl.String, "search_rows": pl.Int64, "action_rows": pl.Int64, "newest_part_at": _TIME, "dirty": pl.Boolean,
    "gone": pl.Boolean,
}  # fmt: skip
_LOADS: dict[str, Any] = {"kind": pl.String, "name": pl.String, "fingerprint": pl.String}
_SQL_TYPES = {pl.String: "varchar", pl.Int64: "bigint", pl.Float64: "double precision", pl.Boolean: "boolean", _TIME: "timestamp"}
_WINDOW = timedelta(minutes=15)


def ensure_tables(warehouse: Warehouse) -> None:
    """Make schema ``raw`` and its tables where they are missing; add columns that an older version did not have."""
    warehouse.execute("create schema if not exists raw")
    tables = {"windows": _WINDOWS, "loads": _LOADS, "quarantine": QUARANTINE, "snapshots": SNAPSHOTS, "probes": PROBES}
    if warehouse.target == "postgres":
        tables |= {"search_events": _located(SEARCH), "actions": _located(ACTIONS)}
    for name, columns in tables.items():
        warehouse.execute(f"create table if not exists raw.{name} ({', '.join(f'{column} {_sql_type(kind)}' for column, kind in columns.items())})")
        for column, kind in columns.items():
            warehouse.execute(f"alter table raw.{name} add column if not exists {column} {_sql_type(kind)}")


def load_windows(warehouse: Warehouse, home: Home, *, everything: bool = False) -> list[datetime]:
    """Load the windows that are new or have changed since the last whole build; their starts, oldest first.

    Parameters
    ----------
    everything
        Load every window again.
    """
    parts = {start: (search, actions) for start, search, actions in _list_windows(home)}
    known = dict(warehouse.rows("select window_start, case when dirty or gone then '' else fingerprint end from raw.windows"))
    prints = {start: _fingerprint([*search, *actions]) for start, (search, actions) in parts.items()}
    changed = sorted(start for start, found in prints.items() if everything or known.get(start) != found)
    vanished = sorted(set(known) - set(parts))
    for start in changed:
        warehouse.execute(f"delete from raw.windows where window_start = {_literal(start)}")
    described = [_describe(start, prints[start], *parts[start]) for start in changed]
    warehouse.append("raw.windows", pl.DataFrame(described, schema=_WINDOWS, orient="row"))
    if vanished:
        warehouse.execute(f"update raw.windows set gone = true, dirty = false where window_start in ({', '.join(map(_literal, vanished))})")
    for table, columns, chosen in (
        ("search_events", SEARCH, {start: parts[start][0] for start in changed}),
        ("actions", ACTIONS, {start: parts[start][1] for start in changed}),
    ):
        if warehouse.target == "duckdb":
            _show_parquet(warehouse, home, table, columns, chosen)
        else:
            _copy_parquet(warehouse, table, columns, chosen, vanished)
    return changed


def load_snapshots(warehouse: Warehouse, home: Home) -> int:
    """Load the snapshots that are new or were measured again, with their probes; how many."""
    changed = _changed_files(warehouse, "snapshot", sorted(home.snapshots.glob("*.json")), companions=".parquet")
    for path in changed:
        snapshot = MetricsSnapshot.read(path)
        start = _window_of(snapshot)
        for table in ("snapshots", "probes"):
            warehouse.execute(f"delete from raw.{table} where snapshot_id = {text(snapshot.snapshot_id)}")
        warehouse.append("raw.snapshots", _snapshot_rows(snapshot, start))
        probes = path.with_suffix(".parquet")
        if probes.is_file():
            warehouse.append("raw.probes", _probe_rows(probes, snapshot, start))
    return len(changed)


def load_quarantine(warehouse: Warehouse, home: Home) -> int:
    """Load the quarantine files that are new or have grown, without the text that they hold; how many."""
    files = sorted(home.telemetry_quarantine.glob("**/*.parquet"))
    changed = _changed_files(warehouse, "quarantine", files)
    for path in changed:
        name = path.relative_to(home.telemetry).as_posix()
        warehouse.execute(f"delete from raw.quarantine where file = {text(name)}")
        frame = _read(path, {column: kind for column, kind in QUARANTINE.items() if column != "file"})
        warehouse.append("raw.quarantine", frame.with_columns(file=pl.lit(name)).select(list(QUARANTINE)))
    return len(changed)


def settle(warehouse: Warehouse) -> None:
    """After a whole build: nothing is dirty any more, and what retention removed is forgotten."""
    warehouse.execute("update raw.windows set dirty = false where dirty")
    warehouse.execute("update raw.snapshots set dirty = false where dirty")
    warehouse.execute("delete from raw.windows where gone")


# --------------------------------------------------------------------------- windows


def _list_windows(home: Home) -> Iterable[tuple[datetime, list[Path], list[Path]]]:
    folders = {folder.name for root in (home.telemetry_search, home.telemetry_actions) for folder in root.glob("window=*") if folder.is_dir()}
    for name in sorted(folders):
        try:
            start = datetime.strptime(name.partition("=")[2], "%Y%m%dT%H%M").replace(tzinfo=UTC)
        except ValueError as error:
            raise BadInput(f"{home.telemetry}/*/{name}: not the name of a window; window=yyyymmddTHHMM is one. Move the folder away.") from error
        search, actions = (sorted((root / name).glob("*.parquet")) for root in (home.telemetry_search, home.telemetry_actions))
        if search or actions:
            yield start.replace(tzinfo=None), search, actions


def _fingerprint(files: Sequence[Path]) -> str:
    """Changes when a part is added, replaced or removed."""
    seen = hashlib.sha256()
    for path in files:
        facts = path.stat()
        seen.update(f"{path.parent.parent.name}/{path.name}:{facts.st_size}:{facts.st_mtime_ns};".encode())
    return seen.hexdigest()[:32]


def _describe(start: datetime, fingerprint: str, search: Sequence[Path], actions: Sequence[Path]) -> dict[str, Any]:
    try:
        newest = max(path.stat().st_mtime for path in (*search, *actions))
        search_rows, action_rows = (sum(_rows_of(path) for path in files) for files in (search, actions))
    except OSError as error:
        raise Unavailable(f"{error}: a part of window {start:%Y%m%dT%H%M} cannot be read. If it was just replaced, try again.") from error
    return {
        "window_start": start,
        "fingerprint": fingerprint,
        "search_rows": search_rows,
        "action_rows": action_rows,
        "newest_part_at": datetime.fromtimestamp(newest, UTC).replace(tzinfo=None),
        "dirty": True,
        "gone": False,
    }


def _rows_of(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{path}: not a Parquet file ({str(error).splitlines()[0]}). Move it away or write it again.") from error


def _located(columns: dict[str, Any]) -> dict[str, Any]:
    return {"window_start": _TIME, "event_time": _TIME, **columns}


def _show_parquet(warehouse: Warehouse, home: Home, table: str, columns: dict[str, Any], windows: dict[datetime, list[Path]]) -> None:
    """A view over the Parquet files of the windows at hand. An empty file with every column stands first: old parts may lack some, or all be absent."""
    empty = home.warehouse / "empty" / "window=00010101T0000" / f"{table}.parquet"
    empty.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(schema={"timestamp": pl.Datetime("us", "UTC"), **columns}).write_parquet(empty)
    files = ", ".join(text(str(path)) for path in (empty, *(path for chosen in windows.values() for path in chosen)))
    warehouse.execute(
        f"create or replace view raw.{table} as select strptime(regexp_extract(filename, 'window=([0-9T]+)', 1), '%Y%m%dT%H%M') as window_start, "
        f"make_timestamp(epoch_us(timestamp)) as event_time, {', '.join(columns)} "
        f"from read_parquet([{files}], union_by_name = true, filename = true, hive_partitioning = false)"
    )


def _copy_parquet(warehouse: Warehouse, table: str, columns: dict[str, Any], windows: dict[datetime, list[Path]], vanished: Sequence[datetime]) -> None:
    for start in (*windows, *vanished):
        warehouse.execute(f"delete from raw.{table} where window_start = {_literal(start)}")
    for start, files in windows.items():
        for path in files:
            frame = _read(path, {"timestamp": pl.Datetime("us", "UTC"), **columns})
            placed = frame.with_columns(window_start=pl.lit(start, _TIME), event_time=pl.col("timestamp").dt.replace_time_zone(None))
            warehouse.append(f"raw.{table}", placed.select(list(_located(columns))))


# --------------------------------------------------------------------------- snapshots


def _window_of(snapshot: MetricsSnapshot) -> datetime:
    """The quarter of an hour in which the snapshot's window ends: windows of snapshots need not be aligned."""
    last = (snapshot.window_end - timedelta(microseconds=1)).astimezone(UTC)
    return last.replace(minute=last.minute - last.minute % 15, second=0, microsecond=0, tzinfo=None)


def _snapshot_rows(snapshot: MetricsSnapshot, start: datetime) -> pl.DataFrame:
    shared = {
        "snapshot_id": snapshot.snapshot_id, "window_start": start, "contour": snapshot.contour, "champion": snapshot.champion,
        "measured_from": _naive(snapshot.window_start), "measured_to": _naive(snapshot.window_end), "created_at": _naive(snapshot.created_at),
        "mock": snapshot.mock, "lost_events": snapshot.lost_events, "quarantined": snapshot.quarantined, "dirty": True,
    }  # fmt: skip
    facts = [(metric.name, metric.value, metric.n, metric.reason, metric.source) for metric in snapshot.metrics.values()]
    rows = [{**shared, **dict(zip(("metric", "value", "n", "reason", "metric_source"), fact, strict=True))} for fact in facts]
    return pl.DataFrame(rows, schema=SNAPSHOTS, orient="row")


def _probe_rows(path: Path, snapshot: MetricsSnapshot, start: datetime) -> pl.DataFrame:
    from predator_si.privacy.segments import SEGMENTS, segments

    kept = {name: kind for name, kind in PROBES.items() if name not in ("snapshot_id", "window_start", "champion", *SEGMENTS)}
    frame = _read(path, {**kept, "text": pl.String})
    return frame.with_columns(
        *segments(frame["text"]).select("query_words", "script").get_columns(),
        snapshot_id=pl.lit(snapshot.snapshot_id),
        window_start=pl.lit(start, _TIME),
        champion=pl.lit(snapshot.champion, pl.String),
    ).select(list(PROBES))


# --------------------------------------------------------------------------- files


def _changed_files(warehouse: Warehouse, kind: str, files: Sequence[Path], companions: str | None = None) -> list[Path]:
    """Those of ``files`` that were not loaded yet as they are now; they are noted as loaded in the same transaction."""
    known = dict(warehouse.rows(f"select name, fingerprint from raw.loads where kind = {text(kind)}"))
    together = {path: [path, *([other] if companions and (other := path.with_suffix(companions)).is_file() else [])] for path in files}
    prints = {path: _fingerprint(group) for path, group in together.items()}
    changed = [path for path in files if known.get(path.name) != prints[path]]
    for path in changed:
        warehouse.execute(f"delete from raw.loads where kind = {text(kind)} and name = {text(path.name)}")
    warehouse.append("raw.loads", pl.DataFrame([(kind, path.name, prints[path]) for path in changed], schema=_LOADS, orient="row"))
    return changed


def _read(path: Path, columns: dict[str, Any]) -> pl.DataFrame:
    """The named columns of a Parquet file in the named types; a column that it lacks is null."""
    try:
        frame = pl.read_parquet(path, hive_partitioning=False)
        present = [name for name in columns if name in frame.columns]
        zoned = [name for name in present if columns[name] == _TIME and getattr(frame.schema[name], "time_zone", None)]
        naive = [pl.col(name).dt.convert_time_zone("UTC").dt.replace_time_zone(None) for name in zoned]
        return (
            frame.select(present)
            .with_columns(naive)
            .select((pl.col(name) if name in present else pl.lit(None).alias(name)).cast(kind) for name, kind in columns.items())
        )
    except FileNotFoundError as error:
        raise Unavailable(f"{path}: vanished while it was read; something replaced it. Try again.") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        said = str(error).splitlines()[0]
        raise BadInput(f"{path}: cannot be read as Parquet with the raw layer's columns ({said}). Move it away or write it again.") from error


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _literal(moment: datetime) -> str:
    return f"timestamp '{moment:%Y-%m-%d %H:%M:%S}'"


def _sql_type(kind: Any) -> str:
    return "jsonb" if isinstance(kind, pl.List) else _SQL_TYPES[kind]
