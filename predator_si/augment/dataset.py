"""From a diagnosis to training groups: propose, filter, mine, score, count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from predator_si.augment import filters as steps
from predator_si.augment.generators.clicks import propose_from_clicks
from predator_si.augment.manifest import dataset_id_of, dataset_manifest
from predator_si.augment.negatives import FirstStage, mine_hard_negatives
from predator_si.augment.recipe import Filters, Guard, Proposal, Sizes
from predator_si.augment.seeds import propose_from_documents, target_tokens
from predator_si.corpora.text import stable_fraction
from predator_si.corpora.words import token_lists
from predator_si.errors import BadInput, Refused
from predator_si.records import DiagnosticReport

SCHEMA = {
    "group_id": pl.Int64,
    "query": pl.String,
    "doc_id": pl.String,
    "text": pl.String,
    "label": pl.Float64,
    "teacher_score": pl.Float64,
    "source": pl.String,
    "method": pl.String,
    "kind": pl.String,
    "first_stage_rank": pl.Int64,
    "weight": pl.Float64,
    "targeted": pl.Boolean,
    "split": pl.String,
}
_TEACHER_BATCH = 512


@dataclass(frozen=True)
class Dataset:
    """Training groups with how they came about.

    ``examples``: one row per member of a group: ``group_id, query, doc_id, text`` (title and text, as the reranker sees it), ``label`` (1 positive,
    0 negative), ``teacher_score`` (null without a teacher), ``source`` (clicks, title, phrase), ``method``, ``kind`` (positive, hard, medium, random),
    ``first_stage_rank`` (0: not among the candidates), ``weight`` (of the group: the corrected click estimate, 1 for generated queries), ``targeted``,
    ``split`` (train or valid, by a hash of the query). The positive is the first row of its group.
    """

    dataset_id: str
    examples: pl.DataFrame
    statistics: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    """Sealed token of each client's query that has one: what ``write_dataset`` stores in its place, so that erasing the client reaches every version."""


