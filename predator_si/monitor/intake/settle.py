"""From frames that were read to rows that may be stored: rules, identities, windows.

What belongs here: whether an event is new, known or a duplicate, and which window it belongs to. What must not: files (``store``, ``spool``).

Who is the same event. A search is its ``query_id``, a numbered action its writer and number, an action without a number its whole content. An event that is
stored and comes again unchanged (a file read again, an hour rolled up, a client's retry) is *repeated*: nothing happens. One that comes with the id of another,
or twice in one file without numbers, is a *duplicate* and goes to the quarantine. A record that was set aside once stays aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from predator_si.monitor.intake.store import WINDOW, RawLayer
from predator_si.monitor.sources.reading import Reading
from predator_si.monitor.sources.rules import QUARANTINE, Kind, Redact, without_personal_data
from predator_si.monitor.sources.spool import Spool

_IDENTITY: dict[Kind, pl.Expr] = {
    "search": pl.col("query_id"),
    "action": pl.when(pl.col("seq").is_not_null() & pl.col("writer").is_not_null())
    .then(pl.concat_str("writer", "seq", separator="\x1f"))
    .otherwise(
        pl.concat_str("query_id", pl.col("timestamp").cast(pl.Int64), "action_name", "object_id", "position", "value", separator="\x1f", ignore_nulls=True)
    ),
}
_SAME: dict[Kind, list[str]] = {
    "search": ["timestamp", "status", "latency_ms", "writer", "seq"],
    "action": ["query_id", "timestamp", "action_name", "object_id"],
}
"""Columns in which an event that comes again must agree with the stored one; the query's text is not among them, since each sealing looks different."""


@dataclass(slots=True)
class Settled:
    """Rows by kind with their ``window``, the quarantine, and what was known already."""

    rows: dict[Kind, pl.DataFrame] = field(default_factory=dict)
    aside: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=QUARANTINE))
    repeated: int = 0


