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
    """Of retrieval and fusion; null where it is not told."""
    rerank_score: float | None = None
    """Of the reranker; null where it did not read the document."""


FIRST_STAGE = "first-stage"
"""``model_digest`` of an answer that no reranker had a part in."""


class SearchEvent(Record):
    """One served request, in the field names of OpenSearch User Behavior Insights where UBI has one.

    ``status`` is an HTTP status; latencies are milliseconds; ``cpu_seconds`` is process time measured around the request.
    """

    query_id: str
    timestamp: datetime
    user_query: str
    """The text: redacted and sealed in every store, in the clear only inside the service."""
    client_id: str | None = None
    session_id: str | None = None
    """The visit, as a keyed hash; null where the caller named none."""
    variant: Literal["champion", "candidate", "interleaved", "shadow"] | None = None
    """Who answered: ``interleaved`` is a list merged from both (``model_digest`` is null: no one model made it), ``shadow`` a probe pinned to the previous
    champion."""
    model_digest: str | None = None
    """Digest of the reranker that made the order, `first-stage` for none, null for a merged list."""
    status: int
    """HTTP status of the answer."""
    latency_ms: float = Field(ge=0)
    """From the request to the answer, as the service saw it."""
    retrieve_ms: float | None = None
    """Of these, the first stage."""
    rerank_ms: float | None = None
    """Of these, the reranker."""
    queue_ms: float | None = None
    """Of these, waiting for a free place."""
    cpu_seconds: float | None = None
    """Process time around the request."""
    depth: int | None = None
    """Candidates that the reranker was to read."""
    results: tuple[ScoredDocument, ...] = ()
    """What was shown, best first."""
    simulated: bool = False
    probe: bool = False
    stands_for: str | None = None
    """Digest of the model that was stood in for: by its checked twin (``fast`` requests) or by the first stage alone (``first_stage``). Such an event says
    nothing about latency or cost."""
    degraded: bool = False
    """The variant's reranker failed and something else was served instead (the first stage's order, or the other model's: see ``ExposureEvent.answered_by``):
    answered (status 200), but an error of this variant."""
    query_words: int | None = None
    """How many words the text has."""
    script: str | None = None
    """Its script, such as `latin`; null where it has no letters."""
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
    """What the person did."""
    object_id: str | None = None
    position: int | None = Field(default=None, ge=1)
    """Of the document in the list shown, from 1."""
    value: float | None = None
    """Seconds for a dwell, 1..5 for a rating, null for a click."""
    client_id: str | None = None
    simulated: bool = False
    seq: int | None = None
    """Consecutive number within one writer process, counted apart from the searches."""
    writer: str | None = None


class ExposureEvent(Record):
    """What one request was exposed to while the service had a candidate or a shadow: beside its search event, under the same ``query_id``.

    ``champion_ids``, ``candidate_ids`` and what follows are filled for interleaved answers only.
    """

    query_id: str
    timestamp: datetime
    release: str
    """sha256 of the release file that was in force."""
    mode: Literal["ab", "shadow", "interleave"] | None = None
    """Of the trial; null where there was no candidate."""
    weight: float = Field(default=0.0, ge=0, le=1)
    """Share of the units that the trial was to touch (``candidateWeight``)."""
    unit: Literal["client", "query"]
    """What was assigned: a client for ever, or, where it named none, this query."""
    bucket: int = Field(ge=0, lt=10_000)
    """Of the unit: below ``weight`` times 10,000 it belongs to the trial."""
    variant: Literal["champion", "candidate", "interleaved", "shadow"]
    """Who answered, as in the search event."""
    pinned: bool = False
    """A probe that named its variant: nobody was assigned."""
    champion_digest: str
    """The champion's reranker."""
    candidate_digest: str | None = None
    """The challenger's; null where there was none."""
    shadow_digest: str | None = None
    """The previous champion that stays warm beside the champion."""
    answered_by: str | None = None
    """Digest of the model whose order was shown; null for the first stage's, for an interleaved list and where nothing was shown."""
    fell_back: bool = False
    """The variant's own model failed."""
    simulated: bool = False
    probe: bool = False
    champion_ids: tuple[str, ...] = ()
    """What the champion alone would have shown, best first."""
    candidate_ids: tuple[str, ...] = ()
    """What the challenger alone would have shown, best first."""
    teams: tuple[Literal["champion", "candidate"], ...] = ()
    """Whose pick each shown document was, in the order shown."""
    draft_seed: str | None = None
    """Seed of the draft: with both lists it gives the shown one again (``search.interleave.team_draft``)."""
    champion_ms: float | None = None
    """Rerank time of each model on this request, one after the other in the random order that ``scored_first`` says."""
    candidate_ms: float | None = None
    """The challenger's rerank time, as `champion_ms`."""
    scored_first: Literal["champion", "candidate"] | None = None
    """Which model was run first on this request."""
    seq: int | None = None
    writer: str | None = None


class ShadowEvent(Record):
    """What a model in shadow made of a request that another model had answered: the same candidates, off the user's path.

    Both models are scored again there, one after the other in a random order, under the same conditions: their times compare with each other and with nothing
    else.
    """

    query_id: str
    timestamp: datetime
    """Of the request."""
    role: Literal["candidate", "previous"]
    """A candidate in a trial of mode ``shadow``, or the champion before this one."""
    status: Literal["scored", "dropped", "failed"]
    """``dropped``: the queue was full."""
    served_digest: str
    """The model that answered the request."""
    shadow_digest: str
    """The model in shadow."""
    release: str
    """sha256 of the release file that was in force."""
    depth: int | None = None
    """Candidates that the shadow may read."""
    results: tuple[ScoredDocument, ...] = ()
    """What the shadow would have shown, best first, as many as were asked for."""
    served_ms: float | None = None
    """Rerank wall time of the model that answered, and of the shadow; cold caches, the shadow worker's priority."""
    shadow_ms: float | None = None
    """Rerank wall time of the shadow, as `served_ms`."""
    served_cpu_seconds: float | None = None
    """Processor time of all threads meanwhile: it depends on other load far less than wall time does."""
    shadow_cpu_seconds: float | None = None
    """Processor time of the shadow, as `served_cpu_seconds`."""
    served_scored: int | None = None
    """Candidates that were scored: fewer than the depth where a depth rule stopped."""
    shadow_scored: int | None = None
    """Candidates that the shadow scored, as `served_scored`."""
    scored_first: Literal["served", "shadow"] | None = None
    """Which model was run first."""
    waited_ms: float | None = None
    """From the answer to the begin of the scoring."""
    simulated: bool = False
    probe: bool = False
    seq: int | None = None
    writer: str | None = None


class Judgment(Record):
    """How relevant a document is to a query. ``origin`` is never mixed silently."""

    query_id: str
    """Of the judged query."""
    object_id: str
    relevance: float = Field(ge=0)
    """0 is not relevant; larger is better, on the scale of its corpus."""
    origin: Literal["human", "click", "llm", "docstring", "feedback"]
    """Who said so."""
