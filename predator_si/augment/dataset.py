"""From a diagnosis to training groups: propose, filter, mine, choose, score, count.

What belongs here: the order of the steps, and the data set that comes out. What must not: any filter, generator or teacher of its own.

Proposals come one by one and are looked at in batches: memory grows with what is kept, not with what is proposed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
import polars as pl

from predator_si.augment import filters as steps
from predator_si.augment.clients import fair_log
from predator_si.augment.generators.plan import Plan, plan_for
from predator_si.augment.generators.seeds import seeds_of, target_tokens
from predator_si.augment.generators.standard import standard_generators
from predator_si.augment.labels import label_groups
from predator_si.augment.manifest import dataset_id_of, dataset_manifest
from predator_si.augment.material import Generator, Material
from predator_si.augment.negatives import FirstStage, NegativeMiner
from predator_si.augment.pseudo_labels import Budget, Choice
from predator_si.augment.recipe import ASKED, SOURCES, STEPS, Filters, Guard, Proposal, Sizes
from predator_si.augment.selection import DocumentClusters, select
from predator_si.augment.sieve import Sieve
from predator_si.augment.teacher import EnsembleTeacher
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
_BATCH = 512


@dataclass(frozen=True)
class Dataset:
    """Training groups with how they came about.

    ``examples``: one row per member of a group: ``group_id, query, doc_id, text`` (title and text, as the reranker sees it), ``label`` (1 positive,
    0 negative, between them where it was graded), ``teacher_score`` (null without a teacher), ``source`` (``recipe.SOURCES``), ``method``, ``kind`` (positive,
    graded, hard, medium, random), ``first_stage_rank`` (0: not among the candidates), ``weight`` (of the group: the corrected click estimate, the members'
    agreement where the teacher picked the answer, 1 for generated queries), ``targeted``, ``split`` (train or valid, by a hash of the query). The positive is
    the first row of its group.
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
    teacher: EnsembleTeacher | None,
    sizes: Sizes | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    categories: Mapping[str, str] | None = None,
    filters: Filters | None = None,
    generators: Sequence[Generator] | None = None,
    choice: Choice | None = None,
    budget: Budget | None = None,
) -> Dataset:
    """Training groups aimed at the report's findings.

    Parameters
    ----------
    log
        Query log with clicks: ``text, clicked, impressions`` and optionally ``dwell``, ``sealed`` and ``client_id`` (see ``Material``); may be empty.
    documents
        ``doc_id, title, text`` and optionally ``part``: what queries may be generated from.
    index
        The live first stage: negatives are mined from its candidates. Its ``embedder`` and ``vectors``, where it has them, find near-duplicates by meaning and
        spread the queries over the topics.
    guard
        What the evaluation will ask: kept out.
    teacher
        ``None``: no scores, false negatives are found by their text only, and log queries without a click have no answer.
    on_progress
        Called with (steps done, steps in all).
    categories
        Document id -> category, to find the documents of the report's affected categories.
    generators
        In the order of their worth (of near-duplicates the first stays); ``generators.standard.standard_generators()`` unless said.
    choice, budget
        How the teacher answers log queries, and what it may cost; see ``pseudo_labels``.

    Raises
    ------
    BadInput
        A column is missing, the documents are unusable, or neither log nor documents give a single group: the message names the filter that took most.
    Refused
        ``should_stop`` said so.
    """
    sizes, filters = sizes or Sizes(), filters or Filters()
    _check(documents, filters)
    fair, clients = fair_log(log, filters)
    embedder = getattr(index, "embedder", None)
    material = Material(
        report, fair, documents, index, guard, None if embedder is None else embedder.encode, categories or {}, vectors=getattr(index, "vectors", None)
    )
    shares = Plan(sizes.shares, "as configured") if sizes.shares is not None else plan_for(material)
    plan = _plan(standard_generators() if generators is None else generators, sizes, shares.shares, teacher is not None)
    total = max(2 * sum(wanted for _, wanted in plan), 2)

    def step(done: int) -> None:
        if should_stop():
            raise Refused(f"{cycle_id}: the data set was stopped before it was complete; nothing was written. Start the cycle again when it may run.")
        on_progress(min(done, total - 1), total)

    began = time.perf_counter()
    tally = steps.Yield()
    miner = NegativeMiner(index, sizes, filters, seed)
    sieve = Sieve(material, filters, miner, tally)
    pool = _stream(material, plan, sieve, seed, step)
    streamed = time.perf_counter()
    clusters = _clusters(material, filters, seed)
    chosen, per_cluster = select(pool, sizes, filters, shares.shares, clusters, tally)
    miner.fill(chosen)
    labelled: dict[str, Any] = {}
    same_text = steps.drop_same_text(chosen, {p.doc_id: miner.text(p.doc_id) for p in chosen if p.doc_id}, filters)
    if teacher is not None:
        chosen, labelled = label_groups(
            chosen,
            index,
            teacher,
            np.random.default_rng([seed, len(SOURCES) + 1]),
            choice,
            budget,
            on_share=lambda share: step(int((1 + share) * total / 2)),
            should_stop=should_stop,
        )
        tally.count("answered", chosen)
        chosen = steps.above_floor(chosen, filters)
        tally.count("relevance_floor", chosen)
    false_negatives = steps.drop_false_negatives(chosen, filters)
    chosen = steps.enough_negatives(chosen, filters)
    tally.count("enough_negatives", chosen)
    if not chosen:
        raise BadInput(_nothing_left(cycle_id, tally))
    examples = _examples(chosen, miner.text, sizes.validation_share)
    statistics = {
        **_describe(examples, per_cluster, clusters),
        "yield": tally.steps,
        "filters_off": sorted(filters.off),
        "leakage": dict(sieve.leaks.counts),
        "negatives_dropped": {"same_text": same_text, "teacher": false_negatives},
        "negatives_mined_by_leg": dict(miner.by_leg),
        "clients": clients,
        "documents": seeds_of(material).counts() if any(wanted and g.source not in ASKED for g, wanted in plan) else {},
        "plan": {"shares": dict(shares.shares), "reason": shares.reason},
        "generators": {
            f"{generator.source}: {type(getattr(generator, 'inner', generator)).__name__}": dict(getattr(generator, "counts", {})) for generator, _ in plan
        },
        "teacher": None if teacher is None else teacher.name,
        "teacher_labels": labelled,
        "seconds": {"propose_and_filter": round(streamed - began, 3), "choose_and_label": round(time.perf_counter() - streamed, 3)},
        "seed": seed,
    }
    on_progress(total, total)
    tokens = {p.query: p.sealed for p in chosen if p.sealed is not None}
    manifest = dataset_manifest(
        cycle_id, report, statistics, target_tokens(report), base_documents=documents.height, generators=[g for g, _ in plan], sizes=sizes, filters=filters
    )
    return Dataset(dataset_id_of(cycle_id), examples, statistics, manifest, tokens)