def settle(layer: RawLayer, reading: Reading, now: datetime, *, redact: Redact | None = None) -> Settled:
    """Judge what was read against what is stored.

    Parameters
    ----------
    now
        ``seen_at`` of what is set aside.
    redact
        Applied to what is kept of a line that could not be read.
    """
    known_aside = layer.quarantine()["key"].unique().implode()
    found = Settled()
    refused = [_unreadable(reading.aside, now, redact), *(_refused(kind, bad, now) for kind, bad in reading.refused.items())]
    searched: pl.DataFrame | None = None
    for kind in ("search", "action"):
        good = reading.frames.get(kind)
        if good is None or good.is_empty():
            continue
        good = good.filter(~_key(kind).is_in(known_aside)).with_columns(id=_IDENTITY[kind])
        fresh, doubled, repeated = _compare(layer, kind, good)
        refused.append(_refused(kind, doubled, now))
        found.repeated += repeated
        windowed = fresh.with_columns(window=pl.col("timestamp").dt.truncate(WINDOW))
        if kind == "search":
            searched = windowed.select("query_id", "window")
        elif windowed.height:
            windowed = _window_of_request(layer, windowed, searched)
        if windowed.height:
            found.rows[kind] = in_order(windowed.drop("id", "arrived"))
    rows = pl.concat(refused).unique("key", keep="first", maintain_order=True)
    found.aside = rows.filter(~pl.col("key").is_in(known_aside))
    return found


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows by window, time and id. Most come in that order, and then nothing is moved: lists of results are heavy."""
    order = rows.select(pl.arg_sort_by("window", "timestamp", "query_id", "seq", maintain_order=True)).to_series()
    return rows if order.is_sorted() else rows[order]


def _compare(layer: RawLayer, kind: Kind, good: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """New rows, duplicates with their ``reason``, and how many rows are stored already as they are."""
    none = good.clear().with_columns(reason=pl.lit(None, pl.String))
    if good.is_empty():
        return good, none, 0
    times: tuple[Any, Any] = (good["timestamp"].min(), good["timestamp"].max())
    columns = list(dict.fromkeys(["query_id", *_SAME[kind], "writer", "seq", "origin", "line"]))
    stored = layer.matching(kind, good.select("id").unique(), [_IDENTITY[kind].alias("id"), *(pl.col(name) for name in columns)], times)
    first = good.filter(pl.col("id").is_first_distinct())
    if stored.is_empty() and first.height == good.height:
        return good, none, 0
    before = pl.concat([stored.with_columns(stored=True), first.join(stored, on="id", how="anti").select(*stored.columns, stored=pl.lit(False))])
    judged = good.join(before.unique("id", keep="first"), on="id", how="left", suffix="_before", maintain_order="left")
    unchanged = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name + "_before")) for name in _SAME[kind])
    elsewhere = pl.col("origin").ne_missing(pl.col("origin_before")) | pl.col("line").eq_missing(pl.col("line_before"))
    numbered = pl.col("writer").is_not_null() & pl.col("seq").is_not_null()
    judged = judged.with_columns(new=~pl.col("stored") & pl.col("id").is_first_distinct(), same=unchanged & (numbered | elsewhere))
    said = pl.concat_str(pl.lit("duplicate id: "), pl.col("query_id"), pl.lit(" stands in "), pl.col("origin_before"), pl.lit(" already"))
    fresh = judged.filter("new").select(good.columns)
    doubled = judged.filter(~pl.col("new") & ~pl.col("same")).select(*good.columns, said.alias("reason"))
    return fresh, doubled, judged.height - fresh.height - doubled.height


def _window_of_request(layer: RawLayer, actions: pl.DataFrame, searched: pl.DataFrame | None) -> pl.DataFrame:
    """Actions with the window of their request, where that is known."""
    times: tuple[Any, Any] = (actions["timestamp"].min(), actions["timestamp"].max())
    wanted = actions.select("query_id").unique()
    stored = layer.matching("search", wanted, [pl.col("query_id"), pl.col("timestamp")], times)
    requests = [stored.select("query_id", request=pl.col("timestamp").dt.truncate(WINDOW))]
    if searched is not None:
        requests.append(searched.join(wanted, on="query_id", how="semi").select("query_id", request="window"))
    known = pl.concat(requests).unique("query_id", keep="first", maintain_order=True)
    joined = actions.join(known, on="query_id", how="left", maintain_order="left")
    return joined.with_columns(window=pl.coalesce("request", "window")).drop("request")


def _key(kind: Kind) -> pl.Expr:
    """Name of a record for the quarantine: its number where it has one, else where it stands and what it says there; a corrected file is judged anew."""
    number = pl.concat_str(pl.lit(kind), pl.col("writer"), pl.col("seq"), separator=":")
    says = ("status", "latency_ms", "variant") if kind == "search" else ("action_name", "object_id", "position", "value")
    content = pl.concat_str(pl.lit(kind), "origin", "line", "query_id", pl.col("timestamp").cast(pl.Int64), *says, separator=":", ignore_nulls=True)
    return pl.coalesce(number, content)


def _refused(kind: Kind, bad: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Quarantine rows of records that broke a rule. Of what they hold only ids and numbers are shown, never the query or the client."""
    shown = ("query_id", "timestamp", "variant", "status", "latency_ms") if kind == "search" else ("query_id", "timestamp", "action_name", "position", "value")
    text = pl.struct(pl.col(name).cast(pl.String) if name == "timestamp" else pl.col(name) for name in shown).struct.json_encode().str.slice(0, 200)
    believable = pl.when(~pl.col("reason").str.starts_with("future time")).then(pl.col("timestamp"))
    return bad.select(
        "source",
        "origin",
        "line",
        "reason",
        kind=pl.lit(kind),
        event_time=believable,
        text=text,
        seen_at=pl.lit(now).cast(QUARANTINE["seen_at"]),
        key=_key(kind),
    ).cast(pl.Schema(QUARANTINE))


def _unreadable(aside: Sequence[dict[str, Any]], now: datetime, redact: Redact | None) -> pl.DataFrame:
    rows = []
    for row in aside:
        text = without_personal_data(row["text"])
        key = f"{row['origin']}:{row['line'] or 'file'}"
        if row["source"] != Spool.name:  # a spool only grows, and its roll-up keeps origin and line; other people's files may be written anew
            key += ":" + hashlib.sha256(row["text"].encode()).hexdigest()[:16]
        rows.append({**row, "event_time": None, "text": redact(text) if redact else text, "seen_at": now, "key": key})
    return pl.DataFrame(rows, schema=QUARANTINE, orient="row")
