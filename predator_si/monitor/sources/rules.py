"""Which records may be counted, and why the others may not.

What belongs here: rules about one record, as Polars expressions with their reasons. What must not: files, knowing which records came before (``store``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal

import polars as pl

from predator_si.search.events import ACTION_SCHEMA, SEARCH_SCHEMA
from predator_si.search.payloads import MAX_QUERY

Kind = Literal["search", "action"]
LATE = timedelta(hours=24)
"""A record that arrives later than this after it happened goes to the quarantine: its window is history."""
AHEAD = timedelta(minutes=5)
"""How far the clocks of two machines may differ before a time lies in the future."""
_TEXT = 200
_LONGEST_ID = 512
_PROVENANCE: dict[str, Any] = {"source": pl.String, "origin": pl.String, "line": pl.Int64}
RAW_SCHEMA: dict[Kind, dict[str, Any]] = {"search": {**SEARCH_SCHEMA, **_PROVENANCE}, "action": {**ACTION_SCHEMA, **_PROVENANCE}}
"""Columns of the raw layer: the event's own, the ``source`` it came through, and the file or table (``origin``) and ``line`` (null: no such thing)."""
QUARANTINE: dict[str, Any] = {
    "source": pl.String,
    "origin": pl.String,
    "line": pl.Int64,
    "reason": pl.String,
    "kind": pl.String,
    "event_time": pl.Datetime("us", "UTC"),
    "text": pl.String,
    "seen_at": pl.Datetime("us", "UTC"),
    "key": pl.String,
}
"""Columns of the quarantine. ``event_time`` is the record's own time where it has a believable one, ``text`` the beginning of what was there without
personal data, ``key`` names the record, so that the same one is set aside once however often it is read."""
_PERSONAL = re.compile(r'("(?:user_query|client_id|session_id|query|text|message)"\s*:\s*")(?:[^"\\]|\\.)*', re.DOTALL)


def without_personal_data(text: str) -> str:
    """The beginning of a damaged line with the values of personal fields taken out, wherever the line breaks off."""
    return _PERSONAL.sub(r"\1[removed]", text)[:_TEXT]


Redact = Callable[[str], str]


def sort_out(frame: pl.DataFrame, kind: Kind) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Records that may be counted, and the others with their ``reason`` (the first rule they break).

    Parameters
    ----------
    frame
        Columns of ``RAW_SCHEMA[kind]``; ``arrived`` (UTC): when the record reached us, by which "late" and "in the future" are told; ``sealed``: whether the
        query is a token of our own vault; ``misfit``: null, or which value had the wrong type.

    Returns
    -------
    good, bad
        Both with the columns of ``frame``; ``bad`` with ``reason`` as well.
    """
    rules = _SEARCH_RULES if kind == "search" else _ACTION_RULES
    judged = frame.with_columns(reason=pl.coalesce([pl.when(broken.fill_null(False)).then(reason) for broken, reason in rules]))
    return judged.filter(pl.col("reason").is_null()).drop("reason"), judged.filter(pl.col("reason").is_not_null())


def _missing(column: str) -> tuple[pl.Expr, pl.Expr]:
    return pl.col(column).is_null(), pl.lit(f"wrong type or missing: {column}")


def _number(column: str, low: float = 0.0, high: float | None = None) -> tuple[pl.Expr, pl.Expr]:
    number = pl.col(column)
    broken = ~number.is_finite() | (number < low) if high is None else ~number.is_finite() | (number < low) | (number > high)
    said = pl.format("{}", number) if column != "status" else number.cast(pl.String)
    between = f"not {low:g} or more" if high is None else f"not {low:g} to {high:g}"
    name = "negative latency" if column == "latency_ms" else "wrong value"
    return broken, pl.concat_str(pl.lit(f"{name}: {column} "), said, pl.lit(f" is {between}"))


def _identifier(column: str) -> list[tuple[pl.Expr, pl.Expr]]:
    long = pl.col(column).str.len_chars() > _LONGEST_ID
    return [_missing(column), (pl.col(column) == "", pl.lit(f"wrong value: {column} is empty")), (long, pl.lit(f"over-long {column}: more than {_LONGEST_ID}"))]


def _unknown(column: str, known: Sequence[str], what: str) -> tuple[pl.Expr, pl.Expr]:
    shown = pl.col(column).str.slice(0, 40)
    return ~pl.col(column).is_in(list(known)), pl.concat_str(pl.lit(f"unknown {what}: "), shown, pl.lit(f" is none of {', '.join(known)}"))


def _times() -> list[tuple[pl.Expr, pl.Expr]]:
    time, arrived = pl.col("timestamp"), pl.col("arrived")
    said = pl.concat_str(time.dt.to_string("iso:strict"), pl.lit(", it arrived "), arrived.dt.to_string("iso:strict"))
    hours = f"{LATE.total_seconds() / 3600:g} h"
    return [
        _missing("timestamp"),
        (time > arrived + AHEAD, pl.concat_str(pl.lit("future time: "), said)),
        (time < arrived - LATE, pl.concat_str(pl.lit(f"too late, by more than {hours}: "), said)),
    ]


_BROKEN = "\ufffd"
_MISFIT = (pl.col("misfit").is_not_null(), pl.col("misfit"))
_SEARCH_RULES: list[tuple[pl.Expr, pl.Expr]] = [
    _MISFIT,
    *_identifier("query_id"),
    *_times(),
    _missing("user_query"),
    (
        (pl.col("user_query").str.len_chars() > MAX_QUERY) & ~pl.col("sealed"),
        pl.concat_str(pl.lit("over-long query: "), pl.col("user_query").str.len_chars(), pl.lit(f" characters, at most {MAX_QUERY}")),
    ),
    (pl.col("user_query").str.contains(_BROKEN, literal=True), pl.lit("broken UTF-8: the query holds replacement characters")),
    _unknown("variant", ("champion", "candidate", "interleaved", "shadow"), "variant"),
    _missing("status"),
    _number("status", 100, 599),
    _number("latency_ms"),  # null: that source does not measure it, UBI has no field for it
    *(_number(column) for column in ("retrieve_ms", "rerank_ms", "queue_ms", "cpu_seconds")),
    (pl.col("depth") < 0, pl.lit("wrong value: depth is negative")),
    (pl.col("results").list.eval(pl.element().struct.field("object_id").is_null()).list.any(), pl.lit("wrong type or missing: results.object_id")),
]
_ACTION_RULES: list[tuple[pl.Expr, pl.Expr]] = [
    _MISFIT,
    *_identifier("query_id"),
    *_times(),
    _missing("action_name"),
    _unknown("action_name", ("click", "dwell", "rating"), "action"),
    (pl.col("position") < 1, pl.lit("wrong value: position counts from 1")),
    (
        (pl.col("action_name") == "rating") & ~pl.col("value").is_between(1.0, 5.0).fill_null(False),
        pl.lit("wrong value: a rating is 1 to 5"),
    ),
    (
        (pl.col("action_name") == "dwell") & ~pl.col("value").is_between(0.0, 86_400.0).fill_null(False),
        pl.lit("wrong value: a dwell is its seconds, 0 to 86400"),
    ),
]
