"""Near-duplicates by MinHash: banded signatures propose, exact Jaccard similarity decides.

Broder (1997) for the estimate, Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets" section 3.4 for the banding. 32 bands of 4 rows
propose a pair of similarity .7 with probability .9998, of .8 with probability 1 - 5e-8.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from predator_si.corpora.words import token_lists

BANDS, ROWS = 32, 4
_CHUNK = 40_000
_RNG = np.random.default_rng(20_261_122)
_FACTORS = _RNG.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
_SHIFTS = _RNG.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)


def character_shingles(texts: Sequence[str], size: int = 4) -> list[frozenset[int]]:
    """Hashes of the ``size``-character windows over each text's words joined by one space: for queries, whatever their script."""
    bags = []
    for words in token_lists(texts):
        line = f" {' '.join(words)} "
        bags.append(frozenset(zlib.crc32(line[i : i + size].encode()) for i in range(max(1, len(line) - size + 1))) if words else frozenset())
    return bags


def word_shingles(texts: Sequence[str], size: int = 3) -> list[frozenset[int]]:
    """Hashes of the ``size``-word windows of each text: for documents."""
    bags = []
    for words in token_lists(texts):
        windows = range(max(1, len(words) - size + 1)) if words else range(0)
        bags.append(frozenset(zlib.crc32(" ".join(words[i : i + size]).encode()) for i in windows))
    return bags


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Size of the intersection over size of the union; two empty sets share nothing."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


class NearDuplicates:
    """A growing set of texts that answers whether a text resembles one of them.

    Parameters
    ----------
    similarity
        Jaccard similarity, 0.7 or more for the banding to find nearly every pair.
    """

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self._bags: list[frozenset[int]] = []
        self._buckets: dict[tuple[int, int], list[int]] = {}

    def add_all(self, bags: Sequence[frozenset[int]]) -> None:
        """Add every text."""
        for bag, keys in zip(bags, band_keys(bags), strict=True):
            self._insert(bag, keys)

    def add_unless_similar(self, bags: Sequence[frozenset[int]]) -> list[bool]:
        """For each text in order: True when it was new and is added now, False when it resembles one that was there."""
        added = []
        for bag, keys in zip(bags, band_keys(bags), strict=True):
            fresh = not self._similar(bag, keys)
            if fresh:
                self._insert(bag, keys)
            added.append(fresh)
        return added

    def similar(self, bags: Sequence[frozenset[int]]) -> list[bool]:
        """For each text whether it resembles one of the set; the set stays as it is."""
        return [self._similar(bag, keys) for bag, keys in zip(bags, band_keys(bags), strict=True)]

    def _similar(self, bag: frozenset[int], keys: Sequence[int]) -> bool:
        seen: set[int] = set()
        for band, key in enumerate(keys):
            for index in self._buckets.get((band, key), ()):
                if index not in seen:
                    seen.add(index)
                    if jaccard(bag, self._bags[index]) >= self.similarity:
                        return True
        return False

    def _insert(self, bag: frozenset[int], keys: Sequence[int]) -> None:
        index = len(self._bags)
        self._bags.append(bag)
        for band, key in enumerate(keys):
            self._buckets.setdefault((band, key), []).append(index)


def signatures(bags: Sequence[frozenset[int]]) -> npt.NDArray[np.uint64]:
    """MinHash signatures, shape ``(len(bags), BANDS * ROWS)``; an empty set has the largest value everywhere."""
    out = np.full((len(bags), BANDS * ROWS), np.iinfo(np.uint64).max, dtype=np.uint64)
    filled = [index for index, bag in enumerate(bags) if bag]
    start = 0
    while start < len(filled):
        stop, total = start, 0
        while stop < len(filled) and (stop == start or total + len(bags[filled[stop]]) <= _CHUNK):
            total += len(bags[filled[stop]])
            stop += 1
        chosen = filled[start:stop]
        flat = np.fromiter((value for index in chosen for value in bags[index]), dtype=np.uint64, count=total)
        offsets = np.concatenate([[0], np.cumsum([len(bags[index]) for index in chosen])[:-1]]).astype(np.int64)
        # Multiply-shift hashing (Dietzfelbinger et al. 1997): the high half of a wrapped product.
        hashed = (_FACTORS[:, None] * flat[None, :] + _SHIFTS[:, None]) >> np.uint64(32)
        out[chosen] = np.minimum.reduceat(hashed, offsets, axis=1).T
        start = stop
    return out


def band_keys(bags: Sequence[frozenset[int]]) -> list[list[int]]:
    """One key per band and text: texts that share a key in a band are worth comparing. Empty texts have none."""
    if not bags:
        return []
    rows = signatures(bags).reshape(len(bags), BANDS, ROWS)
    mixed = np.zeros((len(bags), BANDS), dtype=np.uint64)
    for column in range(ROWS):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + rows[:, :, column]
    return [keys if bag else [] for bag, keys in zip(bags, mixed.tolist(), strict=True)]