def build_dataset(
    cycle_id: str,
    report: DiagnosticReport,
    log: pl.DataFrame,
    documents: pl.DataFrame,
    index: FirstStage,
    guard: Guard,
    teacher: steps.Teacher | None,
    sizes: Sizes | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    categories: Mapping[str, str] | None = None,
    filters: Filters | None = None,
) -> Dataset:
    """Training groups aimed at the report's findings.

    Parameters
    ----------
    log
        Query log with clicks: ``text, clicked, impressions`` and optionally ``dwell`` and ``sealed`` (see ``click_estimates``); may be empty.
    documents
        ``doc_id, title, text`` and optionally ``part``: what queries may be generated from.
    index
        The live first stage: negatives are mined from its candidates.
    guard
        What the evaluation will ask: kept out.
    teacher
        (query, text) pairs -> scores of shape ``(n,)``, higher is more relevant; ``None``: no scores, and false negatives are found by their text only.
    on_progress
        Called with (steps done, steps in all).
    categories
        Document id -> category, to find the documents of the report's affected categories.

    Raises
    ------
    BadInput
        A column is missing, or neither log nor documents give a single group: the message says where they were lost.
    Refused
        ``should_stop`` said so.
    """
    sizes, filters = sizes or Sizes(), filters or Filters()
    rng = np.random.default_rng(seed)
    lacking = [column for column in ("doc_id", "title", "text") if column not in documents.columns]
    if lacking:
        raise BadInput(f"documents: no column {', '.join(lacking)}; there are {', '.join(documents.columns)}. Pass doc_id, title and text.")
    targets = target_tokens(report)
    clicks, click_counts = propose_from_clicks(log, frozenset(targets)) if log.height else ([], {"searches": 0})
    generated, seed_counts = propose_from_documents(documents, report, guard, sizes, filters, categories or {}, rng)
    tally = steps.Yield()
    proposals = [*clicks, *generated]
    tally.count("proposed", proposals)
    proposals = steps.fit_length(proposals, dict(zip(documents["doc_id"], documents["text"].fill_null(""), strict=True)), filters)
    tally.count("length_and_copy", proposals)
    proposals, leaks = steps.without_leaks(proposals, guard, filters)
    tally.count("leakage", proposals)
    proposals = steps.without_near_duplicates(proposals, filters)
    tally.count("near_duplicate", proposals)
    known = set(index.doc_ids)
    proposals = [proposal for proposal in proposals if proposal.doc_id in known]
    tally.count("indexed", proposals)
    proposals = _limited(proposals, sizes, spare=sizes.surplus)
    tally.count("sampled", proposals)
    total = 2 * len(proposals)

    def step(done: int) -> None:
        if should_stop():
            raise Refused(f"{cycle_id}: the data set was stopped before it was complete; nothing was written. Start the cycle again when it may run.")
        on_progress(done, total)

    step(0)
    mine_hard_negatives(proposals, index, sizes, filters, rng, step)
    proposals = steps.found_again(proposals, filters)
    tally.count("round_trip", proposals)
    proposals = steps.capped_per_document(proposals, filters)
    tally.count("per_document_cap", proposals)
    proposals = _limited(proposals, sizes)
    tally.count("size", proposals)
    positives = {doc_id: index.text(doc_id) for doc_id in {proposal.doc_id for proposal in proposals}}
    same_text = steps.drop_same_text(proposals, positives, filters)
    if teacher is not None:
        _score(proposals, positives, teacher, lambda share: step(total // 2 + int(share * total) // 2))
    proposals, false_negatives = steps.drop_false_negatives(proposals, filters)
    tally.count("teacher", proposals)
    proposals = steps.enough_negatives(proposals, filters)
    tally.count("enough_negatives", proposals)
    if not proposals:
        advice = "Collect more clicks or documents, or loosen the filter that took most."
        raise BadInput(f"{cycle_id}: no training group is left after the filters; left by step: {tally.steps}. {advice}")
    examples = _examples(proposals, positives, sizes.validation_share)
    statistics = {
        **_describe(examples),
        "yield": tally.steps,
        "leakage": leaks,
        "negatives_dropped": {"same_text": same_text, "teacher": false_negatives["negatives"]},
        "irrelevant_queries_dropped": false_negatives["irrelevant_queries"],
        "clicks": click_counts,
        "documents": seed_counts,
        "teacher": teacher is not None,
        "seed": seed,
    }
    dataset_id = dataset_id_of(cycle_id)
    on_progress(total, total)
    tokens = {proposal.query: proposal.sealed for proposal in proposals if proposal.sealed is not None}
    return Dataset(dataset_id, examples, statistics, dataset_manifest(cycle_id, report, statistics, targets, base_documents=documents.height), tokens)


def _limited(proposals: list[Proposal], sizes: Sizes, spare: float = 1.0) -> list[Proposal]:
    """Clicks surest first, generated queries in their shuffled order, each up to its size (times ``spare``).

    Targeted ones keep at most their share of the generated groups, unless there is nothing else.
    """
    clicks = [proposal for proposal in proposals if proposal.source == "clicks"][: int(sizes.click_groups * spare)]
    room = int(sizes.document_groups * spare)
    generated = [proposal for proposal in proposals if proposal.source != "clicks"]
    aimed = [proposal for proposal in generated if proposal.targeted][: int(np.ceil(room * sizes.targeted_share))]
    others = [proposal for proposal in generated if not proposal.targeted][: room - len(aimed)]
    kept = {id(proposal) for proposal in (*clicks, *aimed, *others)}
    return [proposal for proposal in proposals if id(proposal) in kept]


def _score(proposals: list[Proposal], positives: Mapping[str, str], teacher: steps.Teacher, step: Callable[[float], None]) -> None:
    pairs = [(proposal.query, text) for proposal in proposals for text in (positives[proposal.doc_id], *(entry[1] for entry in proposal.negatives))]
    scores = np.empty(len(pairs), dtype=np.float64)
    for start in range(0, len(pairs), _TEACHER_BATCH):
        batch = pairs[start : start + _TEACHER_BATCH]
        answer = np.asarray(teacher(batch), dtype=np.float64).reshape(-1)
        if len(answer) != len(batch) or not np.isfinite(answer).all():
            raise BadInput(f"teacher: {len(answer)} scores for {len(batch)} pairs, {int(np.isfinite(answer).sum())} of them finite. Check the teacher model.")
        scores[start : start + len(batch)] = answer
        step(min(1.0, (start + len(batch)) / len(pairs)))
    at = 0
    for proposal in proposals:
        size = 1 + len(proposal.negatives)
        proposal.teacher = scores[at : at + size]
        at += size


def _examples(proposals: list[Proposal], positives: Mapping[str, str], validation_share: float) -> pl.DataFrame:
    rows = []
    for group, proposal in enumerate(proposals):
        members = [(proposal.doc_id, positives[proposal.doc_id], "positive", proposal.first_rank), *proposal.negatives]
        split = "valid" if stable_fraction(proposal.query) < validation_share else "train"
        for at, (doc_id, text, kind, rank) in enumerate(members):
            score = None if proposal.teacher is None else float(proposal.teacher[at])
            label = 1.0 if at == 0 else 0.0
            rows.append(
                (group, proposal.query, doc_id, text, label, score, proposal.source, proposal.method, kind, rank, proposal.weight, proposal.targeted, split)
            )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _describe(examples: pl.DataFrame) -> dict[str, Any]:
    """Sizes and diversity. ``diversity_score`` is distinct-2 (Li et al. 2016): different word pairs over all word pairs of the queries, 0..1."""
    groups = examples.filter(pl.col("kind") == "positive")
    words = token_lists(groups["query"].to_list())
    pairs = [pair for query in words for pair in pairwise(query)]
    by = {column: dict(examples.group_by(column).len().sort(column).iter_rows()) for column in ("kind", "split")}
    return {
        "total_examples": examples.height,
        "groups": groups.height,
        "avg_length": float(np.mean([len(query) for query in words])),
        "avg_length_unit": "words per query",
        "diversity_score": len(set(pairs)) / len(pairs) if pairs else None,
        "diversity_method": "distinct-2 over the words of the queries",
        "groups_by_source": dict(groups.group_by("source").len().sort("source").iter_rows()),
        "groups_by_method": dict(groups.group_by("method").len().sort("method").iter_rows()),
        "targeted_groups": int(groups["targeted"].sum()),
        "examples_by_kind": by["kind"],
        "examples_by_split": by["split"],
    }
