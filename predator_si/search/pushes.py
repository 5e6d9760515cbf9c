"""``POST /events``: what people did, and what another search service served, in the names of OpenSearch User Behavior Insights.

What belongs here: telling the two apart, validating each by itself, and naming those that are refused. What must not: recording (``service``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NoReturn

from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError, field_validator, model_validator

from predator_si.records import ActionEvent, ScoredDocument, SearchEvent, utc_now
from predator_si.search.payloads import MAX_BATCH, MAX_K, Action, DocumentId, Identifier, Payload, Query, field_errors, plausible

_ATTRIBUTES = {"latency_ms": "latency_ms", "took_ms": "latency_ms", "took": "latency_ms"} | {
    name: name for name in ("status", "variant", "model_digest", "session_id", "depth", "cpu_seconds", "retrieve_ms", "rerank_ms", "queue_ms", "degraded")
}
"""Where UBI keeps what it has no field for: ``query_attributes`` -> our name."""
_NOT_OURS = ("application", "query_response_id", "object_id_field", "message", "message_type")
"""Fields of UBI that nothing here is made of."""


class _Result(Payload):
    object_id: DocumentId
    score: float | None = Field(default=None, allow_inf_nan=False)
    first_stage_score: float | None = Field(default=None, allow_inf_nan=False)
    rerank_score: float | None = Field(default=None, allow_inf_nan=False)


class PushedSearch(Payload):
    """One request that another search service answered. ``latency_ms`` and ``status`` may stand in ``query_attributes``, ids in ``query_response_hit_ids``."""

    query_id: Identifier
    user_query: Query
    timestamp: datetime | None = None
    """When it was asked, with a time zone; left out: now."""
    client_id: Identifier | None = None
    session_id: Identifier | None = None
    variant: Literal["champion", "candidate"] | None = None
    model_digest: Identifier | None = None
    status: int = Field(ge=100, le=599, strict=True)
    latency_ms: float = Field(ge=0, allow_inf_nan=False)
    retrieve_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    rerank_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    queue_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cpu_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    depth: int | None = Field(default=None, ge=0, strict=True)
    results: tuple[_Result, ...] = Field(default=(), max_length=MAX_K)
    simulated: bool = False
    probe: bool = False
    degraded: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_ubi(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        found = {name: value for name, value in data.items() if name not in _NOT_OURS}
        attributes = found.pop("query_attributes", None)
        for name, value in attributes.items() if isinstance(attributes, dict) else ():
            if name in _ATTRIBUTES:
                found.setdefault(_ATTRIBUTES[name], value)
        if isinstance(ids := found.pop("query_response_hit_ids", None), list):
            found.setdefault("results", [{"object_id": one} for one in ids])
        return found

    _time = field_validator("timestamp")(plausible)

    def as_event(self) -> SearchEvent:
        """The record of it."""
        results = tuple(ScoredDocument(**one.model_dump()) for one in self.results)
        return SearchEvent(**{**self.model_dump(exclude={"results"}), "timestamp": self.timestamp or utc_now(), "results": results})


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a request held: records to take, and for each refused one its ``index`` and ``errors``."""

    searches: list[SearchEvent] = field(default_factory=list)
    actions: list[ActionEvent] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)


def read_pushed(body: Any) -> Pushed:
    """The events of a request: one by itself, or ``{"events": [...]}`` with at most 1,000.

    Raises
    ------
    RequestValidationError
        Nothing in it can be used.
    """
    several = isinstance(body, dict) and "events" in body
    rows = body["events"] if several else [body]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_BATCH or (several and len(body) > 1):
        _refuse(("events",), f"a list of 1 to {MAX_BATCH} events, and nothing beside it")
    found, errors = Pushed(), list[Any]()
    for index, row in enumerate(rows):
        try:
            if isinstance(row, dict) and "action_name" not in row and ("user_query" in row or "query_attributes" in row):
                found.searches.append(PushedSearch.model_validate(row).as_event())
            else:
                found.actions.append(Action.model_validate(_action(row)).as_event())
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)
            errors += [{**one, "loc": ("body", *(("events", index) if several else ()), *one["loc"])} for one in wrong]
            found.refused.append({"index": index, "errors": field_errors(wrong)})
    if len(found.refused) == len(rows):
        raise RequestValidationError(errors)
    return found


def _action(row: Any) -> Any:
    """An action with what UBI puts into ``event_attributes`` beside its own fields."""
    if not isinstance(row, dict):
        return row
    found = {name: value for name, value in row.items() if name not in (*_NOT_OURS, "event_attributes", "session_id" if "event_attributes" in row else "")}
    attributes = row.get("event_attributes")
    if isinstance(attributes, Mapping):
        thing, place = attributes.get("object"), attributes.get("position")
        if isinstance(thing, Mapping) and "object_id" in thing:
            found.setdefault("object_id", thing["object_id"])
        if isinstance(place, Mapping) and "ordinal" in place:
            found.setdefault("position", place["ordinal"])
        for name in ("value", "dwell_seconds", "rating"):
            if name in attributes:
                found.setdefault("value", attributes[name])
    return found


def _refuse(place: tuple[str, ...], message: str) -> NoReturn:
    raise RequestValidationError([{"loc": ("body", *place), "msg": message, "type": "value_error"}])
