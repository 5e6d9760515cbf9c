"""Judged queries asked of the live service: what its users get, measured against labels.

What belongs here: asking over HTTP and scoring the answers. What must not: gates, sampling of queries (the caller chooses them).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.measures import per_query
from predator_si.records import utc_now

_SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "request_id": pl.String,
    "asked_at": pl.Datetime("us", "UTC"),
    "text": pl.String,
    "status": pl.Int64,
    "error": pl.String,
    "latency_ms": pl.Float64,
    "took_ms": pl.Float64,
    "model_digest": pl.String,
    "result_ids": pl.List(pl.String),
    "candidate_ids": pl.List(pl.String),
    "rerank_scores": pl.List(pl.Float64),
    "first_scores": pl.List(pl.Float64),
    "lexical_ids": pl.List(pl.String),
    "dense_ids": pl.List(pl.String),
}
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class ProbeResult:
    """All probes of one round.

    Attributes
    ----------
    per_query
        One row per judged query asked, in their order: ``query_id``, ``request_id`` (the service's own, null where it told none), ``asked_at``,
        ``text``, ``ndcg_at_10``, ``recall_at_20``, ``rr_at_10`` (0..1, null
        where the probe failed), ``latency_ms`` (as the client saw it), ``took_ms``, ``model_digest``, ``result_ids``, ``candidate_ids``
        (first-stage order; null where the service returned only a part of them), ``rerank_scores`` (logits in the order of ``result_ids``, null
        where the reranker did not read that document), ``first_scores`` (those of the first stage, in the same order),
        ``lexical_ids``, ``dense_ids`` (what each leg of the first stage found; null where the
        service has no legs or does not tell), ``status``, ``error``.
    failed
        Probes without a usable answer. They are counted and never scored.
    digests
        Models that answered.
    """

    url: str
    variant: str | None
    k: int
    per_query: pl.DataFrame
    failed: int
    digests: frozenset[str]
    started_at: datetime
    ended_at: datetime
    panel: str | None = None
    """Which judged queries these were, in words for a metric's source (``judgments.Panel.source``); null where the caller chose freely."""

    @property
    def n(self) -> int:
        """Queries asked."""
        return self.per_query.height

    @property
    def failed_share(self) -> float:
        """Share of the probes that failed, 0..1."""
        return self.failed / self.n


def probe(
    url: str,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    k: int = 20,
    variant: Literal["champion", "candidate"] | None = None,
    concurrency: int = 1,
    fast: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Ask the service at ``url`` every judged query and score what it answers.

    Requests are marked ``probe`` so that they count in no traffic metric.

    Parameters
    ----------
    queries
        Columns ``query_id``, ``text``; those without a judgment are not asked.
    judgments
        Columns ``query_id``, ``doc_id``, ``relevance``.
    k
        Results asked for, at least 20 if ``recall_at_20`` is to mean what it says.
    variant
        Pin the probes to one side; null takes the service's own assignment.
    concurrency
        Requests in flight; 1 measures the latency of an unloaded service.
    fast
        Let the champion's checked twin answer: the same ranking, sooner; the latencies of such a round mean nothing.
    on_progress
        Called with (done, total).

    Raises
    ------
    BadInput
        No query has a judgment, or a column is missing.
    """
    import httpx

    if not {"query_id", "text"} <= set(queries.columns):
        raise BadInput(f"probe queries need columns query_id and text; there are {', '.join(queries.columns)}.")
    asked = queries.select("query_id", "text").join(judgments.select("query_id").unique(), on="query_id", how="semi", maintain_order="left")
    if asked.is_empty():
        raise BadInput(f"none of the {queries.height} probe queries has a judgment; take queries and judgments of the same corpus and split.")
    body: dict[str, Any] = {"k": k, "probe": True, "explain": True} | ({"variant": variant} if variant else {}) | ({"fast": True} if fast else {})
    started, rows = utc_now(), []
    with httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False) as client, ThreadPoolExecutor(max_workers=concurrency) as pool:
        for row in pool.map(lambda query: _ask(client, query[0], query[1], body), asked.iter_rows()):
            rows.append(row)
            if on_progress:
                on_progress(len(rows), asked.height)
    return scored_probes(url, rows, judgments, k=k, variant=variant, started=started, ended=utc_now())


def scored_probes(
    url: str, rows: Sequence[Mapping[str, Any]], judgments: pl.DataFrame, *, k: int, variant: str | None, started: datetime, ended: datetime
) -> ProbeResult:
    """A round of probes from its answered rows (:func:`answer_row`), scored against ``judgments``."""
    answers = pl.DataFrame(list(rows), schema=_SCHEMA, orient="row")
    frame = answers.join(_scores(answers, judgments), on="query_id", how="left", maintain_order="left")
    failed = int(answers["error"].is_not_null().sum())
    return ProbeResult(url, variant, k, frame, failed, frozenset(answers["model_digest"].drop_nulls().to_list()), started, ended)


def answer_row(query_id: str, text: str, answer: Mapping[str, Any] | None, latency_ms: float | None = None, error: str | None = None) -> dict[str, Any]:
    """One row of ``ProbeResult.per_query`` before scoring: a 200's body, or ``error`` where there was none."""
    row: dict[str, Any] = dict.fromkeys(_SCHEMA) | {"query_id": query_id, "text": text, "latency_ms": latency_ms, "error": error}
    return row if answer is None else row | {"status": 200} | _read(answer)


def _ask(client: Any, query_id: str, text: str, body: dict[str, Any]) -> dict[str, Any]:
    import httpx

    row: dict[str, Any] = dict.fromkeys(_SCHEMA) | {"query_id": query_id, "text": text, "asked_at": utc_now()}
    begun = time.perf_counter()
    try:
        response = client.post("/search", json={"query": text, **body})
        if response.status_code == 422 and "explain" in body:  # a service from before legs were told
            response = client.post("/search", json={"query": text, **{key: value for key, value in body.items() if key != "explain"}})
        row |= {"latency_ms": 1000.0 * (time.perf_counter() - begun), "status": response.status_code}
        response.raise_for_status()
        row |= _read(response.json())
    except httpx.HTTPStatusError as error:
        row["error"] = f"HTTP {error.response.status_code}"
    except httpx.HTTPError as error:
        row["error"] = f"{type(error).__name__}: {error}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        row["error"] = f"unreadable answer: {type(error).__name__}: {error}"
    return row


def _read(answer: Mapping[str, Any]) -> dict[str, Any]:
    results = answer["results"]
    ids = [str(result["object_id"]) for result in results]
    if len(set(ids)) != len(ids):
        raise ValueError("a document stands twice in the results")
    first = [result.get("first_stage_score") for result in results]
    whole = answer.get("depth") is not None and answer["depth"] <= len(ids) and None not in first
    legs = answer.get("legs") or {}
    candidates = [ids[i] for i in sorted(range(len(ids)), key=lambda i: -first[i])] if whole else None
    return {
        "request_id": answer.get("query_id"),
        "took_ms": float(answer["took_ms"]),
        "model_digest": answer.get("stands_for") or answer["model_digest"],
        "result_ids": ids,
        "candidate_ids": candidates,
        "rerank_scores": [result.get("rerank_score") for result in results],
        "first_scores": first,
        "lexical_ids": legs.get("lexical"),
        "dense_ids": legs.get("dense"),
    }


def keep_labels(telemetry: Path, name: str, probes: ProbeResult, judgments: pl.DataFrame) -> list[Path]:
    """Put the labels of the probes beside their requests in the raw layer, so that these are measured by every measure, per segment, with holes.

    Parameters
    ----------
    telemetry
        The telemetry folder.
    name
        Of the files, the same for the same round: ``judgments/window=<yyyymmddTHHMM>/<name>.parquet``, in the windows in which the probes were asked.
    judgments
        ``query_id, doc_id, relevance`` of the judged queries.

    Raises
    ------
    Unavailable
        A file cannot be written.
    """
    from predator_si.monitor.intake import window_name, window_of

    asked = probes.per_query.filter(pl.col("request_id").is_not_null()).select("query_id", "request_id", "asked_at")
    labels = asked.join(judgments.select("query_id", "doc_id", "relevance"), on="query_id", how="inner", maintain_order="left")
    written = []
    for moment in sorted({window_of(one) for one in labels["asked_at"]}):
        own = labels.filter(pl.col("asked_at").map_elements(window_of, return_dtype=labels["asked_at"].dtype) == moment)
        path = telemetry / "judgments" / f"window={window_name(moment)}" / f"{name}.parquet"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            own.select("doc_id", "relevance", query_id="request_id").write_parquet(partial)
            partial.replace(path)
        except OSError as error:
            raise Unavailable(f"{path}: labels of probes cannot be written ({error}). Make the folder writable or free some space.") from error
        written.append(path)
    return written


def _scores(answers: pl.DataFrame, judgments: pl.DataFrame) -> pl.DataFrame:
    good = answers.filter(pl.col("error").is_null()).select("query_id", doc_id="result_ids")
    run = good.filter(pl.col("doc_id").list.len() > 0).with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1)).explode("doc_id", "rank")
    judged = judgments.join(good.select("query_id"), on="query_id", how="semi")
    scored = per_query(run, judged, ["nDCG@10", "R@20", "RR@10"])
    return scored.rename({"nDCG@10": "ndcg_at_10", "R@20": "recall_at_20", "RR@10": "rr_at_10"})
