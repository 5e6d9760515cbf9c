"""Records of other people's stores as columns of events: names, types, and what does not fit.

What belongs here: UBI names, casting without loss, and marking a value of the wrong type. What must not: reading a store, rules about values (``rules``).

A value of the wrong type is never made null silently: the row gets a ``misfit``, which the rules turn into a quarantine row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from predator_si.monitor.sources.rules import Kind
from predator_si.privacy.segments import SEGMENTS
from predator_si.search.events import ACTION_SCHEMA, SEARCH_SCHEMA

_SCHEMA: dict[Kind, dict[str, Any]] = {"search": SEARCH_SCHEMA, "action": ACTION_SCHEMA}
_FLAGS = ("simulated", "probe", "degraded")
_RESULT_FIELDS = {field.name: field.dtype for field in SEARCH_SCHEMA["results"].inner.fields}
_SCORES = tuple(name for name in _RESULT_FIELDS if name != "object_id")
_OURS = ("seq", "writer", *SEGMENTS)
"""What nobody may say from outside: numbers of our own writers, and segments that are computed where the text is sealed."""
UBI: dict[Kind, dict[str, tuple[str, ...]]] = {
    "search": {
        **{name: (name,) for name in SEARCH_SCHEMA if name not in _OURS},
        "results": ("results", "query_response_hit_ids", "query_response_objects_ids"),
        "latency_ms": ("latency_ms", "query_attributes.latency_ms", "query_attributes.took_ms", "query_attributes.took", "took_ms"),
        **{name: (name, f"query_attributes.{name}") for name in ("status", "variant", "model_digest", "session_id", "depth", "cpu_seconds", "degraded")},
    },
    "action": {
        **{name: (name,) for name in ACTION_SCHEMA if name not in _OURS},
        "object_id": ("object_id", "event_attributes.object.object_id", "event_attributes.object_id"),
        "position": ("position", "event_attributes.position.ordinal"),
        "value": ("value", "event_attributes.value", "event_attributes.dwell_time", "event_attributes.dwell_seconds", "event_attributes.rating"),
    },
}
"""Our column -> where a UBI document may have it, the first that is there; a dot goes one level down."""


def kind_of(row: Mapping[str, Any]) -> Kind:
    """A record with an action's name is an action; with anything else it claims to be a search."""
    return "action" if "action_name" in row else "search"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record with what lies below beside it, under dotted names; what stands there under a dotted name itself wins."""
    found = dict(row)
    for name, value in row.items():
        if isinstance(value, dict):
            for below, inner in _flat(value).items():
                found.setdefault(f"{name}.{below}", inner)
    return found


def from_documents(rows: Sequence[Mapping[str, Any]], kind: Kind) -> pl.DataFrame:
    """Events of documents in UBI names, with ``misfit``: null, or the reason why a value of the row is none.

    A search without a status that names its results was answered: UBI records no failures.
    """
    flat = [_flat(row) for row in rows]
    there = set[str]().union(*flat)
    columns: dict[str, pl.Series] = {}
    misfits: list[str | None] = [None] * len(rows)
    for name, dtype in _SCHEMA[kind].items():
        values = _picked(flat, [place for place in UBI[kind].get(name, ()) if place in there])
        if name == "status" and None in values:
            answers = _picked(flat, UBI["search"]["results"])
            values = [200 if value is None and isinstance(found, list) else value for value, found in zip(values, answers, strict=True)]
        if not set(map(type, values)) <= _PLAIN.get(str(dtype), _NOTHING):  # else the whole column is of the right type
            fits = _FITS[str(dtype)]
            for row, value in enumerate(values):
                if value is not None:
                    try:
                        values[row] = fits(value)
                    except (ValueError, TypeError, OverflowError) as error:
                        values[row] = None
                        misfits[row] = misfits[row] or f"wrong type: {name}: {error}"
        columns[name] = _lists(values) if name == "results" else pl.Series(name, values, dtype=dtype)
        if name in _FLAGS:
            columns[name] = columns[name].fill_null(False)
    return pl.DataFrame(columns).with_columns(misfit=pl.Series(misfits, dtype=pl.String))


def _picked(rows: Sequence[Mapping[str, Any]], places: Sequence[str]) -> list[Any]:
    """By row the first value that stands at one of the places; null where none does."""
    found: list[Any] = [None] * len(rows)
    for place in reversed(places):
        found = [old if (value := row.get(place)) is None else value for row, old in zip(rows, found, strict=True)]
    return found


def _lists(values: Sequence[list[tuple[Any, ...]] | None]) -> pl.Series:
    """Result lists as a column, made from all results at once."""
    rows = [row for row, results in enumerate(values) for _ in results or ()]
    flat = pl.DataFrame([one for results in values for one in results or ()], schema=_RESULT_FIELDS, orient="row")
    grouped = flat.select(row=pl.Series(rows, dtype=pl.UInt32), results=pl.struct(pl.all())).group_by("row", maintain_order=True).agg("results")
    known = pl.DataFrame({"row": range(len(values)), "known": [results is not None for results in values]}, schema={"row": pl.UInt32, "known": pl.Boolean})
    empty = pl.lit([], SEARCH_SCHEMA["results"])
    return known.join(grouped, on="row", how="left", maintain_order="left").select(results=pl.when("known").then(pl.coalesce("results", empty))).to_series()


def from_table(frame: pl.DataFrame, kind: Kind, mapping: Mapping[str, str]) -> pl.DataFrame:
    """Events of a table's columns, by our names or as ``mapping`` (ours -> theirs) says, with ``misfit`` as in ``from_documents``; a column at a time."""
    schema = _SCHEMA[kind]
    chosen: list[pl.Expr] = []
    misfits: list[pl.Expr] = []
    for name, dtype in schema.items():
        places = (mapping[name],) if name in mapping else UBI[kind].get(name, ())
        place = next((place for place in places if place in frame.columns), None)
        if place is None:
            chosen.append(pl.lit(False if name in _FLAGS else None).cast(dtype).alias(name))
            continue
        cast, wrong = _column(frame.schema[place], place, name, dtype)
        chosen.append((cast.fill_null(False) if name in _FLAGS else cast).alias(name))
        misfits.append(pl.when(wrong).then(pl.lit(f"wrong type: {name}: column {place} is {frame.schema[place]}")))
    misfit = pl.coalesce(misfits) if misfits else pl.lit(None, pl.String)
    found = frame.select(*chosen, misfit.alias("misfit"))
    if kind == "search" and "status" not in mapping and "status" not in frame.columns:
        found = found.with_columns(status=pl.when(pl.col("results").is_not_null()).then(pl.lit(200, pl.Int64)))
    return found


