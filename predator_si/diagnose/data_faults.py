"""Are the documents the cause: some gone, some never arrived, cut short, wrongly decoded, or in a language that nobody asks in.

What belongs here: answers from the index facts of both windows and from what the judged probes miss. What must not: rankings of what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from predator_si.diagnose.window import Finding, Window, at_least, unknown

if TYPE_CHECKING:
    from predator_si.diagnose.ranking_faults import Paired
    from predator_si.diagnose.tree import Levels

DELETED, EDITED, DECODED = 0.01, 0.02, 0.005
"""Shares of documents that ordinary days remove, shorten or damage; a fault is more than that."""
_SHORTER = 0.8
_LEAST = 20
_FOREIGN = 0.005


def from_facts(reference: Window, current: Window, paired: Paired | None, levels: Levels) -> list[Finding]:
    """Shrunken index, truncated documents and damaged encoding, by the documents that both windows' samples should hold."""
    then, now = _facts(reference), _facts(current)
    if then is None or now is None:
        which = "reference" if then is None else "current"
        reason = f"the service told no index facts in the {which} window"
        return [unknown("data_fault", detail, reason) for detail in ("shrunken_index", "truncated_documents", "encoding")]
    old, new = then["sample"], now["sample"]
    expected = _expected(old, then.get("sampled_below"), now.get("sampled_below"))
    gone = [doc_id for doc_id in expected if doc_id not in new]
    both = [doc_id for doc_id in expected if doc_id in new]
    shorter = [doc_id for doc_id in both if new[doc_id][0] < _SHORTER * old[doc_id][0]]
    damaged = [doc_id for doc_id in both if new[doc_id][1] > 0 and old[doc_id][1] == 0]
    kept = float(np.median([new[doc_id][0] / max(old[doc_id][0], 1) for doc_id in shorter])) if shorter else None
    rewritten = {"same_documents": len(both), "documents_reference": then["documents"], "documents_current": now["documents"]}
    # Wrong decoding makes texts longer, cutting makes them shorter; where documents are damaged and shorter alike it was the decoding.
    loss = None if paired is None else paired.drop
    return [
        _share("shrunken_index", len(gone), len(expected), DELETED, levels, loss, {**rewritten, "gone": len(gone), "examples": sorted(gone)[:5]}),
        _share("encoding", len(damaged), len(both), DECODED, levels, loss, {**rewritten, "damaged": len(damaged), "examples": sorted(damaged)[:5]}),
        _share("truncated_documents", len(set(shorter) - set(damaged)), len(both), EDITED, levels, loss, {**rewritten, "kept_of_the_length": kept}),
    ]


def _facts(window: Window) -> Mapping[str, Any] | None:
    facts = None if window.index is None else window.index.get("facts")
    return facts if isinstance(facts, Mapping) and facts.get("sample") else None


def _expected(old: Mapping[str, Any], old_limit: int | None, new_limit: int | None) -> list[str]:
    """The reference's witnesses that the current sample must hold if they are still indexed: those hashed below its limit."""
    from predator_si.search.index_facts import witness_hash

    return [doc_id for doc_id in old if new_limit is None or witness_hash(doc_id) <= new_limit]


def _share(detail: str, hits: int, n: int, ordinary: float, levels: Levels, loss: float | None, evidence: dict[str, Any]) -> Finding:
    if n < _LEAST:
        return unknown("data_fault", detail, f"{n} documents stand in both samples; at least {_LEAST} are needed", **evidence)
    p_value = at_least(hits, n, ordinary)
    hit = p_value <= levels.each and hits / n >= 2 * ordinary
    return Finding(
        "data_fault",
        detail,
        "yes" if hit else "no",
        explained_loss=loss,
        p_value=p_value,
        n=n,
        test=f"binomial against an ordinary share of {ordinary:g}",
        evidence={**evidence, "share": hits / n},
    )


