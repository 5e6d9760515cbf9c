"""The subsets of queries that are tested: words, categories of the relevant document, parts, query length, new words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Subset = tuple[str, np.ndarray]


def token_subsets(words: Sequence[Sequence[str]]) -> list[Subset]:
    """One subset per distinct word: the queries that contain it."""
    members: dict[str, list[int]] = {}
    for index, query in enumerate(words):
        for token in set(query):
            members.setdefault(token, []).append(index)
    return [(token, np.asarray(members[token])) for token in sorted(members)]


def query_slices(
    query_ids: Sequence[str],
    words: Sequence[Sequence[str]],
    parts: Sequence[str | None],
    relevant: Mapping[str, Mapping[str, float]],
    categories: Mapping[str, str],
    known: frozenset[str],
) -> list[Subset]:
    """Named slices as ``kind=value``.

    A query's category is that of its most relevant document. ``length`` cuts at the terciles of the number of words; ``vocabulary=new`` holds
    the queries with a word that the reference log does not know (left out when there is no reference).
    """
    labels: dict[str, list[int]] = {}
    sizes = np.array([len(query) for query in words])
    low, high = np.quantile(sizes, [1 / 3, 2 / 3]) if len(sizes) else (0.0, 0.0)
    for index, query_id in enumerate(query_ids):
        gains = relevant.get(query_id, {})
        best = min(gains, key=lambda doc: (-gains[doc], doc)) if gains else None
        category = categories.get(best) if best is not None else None
        names = [
            None if category is None else f"category={category}",
            None if parts[index] is None else f"part={parts[index]}",
            "length=short" if sizes[index] <= low else "length=long" if sizes[index] > high else "length=middle",
            "vocabulary=new" if known and any(token not in known for token in words[index]) else None,
        ]
        for name in names:
            if name is not None:
                labels.setdefault(name, []).append(index)
    return [(name, np.asarray(labels[name])) for name in sorted(labels)]