def _column(has: Any, place: str, name: str, wanted: Any) -> tuple[pl.Expr, pl.Expr]:
    """A column cast to what is wanted, and where a value was lost by that."""
    column = pl.col(place)
    cast: pl.Expr
    if name == "results" and isinstance(has, pl.List) and has.inner == pl.String:
        ids = column.list.eval(
            pl.struct(
                object_id=pl.element(),
                score=pl.lit(None, pl.Float64),
                first_stage_score=pl.lit(None, pl.Float64),
                rerank_score=pl.lit(None, pl.Float64),
            )
        )
        return ids, pl.lit(False)
    if name == "timestamp":
        if has == pl.String:
            zoned = column.str.contains(r"(Z|[+-]\d{2}:?\d{2})$")
            cast = pl.when(zoned).then(column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False))
        elif isinstance(has, pl.Datetime) and has.time_zone is not None:
            cast = column.dt.convert_time_zone("UTC").cast(wanted)
        elif has.is_integer():  # milliseconds since 1970, as OpenSearch may keep a date
            cast = pl.from_epoch(column, time_unit="ms").dt.replace_time_zone("UTC").cast(wanted)
        else:  # a local time is nobody's moment
            cast = pl.lit(None, wanted)
    elif wanted == pl.Int64 and has.is_float():
        cast = pl.when(column.is_finite() & (column == column.round())).then(column.cast(wanted, strict=False))
    elif has.is_nested() and not isinstance(wanted, pl.List):
        cast = pl.lit(None, wanted)
    else:
        cast = column.cast(wanted, strict=False)
    return cast, column.is_not_null() & cast.is_null()


# --------------------------------------------------------------------------- one value of a document


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__}, text is needed")
    value.encode()  # half of a surrogate pair, which JSON may spell and nobody can store
    return value


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__}, a number is needed")
    return float(value)


def _int(value: Any) -> int:
    number = _float(value)
    if not math.isfinite(number) or number != int(number) or abs(number) > 2**53:
        raise ValueError(f"{value!r}, a whole number is needed")
    return int(number)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__}, true or false is needed")
    return value


def _time(value: Any) -> datetime:
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        moment = datetime.fromtimestamp(value / 1000, UTC)
    else:
        moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC)


def _results(value: Any) -> list[tuple[Any, ...]]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__}, a list is needed")
    found: list[tuple[Any, ...]] = []
    for one in value:
        if isinstance(one, str):
            found.append((_text(one), None, None, None))
        elif isinstance(one, dict):
            found.append((_text(one.get("object_id")), *(_float(one[name]) if one.get(name) is not None else None for name in _SCORES)))
        else:
            raise TypeError("a result is an id or an object with object_id")
    return found


_NOTHING = frozenset({type(None)})
_PLAIN: dict[str, frozenset[type]] = {
    str(pl.Float64): frozenset({float, type(None)}),
    str(pl.Int64): frozenset({int, type(None)}),
    str(pl.Boolean): frozenset({bool, type(None)}),
}
"""Types of which a column needs no second look. Text does: it may hold half a character."""
_FITS: dict[str, Callable[[Any], Any]] = {
    str(pl.String): _text,
    str(pl.Float64): _float,
    str(pl.Int64): _int,
    str(pl.Boolean): _bool,
    str(SEARCH_SCHEMA["timestamp"]): _time,
    str(SEARCH_SCHEMA["results"]): _results,
}
