"""What the queries are about: clusters of their embeddings with names, and numbers that stay the same from cycle to cycle.

What belongs here: clustering, naming, matching with the topics of earlier cycles. What must not: scores of queries (``subsets`` and ``reproduce`` test them).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from predator_si.corpora.words import token_lists
from predator_si.diagnose.slices import Subset
from predator_si.errors import BadInput
from predator_si.search.retrieve import Embedder
from predator_si.search.tiny import HashingEmbedder

Vectors = npt.NDArray[np.float32]
MATCH_COSINE = 0.6
"""Centroids at least this near are the same topic."""
KEPT_TOPICS = 500
_NAME_WORDS = (2, 4)
_KEPT_TERMS = 12
_MIN_NEW = 20
_FEW_CLUSTERS = 4
_DIGITS = 5


@dataclass(frozen=True)
class Topic:
    """A topic as it is remembered: number, name, centroid (unit length), when it was last seen (cycle counter), and how far its queries reach from the
    centroid (5% quantile of their cosine).
    """

    number: int
    name: str
    centroid: Vectors
    seen: int
    reach: float

    @property
    def label(self) -> str:
        """``7: dataframe join``."""
        return f"{self.number}: {self.name}"


@dataclass(frozen=True)
class TopicMemory:
    """Topics of earlier cycles, of one embedder. Numbers are never given twice."""

    embedder: str = ""
    cycle: int = 0
    last_number: int = 0
    topics: tuple[Topic, ...] = ()

    def save(self, path: Path) -> None:
        """Write the memory, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"number": t.number, "name": t.name, "seen": t.seen, "reach": round(t.reach, _DIGITS), "centroid": [round(float(x), _DIGITS) for x in t.centroid]}
            for t in self.topics
        ]
        partial = path.with_name(f".{path.name}.partial")
        content = {"embedder": self.embedder, "cycle": self.cycle, "last_number": self.last_number, "topics": rows}
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> TopicMemory:
        """The memory in ``path``; an empty one where there is no such file.

        Raises
        ------
        BadInput
            The file is not a topic memory.
        """
        path = Path(path)
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            topics = tuple(
                Topic(int(row["number"]), str(row["name"]), np.asarray(row["centroid"], dtype=np.float32), int(row["seen"]), float(row["reach"]))
                for row in content["topics"]
            )
            return cls(str(content["embedder"]), int(content["cycle"]), int(content["last_number"]), topics)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}: not a topic memory ({error}). Delete the file: topics are then numbered anew.") from error


@dataclass(frozen=True)
class Topics:
    """The topics of a set of queries.

    ``numbers`` is the topic of each text, in order; ``sizes`` counts distinct texts; ``memory`` is what the next cycle should be given; ``reason`` says what
    the reader must know (no bi-encoder, memory of another embedder), null otherwise.
    """

    numbers: npt.NDArray[np.int64]
    topics: tuple[Topic, ...]
    sizes: Mapping[int, int]
    memory: TopicMemory
    new: tuple[int, ...] = ()
    reason: str | None = None
    terms: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def label(self, number: int) -> str:
        """``7: dataframe join``."""
        return next(topic.label for topic in self.topics if topic.number == number)

    def subsets(self, rows: Sequence[int] | None = None) -> list[Subset]:
        """One subset per topic, named ``topic=7: dataframe join``, over ``rows`` of the texts (indices into ``rows``; default all)."""
        chosen = self.numbers if rows is None else self.numbers[np.asarray(rows, dtype=np.int64)]
        return [(f"topic={topic.label}", np.flatnonzero(chosen == topic.number)) for topic in self.topics if (chosen == topic.number).any()]


def find_topics(
    texts: Sequence[str],
    embedder: Embedder | None,
    memory: TopicMemory | None = None,
    *,
    seed: int,
    threshold: float = MATCH_COSINE,
    listable: Container[str] | None = None,
) -> Topics:
    """Cluster queries and number the clusters as earlier cycles did.

    k-means (k about ``sqrt(n / 2)`` of n distinct texts; Mardia et al. 1979, p. 365) on unit vectors, begun at the remembered centroids of the last cycle,
    and in addition at centroids of the queries that no remembered topic reaches when there are more of those than the reach lets expect. New centroids are
    matched one to one with remembered ones by the largest total cosine (Kuhn 1955); a pair below ``threshold`` is no match, and a cluster without a match
    gets the next number. The order of the texts and repeated texts change nothing.

    Parameters
    ----------
    embedder
        ``None``: words hashed to vectors; then only texts with equal words are near, and ``reason`` says so.
    memory
        Of the last cycle. One of another embedder cannot be compared: numbers go on after its last one.
    listable
        Words that a topic may be named by; ``None``: all.

    Raises
    ------
    BadInput
        No text.
    """
    if not texts:
        raise BadInput("topics of no text: pass at least one query.")
    known, reason = memory or TopicMemory(), None
    if embedder is None:
        embedder, reason = HashingEmbedder(), "no bi-encoder was given: words were hashed, so that texts with other words for the same thing are apart"
    if known.topics and known.embedder != embedder.name:
        reason = "; ".join(filter(None, [reason, f"remembered topics are of embedder {known.embedder}, this is {embedder.name}: numbered anew"]))
        known = replace(known, topics=())
    distinct = sorted(set(texts))
    vectors = np.asarray(embedder.encode(distinct), dtype=np.float32)
    labels, centroids = _cluster(vectors, known, seed)
    numbers, last = _matched(centroids, known, threshold)
    terms = _terms(distinct, labels, len(centroids), listable)
    remembered = {topic.number: topic for topic in known.topics}
    cycle, topics = known.cycle + 1, []
    for cluster, number in enumerate(numbers):
        cosines = vectors[labels == cluster] @ centroids[cluster]
        name = _name(terms[cluster], remembered.get(number))
        topics.append(Topic(number, name, centroids[cluster], cycle, float(np.quantile(cosines, 0.05))))
    topics.sort(key=lambda topic: topic.number)
    gone = [topic for topic in known.topics if topic.number not in set(numbers)]
    kept = sorted([*topics, *gone], key=lambda topic: (-topic.seen, topic.number))[:KEPT_TOPICS]
    place = {text: index for index, text in enumerate(distinct)}
    by_cluster = np.asarray(numbers, dtype=np.int64)
    return Topics(
        numbers=by_cluster[labels[[place[text] for text in texts]]],
        topics=tuple(topics),
        sizes={number: int((labels == cluster).sum()) for cluster, number in enumerate(numbers)},
        memory=TopicMemory(embedder.name, cycle, last, tuple(sorted(kept, key=lambda topic: topic.number))),
        new=tuple(number for number in numbers if number not in remembered),
        reason=reason,
        terms={number: terms[cluster] for cluster, number in enumerate(numbers)},
    )


