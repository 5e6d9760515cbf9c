"""One report on how a window's queries, scores and documents differ from those of healthy windows.

What belongs here: which comparisons there are, how many tests are looked at together, what is worth a word. What must not: reading events, gates.
Drift alone never starts a cycle (``monitor.evidence`` says what it may add).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from predator_si.corpora.vocabulary import new_vocabulary, shared_words
from predator_si.monitor.drift.domain import Vectorise, domain_classifier, hashed_ngrams
from predator_si.monitor.drift.language import language_mix
from predator_si.monitor.drift.quality_report import describe_requests
from predator_si.monitor.drift.shift import mix_shift, number_shift
from predator_si.records import DriftItem, DriftReport, MetricsSnapshot
from predator_si.statistics import holm

ALPHA = 0.01
LEAST = {"query_domain": 0.60, "document_domain": 0.60, "top_score": 0.15, "score_margin": 0.15, "new_tokens": 0.05, "language_mix": 0.05}
"""The least statistic that is worth a word: area under the curve, distance of distribution functions, excess rate of new words, share of texts."""
_SHOWN = 10


@dataclass(frozen=True)
class Documents:
    """A sample of an index generation: texts (or any keys that change with the text) and their vectors, row by row."""

    keys: tuple[str, ...]
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    generation: str = ""


def measure_drift(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    snapshot: MetricsSnapshot,
    *,
    created_at: datetime,
    reference_window: tuple[datetime, datetime],
    embed: Vectorise | None = None,
    documents: tuple[Documents, Documents] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    min_clients: int = 3,
) -> DriftReport:
    """Compare the requests of healthy windows with those of ``snapshot``'s window.

    An item has drifted when its p-value survives Holm's correction over the report at ``alpha`` and its statistic reaches :data:`LEAST`: sure, and large
    enough to matter. What cannot be compared is null with its reason.

    Parameters
    ----------
    reference, current
        Search events of people's requests with their texts opened (``user_query`` null: erased).
    embed
        Texts to vectors; null: hashed character n-grams stand in, and the item says so.
    documents
        Samples of the reference's index generation and of the current one.
    min_clients
        A word of people's queries is listed only when so many different clients used it.
    """
    started = time.perf_counter()
    sides = [_distinct(side) for side in (reference, current)]
    texts = [side["user_query"].drop_nulls().to_list() for side in sides]
    items = [
        _domain("query_domain", texts[0], texts[1], embed or hashed_ngrams, "queries" if embed else "queries (hashed n-grams: no embedder)", seed),
        _documents(documents, seed),
        *_scores(reference, current, seed),
        _new_tokens(texts[0], texts[1], _listable(current, min_clients)),
        mix_shift("language_mix", language_mix(texts[0]), language_mix(texts[1]), LEAST["language_mix"], seed),
    ]
    return DriftReport(
        snapshot_id=snapshot.snapshot_id,
        champion=snapshot.champion,
        created_at=created_at,
        reference_start=reference_window[0],
        reference_end=reference_window[1],
        window_start=snapshot.window_start,
        window_end=snapshot.window_end,
        alpha=alpha,
        items=_judged(items, alpha),
        erased=int(current["user_query"].null_count()),
        seconds=time.perf_counter() - started,
    )


def _distinct(requests: pl.DataFrame) -> pl.DataFrame:
    """One request of each text: the same query asked a hundred times is one observation. Erased ones count each."""
    known = requests.filter(pl.col("user_query").is_not_null() & (pl.col("user_query").str.strip_chars() != "")).sort("timestamp")
    return pl.concat([known.unique("user_query", keep="first", maintain_order=True), requests.filter(pl.col("user_query").is_null())])


def _domain(name: str, reference: Sequence[str], current: Sequence[str], vectorise: Vectorise, what: str, seed: int) -> DriftItem:
    found = domain_classifier(reference, current, vectorise, seed=seed)
    measure = "area under the curve of a classifier of old and new"
    if isinstance(found, str):
        n = (len(set(reference)), len(set(current)))
        return DriftItem(name=name, statistic=None, measure=measure, n=n, threshold=LEAST[name], reason=f"{what}: {found}")
    low, high = found.null_interval
    return DriftItem(
        name=name,
        statistic=found.auc,
        measure=measure,
        interval=found.interval,
        null_interval=found.null_interval,
        p=found.p,
        threshold=LEAST[name],
        n=found.n,
        reason=f"{what}: old and new are told apart with an area of {found.auc:.2f}; chance gives {low:.2f} to {high:.2f}",
        details={"shared": found.shared},
    )


def _documents(documents: tuple[Documents, Documents] | None, seed: int) -> DriftItem:
    if documents is None:
        why = "documents: no sample of an earlier index generation"
        return DriftItem(name="document_domain", statistic=None, threshold=LEAST["document_domain"], reason=why)
    before, now = documents
    rows = {key: vector for side in documents for key, vector in zip(side.keys, side.vectors, strict=True)}
    what = f"documents of index generations {before.generation} and {now.generation}"
    return _domain("document_domain", before.keys, now.keys, lambda keys: np.stack([rows[key] for key in keys]), what, seed)


def _scores(reference: pl.DataFrame, current: pl.DataFrame, seed: int) -> list[DriftItem]:
    """Scores are compared only where one model gave them: another model, or a stand-in, has another scale."""
    names = ("top_score", "score_margin")
    scored = [_distinct(side.filter(pl.col("stands_for").is_null() & ~pl.col("degraded").fill_null(False))) for side in (reference, current)]
    if len(set(pl.concat([side["model_digest"] for side in scored]).drop_nulls())) > 1:
        why = "the windows were ranked by different models, whose scores have different scales"
        return [DriftItem(name=name, statistic=None, threshold=LEAST[name], n=(scored[0].height, scored[1].height), reason=f"{name}: {why}") for name in names]
    before, now = (describe_requests(side) for side in scored)
    return [number_shift(name, before[name].drop_nulls().to_numpy(), now[name].drop_nulls().to_numpy(), LEAST[name], seed) for name in names]


def _listable(requests: pl.DataFrame, min_clients: int) -> frozenset[str]:
    askers = requests.select(pl.coalesce("client_id", "query_id")).to_series().to_list()
    return shared_words(requests["user_query"].to_list(), askers, min_clients)


def _new_tokens(reference: Sequence[str], current: Sequence[str], listable: frozenset[str]) -> DriftItem:
    found = new_vocabulary(reference, current, listable=listable)
    measure = "rate of words that the reference lacks, above what its own further queries would bring"
    if found.new_rate is None or found.expected_new_rate is None or found.error is None or min(found.queries) < 20:
        why = found.reason or f"{found.queries[0]} and {found.queries[1]} distinct queries, 20 each are needed"
        return DriftItem(name="new_tokens", statistic=None, measure=measure, n=found.queries, threshold=LEAST["new_tokens"], reason=f"new words: {why}")
    excess = found.new_rate - found.expected_new_rate
    return DriftItem(
        name="new_tokens",
        statistic=excess,
        measure=measure,
        interval=(excess - 1.96 * found.error, excess + 1.96 * found.error),
        p=found.p_value,
        threshold=LEAST["new_tokens"],
        n=found.queries,
        reason=f"new words: {found.new_rate:.1%} of the words, {found.expected_new_rate:.1%} were to be expected",
        details={"new_rate": found.new_rate, "expected_new_rate": found.expected_new_rate, "tokens": [one["token"] for one in found.new_tokens[:_SHOWN]]},
    )


def _judged(items: Sequence[DriftItem], alpha: float) -> list[DriftItem]:
    tested = [item for item in items if item.p is not None]
    adjusted = dict(zip((item.name for item in tested), holm([item.p for item in tested if item.p is not None]).tolist(), strict=True))
    judged = []
    for item in items:
        p = adjusted.get(item.name)
        if p is None or item.statistic is None or item.threshold is None:
            judged.append(item)
            continue
        sure, large = p <= alpha, item.statistic >= item.threshold
        why = "drifted" if sure and large else "surely different, but too little to matter" if sure else "no more than chance"
        judged.append(item.model_copy(update={"adjusted_p": p, "drifted": sure and large, "reason": f"{item.reason}: {why}"}))
    return judged
