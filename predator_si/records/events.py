"""What a search service tells: served requests, what people did with them, judgments."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from predator_si.records.base import Record


class ScoredDocument(Record):
    """One document in a result list. ``score`` is the final score; the others say where it came from."""

    object_id: str
    score: float | None = None
    """Null where another service sent ids without scores."""
    first_stage_score: float | None = None
    rerank_score: float | None = None


FIRST_STAGE = "first-stage"
"""``model_digest`` of an answer that no reranker had a part in."""


class SearchEvent(Record):
    """One served request, in the field names of OpenSearch User Behavior Insights where UBI has one.

    ``status`` is an HTTP status; latencies are milliseconds; ``cpu_seconds`` is process time measured around the request.
    """

    query_id: str
    timestamp: datetime
    user_query: str
    client_id: str | None = None
    session_id: str | None = None
    variant: Literal["champion", "candidate"] | None = None
    model_digest: str | None = None
    status: int
    latency_ms: float = Field(ge=0)
    retrieve_ms: float | None = None
    rerank_ms: float | None = None
    queue_ms: float | None = None
    cpu_seconds: float | None = None
    depth: int | None = None
    results: tuple[ScoredDocument, ...] = ()
    simulated: bool = False
    probe: bool = False
    stands_for: str | None = None
    """Digest of the model that was stood in for: by its checked twin (``fast`` requests) or by the first stage alone (``first_stage``). Such an event says
    nothing about latency or cost."""
    degraded: bool = False
    """The reranker failed and the first stage's order was served instead: answered (status 200), but an error of this variant."""
    query_words: int | None = None
    script: str | None = None
    query_bucket: int | None = None
    """With the two before it what is kept of the text in the clear: see ``privacy.segments``."""
    seq: int | None = None
    """Consecutive number within one writer process: a gap counts lost events."""
    writer: str | None = None


class ActionEvent(Record):
    """What a person did with a result: a click, a dwell, a rating (UBI ``action_name``)."""

    query_id: str
    timestamp: datetime
    action_name: Literal["click", "dwell", "rating"]
    object_id: str | None = None
    position: int | None = Field(default=None, ge=1)
    value: float | None = None
    """Seconds for a dwell, 1..5 for a rating, null for a click."""
    client_id: str | None = None
    simulated: bool = False
    seq: int | None = None
    """Consecutive number within one writer process, counted apart from the searches."""
    writer: str | None = None


class Judgment(Record):
    """How relevant a document is to a query. ``origin`` is never mixed silently."""

    query_id: str
    object_id: str
    relevance: float = Field(ge=0)
    origin: Literal["human", "click", "llm", "docstring", "feedback"]