def never_arrived(reference: Window, current: Window, levels: Levels) -> Finding:
    """Stale index: queries whose relevant documents are not indexed, and were not known to the reference window either."""
    if current.indexed_ids is None:
        return unknown("data_fault", "stale_index", "the ids of the indexed documents are not known")
    indexed = set(current.indexed_ids)
    before = _seen(reference)
    known = set(reference.probes["query_id"].to_list())
    relevant = gains(current)
    measured = {q: float(v) for q, v in current.probes.select("query_id", "ndcg_at_10").drop_nulls().iter_rows() if q in relevant}
    if len(measured) < _LEAST:
        return unknown("data_fault", "stale_index", f"{len(measured)} judged probes were answered; at least {_LEAST} are needed")
    lacking = [q for q in measured if not any(doc in indexed for doc in relevant[q]) and not any(doc in before for doc in relevant[q])]
    fresh = [q for q in lacking if q not in known]
    others = [value for q, value in measured.items() if q not in set(lacking)]
    share = len(lacking) / len(measured)
    p_value = at_least(len(lacking), len(measured), DELETED)
    lag = current.snapshot.metrics.get("etl_lag_seconds")
    same = None
    if reference.index is not None and current.index is not None:
        same = reference.index.get("version") == current.index.get("version") and reference.index.get("built_at") == current.index.get("built_at")
    return Finding(
        "data_fault",
        "stale_index",
        "yes" if p_value <= levels.each and share >= 2 * DELETED else "no",
        explained_loss=share * float(np.mean(others)) if others else share,
        p_value=p_value,
        n=len(measured),
        test=f"binomial against an ordinary share of {DELETED:g}",
        evidence={
            "queries_without_an_indexed_answer": len(lacking),
            "of_them_new_since_the_reference": len(fresh),
            "index_unchanged_since_the_reference": same,
            "built_at": None if current.index is None else current.index.get("built_at"),
            "etl_lag_seconds": None if lag is None else lag.value,
        },
    )


def language(current: Window, levels: Levels) -> Finding:
    """Queries in a script that the index has next to no letter of."""
    facts = _facts(current)
    if facts is None or not facts.get("scripts"):
        return unknown("data_fault", "language", "the service told no script mix of its documents")
    scripts = scripts_of(current.probes["text"].to_list())
    scores = current.probes["ndcg_at_10"].to_list()
    foreign = [place for place, script in enumerate(scripts) if script is not None and facts["scripts"].get(script, 0.0) < _FOREIGN]
    if len(scripts) < _LEAST:
        return unknown("data_fault", "language", f"{len(scripts)} probes; at least {_LEAST} are needed")
    lost = [scores[place] for place in foreign if scores[place] is not None]
    rest = [score for place, score in enumerate(scores) if score is not None and place not in set(foreign)]
    share, loss = len(foreign) / len(scripts), (float(np.mean(rest)) - float(np.mean(lost))) if lost and rest else 0.0
    p_value = at_least(len(foreign), len(scripts), DELETED)
    return Finding(
        "data_fault",
        "language",
        "yes" if p_value <= levels.each and share * loss >= levels.loss else "no",
        explained_loss=share * max(loss, 0.0),
        p_value=p_value,
        n=len(scripts),
        test=f"binomial against a share of {DELETED:g}",
        evidence={"foreign_queries": len(foreign), "scripts_of_documents": facts["scripts"]},
    )


def scripts_of(texts: Sequence[str]) -> list[str | None]:
    """The script that most letters of each text are in, among those of the index facts."""
    import polars as pl

    from predator_si.search.index_facts import SCRIPTS

    series = pl.Series("text", list(texts), dtype=pl.String)
    counts = np.array([series.str.count_matches(pattern).to_numpy() for pattern in SCRIPTS.values()])
    names = list(SCRIPTS)
    return [names[int(column.argmax())] if column.max() else None for column in counts.T]


def gains(window: Window) -> dict[str, dict[str, float]]:
    """Query -> relevant document -> gain."""
    from predator_si.diagnose.misses import relevant_documents

    return relevant_documents(window.judgments)


def _seen(window: Window) -> set[str]:
    """Ids known to be indexed then: given, or found by any probe."""
    seen = set(window.indexed_ids or ())
    for column in ("result_ids", "candidate_ids", "lexical_ids", "dense_ids"):
        if column in window.probes.columns:
            seen.update(doc for found in window.probes[column].to_list() for doc in found or ())
    return seen
