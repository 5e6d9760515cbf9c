"""Which documents queries are generated from: those of the weak slices and words first, within a cap, never those of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from predator_si.augment.minhash import NearDuplicates, word_shingles
from predator_si.augment.phrases import Corpus, document_queries
from predator_si.augment.recipe import Filters, Guard, Proposal, Sizes
from predator_si.corpora.words import token_lists
from predator_si.records import DiagnosticReport


def target_tokens(report: DiagnosticReport) -> list[str]:
    """Words to aim at: those of the report's ``augment`` action, else its weak words, most important first.

    Where the report confirmed its findings on the other half of the probes (``targets_reproduced``), only the action's own words: there may be none.
    """
    actions = [action for action in report.recommended_actions if action.get("type") == "augment"]
    wanted = [token for action in actions for token in action.get("target_tokens", [])]
    confirmed = any(action.get("targets_reproduced") for action in actions)
    return list(dict.fromkeys(wanted if wanted or confirmed else list(report.xai_insights.importance_scores)))


def target_categories(report: DiagnosticReport) -> set[str]:
    """Categories and parts to aim at: the affected ones, or only those that the report confirmed on the other half of the probes."""
    confirmed = [action for action in report.recommended_actions if action.get("type") == "augment" and action.get("targets_reproduced")]
    return {category for action in confirmed for category in action["target"]} if confirmed else set(report.root_cause_analysis.affected_categories)


def propose_from_documents(
    documents: pl.DataFrame, report: DiagnosticReport, guard: Guard, sizes: Sizes, filters: Filters, categories: Mapping[str, str], rng: np.random.Generator
) -> tuple[list[Proposal], dict[str, int]]:
    """Queries from documents alone, and counts of how the documents were chosen.

    A document is targeted when its category or part is a target, or one of the report's words is in its text (words in more than a tenth of all
    documents do not count). Targeted documents fill up to ``sizes.targeted_share``, others the rest. A document of ``guard``, or with nearly the text of one,
    gives no query.
    """
    affected = target_categories(report)
    parts = documents["part"].to_list() if "part" in documents.columns else [None] * documents.height
    ids, titles, texts = documents["doc_id"].to_list(), documents["title"].fill_null("").to_list(), documents["text"].fill_null("").to_list()
    corpus = Corpus([f"{title} {text}" for title, text in zip(titles, texts, strict=True)])
    words = {word for word in target_tokens(report) if corpus.telling(word)}
    bodies = token_lists([f"{title} {text}" for title, text in zip(titles, texts, strict=True)]) if words else [[]] * len(ids)
    weak = [categories.get(i) in affected or part in affected or not words.isdisjoint(body) for i, part, body in zip(ids, parts, bodies, strict=True)]
    targeted = np.array(weak, dtype=bool)
    guarded = np.array([doc_id in guard.eval_doc_ids for doc_id in ids], dtype=bool)
    wanted = int(np.ceil(sizes.document_groups * sizes.surplus / max(sizes.queries_per_document, 1)))
    pools = [rng.permutation(np.flatnonzero(targeted & ~guarded)), rng.permutation(np.flatnonzero(~targeted & ~guarded))]
    share = int(np.ceil(wanted * sizes.targeted_share))
    chosen = np.concatenate([pools[0][:share], pools[1][: wanted - min(share, len(pools[0]))]])
    twins = _near_guard(texts, np.flatnonzero(guarded), chosen, filters.same_text_similarity)
    proposals: list[Proposal] = []
    for index, twin in zip(chosen.tolist(), twins, strict=True):
        if not twin:
            found = document_queries(titles[index], texts[index], corpus, rng)[: sizes.queries_per_document]
            proposals.extend(Proposal(query, ids[index], source, method, 1.0, bool(targeted[index])) for query, source, method in found)
    counts = {
        "documents": len(ids),
        "targeted_documents": int(targeted.sum()),
        "evaluation_documents_left_out": int(guarded.sum()),
        "near_evaluation_documents_left_out": sum(twins),
        "seed_documents": len(chosen) - sum(twins),
        "targeted_seed_documents": int(targeted[chosen].sum()) - sum(twin for index, twin in zip(chosen, twins, strict=True) if targeted[index]),
    }
    return proposals, counts


def _near_guard(texts: list[str], guarded: np.ndarray, chosen: np.ndarray, similarity: float) -> list[bool]:
    known = NearDuplicates(similarity)
    known.add_all(word_shingles([texts[index] for index in guarded]))
    return known.similar(word_shingles([texts[index] for index in chosen]))
