"""What the loop hands to the explaining methods: its log, index, topics of earlier cycles, and the served model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import polars as pl

from predator_si.diagnose import Budget, Context, Limits, Score, TopicMemory, explain
from predator_si.errors import BadInput, Missing
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.improve import offline_reranker, trainable
from predator_si.records import DiagnosticReport
from predator_si.search.retrieve import HybridIndex


def explain_causes(
    loop: Loop,
    report: DiagnosticReport,
    probes: pl.DataFrame,
    judgments: pl.DataFrame,
    before: Sequence[str],
    now: Sequence[str],
    index: HybridIndex,
    listable: Collection[str] | None = None,
) -> DiagnosticReport:
    """The report with words, topics, conjunctions and the model's own view of the worst queries, within the scale's budget; the topics are remembered.

    A model that cannot be loaded leaves its methods unknown with the reason: the diagnosis does not depend on them.
    """
    limits = replace(Limits(), explain_seconds=loop.plan.scale.explain_seconds)
    budget = Budget(limits.explain_seconds, limits.explain_forwards)
    champion = loop.serving().model
    context = Context(
        reference_queries=before,
        current_queries=now,
        document_frequency=index.document_frequencies(),
        categories=dict(loop.corpus.documents().select("doc_id", "package").iter_rows()),
        text_of=lambda doc_id: index.text(doc_id) if doc_id in index else None,
        depth=loop.plan.scale.depth,
        embedder=index.embedder,
        topic_memory=TopicMemory.load(loop.home.topics),
        listable=listable,
    )
    try:
        context = replace(context, torch_folder=loop.models.path(trainable(loop, champion)), max_length=loop.models.card(champion).max_length)
    except (Missing, BadInput) as error:
        context = replace(context, torch_reason=str(error))

    def score() -> Score:
        return offline_reranker(loop, champion).score

    filled, memory = explain(report, probes, judgments, replace(context, score=score), loop.plan.scale.seed, limits=limits, budget=budget)
    if memory is not None:
        memory.save(loop.home.topics)
    return filled
