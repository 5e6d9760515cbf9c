"""An embedder that remembers what was embedded ahead of time.

What belongs here: the bridge between ingest workers, who embed in parallel, and the index, which asks its embedder for everything at once. What must not:
the queue, the index.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from predator_si.search.ingest import Document
from predator_si.search.retrieve import Embedder


class PreparedEmbedder:
    """Wraps an embedder; vectors that ``prepare`` computed are handed out by ``encode`` once and then forgotten.

    A tokenizer must not be used by two threads at once (it raises "Already borrowed"), so each thread that prepares gets an embedder of its own, loaded when
    it is first needed: a search never waits for documents that are being embedded, nor fails because of them.

    Parameters
    ----------
    inner
        The embedder that answers ``encode``, one call at a time.
    another
        Makes one more embedder like it, for a thread that prepares.
    max_kept
        Prepared vectors kept at most; a text that fell out is simply embedded when it is asked for.
    """

    def __init__(self, inner: Embedder, another: Callable[[], Embedder], max_kept: int = 20_000) -> None:
        self.name = inner.name
        self._inner, self._another, self._max_kept = inner, another, max_kept
        self._kept: dict[str, npt.NDArray[np.float32]] = {}
        self._lock, self._asking, self._own = threading.Lock(), threading.Lock(), threading.local()

    def prepare(self, documents: Sequence[Document]) -> None:
        """Embed documents ahead of time, in the calling thread."""
        texts = [f"{document.title}\n{document.text}" if document.title else document.text for document in documents]
        if not hasattr(self._own, "embedder"):
            self._own.embedder = self._another()
        vectors = self._own.embedder.encode(texts)
        with self._lock:
            for text, vector in zip(texts, vectors, strict=True):
                self._kept[text] = vector
            while len(self._kept) > self._max_kept:
                self._kept.pop(next(iter(self._kept)))

    def encode_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors of queries, which nobody prepares."""
        encode: Callable[[Sequence[str]], npt.NDArray[np.float32]] = getattr(self._inner, "encode_queries", self._inner.encode)
        with self._asking:
            return encode(texts)

    def encode(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float32]:
        """Unit vectors in the order of ``texts``: remembered ones where there are, computed ones otherwise."""
        with self._lock:
            found = {index: self._kept.pop(text) for index, text in enumerate(texts) if text in self._kept} if self._kept else {}
        rest = [index for index in range(len(texts)) if index not in found]
        if not found:
            with self._asking:
                return self._inner.encode(texts, on_progress)
        vectors: npt.NDArray[np.float32] = np.empty((len(texts), len(next(iter(found.values())))), np.float32)
        for index, vector in found.items():
            vectors[index] = vector
        if rest:
            with self._asking:
                vectors[rest] = self._inner.encode([texts[index] for index in rest], on_progress)
        return vectors