def _check(documents: pl.DataFrame, filters: Filters) -> None:
    lacking = [column for column in ("doc_id", "title", "text") if column not in documents.columns]
    if lacking:
        raise BadInput(f"documents: no column {', '.join(lacking)}; there are {', '.join(documents.columns)}. Pass doc_id, title and text.")
    if documents["doc_id"].is_duplicated().any():
        twice = documents.filter(documents["doc_id"].is_duplicated())["doc_id"][0]
        raise BadInput(f"documents: {twice!r} is there twice. Give each document its own doc_id.")
    strange = sorted(filters.off - set(STEPS))
    if strange:
        raise BadInput(f"filters: {', '.join(strange)} cannot be left out; {', '.join(STEPS)} can.")


def _plan(generators: Sequence[Generator], sizes: Sizes, shares: Mapping[str, float], with_teacher: bool) -> list[tuple[Generator, int]]:
    """Each generator with how many proposals it is asked for."""
    unknown = [generator.source for generator in generators if generator.source not in SOURCES]
    if unknown:
        raise BadInput(f"generators of source {', '.join(unknown)}; the sources are {', '.join(SOURCES)}.")
    made = [generator.source for generator in generators if generator.source not in ASKED]
    per_source = Counter(made)
    whole = sum(shares.get(source, 0.0) for source in per_source) or 1.0

    def wanted(source: str) -> int:
        if source == "clicks":
            return math.ceil(sizes.click_groups * sizes.surplus)
        if source == "log":
            return math.ceil(sizes.log_groups * sizes.surplus) if with_teacher else 0
        return math.ceil(sizes.document_groups * sizes.surplus * shares.get(source, 0.0) / whole / per_source[source])

    return [(generator, wanted(generator.source)) for generator in generators]


def _stream(material: Material, plan: Sequence[tuple[Generator, int]], sieve: Sieve, seed: int, step: Callable[[int], None]) -> list[Proposal]:
    """What survives the sieve, batch by batch; each generator draws from its own random numbers, so that one more changes nothing for the others."""
    pool: list[Proposal] = []
    before = 0
    for generator, wanted in plan:
        step(before)
        seen = 0
        proposals = generator.propose(material, wanted, np.random.default_rng([seed, 1 + SOURCES.index(generator.source)])) if wanted else iter(())
        for batch in _batches(proposals):
            pool += sieve.passed(batch)
            seen += len(batch)
            step(before + min(seen, wanted))
        before += wanted
    return pool


