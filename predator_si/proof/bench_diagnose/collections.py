"""The collections that faults are planted in: documents and judged queries with the part of the story each has.

What belongs here: which documents and queries, bounded and chosen by stable hashes. What must not: indexes, models, faults.

Parts: ``base`` is known from the start; ``late`` arrives between the reference window and the current one and is asked about a little (ordinary growth);
``shift`` is another domain that arrives when people's interest moves; ``second`` holds the queries in the second language of a bilingual collection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from predator_si.corpora.text import stable_fraction
from predator_si.errors import Missing

DATA = "PREDATOR_SI_DATA"
NAMES = ("cranfield", "scifact", "stackfaq", "xquad-ru", "faq-docs", "man-uk")
_SHIFT_OF = {"scifact": "cranfield", "stackfaq": "cranfield", "faq-docs": "cranfield", "xquad-ru": "man-uk", "man-uk": "cranfield"}
"""A domain that arrives later; cranfield's own queries are the hardest of all, no domain here would be a loss to it."""
_LATE = 0.12
_EXTRA = 0.02
_FEW = 150
"""English documents of a bilingual collection: its multilingual embedder is the slowest part of a first run."""
_MULTILINGUAL = frozenset({"xquad-ru", "man-uk"})
BILINGUAL = {"faq-docs + xquad-ru": ("faq-docs", "xquad-ru"), "stackfaq + man-uk": ("stackfaq", "man-uk")}


@dataclass(frozen=True)
class Collection:
    """``documents``: doc_id, title, text, part. ``queries``: query_id, text, part. ``judgments``: query_id, doc_id, relevance."""

    name: str
    documents: pl.DataFrame
    queries: pl.DataFrame
    judgments: pl.DataFrame
    embedder: str
    """``multilingual`` where any text is not English, else ``english``."""


def data_folder() -> Path:
    """The folder of judged collections: ``$PREDATOR_SI_DATA``, or ``../shared/data`` beside the checkout.

    Raises
    ------
    Missing
        It is not there.
    """
    named = os.environ.get(DATA)
    folder = Path(named) if named else Path(__file__).resolve().parents[3].parent / "shared" / "data"
    lacking = [name for name in NAMES if not (folder / name / "queries.jsonl").is_file()]
    if lacking:
        raise Missing(f"{folder}: no judged collection {', '.join(lacking)} here. Set {DATA} to the folder that holds {', '.join(NAMES)} in BEIR layout.")
    return folder


