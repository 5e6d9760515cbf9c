"""What a search service runs on: an index over some documents, a reranker, a fusion weight; healthy ones, and ones that somebody broke.

What belongs here: building them from a collection, and their NDCG over all its queries. What must not: traffic, telemetry, the diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from predator_si.corpora.text import stable_fraction, words
from predator_si.evaluate import evaluate_model
from predator_si.proof.bench_diagnose.collections import Collection
from predator_si.proof.bench_diagnose.models import RememberedEmbedder, RememberedReranker
from predator_si.records import ServingConfig
from predator_si.search.retrieve import RRF_K, Candidates, HybridIndex

K = 20
TURNED = -1.0
"""Strength that stands for a head whose sign is turned, as by swapped labels: where the first stage outweighs the reranker, noise alone costs little."""
_SHORT = 8
"""Words that a truncated document keeps."""


@dataclass(frozen=True)
class Site:
    """What one window is served with."""

    index: HybridIndex | Reweighted
    model: RememberedReranker
    weight: float
    depth: int


class Reweighted:
    """A hybrid index whose legs are fused with other weights than they were tuned for: everything else is the index' own."""

    def __init__(self, index: HybridIndex, lexical: float, dense: float) -> None:
        self._index, self._weights = index, (lexical, dense)
        self.fingerprint = index.fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def candidates(self, queries: Sequence[str], depth: int) -> list[Candidates]:
        """The legs' documents by weighted reciprocal rank."""
        found = []
        for one in self._index.candidates(queries, depth):
            legs = (one.lexical_ids or [], one.dense_ids or [])
            score: dict[str, float] = {}
            for weight, leg in zip(self._weights, legs, strict=True):
                for rank, doc_id in enumerate(leg, start=1):
                    score[doc_id] = score.get(doc_id, 0.0) + weight / (RRF_K + rank)
            best = sorted(score, key=lambda doc_id: -score[doc_id])[:depth]
            ranks = [np.array([leg.index(doc_id) + 1 if doc_id in leg else 0 for doc_id in best]) for leg in legs]
            texts = [self._index.text(doc_id) for doc_id in best]
            found.append(Candidates(best, texts, np.array([score[doc_id] for doc_id in best]), ranks[0], ranks[1], legs[0], legs[1]))
        return found


