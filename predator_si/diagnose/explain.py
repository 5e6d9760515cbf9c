"""All explaining methods over one report, within one budget: which words, topics and conjunctions are worse, which of them twice, and what the model looks at.

What belongs here: handing the judged probes to the methods and collecting what they say. What must not: the methods themselves, where models lie.

A words (``subsets``), B contrast words, C topics, D conjunctions: always, seconds. E occlusion, F integrated gradients: where there is a model and time for it.
A to D choose what to train; E and F illustrate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.corpora.vocabulary import DocumentFrequency, new_vocabulary
from predator_si.corpora.words import token_lists
from predator_si.diagnose.attribution import Pair, attribute_pairs
from predator_si.diagnose.budget import Budget
from predator_si.diagnose.conjunctions import find_conjunctions
from predator_si.diagnose.contrast import weighted_log_odds, worst_quartile
from predator_si.diagnose.features import query_features
from predator_si.diagnose.limits import Limits
from predator_si.diagnose.misses import count_misses, relevant_documents
from predator_si.diagnose.occlusion import MarginPair, Score, occlude_margins
from predator_si.diagnose.reproduce import Found, confirm, find, split_halves
from predator_si.diagnose.slices import query_slices, token_subsets
from predator_si.diagnose.subsets import subset_deficits
from predator_si.diagnose.targets import aim
from predator_si.diagnose.topics import TopicMemory, Topics, find_topics
from predator_si.records import DiagnosticReport, XaiInsights
from predator_si.search.retrieve import Embedder

_LISTED = 20
_TOPIC_TEXTS = 1_000
_OCCLUDED_QUERIES = 50
_OCCLUSION_SHARE = 0.5
_MECHANICAL = ("gold", "legs")
"""Features that say themselves that retrieval lost the document."""


@dataclass(frozen=True)
class Context:
    """What is known about the window, its index and its models. What is null is left out, and the report says so.

    ``score`` loads the served reranker when called; ``torch_folder`` holds fp32 torch weights of it; the reasons say why one of them is missing.
    """

    reference_queries: Sequence[str] = ()
    current_queries: Sequence[str] = ()
    document_frequency: DocumentFrequency | None = None
    categories: Mapping[str, str] | None = None
    text_of: Callable[[str], str | None] | None = None
    age_of: Mapping[str, float] | None = None
    depth: int | None = None
    embedder: Embedder | None = None
    score: Callable[[], Score] | None = None
    score_reason: str | None = None
    torch_folder: Path | None = None
    torch_reason: str | None = None
    max_length: int = 128
    topic_memory: TopicMemory | None = None
    listable: Collection[str] | None = None
    """Words of people's queries that may be listed, beside those of the probes; null: all."""


@dataclass(frozen=True)
class _Judged:
    """The judged probes with their losses, words and halves."""

    frame: pl.DataFrame
    scores: np.ndarray
    words: list[list[str]]
    parts: list[str | None]
    relevant: Mapping[str, Mapping[str, float]]
    first: np.ndarray


