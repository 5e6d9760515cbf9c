"""What clients send, with its limits; and what they are told when it is wrong.

What belongs here: request shapes of CONTRACT.md section 5 and problem documents (RFC 9457). What must not: any behaviour of the service.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from predator_si.records import ActionEvent, utc_now

MAX_K = 100
MAX_QUERY = 1000
MAX_TEXTS = 1000
MAX_BATCH = 1000
_AHEAD = timedelta(minutes=5)


def _printable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character")
    return text


Query = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY), AfterValidator(_printable)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
DocumentId = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_printable)]


class _Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchRequest(_Payload):
    """``POST /search``. ``variant`` pins who answers, and only for a probe: a pinned person would bias a trial."""

    query: Query
    k: int = Field(default=10, ge=1, le=MAX_K, strict=True)
    client_id: Identifier | None = None
    session_id: Identifier | None = None
    probe: bool = False
    simulated: bool = False
    variant: Literal["champion", "candidate"] | None = None

    @model_validator(mode="after")
    def _pin_is_for_probes(self) -> Self:
        if self.variant is not None and not self.probe:
            raise ValueError("variant can be pinned for a probe only; send probe: true with it, or leave it out")
        return self


class RerankRequest(BaseModel):
    """``POST /rerank`` as Text Embeddings Inference (``texts``) or Cohere v2 (``documents``) spell it; other keys of theirs are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    query: Query
    texts: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS)
    raw_scores: bool = False
    return_text: bool = False
    documents: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS)
    top_n: int | None = Field(default=None, ge=1)
    model: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _has_one_shape(self) -> Self:
        if (self.texts is None) == (self.documents is None):
            raise ValueError("send either texts (Text Embeddings Inference) or documents (Cohere v2)")
        return self


class Action(_Payload):
    """One UBI action of ``POST /events``."""

    query_id: Identifier
    action_name: Literal["click", "dwell", "rating"]
    timestamp: datetime | None = None
    """When it happened, with a time zone; left out: now."""
    object_id: DocumentId | None = None
    position: int | None = Field(default=None, ge=1, le=100_000)
    value: float | None = Field(default=None, allow_inf_nan=False)
    client_id: Identifier | None = None
    simulated: bool = False

    @model_validator(mode="after")
    def _fits_its_name(self) -> Self:
        if self.action_name != "rating" and self.object_id is None:
            raise ValueError(f"object_id is needed for a {self.action_name}")
        if self.action_name == "click" and self.value is not None:
            raise ValueError("value must be left out for a click")
        if self.action_name == "dwell" and (self.value is None or not 0 <= self.value <= 86_400):
            raise ValueError("value of a dwell is its seconds, 0 to 86400")
        if self.action_name == "rating" and (self.value is None or not 1 <= self.value <= 5):
            raise ValueError("value of a rating is 1 to 5")
        if self.timestamp is not None:
            if self.timestamp.tzinfo is None:
                raise ValueError("timestamp needs a time zone")
            if self.timestamp > utc_now() + _AHEAD:
                raise ValueError("timestamp lies in the future")
        return self

    def as_event(self) -> ActionEvent:
        """The record of it."""
        return ActionEvent(**{**self.model_dump(), "timestamp": self.timestamp or utc_now()})


class Actions(_Payload):
    """Several actions at once."""

    events: list[Action] = Field(min_length=1, max_length=MAX_BATCH)


class DocumentIn(_Payload):
    """One document of ``POST /documents``."""

    doc_id: DocumentId
    title: Annotated[str, StringConstraints(max_length=2000)] = ""
    text: Annotated[str, StringConstraints(max_length=200_000)] = ""

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if not (self.title.strip() or self.text.strip()):
            raise ValueError("a document needs a title or a text")
        return self


class Documents(_Payload):
    """``POST /documents``."""

    documents: list[DocumentIn] = Field(min_length=1, max_length=MAX_BATCH)


def _how_many(found: Any) -> str:
    several = "events" in found if isinstance(found, dict) else isinstance(found, Actions)
    return "many actions" if several else "one action"


ActionsBody = Annotated[Annotated[Action, Tag("one action")] | Annotated[Actions, Tag("many actions")], Discriminator(_how_many)]
"""``POST /events``: one action, or ``{"events": [...]}``."""


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
        if path and path[0] in ("one action", "many actions"):
            path = path[1:]
        found.append({"field": ".".join(path) or "body", "message": str(error["msg"]).removeprefix("Value error, ")})
    return found