@dataclass
class Workshop:
    """Builds the sites of one collection, each index once.

    ``weight`` is the fusion weight that suits the collection best, chosen on its healthy index as a team would.
    """

    collection: Collection
    embedders: dict[str, RememberedEmbedder]
    model: RememberedReranker
    damaged: Callable[[float], RememberedReranker]
    depth: int
    weight: float = 0.0
    _indexes: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @property
    def embedder(self) -> RememberedEmbedder:
        """The one that suits the collection's languages."""
        return self.embedders[self.collection.embedder]

    def documents(self, *parts: str) -> pl.DataFrame:
        """Documents of some parts."""
        return self.collection.documents.filter(pl.col("part").is_in(parts)).select("doc_id", "title", "text")

    def index(self, *key: str, build: Callable[[], Any]) -> Any:
        """The index remembered under ``key``."""
        if key not in self._indexes:
            self._indexes[key] = build()
        return self._indexes[key]

    def _site(self, index: Any) -> Site:
        return Site(index, self.model, self.weight, self.depth)

    def before(self) -> Site:
        """The reference window's site: nothing of the late or the shifted documents is there."""
        return self._site(self.index("before", build=lambda: HybridIndex.build(self.documents("base"), self.embedder)))

    def grown(self) -> Site:
        """The healthy current site: the late documents have arrived."""
        return self._site(self.index("grown", build=lambda: HybridIndex.build(self.documents("base", "late"), self.embedder)))

    def shrunken(self, share: float) -> Site:
        """A part of the documents is missing: those of some shards."""
        return self._altered("shrunken", share, lambda frame, hit: frame.filter(~hit))

    def truncated(self, share: float) -> Site:
        """Some documents were cut after a few words."""
        return self._altered("truncated", share, lambda frame, hit: _rewritten(frame, hit, lambda text: " ".join(text.split()[:_SHORT])))

    def mojibake(self, share: float) -> Site:
        """Some documents were read with the wrong encoding."""
        return self._altered("mojibake", share, lambda frame, hit: _rewritten(frame, hit, lambda text: text.encode().decode("latin-1")))

    def _altered(self, name: str, share: float, change: Callable[[pl.DataFrame, pl.Series], pl.DataFrame]) -> Site:
        def build() -> HybridIndex:
            frame = self.documents("base", "late")
            hit = pl.Series([stable_fraction(f"{name} {doc_id}") < share for doc_id in frame["doc_id"]], dtype=pl.Boolean)
            return HybridIndex.build(change(frame, hit), self.embedder)

        return self._site(self.index(name, f"{share:g}", build=build))

    def tokeniser(self, share: float) -> Site:
        """Documents indexed since a deploy went through another analyser than queries do: shingles of two words, and no single words beside them."""

        def build() -> HybridIndex:
            import bm25s

            sound = self.grown().index
            frame = sound.documents()
            tokens = []
            for doc_id, title, text in frame.iter_rows():
                whole = f"{title}\n{text}" if title else text
                broken = stable_fraction(f"tokeniser {doc_id}") < share
                single = words(whole)
                tokens.append([f"{one} {two}" for one, two in pairwise(single)] if broken else single)
            bm25 = bm25s.BM25()
            bm25.index([found or [""] for found in tokens], show_progress=False)
            return HybridIndex(
                frame["doc_id"].to_list(), frame["title"].to_list(), frame["text"].to_list(), np.stack([*self._vectors(frame)]), bm25, self.embedder
            )

        return self._site(self.index("tokeniser", f"{share:g}", build=build))

    def _vectors(self, frame: pl.DataFrame) -> Any:
        return self.embedder.encode([f"{title}\n{text}" if title else text for _, title, text in frame.iter_rows()])

    def english_embedder(self) -> Site:
        """Everything embedded by a model that knows English only."""
        return self._site(self.index("english", build=lambda: HybridIndex.build(self.documents("base", "late"), self.embedders["english"])))

    def legs_reweighted(self, weights: tuple[float, float]) -> Site:
        """The legs fused with other weights."""
        site = self.grown()
        return replace(site, index=Reweighted(site.index, *weights))  # type: ignore[arg-type]

    def reweighted(self, weight: float) -> Site:
        """The first stage and the reranker mixed with another weight."""
        return replace(self.grown(), weight=weight)

    def damaged_reranker(self, noise: float) -> Site:
        """The reranker's weights off by ``noise``, or its head's sign turned (``TURNED``)."""
        return replace(self.grown(), model=self.damaged(noise))

    def shifted(self) -> Site:
        """Another domain's documents have arrived, and are indexed as they should be."""
        return self._site(self.index("shifted", build=lambda: HybridIndex.build(self.documents("base", "late", "shift"), self.embedder)))

    def queries(self, *parts: str) -> pl.DataFrame:
        """Queries of some parts."""
        return self.collection.queries.filter(pl.col("part").is_in(parts))

    def warm(self, site: Site, queries: pl.DataFrame) -> None:
        """Score every pair that a service on this site would, so that no window waits for the model."""
        texts = queries["text"].to_list()
        found = site.index.candidates(texts, max(K, site.depth))
        site.model.score_pairs([(text, document) for text, one in zip(texts, found, strict=True) for document in one.texts[: site.depth]])

    def ndcg(self, site: Site, queries: pl.DataFrame) -> pl.DataFrame:
        """NDCG@10 of each query: ``query_id``, ``ndcg_at_10``."""
        config = ServingConfig(model=site.model.digest, depth=site.depth, fusion_weight=site.weight)
        frame = evaluate_model(queries.select("query_id", "text"), self.collection.judgments, site.index.candidates, site.model, config)
        return frame.select("query_id", "ndcg_at_10")


def _rewritten(frame: pl.DataFrame, hit: pl.Series, change: Callable[[str], str]) -> pl.DataFrame:
    texts = [change(text) if broken else text for text, broken in zip(frame["text"], hit, strict=True)]
    return frame.with_columns(text=pl.Series(texts, dtype=pl.String))