def explain(
    report: DiagnosticReport,
    probes: pl.DataFrame,
    judgments: pl.DataFrame,
    context: Context,
    seed: int,
    *,
    limits: Limits | None = None,
    budget: Budget | None = None,
) -> tuple[DiagnosticReport, TopicMemory | None]:
    """Fill the report's ``xai_insights`` and aim its training actions at what reproduced.

    Parameters
    ----------
    report, probes, judgments
        As :func:`predator_si.diagnose.diagnose` gave and took them.
    seed
        Of halves, permutations and clusters: the same inputs, seed and memory give the same report as long as the budget cuts nothing.
    budget
        Default: ``limits.explain_seconds`` and ``limits.explain_forwards``.

    Returns
    -------
    DiagnosticReport, TopicMemory
        The memory is what the next cycle should be given; null where no topic was looked for.
    """
    bounds = limits or Limits()
    budget = budget or Budget(bounds.explain_seconds, bounds.explain_forwards)
    judged = _judged(probes, judgments, context.depth, seed)
    support = max(5, bounds.min_support // 2)
    if len(judged.scores) < 4 * support:
        entry = {"method": "all", "seconds": 0.0, "forwards": 0, "status": "unknown"}
        entry["reason"] = f"{len(judged.scores)} judged probes with a measured NDCG; {4 * support} are needed for two halves"
        return _with(report, methods=[entry]), None
    found: list[Found] = []
    with budget.method("words"):
        found += find("word", judged.scores, token_subsets(judged.words), judged.first, seed=seed + 10, min_support=support)
        known = new_vocabulary(context.reference_queries, context.current_queries, context.document_frequency).known
        slices = query_slices(judged.frame["query_id"].to_list(), judged.words, judged.parts, judged.relevant, context.categories or {}, known)
        found += find("slice", judged.scores, slices, judged.first, seed=seed + 11, min_support=support)
    with budget.method("contrast") as entry:
        contrast = _contrast(judged, context, entry, bounds.fdr)
    with budget.method("topics") as entry:
        topics = _topics(judged, context, seed, entry)
        members = topics.subsets(range(len(judged.scores)))
        topic_rows = _topic_rows(topics, subset_deficits(judged.scores, members, seed=seed + 12, min_support=bounds.min_support, fdr=bounds.fdr))
        found += find("topic", judged.scores, members, judged.first, seed=seed + 13, min_support=support)
    with budget.method("conjunctions") as entry:
        combined = _conjunctions(judged, context, topics, report.root_cause_analysis.type, support, entry)
        found += [Found("conjunction", row["name"], row.pop("members"), row.pop("scores")) for row in combined]
    with budget.method("reproduced"):
        confirmed = confirm(found, judged.first, seed=seed + 14, min_support=support)
    verdict = {(row["family"], row["name"]): row["reproduced"] for row in confirmed}
    pairs = _margin_pairs(judged, context.text_of)
    with budget.method("occlusion") as entry:
        occlusion = _occlusion(pairs, context, budget, seed, entry)
    with budget.method("attribution") as entry:
        attribution = _attribution(pairs, context, budget, seed, entry)
    filled = _with(
        report,
        contrast=contrast,
        topics=[{**row, "reproduced": verdict.get(("topic", f"topic={row['number']}: {row['name']}"), False)} for row in topic_rows],
        conjunctions=[{**row, "reproduced": verdict.get(("conjunction", row["name"]), False)} for row in combined],
        occlusion=occlusion,
        attribution=attribution,
        reproduced=confirmed,
        methods=budget.methods,
    )
    return aim(filled, confirmed, {f"topic={topic.label}": topic.name.split() for topic in topics.topics}, bounds.listed_tokens), topics.memory


def _with(report: DiagnosticReport, **fields: Any) -> DiagnosticReport:
    insights = XaiInsights.model_validate({**report.xai_insights.model_dump(), **fields})
    return report.model_copy(update={"xai_insights": insights})


def _judged(probes: pl.DataFrame, judgments: pl.DataFrame, depth: int | None, seed: int) -> _Judged:
    relevant = relevant_documents(judgments)
    misses = count_misses(probes, relevant, depth=depth)
    frame = probes.join(misses.per_query, on="query_id", how="inner", maintain_order="left").filter(pl.col("ndcg_at_10").is_not_null())
    parts = frame["part"].cast(pl.String).to_list() if "part" in frame.columns else [None] * frame.height
    words = token_lists(frame["text"].to_list())
    return _Judged(frame, frame["ndcg_at_10"].cast(pl.Float64).to_numpy(), words, parts, relevant, split_halves(parts, seed))


def _contrast(judged: _Judged, context: Context, entry: dict[str, Any], fdr: float) -> list[dict[str, Any]]:
    worst = worst_quartile(judged.scores)
    if not worst.any():
        entry.update(status="unknown", reason="more than half of the probes share the lowest score: there is no worst quarter")
        return []
    groups = [[words for words, chosen in zip(judged.words, mask, strict=True) if chosen] for mask in (worst, ~worst)]
    table = weighted_log_odds(groups[0], groups[1], context.document_frequency).filter(pl.col("z") > 0).head(_LISTED)
    return [{**row, "significant": row["q_value"] <= fdr} for row in table.to_dicts()]


def _topics(judged: _Judged, context: Context, seed: int, entry: dict[str, Any]) -> Topics:
    """Topics of the probes together with a sample of the log, so that they are those of the traffic."""
    probes = judged.frame["text"].to_list()
    log = sorted(set(context.current_queries) - set(probes))
    room = max(0, _TOPIC_TEXTS - len(set(probes)))
    if len(log) > room:
        log = [log[index] for index in sorted(np.random.default_rng(seed).choice(len(log), room, replace=False))]
    allowed = None if context.listable is None else {*context.listable, *(word for query in judged.words for word in query)}
    topics = find_topics([*probes, *log], context.embedder, context.topic_memory, seed=seed, listable=allowed)
    entry["reason"] = topics.reason
    return topics


def _topic_rows(topics: Topics, table: pl.DataFrame) -> list[dict[str, Any]]:
    by_name = {row["name"]: row for row in table.to_dicts()}
    rows = []
    for topic in topics.topics:
        tested = by_name.get(f"topic={topic.label}", {})
        facts = {key: tested.get(key) for key in ("mean", "mean_rest", "deficit", "ci_low", "ci_high", "p_value", "q_value")}
        row = {"number": topic.number, "name": topic.name, "queries": topics.sizes[topic.number], "new": topic.number in topics.new}
        rows.append({**row, "judged": tested.get("n"), **facts})
    return sorted(rows, key=lambda row: (row["q_value"] is None, row["q_value"] or 0.0, row["number"]))


def _conjunctions(judged: _Judged, context: Context, topics: Topics, cause: str, support: int, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Found on the first half only: the other one is for ``confirm``."""
    labels = [topics.label(int(number)) for number in topics.numbers[: len(judged.scores)]]
    features = query_features(
        judged.frame,
        judged.words,
        judged.relevant,
        document_frequency=context.document_frequency,
        log=context.current_queries,
        topics=labels,
        text_of=context.text_of,
        age_of=context.age_of,
        depth=context.depth,
    )
    bins, name, error = dict(features.bins), "1 - NDCG@10", 1.0 - judged.scores
    column = "loss_retrieval" if cause == "retrieval_miss" else "loss_rerank"
    known = judged.frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if np.isfinite(known).mean() >= 0.5:
        name, error = column, np.where(np.isfinite(known), np.clip(known, 0.0, 1.0), np.nan)
    if name == "loss_rerank":  # among queries whose document the reranker saw: that the others lose nothing by it is no finding
        error = np.where([value == "missed" for value in bins.get("gold", [None] * len(error))], np.nan, error)
    else:
        bins = {feature: values for feature, values in bins.items() if feature not in _MECHANICAL}
    entry["reason"] = "; ".join(f"{feature}: {why}" for feature, why in features.left_out.items()) or None
    listed = find_conjunctions(bins, error, searched=judged.first, min_support=support)
    return [
        {
            "name": one.name,
            "conditions": dict(one.conditions),
            "error": name,
            "n": len(one.members),
            "n_first": one.n,
            "mean_error_first": one.mean_error,
            "mean_error_rest_first": one.mean_error_rest,
            "score": one.score,
            "members": one.members,
            "scores": -error,
        }
        for one in listed
    ]


def _margin_pairs(judged: _Judged, text_of: Callable[[str], str | None] | None) -> list[MarginPair]:
    """Queries whose relevant document was among the results but not first, worst first."""
    if text_of is None:
        return []
    ordered = judged.frame.with_columns(loss=pl.coalesce("loss_rerank", 1.0 - pl.col("ndcg_at_10"))).sort("loss", "query_id", descending=[True, False])
    pairs = []
    for query_id, text, results, candidates in ordered.select("query_id", "text", "result_ids", "candidate_ids").iter_rows():
        gains = {doc: gain for doc, gain in judged.relevant.get(query_id, {}).items() if gain > 0}
        shown = list(results or ())
        reached = [doc for doc in dict.fromkeys([*shown, *(candidates or ())]) if doc in gains]
        above = next((doc for doc in shown if doc not in gains), None)
        if not reached or above is None or (reached[0] in shown and shown.index(reached[0]) < shown.index(above)):
            continue
        best = min(reached, key=lambda doc: (-gains[doc], reached.index(doc)))
        gold_text, above_text = text_of(best), text_of(above)
        if gold_text and above_text:
            pairs.append(MarginPair(query_id, text, gold_text, above_text))
    return pairs


def _occlusion(pairs: Sequence[MarginPair], context: Context, budget: Budget, seed: int, entry: dict[str, Any]) -> dict[str, Any]:
    if context.score is None or not pairs:
        entry.update(status="unknown", reason=(context.score_reason or "no reranker was given") if context.score is None else _NO_PAIRS)
        return {}
    score = context.score()
    found = occlude_margins(
        pairs, score, budget, max_queries=_OCCLUDED_QUERIES, share=_OCCLUSION_SHARE, document_frequency=context.document_frequency, seed=seed
    )
    entry.update(status="done" if found.reason is None else "cut", reason=found.reason)
    return asdict(replace(found, queries=found.queries[:_LISTED], words=found.words[: 2 * _LISTED])) if found.queries else {}


def _attribution(pairs: Sequence[MarginPair], context: Context, budget: Budget, seed: int, entry: dict[str, Any]) -> dict[str, Any]:
    if context.torch_folder is None or not pairs:
        entry.update(status="unknown", reason=(context.torch_reason or "no torch weights were given") if context.torch_folder is None else _NO_PAIRS)
        return {}
    sides = [Pair(pair.query_id, pair.query, text, side) for pair in pairs[: _LISTED // 2] for text, side in ((pair.above, "above"), (pair.gold, "gold"))]
    found = attribute_pairs(context.torch_folder, sides, budget, max_length=context.max_length, max_pairs=_LISTED, seed=seed)
    entry.update(status="done" if found.reason is None else "cut", reason=found.reason)
    return asdict(found) if found.pairs else {}


_NO_PAIRS = "no probe has its relevant document among the results and another one above it"