def _cluster(vectors: Vectors, known: TopicMemory, seed: int) -> tuple[npt.NDArray[np.int64], Vectors]:
    """Label of each vector, and unit centroids; clusters that nothing belongs to are left out."""
    from sklearn.cluster import KMeans

    wanted = max(1, min(len(vectors), round(math.sqrt(len(vectors) / 2))))
    start = _start(vectors, known, seed, wanted)
    model = KMeans(wanted, n_init=4, random_state=seed) if start is None else KMeans(len(start), init=start, n_init=1)
    used, labels = np.unique(model.fit(vectors).labels_, return_inverse=True)
    centroids = np.stack([_unit(vectors[labels == cluster].mean(axis=0)) for cluster in range(len(used))])
    return labels.astype(np.int64), centroids


def _start(vectors: Vectors, known: TopicMemory, seed: int, wanted: int) -> Vectors | None:
    """Where k-means begins: at the last cycle's centroids unless there are far more or fewer of them than wanted, and at those of what none of them reaches."""
    from sklearn.cluster import KMeans

    active = [topic for topic in known.topics if topic.seen == known.cycle]
    if not active or len(active) > min(len(vectors), 2 * wanted) or 2 * len(active) < wanted:
        return None
    centroids = np.stack([topic.centroid for topic in active])
    reach = np.array([topic.reach for topic in active], dtype=np.float32)
    outside = vectors[((vectors @ centroids.T) < reach).all(axis=1)]
    if len(outside) < max(_MIN_NEW, 0.1 * len(vectors)):
        return centroids
    extra = max(1, round(math.sqrt(len(outside) / 2)))
    return np.concatenate([centroids, KMeans(extra, n_init=4, random_state=seed).fit(outside).cluster_centers_])[: len(vectors)].astype(np.float32)


def _matched(centroids: Vectors, known: TopicMemory, threshold: float) -> tuple[list[int], int]:
    """The number of each cluster, and the last number ever given."""
    from scipy.optimize import linear_sum_assignment

    numbers: dict[int, int] = {}
    if known.topics:
        cosines = centroids @ np.stack([topic.centroid for topic in known.topics]).T
        for cluster, topic in zip(*linear_sum_assignment(np.where(cosines >= threshold, -cosines, 1.0)), strict=True):
            if cosines[cluster, topic] >= threshold:
                numbers[int(cluster)] = known.topics[int(topic)].number
    last = known.last_number
    for cluster in range(len(centroids)):
        if cluster not in numbers:
            last += 1
            numbers[cluster] = last
    return [numbers[cluster] for cluster in range(len(centroids))], last


def _terms(texts: Sequence[str], labels: npt.NDArray[np.int64], clusters: int, listable: Container[str] | None = None) -> list[tuple[str, ...]]:
    """Words of each cluster by class-based tf-idf (Grootendorst 2022, arXiv 2203.05794).

    ``tf(w, c) ln(1 + A / f(w))``, where f(w) counts the word in all clusters and A is the mean number of words of a cluster. A word of more than half of the
    clusters tells none of them; one that a single query used names nothing, and may be private.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(clusters)]
    for words, label in zip(token_lists(texts), labels, strict=True):
        named = (word for word in set(words) if listable is None or word in listable)
        counts[label].update(word for word in named if any(character.isalpha() for character in word) and len(word) > 1)
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    mean = sum(total.values()) / max(clusters, 1)
    spread = Counter(word for count in counts for word in count)
    telling = {word for word, n in total.items() if n > 1 and (clusters < _FEW_CLUSTERS or spread[word] <= clusters / 2)}
    shared = [{word: n for word, n in count.items() if word in telling} or count for count in counts]
    weights = [{word: n * math.log(1.0 + mean / total[word]) for word, n in count.items()} for count in shared]
    return [tuple(sorted(weight, key=lambda word: (-weight[word], word))[:_KEPT_TERMS]) for weight in weights]


def _name(terms: tuple[str, ...], before: Topic | None) -> str:
    """Two to four words; the name of a remembered topic stays as long as one of its words still tells the cluster."""
    if before is not None and set(before.name.split()) & set(terms):
        return before.name
    return " ".join(terms[: _NAME_WORDS[1] - 1]) if terms else "no words"


def _unit(vector: Vectors) -> Vectors:
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)
