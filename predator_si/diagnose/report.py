"""The decision tree: service, data, latency, then where the ranking loss sits; every branch leaves its numbers as evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from predator_si.corpora.vocabulary import DocumentFrequency, Vocabulary, frequency, new_vocabulary
from predator_si.corpora.words import token_lists
from predator_si.diagnose.actions import first_of, recommended_actions
from predator_si.diagnose.latency import latency_by_stage
from predator_si.diagnose.limits import Limits as Limits
from predator_si.diagnose.misses import Misses, count_misses, relevant_documents
from predator_si.diagnose.slices import query_slices, token_subsets
from predator_si.diagnose.subsets import correlation_p, subset_deficits
from predator_si.diagnose.tree import Levels, ask_branches, rank_causes
from predator_si.diagnose.window import Finding, Window
from predator_si.errors import BadInput
from predator_si.records import DiagnosticReport, DistributionChange, Metric, MetricsSnapshot, RootCause, Trigger, XaiInsights, utc_now

Cause = Literal["service_fault", "data_fault", "retrieval_miss", "rerank_miss", "latency", "domain_shift", "judgment_artefact", "unknown"]
PROBE_COLUMNS = ("query_id", "text", "ndcg_at_10", "result_ids", "candidate_ids")


def diagnose(
    cycle_id: str,
    trigger: Trigger,
    snapshot: MetricsSnapshot,
    probes: pl.DataFrame,
    judgments: pl.DataFrame,
    reference_queries: Sequence[str],
    current_queries: Sequence[str],
    document_frequency: DocumentFrequency | None,
    categories: Mapping[str, str],
    seed: int,
    *,
    events: pl.DataFrame | None = None,
    indexed_ids: Sequence[str] | None = None,
    depth: int | None = None,
    limits: Limits | None = None,
    reference: Window | None = None,
    actions: pl.DataFrame | None = None,
    index: Mapping[str, Any] | None = None,
    levels: Levels | None = None,
    listable: Collection[str] | None = None,
) -> DiagnosticReport:
    """Why ``trigger`` fired.

    Parameters
    ----------
    probes
        One row per judged dev query asked of the live service: ``query_id, text, ndcg_at_10`` (0..1, null: the probe failed), ``result_ids``,
        ``candidate_ids`` (first stage, best first; null: unknown) and optionally ``part``. ``ProbeResult.per_query`` of ``monitor`` fits.
    judgments
        ``query_id, doc_id, relevance``.
    reference_queries, current_queries
        Query texts of the baseline window and of the current one.
    document_frequency
        Token (as :func:`predator_si.diagnose.tokens` gives it) -> number of indexed documents with it; ``None`` when unknown.
    categories
        Document id -> category, for example its package.
    seed
        Of the permutation tests; the same inputs and seed give the same report.
    events
        Search events of the window with stage times, for a latency trigger.
    indexed_ids
        All indexed document ids, to tell a document that is not there from one that is not found.
    depth
        Candidates that the reranker scores; ``None``: all of ``candidate_ids``.
    reference
        The healthy window to compare with: the branches of :mod:`~predator_si.diagnose.tree` then rank the causes. Without it only the current window speaks,
        which can say where the loss sits and not what changed.
    actions, index
        Actions of people in the window, and ``index`` of ``GET /info?facts=true``; the tree reads them.
    levels
        How sure and how large a finding of the tree must be.
    listable
        Words of people's queries that the report may list (``shared_words``), beside those of the probes, which are nobody's; ``None``: all.

    Raises
    ------
    BadInput
        ``probes`` or ``judgments`` lack a column.
    """
    _require(probes, PROBE_COLUMNS, "probes")
    _require(judgments, ("query_id", "doc_id", "relevance"), "judgments")
    bounds = limits or Limits()
    relevant = relevant_documents(judgments)
    allowed = None if listable is None else {*listable, *(word for query in token_lists(probes["text"].drop_nulls().to_list()) for word in query)}
    vocabulary = new_vocabulary(reference_queries, current_queries, document_frequency, allowed)
    misses = count_misses(probes, relevant, depth=depth, indexed=indexed_ids)
    stages = latency_by_stage(events) if events is not None and "latency_ms" in events.columns else None
    judged = probes.join(misses.per_query, on="query_id", how="inner", maintain_order="left").filter(pl.col("ndcg_at_10").is_not_null())
    scores = judged["ndcg_at_10"].cast(pl.Float64).to_numpy()
    words = token_lists(judged["text"].to_list())
    parts = judged["part"].cast(pl.String).to_list() if "part" in judged.columns else [None] * judged.height
    weak = subset_deficits(scores, token_subsets(words), seed=seed, min_support=bounds.min_support, fdr=bounds.fdr)
    subsets = query_slices(judged["query_id"].to_list(), words, parts, relevant, categories, vocabulary.known)
    slices = subset_deficits(scores, subsets, seed=seed + 1, min_support=bounds.min_support, fdr=bounds.fdr)
    found_slices = _significant(slices, bounds.fdr)
    affected = np.unique(np.concatenate([members for name, members in subsets if name in set(found_slices["name"])] or [np.zeros(0, dtype=np.int64)]))
    evidence = [
        _service(snapshot, trigger, bounds),
        _data(snapshot, trigger, misses, bounds),
        _latency(trigger, stages),
        _shift(scores, words, vocabulary, bounds, seed),
        _losses(judged, affected, scores),
    ]
    current = Window(snapshot, probes, judgments, events, actions, index, indexed_ids, current_queries)
    found = ask_branches(reference, current, levels or Levels(limits=bounds), seed) if reference is not None else []
    causes, cannot_tell = rank_causes(found, trigger.metric)
    cause: Cause = causes[0]["type"] if causes else _cause(trigger, evidence, judged.height)
    cannot_tell += _limits_of(reference, causes, cause)
    evidence += [_entry(one) for one in found]
    affected_categories = [name.split("=", 1)[1] for name in found_slices["name"] if name.startswith(("category=", "part="))]
    found_tokens = _significant(weak, bounds.fdr)
    importance = _importance(found_tokens)
    new_words = [row["token"] for row in vocabulary.new_tokens if row["df"] is None or row["df"] > 0]
    targets = list(dict.fromkeys([*importance, *(new_words if cause == "domain_shift" else [])]))[: bounds.listed_tokens]
    recommended = recommended_actions(
        cause,
        metric=trigger.metric,
        target_tokens=targets,
        categories=affected_categories,
        affected_queries=len(affected),
        misses=misses.counts,
        slowest_stage=None if stages is None else stages["slowest_stage"],
    )
    if causes:
        recommended = first_of(causes[0], recommended)
    return DiagnosticReport(
        cycle_id=cycle_id,
        timestamp=utc_now(),
        trigger=trigger.type,
        current_value=trigger.value,
        baseline=trigger.baseline,
        delta=trigger.delta,
        root_cause_analysis=RootCause(
            type=cause,
            affected_categories=list(dict.fromkeys(affected_categories)),
            distribution_change=DistributionChange(new_tokens=vocabulary.new_tokens[: bounds.listed_tokens], coverage=vocabulary.coverage),
            evidence=evidence,
            detail=causes[0]["detail"] if causes else None,
            causes=causes,
            cannot_tell=cannot_tell,
        ),
        xai_insights=XaiInsights(
            low_coverage_tokens=_low_coverage(vocabulary, words, document_frequency, bounds.listed_tokens),
            importance_scores=importance,
            suggested_action=recommended[0]["type"] if recommended else "none: there is nothing to act on; collect judged probes first",
        ),
        recommended_actions=recommended,
        misses=misses.counts,
        slices=[{**row, "affected": row["name"] in set(found_slices["name"])} for row in slices.to_dicts()],
        weak_tokens=[
            {**row, "affected": row["q_value"] <= bounds.fdr and row["deficit"] > 0, "df": frequency(document_frequency, row["name"])}
            for row in weak.head(bounds.listed_tokens).to_dicts()
        ],
    )


def _limits_of(reference: Window | None, causes: Sequence[Mapping[str, Any]], cause: str) -> list[str]:
    """What the report as a whole cannot tell."""
    if reference is None:
        return ["what changed: there is no reference window to compare with, so the type says where the loss sits now"]
    if not causes and cause != "unknown":
        return [f"what changed: no branch differs from the reference window beyond chance; {cause} says where the remaining loss sits"]
    return []


def _entry(one: Finding) -> dict[str, Any]:
    shared = {"explained_loss": one.explained_loss, "p_value": one.p_value, "n": one.n, "test": one.test, "reason": one.reason}
    return {"branch": one.name, "answer": one.answer, "against": "reference window", **shared, **one.evidence}


def _cause(trigger: Trigger, evidence: list[dict[str, Any]], judged: int) -> Cause:
    answers = {entry["branch"]: entry["answer"] for entry in evidence}
    if answers["service_fault"] == "yes":
        return "service_fault"
    if answers["data_fault"] == "yes":
        return "data_fault"
    if answers["latency"] == "yes":
        return "latency"
    if judged == 0 or trigger.metric not in {"ndcg_at_10", "recall_at_20", "mrr", "user_satisfaction"}:
        return "unknown"
    losses = next(entry for entry in evidence if entry["branch"] == "losses")
    if trigger.metric == "recall_at_20" and losses["answer"] == "retrieval_miss":
        return "retrieval_miss"
    if answers["domain_shift"] == "yes":
        return "domain_shift"
    cause: Cause = losses["answer"]
    return cause


def _service(snapshot: MetricsSnapshot, trigger: Trigger, limits: Limits) -> dict[str, Any]:
    metric = snapshot.metrics.get("error_rate")
    value = metric.value if metric is not None else None
    fired = trigger.metric == "error_rate" or _above(metric, limits.error_rate)
    return {
        "branch": "service_fault",
        "answer": "yes" if fired else "unknown" if value is None else "no",
        "error_rate": value,
        "limit": limits.error_rate,
        "n": metric.n if metric is not None else 0,
        "reason": None if metric is None else metric.reason,
    }


def _data(snapshot: MetricsSnapshot, trigger: Trigger, misses: Misses, limits: Limits) -> dict[str, Any]:
    counts = misses.counts
    absent = counts["relevant_not_indexed"]
    share = None if absent is None or not counts["relevant_pairs"] else absent / counts["relevant_pairs"]
    lag, errors = snapshot.metrics.get("etl_lag_seconds"), snapshot.metrics.get("index_errors")
    findings = {
        "relevant_not_indexed": share is not None and share > limits.relevant_not_indexed,
        "etl_lag_seconds": _above(lag, limits.etl_lag_seconds) or trigger.metric == "etl_lag_seconds",
        "index_errors": _above(errors, limits.index_errors) or trigger.metric == "index_errors",
        "without_candidates": counts["queries"] > 0 and counts["without_candidates"] > limits.relevant_not_indexed * counts["queries"],
    }
    known = share is not None or any(metric is not None and metric.known for metric in (lag, errors))
    return {
        "branch": "data_fault",
        "answer": "yes" if any(findings.values()) else "no" if known else "unknown",
        "findings": [name for name, hit in findings.items() if hit],
        "relevant_not_indexed": share,
        "etl_lag_seconds": None if lag is None else lag.value,
        "index_errors": None if errors is None else errors.value,
        "without_candidates": counts["without_candidates"],
        "lost_events": snapshot.lost_events,
        "quarantined_events": snapshot.quarantined,
    }


def _latency(trigger: Trigger, stages: dict[str, Any] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"branch": "latency", "answer": "yes" if "latency" in trigger.metric else "no"}
    return {**entry, "stages": stages, "reason": None if stages is not None else "no events with stage times were given"}


def _shift(scores: np.ndarray, words: list[list[str]], vocabulary: Vocabulary, limits: Limits, seed: int) -> dict[str, Any]:
    """Yes only when there are more new words than sampling brings, and the probes that carry them are the worse ones."""
    entry: dict[str, Any] = {
        "branch": "domain_shift",
        "new_token_rate": vocabulary.new_rate,
        "expected_new_token_rate": vocabulary.expected_new_rate,
        "rate_p_value": vocabulary.p_value,
    }
    if vocabulary.new_rate is None or vocabulary.p_value is None or len(scores) < 2 * limits.min_support:
        reason = vocabulary.reason or f"{len(scores)} judged probes; at least {2 * limits.min_support} are needed"
        return {**entry, "answer": "unknown", "reason": reason}
    share = np.array([sum(token not in vocabulary.known for token in query) / max(len(query), 1) for query in words])
    correlation, p_value = correlation_p(scores, share, seed=seed + 2)
    rises, concentrated = vocabulary.p_value <= limits.significance, p_value <= limits.significance and correlation < 0
    return {**entry, "answer": "yes" if rises and concentrated else "no", "loss_correlation": correlation, "loss_p_value": p_value}


def _losses(judged: pl.DataFrame, affected: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Which loss is larger: in excess over the other queries when some slices are affected, else over all queries."""
    if not len(scores):
        return {"branch": "losses", "answer": "unknown", "reason": "no judged probe with a measured NDCG"}
    mask = np.zeros(len(scores), dtype=bool)
    mask[affected] = True
    known = judged["loss_rerank"].is_not_null().to_numpy()
    if not known.any():
        return {"branch": "losses", "answer": "unknown", "reason": "the candidates of no probe are known, so retrieval and reranking cannot be told apart"}
    mask, retrieval, rerank = mask[known], judged["loss_retrieval"].to_numpy()[known], judged["loss_rerank"].to_numpy()[known]
    scope = "excess of the affected slices" if mask.any() and not mask.all() else "all queries"
    inside = mask if mask.any() else np.ones(len(scores), dtype=bool)
    excess = [float(loss[inside].mean()) - (float(loss[~inside].mean()) if not inside.all() else 0.0) for loss in (retrieval, rerank)]
    return {
        "branch": "losses",
        "answer": "retrieval_miss" if excess[0] > excess[1] else "rerank_miss",
        "scope": scope,
        "queries": int(inside.sum()),
        "loss_retrieval": excess[0],
        "loss_rerank": excess[1],
    }