def load_collections(data: Path, cache: Path, *, queries: int, documents: int) -> list[Collection]:
    """All collections, each with at most ``queries`` base queries and about ``documents`` documents."""
    from predator_si.corpora import build_python_docs, import_beir, load_corpus

    raw = {}
    for name in NAMES:
        folder = cache / "imported" / name
        corpus = load_corpus(folder) if (folder / "manifest.json").is_file() else import_beir(data / name, folder)
        raw[name] = (corpus.documents(), corpus.queries("test") if name == "scifact" else corpus.queries(), corpus.judgments())
    found = [_collection(name, *raw[name], queries, documents, raw.get(_SHIFT_OF.get(name, ""))) for name in NAMES]
    for name, (first, second) in BILINGUAL.items():
        found.append(_bilingual(name, _collection(first, *raw[first], queries // 2, _FEW, None), _collection(second, *raw[second], queries, documents, None)))
    corpus = build_python_docs(cache, limit_per_package=400)
    base = [frame.filter(pl.col("part") == "base") for frame in (corpus.documents(), corpus.queries())]
    shift = [frame.filter(pl.col("part") == "shift") for frame in (corpus.documents(), corpus.queries())]
    found.append(_collection("python-docs", base[0], base[1], corpus.judgments(), queries, documents, (shift[0], shift[1], corpus.judgments())))
    return found


def _collection(
    name: str,
    documents: pl.DataFrame,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    most_queries: int,
    most_documents: int,
    shift: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame] | None,
) -> Collection:
    chosen, relevant = _judged(queries, judgments, most_queries)
    # Paraphrases of one need share their documents, and so arrive together.
    needs = dict(relevant.group_by("query_id").agg(pl.col("doc_id").sort().str.join(" ")).iter_rows())
    late = {query_id for query_id, need in needs.items() if stable_fraction(f"late {need}") < _LATE}
    kept = set(relevant.filter(~pl.col("query_id").is_in(list(late)))["doc_id"])
    new = set(relevant.filter(pl.col("query_id").is_in(list(late)))["doc_id"]) - kept
    late = {q for q, docs in relevant.group_by("query_id").agg("doc_id").iter_rows() if q in late and set(docs) <= new}
    known = set(relevant["doc_id"])
    ordered = sorted(documents["doc_id"].to_list(), key=lambda doc_id: (doc_id not in known, stable_fraction(f"keep {doc_id}")))[
        : max(most_documents, len(known))
    ]
    extra = {doc_id for doc_id in ordered if doc_id not in known and stable_fraction(f"extra {doc_id}") < _EXTRA}
    parts = [
        documents.filter(pl.col("doc_id").is_in(ordered)).select("doc_id", "title", "text", part=_labelled("doc_id", new | extra, "late")),
    ]
    asked = [chosen.select("query_id", "text", part=_labelled("query_id", late, "late"))]
    rels = [relevant]
    if shift is not None:
        moved, shift_relevant = _judged(shift[1], shift[2], 50)
        wanted = set(shift_relevant["doc_id"])
        others = sorted(set(shift[0]["doc_id"]) - wanted, key=lambda doc_id: stable_fraction(f"shift {doc_id}"))[:120]
        prefix = pl.lit("shift:")
        parts.append(
            shift[0]
            .filter(pl.col("doc_id").is_in([*wanted, *others]))
            .select(pl.concat_str(prefix, "doc_id").alias("doc_id"), "title", "text", part=pl.lit("shift"))
        )
        asked.append(moved.select(pl.concat_str(prefix, "query_id").alias("query_id"), "text", part=pl.lit("shift")))
        rels.append(_prefixed(shift_relevant))
    embedder = "multilingual" if name in _MULTILINGUAL else "english"
    return Collection(name, pl.concat(parts), pl.concat(asked), pl.concat(rels), embedder)


def _prefixed(relevant: pl.DataFrame) -> pl.DataFrame:
    return relevant.with_columns(pl.concat_str(pl.lit("shift:"), pl.col(column)).alias(column) for column in ("query_id", "doc_id"))


def _judged(queries: pl.DataFrame, judgments: pl.DataFrame, most: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """At most ``most`` judged queries by a stable hash, and their relevant documents."""
    relevant = judgments.filter(pl.col("relevance") > 0).select("query_id", "doc_id", pl.col("relevance").cast(pl.Float64))
    judged = queries.join(relevant.select("query_id").unique(), on="query_id", how="semi", maintain_order="left")
    ids = sorted(judged["query_id"].to_list(), key=lambda query_id: stable_fraction(f"query {query_id}"))[:most]
    chosen = judged.filter(pl.col("query_id").is_in(ids))
    return chosen, relevant.join(chosen.select("query_id"), on="query_id", how="semi", maintain_order="left")


def _labelled(column: str, members: set[str], label: str) -> pl.Expr:
    return pl.when(pl.col(column).is_in(list(members))).then(pl.lit(label)).otherwise(pl.lit("base"))


def _bilingual(name: str, first: Collection, second: Collection) -> Collection:
    documents = [part.documents.with_columns(pl.concat_str(pl.lit(f"{part.name}:"), "doc_id").alias("doc_id")) for part in (first, second)]
    queries = [
        part.queries.with_columns(pl.concat_str(pl.lit(f"{part.name}:"), "query_id").alias("query_id"), part=pl.lit(label) if label else pl.col("part"))
        for part, label in ((first, None), (second, "second"))
    ]
    documents[1] = documents[1].with_columns(part=pl.lit("base"))
    judgments = [
        part.judgments.with_columns(pl.concat_str(pl.lit(f"{part.name}:"), pl.col(column)).alias(column) for column in ("query_id", "doc_id"))
        for part in (first, second)
    ]
    return Collection(name, pl.concat(documents), pl.concat(queries), pl.concat(judgments), "multilingual")