def _batches(proposals: Iterator[Proposal]) -> Iterator[list[Proposal]]:
    while batch := list(islice(proposals, _BATCH)):
        yield batch


def _clusters(material: Material, filters: Filters, seed: int) -> DocumentClusters | None:
    """Clusters of the documents that queries may be made from; null where the index has no vectors."""
    if material.vectors is None:
        return None
    indexed = set(material.index.doc_ids)
    free = [doc_id for doc_id in material.documents["doc_id"].to_list() if doc_id in indexed and doc_id not in material.guard.eval_doc_ids]
    return DocumentClusters(material.vectors, free, filters.clusters, seed) if free else None


def _nothing_left(cycle_id: str, tally: steps.Yield) -> str:
    greediest = tally.greediest()
    if greediest is None:
        return (
            f"{cycle_id}: no training group: neither the log nor the documents gave a single query. Collect traffic, or index documents with titles and text."
        )
    step, taken, of = greediest
    last = next((name for name, left in tally.steps.items() if not sum(left.values())), step)
    return (
        f"{cycle_id}: no training group is left; {step} took most, {taken} of {of}, and the last fell at {last}. Collect more clicks or documents, or loosen "
        f"them. Left: {tally.steps}"
    )


def _examples(proposals: Sequence[Proposal], text: Callable[[str], str], validation_share: float) -> pl.DataFrame:
    rows = []
    for group, proposal in enumerate(proposals):
        members = [(proposal.doc_id, "positive", proposal.first_rank), *((doc_id, kind, rank) for doc_id, _, kind, rank in proposal.negatives)]
        split = "valid" if stable_fraction(proposal.query) < validation_share else "train"
        for at, (doc_id, kind, rank) in enumerate(members):
            score = None if proposal.teacher is None else float(proposal.teacher[at])
            label = 1.0 if at == 0 else proposal.grades.get(doc_id, 0.0)
            rows.append((group, proposal.query, doc_id, label, score, proposal.source, proposal.method, kind, rank, proposal.weight, proposal.targeted, split))
    frame = pl.DataFrame(rows, schema={name: kind for name, kind in SCHEMA.items() if name != "text"}, orient="row")
    # Each text once, by a join: thousands of groups share the same documents.
    ids = frame["doc_id"].unique(maintain_order=True).to_list()
    texts = pl.DataFrame({"doc_id": ids, "text": [text(doc_id) for doc_id in ids]}, schema={"doc_id": pl.String, "text": pl.String})
    return frame.join(texts, on="doc_id", how="left", maintain_order="left").select(list(SCHEMA))


def _describe(examples: pl.DataFrame, per_cluster: Mapping[str, int], clusters: DocumentClusters | None) -> dict[str, Any]:
    """Sizes and diversity.

    ``diversity_score`` is distinct-2 (Li et al. 2016): different word pairs over all word pairs of the queries, 0..1. ``cluster_entropy`` is the Shannon
    entropy of the made-up groups over the clusters of documents, divided by that of as many equal clusters: 1 is spread evenly, 0 is one cluster.
    """
    groups = examples.filter(pl.col("kind") == "positive")
    words = token_lists(groups["query"].to_list())
    pairs = [pair for query in words for pair in pairwise(query)]
    shares = np.array(list(per_cluster.values()), dtype=np.float64)
    shares = shares / shares.sum() if shares.size else shares
    known = clusters is not None and len(clusters.shares) > 1 and shares.size > 0
    entropy = float(-(shares * np.log(shares)).sum() / math.log(len(clusters.shares))) if known and clusters is not None else None
    by = {column: dict(examples.group_by(column).len().sort(column).iter_rows()) for column in ("kind", "split")}
    return {
        "total_examples": examples.height,
        "groups": groups.height,
        "avg_length": float(np.mean([len(query) for query in words])),
        "avg_length_unit": "words per query",
        "diversity_score": len(set(pairs)) / len(pairs) if pairs else None,
        "diversity_method": "distinct-2 over the words of the queries",
        "cluster_entropy": entropy,
        "groups_by_cluster": dict(per_cluster),
        "groups_by_source": dict(groups.group_by("source").len().sort("source").iter_rows()),
        "groups_by_method": dict(groups.group_by("method").len().sort("method").iter_rows()),
        "targeted_groups": int(groups["targeted"].sum()),
        "examples_by_kind": by["kind"],
        "examples_by_split": by["split"],
    }
