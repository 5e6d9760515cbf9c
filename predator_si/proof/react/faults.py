"""What is wrong with the small live platform on purpose.

What belongs here: faults that a service meets, and the stand-ins that they sit in. What must not: when they are planted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ANY = ""
"""In :attr:`Faults.slow`: whichever model it is."""
CURSED = "unembeddable"
"""A word that the bi-encoder fails on while :attr:`Faults.refuses`."""


@dataclass
class Faults:
    """What is wrong with the service now.

    Attributes
    ----------
    slow
        Seconds that each (query, text) pair takes longer, by the digest of the model that scores it.
    burns
        Seconds of processor time that each pair costs more, in the same way.
    upside_down
        The reranker's scores are.
    embed_seconds
        Seconds that each new document takes longer to be embedded.
    refuses
        Documents with the word :data:`CURSED` cannot be embedded by the service.
    everywhere
        Nor by the loop, when it tries them again.
    """

    slow: dict[str, float] = field(default_factory=dict)
    burns: dict[str, float] = field(default_factory=dict)
    upside_down: bool = False
    embed_seconds: float = 0.0
    refuses: bool = False
    everywhere: bool = False

    def mend(self) -> None:
        """Nothing is wrong any more."""
        self.slow, self.burns = {}, {}
        self.upside_down = self.refuses = self.everywhere = False
        self.embed_seconds = 0.0

    def seconds(self, digest: str, pairs: int) -> float:
        """How much longer so many pairs take."""
        return pairs * (self.slow.get(digest, 0.0) + self.slow.get(ANY, 0.0))

    def score(self, digest: str, pairs: int) -> None:
        """Be as slow and as dear as so many pairs are."""
        time.sleep(self.seconds(digest, pairs))
        end = time.thread_time() + pairs * self.burns.get(digest, 0.0)
        while time.thread_time() < end:
            pass

    def prepare(self, documents: Sequence[Any]) -> None:
        """The service's embedding of new documents."""
        time.sleep(self.embed_seconds * len(documents))
        if self.refuses and any(CURSED in document.text for document in documents):
            raise ValueError("planted: these documents cannot be embedded")


class FaultyReranker:
    """A reranker with the faults that are on."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.digest, self.card = inner.digest, inner.card

    def score(self, query: str, texts: Any) -> Any:
        """Logits of the texts, float32; late, dear and upside down as the faults say."""
        self._faults.score(self.digest, len(texts))
        return self._bent(self._inner.score(query, texts))

    def score_pairs(self, pairs: Any) -> Any:
        """The same for pairs."""
        return self._bent(self._inner.score_pairs(pairs))

    def _bent(self, scores: Any) -> Any:
        return -np.asarray(scores) if self._faults.upside_down else scores


class RefusingEmbedder:
    """A bi-encoder that cannot embed what is cursed, while the faults say so."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, texts: Sequence[str], *rest: Any, **more: Any) -> Any:
        """Vectors of the texts, as the bi-encoder gives them."""
        if self._faults.everywhere and any(CURSED in text for text in texts):
            raise ValueError("planted: these documents cannot be embedded")
        return self._inner.encode(texts, *rest, **more)
