"""Real queries of the log, clicked or not: what people ask, in their own words. The teacher finds the answers (``pseudo_labels``).

What belongs here: choosing queries. What must not: clicks as answers (``clicks``), scoring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from predator_si.augment.generators.seeds import target_categories, target_tokens
from predator_si.augment.material import Material
from predator_si.augment.minhash import band_keys, character_shingles, jaccard
from predator_si.augment.recipe import Proposal
from predator_si.corpora.words import token_lists
from predator_si.errors import BadInput

_BATCH = 256
_LOOKED_AT = 4
"""So many times the wanted number of queries are asked of the first stage to find those of the weak categories."""
_SHARE_OF_TOP = 0.5
"""A query belongs to a category that has at least this share of its first candidates."""
_TOP = 5


@dataclass(frozen=True)
class LogQuery:
    """A query of the log with all that resemble it.

    Attributes
    ----------
    text
        The most frequent spelling.
    sealed
        That spelling as it may be stored; null where the log does not say.
    searches
        How often it was asked, near-duplicates included.
    spellings
        How many different word sequences were merged.
    clicked
        Everything that was clicked for it.
    words
        Of ``text``.
    """

    text: str
    sealed: str | None
    searches: int
    spellings: int
    clicked: frozenset[str]
    words: tuple[str, ...]


class LogQueries:
    """Distinct queries of the log without an answer: those of the report's weak words and categories first, then the most frequent.

    Parameters
    ----------
    similarity
        Character 4-gram Jaccard similarity from which two queries are one.
    words
        Fewest and most words of a query that is used.

    Attributes
    ----------
    counts
        Of the last call: ``searches, distinct_queries, merged, of_wrong_length, targeted``.
    """

    source = "log"

    def __init__(self, similarity: float = 0.8, words: tuple[int, int] = (2, 64)) -> None:
        self._similarity = similarity
        self._words = words
        self.counts: dict[str, int] = {}

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """At most ``wanted`` queries with empty ``doc_id``; what was clicked for one is in ``excluded``: it never becomes a negative.

        ``method`` is ``query`` or ``query with clicks``. ``weight`` is 1. Equally frequent queries come in random order.
        """
        merged = distinct_queries(material.log, self._similarity)
        low, high = self._words
        fit = [query for query in merged if low <= len(query.words) <= high]
        order = np.lexsort((rng.random(len(fit)), -np.array([query.searches for query in fit], np.int64)))
        ranked = [fit[at] for at in order.tolist()]
        aimed = _targeted(ranked, material, wanted)
        self.counts = {
            "searches": material.log.height,
            "distinct_queries": len(merged),
            "merged": sum(query.spellings - 1 for query in merged),
            "of_wrong_length": len(merged) - len(fit),
            "targeted": len(aimed),
        }
        first = [at for at in range(len(ranked)) if at in aimed]
        rest = (at for at in range(len(ranked)) if at not in aimed)
        for at in [*first, *rest][: max(wanted, 0)]:
            query = ranked[at]
            method = "query with clicks" if query.clicked else "query"
            yield Proposal(query.text, "", self.source, method, 1.0, at in aimed, query.clicked, sealed=query.sealed)


def distinct_queries(log: pl.DataFrame, similarity: float = 0.8) -> list[LogQuery]:
    """The queries of a log, near-duplicates merged into the most frequent one, most frequent first.

    Parameters
    ----------
    log
        One row per search: ``text`` and optionally ``clicked`` (document ids) and ``sealed``. Queries of equal words are one; so are those whose character
        4-grams have a Jaccard similarity of at least ``similarity`` with a more frequent one. Queries without a word are left out.

    Raises
    ------
    BadInput
        No column ``text``.
    """
    if log.is_empty():
        return []
    if "text" not in log.columns:
        raise BadInput(f"query log: no column text; there are {', '.join(log.columns)}. Build the log with text, clicked, impressions and dwell.")
    bags = token_lists(log["text"].to_list())
    rows = log.with_columns(
        key=pl.Series([" ".join(bag) for bag in bags], dtype=pl.String),
        sealed=pl.col("sealed") if "sealed" in log.columns else pl.lit(None, pl.String),
        clicked=pl.col("clicked") if "clicked" in log.columns else pl.lit([], pl.List(pl.String)),
    ).filter(pl.col("key") != "")
    spelling = (
        rows.group_by("key", "text", maintain_order=True)
        .agg(pl.len(), sealed=pl.col("sealed").drop_nulls().first())
        .sort(["len", "text"], descending=[True, False])
        .unique("key", keep="first", maintain_order=True)
        .select("key", "text", "sealed")
    )
    clicked = rows.select("key", "clicked").explode("clicked").drop_nulls().group_by("key").agg(pl.col("clicked").unique().sort())
    keys = (
        rows.group_by("key")
        .agg(searches=pl.len())
        .join(spelling, on="key")
        .join(clicked, on="key", how="left")
        .sort(["searches", "key"], descending=[True, False])
    )
    texts = keys["key"].to_list()
    leader = _leaders(texts, similarity)
    members: dict[int, list[int]] = {}
    for at, first in enumerate(leader):
        members.setdefault(first, []).append(at)
    searches, found = keys["searches"].to_list(), [frozenset(ids or ()) for ids in keys["clicked"].to_list()]
    spelt, sealed = keys["text"].to_list(), keys["sealed"].to_list()
    merged = [
        LogQuery(
            spelt[first],
            sealed[first],
            sum(searches[at] for at in group),
            len(group),
            frozenset().union(*(found[at] for at in group)),
            tuple(texts[first].split()),
        )
        for first, group in members.items()
    ]
    return sorted(merged, key=lambda query: (-query.searches, query.text))


def _leaders(texts: Sequence[str], similarity: float) -> list[int]:
    """For each text the first text before it (or itself) that it resembles and that leads others."""
    bags = character_shingles(texts)
    buckets: dict[tuple[int, int], list[int]] = {}
    leaders = []
    for at, (bag, keys) in enumerate(zip(bags, band_keys(bags), strict=True)):
        near = sorted({other for band, key in enumerate(keys) for other in buckets.get((band, key), ())})
        leader = next((other for other in near if jaccard(bag, bags[other]) >= similarity), at)
        if leader == at:
            for band, key in enumerate(keys):
                buckets.setdefault((band, key), []).append(at)
        leaders.append(leader)
    return leaders


def _targeted(ranked: Sequence[LogQuery], material: Material, wanted: int) -> set[int]:
    """Places of the queries with a weak word, or whose first candidates are mostly of a weak category; at most ``_LOOKED_AT * wanted`` are searched."""
    weak = set(target_tokens(material.report))
    aimed = {at for at, query in enumerate(ranked) if not weak.isdisjoint(query.words)}
    wanted_categories = target_categories(material.report)
    ids = {doc_id for doc_id, category in material.categories.items() if category in wanted_categories}
    if not ids:
        return aimed
    looked = [at for at in range(min(len(ranked), _LOOKED_AT * wanted)) if at not in aimed]
    for start in range(0, len(looked), _BATCH):
        some = looked[start : start + _BATCH]
        for at, found in zip(some, material.index.candidates([ranked[at].text for at in some], _TOP), strict=True):
            if found.doc_ids and sum(doc_id in ids for doc_id in found.doc_ids) >= _SHARE_OF_TOP * len(found.doc_ids):
                aimed.add(at)
    return aimed
