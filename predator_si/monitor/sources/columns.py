"""Records of other people's stores as columns of events: names, types, and what does not fit.

What belongs here: UBI names, casting without loss, and marking a value of the wrong type. What must not: reading a store, rules about values (``rules``).

A value of the wrong type is never made null silently: the row gets a ``misfit``, which the rules turn into a quarantine row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from predator_si.monitor.sources.rules import Kind
from predator_si.privacy.segments import SEGMENTS
from predator_si.search.events import ACTION_SCHEMA, SEARCH_SCHEMA

_SCHEMA: dict[Kind, dict[str, Any]] = {"search": SEARCH_SCHEMA, "action": ACTION_SCHEMA}
_FLAGS = ("simulated", "probe", "degraded")
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


def pick(row: Mapping[str, Any], places: Iterable[str]) -> Any:
    """The first value that stands at one of the places; null where none does."""
    for place in places:
        found: Any = row
        if place not in row:
            for part in place.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
        else:
            found = row[place]
        if found is not None:
            return found
    return None


def from_documents(rows: Sequence[Mapping[str, Any]], kind: Kind) -> pl.DataFrame:
    """Events of documents in UBI names, with ``misfit``: null, or the reason why a value of the row is none.

    A search without a status that names its results was answered: UBI records no failures.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA[kind]}
    misfits: list[str | None] = []
    for row in rows:
        wrong: str | None = None
        for name in columns:
            value = pick(row, UBI[kind].get(name, ()))
            if name == "status" and value is None and columns_results(row):
                value = 200
            try:
                columns[name].append(_FITS[str(_SCHEMA[kind][name])](value) if value is not None else (False if name in _FLAGS else None))
            except (ValueError, TypeError, OverflowError) as error:
                columns[name].append(False if name in _FLAGS else None)
                wrong = wrong or f"wrong type: {name}: {error}"
        misfits.append(wrong)
    return pl.DataFrame(columns, schema=_SCHEMA[kind]).with_columns(misfit=pl.Series(misfits, dtype=pl.String))


def columns_results(row: Mapping[str, Any]) -> bool:
    """Whether a document names the results of its search."""
    return isinstance(pick(row, UBI["search"]["results"]), Sequence)


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


def _results(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{type(value).__name__}, a list is needed")
    found = []
    for one in value:
        row = {"object_id": one} if isinstance(one, str) else one
        if not isinstance(row, Mapping):
            raise TypeError("a result is an id or an object with object_id")
        scores = {name: _float(row[name]) if row.get(name) is not None else None for name in ("score", "first_stage_score", "rerank_score")}
        found.append({"object_id": _text(row.get("object_id")), **scores})
    return found


_FITS: dict[str, Callable[[Any], Any]] = {
    str(pl.String): _text,
    str(pl.Float64): _float,
    str(pl.Int64): _int,
    str(pl.Boolean): _bool,
    str(SEARCH_SCHEMA["timestamp"]): _time,
    str(SEARCH_SCHEMA["results"]): _results,
}
