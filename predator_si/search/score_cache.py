"""Scores of the last pairs that were asked for, so that a query that comes again costs no cross-encoder pass.

What belongs here: remembering and forgetting. What must not: scoring, disk (``evaluate.pair_scores`` keeps scores across stages).

The key is the model's digest, the query and the document's text itself, so another version of a document is another entry. It is hashed with a key of this
process' own: neither queries nor documents stand in memory because of the cache. Latencies that are compared must be measured with the cache off, which
is the default everywhere; requests that are probes pass it by.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.search.rerank import Reranker

Scorer = Callable[[Reranker, str, Sequence[str]], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class CacheState:
    """Counts since the start, and how many scores are kept now."""

    hits: int
    misses: int
    entries: int


class ScoreCache:
    """A bounded store of scores; the one that was not asked for longest goes first.

    Parameters
    ----------
    capacity
        Scores kept at most, over all models: about 200 bytes each. 0 keeps none, and counts nothing.

    Raises
    ------
    BadInput
        ``capacity`` is negative.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise BadInput(f"a score cache of {capacity}: the number of scores is 0 (off) or more.")
        self.capacity = capacity
        self._scores: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._served: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._secret = os.urandom(32)
        self._hits = self._misses = 0

    def scores(self, model: Reranker, query: str, texts: Sequence[str], compute: Scorer) -> npt.NDArray[np.float64]:
        """One score a text, in their order: remembered ones of this very model where there are, ``compute``'s otherwise.

        A score that was computed beside other texts may differ in the last digits from one computed alone: padding, and the ranges of int8 activations.
        What ``compute`` raises is passed on, and nothing is kept.
        """
        if not self.capacity or model.digest not in self._served:
            return compute(model, query, texts)
        start = hashlib.blake2b(f"{len(query)}\0{query}".encode("utf-8", "surrogatepass"), digest_size=16, key=self._secret)
        keys = []
        for text in texts:
            one = start.copy()
            one.update(text.encode("utf-8", "surrogatepass"))
            keys.append((model.digest, one.digest()))
        with self._lock:
            known = [self._scores.get(key) for key in keys]
            for key, score in zip(keys, known, strict=True):
                if score is not None:
                    self._scores.move_to_end(key)
        missing = [place for place, score in enumerate(known) if score is None]
        fresh = compute(model, query, [texts[place] for place in missing]) if missing else np.empty(0)
        out = np.array([np.nan if score is None else score for score in known], np.float64)
        out[missing] = fresh
        with self._lock:
            self._hits += len(texts) - len(missing)
            self._misses += len(missing)
            if model.digest in self._served:  # it may have been taken out of service meanwhile
                for place in missing:
                    self._scores[keys[place]] = float(out[place])
                while len(self._scores) > self.capacity:
                    self._scores.popitem(last=False)
        return out

    def keep(self, digests: Collection[str]) -> None:
        """Only these models serve from now on: scores of all others are forgotten, and none of theirs is taken in."""
        with self._lock:
            self._served = frozenset(digests)
            for key in [key for key in self._scores if key[0] not in self._served]:
                del self._scores[key]

    def state(self) -> CacheState:
        """Hits, misses and entries now."""
        with self._lock:
            return CacheState(self._hits, self._misses, len(self._scores))
