"""What clients send, with its limits; and what they are told when it is wrong.

What belongs here: request shapes of CONTRACT.md section 5 and problem documents (RFC 9457). What must not: any behaviour of the service.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from predator_si.records import ActionEvent, utc_now

MAX_K = 100
MAX_QUERY = 1000
MAX_TEXTS = 1000
MAX_BATCH = 1000
OLDEST = timedelta(hours=24)
"""An event that comes later than this corrects nothing any more. ``read_events`` looks one hour beyond its window for late ones, the raw layer all the day."""
_AHEAD = timedelta(minutes=5)


def _printable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character")
    return text


Query = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY), AfterValidator(_printable)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
DocumentId = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_printable)]


class Payload(BaseModel):
    """What a client sends: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchRequest(Payload):
    """``POST /search``. ``variant`` pins who answers, and only for a probe: a pinned person would bias a trial. ``shadow`` has what is in shadow score this
    request whatever the share, again only for a probe.

    ``fast`` lets the champion's checked twin (the same weights on a faster backend) answer, and only a probe or a simulated request: the answer names the
    twin and whom it stands for, and its latency is never counted. ``first_stage`` leaves the reranker out, for the same two kinds only: a log of searches with
    clicks, as from a time before there was a reranker, at a fraction of its cost. Such events stand for the champion too and are counted nowhere.
    ``explain`` adds ``legs`` to the answer: the ids that the lexical and the dense leg brought to the fusion, best first.
    """

    query: Query
    k: int = Field(default=10, ge=1, le=MAX_K, strict=True)
    client_id: Identifier | None = None
    session_id: Identifier | None = None
    probe: bool = False
    simulated: bool = False
    variant: Literal["champion", "candidate", "shadow"] | None = None
    shadow: bool = False
    fast: bool = False
    first_stage: bool = False
    explain: bool = False

    @field_validator("fast", "first_stage")
    @classmethod
    def _not_for_people(cls, asked: bool, info: ValidationInfo) -> bool:
        if asked and not (info.data.get("probe") or info.data.get("simulated")):
            raise ValueError("is for probes and simulated requests; send probe: true or simulated: true with it, or leave it out")
        return asked

    @field_validator("variant", "shadow")
    @classmethod
    def _pin_is_for_probes(cls, wanted: str | bool | None, info: ValidationInfo) -> str | bool | None:
        if wanted and not info.data.get("probe"):
            raise ValueError("can be pinned for a probe only; send probe: true with it, or leave it out")
        return wanted


class RerankRequest(BaseModel):
    """``POST /rerank`` as Text Embeddings Inference (``texts``) or Cohere v2 (``documents``) spell it; other keys of theirs are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    query: Query
    texts: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS)
    raw_scores: bool = False
    return_text: bool = False
    documents: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS, validate_default=True)
    top_n: int | None = Field(default=None, ge=1)
    model: str | None = Field(default=None, max_length=200)

    @field_validator("documents")
    @classmethod
    def _one_shape(cls, documents: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if "texts" in info.data and (info.data["texts"] is None) == (documents is None):
            raise ValueError("send either texts (Text Embeddings Inference) or documents (Cohere v2), and one of them")
        return documents


def plausible(timestamp: datetime | None) -> datetime | None:
    """A moment that an event of now may have; ValueError with the reason for another."""
    if timestamp is not None and timestamp.tzinfo is None:
        raise ValueError("needs a time zone")
    if timestamp is not None and timestamp > utc_now() + _AHEAD:
        raise ValueError("lies in the future")
    if timestamp is not None and timestamp < utc_now() - OLDEST:
        raise ValueError("is more than a day ago; events are sent soon after they happen")
    return timestamp


class Action(Payload):
    """One UBI action of ``POST /events``."""

    query_id: Identifier
    action_name: Literal["click", "dwell", "rating"]
    timestamp: datetime | None = None
    """When it happened, with a time zone; left out: now."""
    object_id: DocumentId | None = Field(default=None, validate_default=True)
    position: int | None = Field(default=None, ge=1, le=100_000)
    value: float | None = Field(default=None, allow_inf_nan=False, validate_default=True)
    """Seconds for a dwell, 1 to 5 for a rating, absent for a click."""
    client_id: Identifier | None = None
    simulated: bool = False

    _time = field_validator("timestamp")(plausible)

    @field_validator("object_id")
    @classmethod
    def _on_something(cls, object_id: str | None, info: ValidationInfo) -> str | None:
        if object_id is None and info.data.get("action_name") in ("click", "dwell"):
            raise ValueError(f"is needed for a {info.data['action_name']}")
        return object_id

    @field_validator("value")
    @classmethod
    def _fits_its_name(cls, value: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("action_name")
        if name == "click" and value is not None:
            raise ValueError("must be left out for a click")
        if name == "dwell" and (value is None or not 0 <= value <= 86_400):
            raise ValueError("of a dwell is its seconds, 0 to 86400")
        if name == "rating" and (value is None or not 1 <= value <= 5):
            raise ValueError("of a rating is 1 to 5")
        return value

    def as_event(self) -> ActionEvent:
        """The record of it."""
        return ActionEvent(**{**self.model_dump(), "timestamp": self.timestamp or utc_now()})


class DocumentIn(Payload):
    """One document of ``POST /documents``."""

    doc_id: DocumentId
    title: Annotated[str, StringConstraints(max_length=2000)] = ""
    text: Annotated[str, StringConstraints(max_length=200_000)] = Field(default="", validate_default=True)

    @field_validator("text")
    @classmethod
    def _not_empty(cls, text: str, info: ValidationInfo) -> str:
        if not text.strip() and not str(info.data.get("title", "x")).strip():
            raise ValueError("a document needs a title or a text")
        return text


class Documents(Payload):
    """``POST /documents``."""

    documents: list[DocumentIn] = Field(min_length=1, max_length=MAX_BATCH)


def problem(status: int, title: str, detail: str, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """A problem document (RFC 9457); ``errors`` names each wrong field."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors is not None:
        body["errors"] = errors
    return body


def field_errors(errors: list[Any]) -> list[dict[str, str]]:
    """Field and message of each validation error. The offending value is left out: it may be long, private, or not encodable."""
    found = []
    for error in errors:
        path = [str(part) for part in error["loc"]]
        if path and path[0] in ("body", "query", "path"):
            path = path[1:]  # where the field stood, as FastAPI puts it; only the first part, for a field may itself be called query
        found.append({"field": ".".join(path) or "body", "message": str(error["msg"]).removeprefix("Value error, ")})
    return found
