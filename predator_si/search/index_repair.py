"""What an index should hold and does not, and how that is mended.

What belongs here: comparing an index with what was accepted for it, and building the one that lacks nothing. What must not: when that is done, what becomes of
the result (``index_builds``, ``first_stages``).

What an index should hold is known from two records that every acceptance goes through: the inventory of the home's first index, and the ingest journal, which
keeps the fingerprint of the last accepted text of each document. A document whose text is known nowhere any more is reported as lost, never made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from predator_si.errors import BadInput
from predator_si.records import Record
from predator_si.search.journal import JournalFacts, document_digest
from predator_si.search.retrieve import Embedder, HybridIndex

_COLUMNS = {"doc_id": pl.String, "title": pl.String, "text": pl.String}


class IndexHealth(Record):
    """What an index holds against what was accepted for it: counts, and the documents concerned, sorted by id."""

    expected: int
    """Documents that should be found, those set aside not counted."""
    indexed: int
    missing: list[str]
    """Accepted, and not in the index."""
    stale: list[str]
    """In the index with another text than the one accepted last."""
    extra: list[str]
    """In the index although they were removed, or never accepted."""
    lost: list[str]
    """Missing or stale, and their text is known nowhere any more: only whoever fed them in can mend that."""
    set_aside: list[str]
    """Known not to be indexable, with a reason in the build's note."""
    open_letters: list[int]
    """Dead letters that nothing answered for yet."""

    @property
    def wrong(self) -> int:
        """Documents that are not as they should be."""
        return len(self.missing) + len(self.stale) + len(self.extra)


@dataclass(frozen=True)
class Examination:
    """``health``, and the texts that mend it: ``upserts`` (doc_id, title, text), ``deletes``, and ``whole``, everything the index should hold."""

    health: IndexHealth
    upserts: pl.DataFrame
    deletes: list[str]
    whole: pl.DataFrame


def examine(
    indexed: pl.DataFrame, inventory: Mapping[str, str], journal: JournalFacts, corpus: pl.DataFrame, set_aside: Mapping[str, str] | None = None
) -> Examination:
    """Compare an index with what was accepted for it.

    Parameters
    ----------
    indexed, corpus
        Columns ``doc_id, title, text``: what the index holds; where texts that are known nowhere else may be found.
    inventory
        Document -> fingerprint, of the home's first index.
    journal
        ``journal.read_journal``.
    set_aside
        Documents that an earlier build could not index. One that became a dead letter again since is tried again.

    Returns
    -------
    Examination
        Compared by fingerprint of title and text.
    """
    wanted: dict[str, str] = dict(inventory)
    for doc_id, known in journal.known.items():
        if known.digest is None:
            wanted.pop(doc_id, None)
        else:
            wanted[doc_id] = known.digest
    again = {letter.operation.doc_id for letter in journal.dead}
    apart = {doc_id for doc_id in (set_aside or {}) if doc_id not in again and doc_id in wanted}
    held = {doc_id: (title, text, document_digest(title, text)) for doc_id, title, text in indexed.select(*_COLUMNS).iter_rows()}
    apart -= held.keys()
    for doc_id in apart:
        wanted.pop(doc_id)
    missing = sorted(doc_id for doc_id in wanted if doc_id not in held)
    stale = sorted(doc_id for doc_id, digest in wanted.items() if doc_id in held and held[doc_id][2] != digest)
    extra = sorted(doc_id for doc_id in held if doc_id not in wanted)
    sought = {*missing, *stale}
    found = {doc_id: journal.texts[doc_id][:2] for doc_id in sought if doc_id in journal.texts and journal.texts[doc_id][2] == wanted[doc_id]}
    for doc_id, title, text in corpus.filter(pl.col("doc_id").is_in(list(sought - found.keys()))).select(*_COLUMNS).iter_rows():
        if document_digest(title, text) == wanted[doc_id]:
            found[doc_id] = (title, text)
    whole = {doc_id: found.get(doc_id) or held[doc_id][:2] for doc_id in wanted if doc_id in found or doc_id in held}
    health = IndexHealth(
        expected=len(wanted),
        indexed=len(held),
        missing=missing,
        stale=stale,
        extra=extra,
        lost=sorted(sought - found.keys()),
        set_aside=sorted(apart),
        open_letters=[letter.operation.seq for letter in journal.dead],
    )
    return Examination(health, _frame(found), extra, _frame(whole))


def repair(index: HybridIndex, examination: Examination) -> tuple[HybridIndex, dict[str, str]]:
    """The index with what it lacked and without what it should not hold; only the former is embedded. With it, those that cannot be indexed, and why."""
    good, bad = indexable(examination.upserts, index.embedder)
    return index.updated(good, [*examination.deletes, *bad]), bad


def rebuild(examination: Examination, embedder: Embedder) -> tuple[HybridIndex, dict[str, str]]:
    """An index made anew of everything it should hold: every vector and every word count. With it, the documents that cannot be indexed, and why."""
    try:
        return HybridIndex.build(examination.whole, embedder), {}
    except Exception:  # an embedder fails in its own ways; whichever it is, the documents that it fails on are found one by one
        good, bad = indexable(examination.whole, embedder)
        return HybridIndex.build(good, embedder), bad


def indexable(documents: pl.DataFrame, embedder: Embedder) -> tuple[pl.DataFrame, dict[str, str]]:
    """Documents that an embedder has finite vectors for, and of the others why not. A batch that fails is halved until the culprit stands alone."""
    if documents.is_empty():
        return documents, {}
    texts = [f"{title}\n{text}" if title else text for title, text in documents.select("title", "text").iter_rows()]
    try:
        vectors = np.asarray(embedder.encode(texts))
        if len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise BadInput("its vector is not one of numbers")
        return documents, {}
    except Exception as error:  # as above
        if documents.height == 1:
            return documents.clear(), {documents["doc_id"][0]: f"{type(error).__name__}: {error}"}
    middle = documents.height // 2
    left, right = indexable(documents[:middle], embedder), indexable(documents[middle:], embedder)
    return pl.concat([left[0], right[0]]), left[1] | right[1]


def _frame(texts: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    return pl.DataFrame([(doc_id, *texts[doc_id]) for doc_id in texts], schema=_COLUMNS, orient="row")
