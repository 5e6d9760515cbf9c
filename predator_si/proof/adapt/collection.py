"""What is adapted to: documents behind an index, query texts by split, and judgments behind a door.

What belongs here: choosing the queries, by stable hashes. What must not: reading a judgment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from predator_si.corpora import Corpus
from predator_si.corpora.text import stable_fraction
from predator_si.errors import BadInput
from predator_si.search.retrieve import HybridIndex

LEAST_QUERIES = 10


@dataclass(frozen=True)
class Collection:
    """One collection.

    Attributes
    ----------
    documents
        ``doc_id, title, text``.
    train, dev, test
        ``query_id, text``, no labels; in the order of a stable hash, so that the first n are a sample.
    read_judgments
        Split -> ``query_id, doc_id, relevance``. Goes through ``labels.Judgments`` and nowhere else.
    """

    name: str
    index: HybridIndex
    documents: pl.DataFrame
    train: pl.DataFrame
    dev: pl.DataFrame
    test: pl.DataFrame
    read_judgments: Callable[[str], pl.DataFrame]


def collection_of(corpus: Corpus, index: HybridIndex, *, part: str | None = None, max_queries: int | None = None) -> Collection:
    """The collection that ``corpus`` is.

    Parameters
    ----------
    part
        Only its queries: ``base`` or ``shift``; null takes ``shift`` where there is one, as that is what the model does not know yet.
    max_queries
        At most so many of each split.

    Raises
    ------
    BadInput
        Fewer than ten train queries, or fewer than two dev or test queries.
    """
    queries = corpus.queries()
    chosen = part or ("shift" if "shift" in queries["part"].unique().to_list() else None)
    split = {name: _sample(corpus.queries(name, chosen), max_queries) for name in ("train", "dev", "test")}
    short = {name: frame.height for name, frame in split.items() if frame.height < (LEAST_QUERIES if name == "train" else 2)}
    if short:
        raise BadInput(
            f"corpus {corpus.name!r}, part {chosen or 'any'}: {', '.join(f'{n} {name}' for name, n in short.items())} queries are too few to adapt to "
            f"({LEAST_QUERIES} train, 2 dev and 2 test ones at least). Give it a longer query log, or another corpus."
        )
    name = corpus.name if chosen is None else f"{corpus.name} {chosen}"
    return Collection(name, index, corpus.documents(), **split, read_judgments=lambda of: corpus.judgments(of, chosen))


def _sample(queries: pl.DataFrame, most: int | None) -> pl.DataFrame:
    order = sorted(range(queries.height), key=lambda at: stable_fraction(str(queries["query_id"][at])))
    return queries.select("query_id", "text")[order[:most]]


def needs(query_ids: pl.Series, judgments: pl.DataFrame) -> list[int]:
    """A number for each query; queries with the same relevant documents (paraphrases of one need) share it."""
    relevant = judgments.filter(pl.col("relevance") > 0).group_by("query_id").agg(pl.col("doc_id").sort().str.join("\n"))
    need = dict(relevant.iter_rows())
    keys = [need.get(query_id, query_id) for query_id in query_ids.to_list()]
    return [int(number) for number in np.unique(keys, return_inverse=True)[1]]
