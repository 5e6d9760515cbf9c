"""Words, summaries and near-duplicates of short texts: what corpus building and leak checks share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_WORD = re.compile(r"\w+", re.UNICODE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


def words(text: str) -> list[str]:
    """Case-folded words of any script."""
    return _WORD.findall(text.casefold())


def first_sentence(paragraph: str) -> str:
    """The first sentence of a paragraph, white space folded."""
    return _SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)[0].strip()


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """A group number for each text; texts whose word sets have a Jaccard similarity of at least ``threshold`` share one.

    Exact, by a prefix filter: two sets that similar must share a word among the rarest ``(1 - threshold) * size + 1`` of each
    (Chaudhuri, Ganti, Kaushik 2006). Groups are connected components, numbered by their first member.
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
        prefix = ordered[: int(len(ordered) * (1 - threshold)) + 1]
        seen: set[int] = set()
        for word in prefix:
            for other in posting.get(word, ()):
                if other in seen or len(sets[other]) < threshold * len(bag):
                    continue
                seen.add(other)
                if len(bag & sets[other]) >= threshold * len(bag | sets[other]):
                    a, b = root(index), root(other)
                    parent[max(a, b)] = min(a, b)
        for word in prefix:
            posting.setdefault(word, []).append(index)
    return [root(index) for index in range(len(texts))]


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
