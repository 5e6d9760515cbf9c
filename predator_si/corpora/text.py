"""Words, summaries and near-duplicates of short texts: what corpus building and leak checks share."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_WORD = re.compile(r"\w+", re.UNICODE)
_ROUNDING = 1e-9
"""0.8 of 5 words is 4 words, whatever the floating point says."""
_ROWS = 512
"""Rows multiplied at once: bounds the memory of the product."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


def words(text: str) -> list[str]:
    """Case-folded words of any script."""
    return _WORD.findall(text.casefold())


def first_sentence(paragraph: str) -> str:
    """The first sentence of a paragraph, white space folded."""
    return _SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)[0].strip()


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """A group number for each text; texts whose word sets have a Jaccard similarity of at least ``threshold`` share one.

    Exact, by a prefix filter: two sets that similar must share a word among the rarest ``size - ceil(threshold * size) + 1`` of each
    (Chaudhuri, Ganti, Kaushik 2006). Groups are connected components, numbered by their first member. A text without words is alone.
    """
    sets = [frozenset(words(text)) for text in texts]
    frequency: dict[str, int] = {}
    for bag in sets:
        for word in bag:
            frequency[word] = frequency.get(word, 0) + 1
    parent = list(range(len(texts)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    posting: dict[str, list[int]] = {}
    for index in sorted(range(len(sets)), key=lambda i: len(sets[i])):
        bag = sets[index]
        ordered = sorted(bag, key=lambda word: (frequency[word], word))
        prefix = ordered[: len(bag) - math.ceil(threshold * len(bag) - _ROUNDING) + 1]
        seen: set[int] = set()
        for word in prefix:
            for other in posting.get(word, ()):
                if other in seen or len(sets[other]) < threshold * len(bag) - _ROUNDING:
                    continue
                seen.add(other)
                if len(bag & sets[other]) >= threshold * len(bag | sets[other]) - _ROUNDING:
                    a, b = root(index), root(other)
                    parent[max(a, b)] = min(a, b)
        for word in prefix:
            posting.setdefault(word, []).append(index)
    return [root(index) for index in range(len(texts))]


def near_duplicates_across(texts: Sequence[str], labels: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int]]:
    """Pairs of texts with different labels whose word sets have a Jaccard similarity of at least ``threshold``, as positions, the lower first.

    A check on what ``near_duplicate_groups`` was used for, and therefore done another way: all common words of all pairs are counted, by a sparse
    product of the text-word matrix with itself, without any filter.
    """
    import numpy as np
    from scipy.sparse import csr_array

    sets = [set(words(text)) for text in texts]
    place = {word: number for number, word in enumerate(sorted(set().union(*sets)))}
    sizes = np.array([len(bag) for bag in sets])
    if not place:
        return []
    columns = np.array([place[word] for bag in sets for word in bag])
    matrix = csr_array((np.ones(len(columns), np.float32), columns, np.concatenate([[0], np.cumsum(sizes)])), shape=(len(sets), len(place)))
    transposed = matrix.T.tocsr()
    kind = np.unique(np.asarray(labels), return_inverse=True)[1]
    found: list[tuple[int, int]] = []
    for start in range(0, len(sets), _ROWS):
        common = (matrix[start : start + _ROWS] @ transposed).tocoo()
        row, column = common.coords[0] + start, common.coords[1]
        near = (common.data >= threshold * (sizes[row] + sizes[column] - common.data) - _ROUNDING) & (row < column) & (kind[row] != kind[column])
        found.extend(zip(row[near].tolist(), column[near].tolist(), strict=True))
    return sorted(found)


def stable_fraction(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") / 2**56


def digest_lines(lines: Iterable[str]) -> str:
    """Sha256 over lines, each ended by a newline."""
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode() + b"\n")
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