def _significant(table: pl.DataFrame, fdr: float) -> pl.DataFrame:
    return table.filter((pl.col("q_value") <= fdr) & (pl.col("deficit") > 0))


def _importance(found: pl.DataFrame) -> dict[str, float]:
    """Shrunk deficits of the significant words, scaled to sum to 1, largest first."""
    ordered = found.sort(["shrunk_deficit", "name"], descending=[True, False])
    total = float(ordered["shrunk_deficit"].sum())
    return {name: value / total for name, value in ordered.select("name", "shrunk_deficit").iter_rows()} if total > 0 else {}


def _low_coverage(vocabulary: Vocabulary, words: list[list[str]], table: DocumentFrequency | None, limit: int) -> list[str]:
    """Words that the reference log does not know, then words of the probes that no indexed document has."""
    unindexed = sorted({token for query in words for token in query if frequency(table, token) == 0}) if table is not None else []
    return list(dict.fromkeys([*(row["token"] for row in vocabulary.new_tokens), *unindexed]))[:limit]


def _above(metric: Metric | None, limit: float) -> bool:
    """Whether the metric is surely above: its interval's lower end where it has one, so that one failed request of twenty is no fault."""
    if metric is None or metric.value is None:
        return False
    return (metric.value if metric.ci_low is None else metric.ci_low) > limit


def _require(frame: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise BadInput(f"{what}: no column {', '.join(lacking)}; there are {', '.join(frame.columns)}. Build the frame with these columns.")
