"""Teachers: how relevant the candidates of a query are, in the joint opinion of everything at hand that can tell.

What belongs here: members over callables, the weighted sum of their standardised scores, and how far they agree. What must not: loading models
(``teacher_models``), choosing what is worth the teacher's time (``pseudo_labels``).

Why a sum of different rankers: a champion cannot learn from its own scores. What the dense and the lexical leg know beside it is new to it, and errors that
the members do not share cancel. NDCG@10 of the top 20 of the first stage on queries of the train split, whose labels served for this table only (L-12, MiniLM,
BM25; standard errors of the gains .008 to .013):

===================================  =================  ===============  =================
members                              scifact (150)      stackfaq (80)    faq-docs (150)
===================================  =================  ===============  =================
cross-encoder alone                  .719               .864             .798
with .5 (dense + lexical)            .743               .885             .825
with .8 (dense + lexical)            .741               .887             .833
with .5 (dense + lexical + bge)      .754               .896             .849
with .8 (dense + lexical + bge)      .755               .901             .858
===================================  =================  ===============  =================

Every weight between .25 and 1.2 is within .015 of the best for the three members that a service has. Late interaction by answerai-colbert-small, without its
projection, added .004 and .002 to the members with bge, for as much time as bge takes: it is not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.search.rerank import standardised

FloatArray = npt.NDArray[np.float64]
ScorePairs = Callable[[list[tuple[str, str]]], npt.NDArray[np.floating]]
"""(query, text) pairs to logits, shape ``(n,)``: a reranker's ``score_pairs``, or one that remembers (``evaluate.pair_scores``)."""

CROSS_ENCODER, LARGER, DENSE, LEXICAL, CLICKS = "cross-encoder", "larger cross-encoder", "dense", "lexical", "clicks"
WEIGHTS: Mapping[str, float] = {CROSS_ENCODER: 1.0, LARGER: 1.0, CLICKS: 1.0}
"""Of members by name; every other one has ``OTHERS``. Votes are standardised: one clicked document of 20 stands four standard deviations above the rest."""
OTHERS = 0.5
_LENIENCE = 4.0
_KEPT_VECTORS = 100_000
"""Document vectors that a bi-encoder remembers: 150 MB at 384 dimensions."""


class Legs(Protocol):
    """The part of ``search.retrieve.HybridIndex`` that tells what its legs think of given documents."""

    def __contains__(self, doc_id: str) -> bool:
        """Whether the document is indexed."""
        ...

    def dense_scores(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Cosine similarities."""
        ...

    def lexical_scores(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """BM25 scores."""
        ...


class Encodes(Protocol):
    """The part of ``search.retrieve.Embedder`` that a bi-encoder needs."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Rows of unit length, one per text."""
        ...


class Member(Protocol):
    """One ranker of an ensemble."""

    name: str

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> Sequence[FloatArray | None]:
        """One array per query, aligned with its candidates, higher is more relevant; null where this member cannot say."""
        ...


class CrossEncoder:
    """A cross-encoder, given as a function on pairs: the champion through its score cache, or a larger model."""

    def __init__(self, score_pairs: ScorePairs, name: str = CROSS_ENCODER) -> None:
        self.name = name
        self._score_pairs = score_pairs

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Logits; all pairs of the call go to the model together, so that it can sort them by length."""
        pairs = [(query, text) for query, some in zip(queries, texts, strict=True) for text in some]
        if not pairs:
            return [np.empty(0) for _ in queries]
        scores = np.asarray(self._score_pairs(pairs), dtype=np.float64).reshape(-1)
        if len(scores) != len(pairs):
            raise BadInput(f"teacher {self.name}: {len(scores)} scores for {len(pairs)} pairs. Check the teacher model.")
        return np.split(scores, np.cumsum([len(some) for some in texts])[:-1])


class IndexLeg:
    """One leg of the service's first stage, ``dense`` or ``lexical``; silent on a query with a document that is not indexed."""

    def __init__(self, index: Legs, leg: str) -> None:
        self.name = leg
        self._index = index
        self._scores = {DENSE: index.dense_scores, LEXICAL: index.lexical_scores}[leg]

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[FloatArray | None]:
        """Cosine similarities or BM25 scores."""
        known = [at for at, ids in enumerate(doc_ids) if all(doc_id in self._index for doc_id in ids)]
        found = dict(zip(known, self._scores([queries[at] for at in known], [doc_ids[at] for at in known]), strict=True))
        return [found.get(at) for at in range(len(queries))]


class BiEncoder:
    """A further bi-encoder: cosine similarity of query and text. A text is embedded once, whatever number of queries it is a candidate of.

    Parameters
    ----------
    query_prefix
        What the model was trained to see before a query, such as an instruction.
    """

    def __init__(self, name: str, embedder: Encodes, query_prefix: str = "") -> None:
        self.name = name
        self._embedder = embedder
        self._prefix = query_prefix
        self._vectors: dict[bytes, npt.NDArray[np.float32]] = {}

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Cosine similarities."""
        keys = [[blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in some] for some in texts]
        if len(self._vectors) > _KEPT_VECTORS:
            self._vectors.clear()
        fresh = {key: text for own, some in zip(keys, texts, strict=True) for key, text in zip(own, some, strict=True) if key not in self._vectors}
        if fresh:
            self._vectors.update(zip(fresh, self._embedder.encode(list(fresh.values())), strict=True))
        asked = self._embedder.encode([self._prefix + query for query in queries])
        return [np.array([self._vectors[key] @ vector for key in own], np.float64) if own else np.empty(0) for own, vector in zip(keys, asked, strict=True)]


@dataclass(frozen=True)
class SoftLabels:
    """What the ensemble thinks of the candidates of one query.

    Attributes
    ----------
    scores
        The weighted sum of the votes: comparable within this query only.
    votes
        Each member's scores, standardised within the candidates; members that were silent or did not tell any two candidates apart are not in it.
    confidence
        0 to 1: how far the members agree on the best candidate (see :func:`agreement`); null with fewer than two candidates or voting members.
    """

    scores: FloatArray
    votes: dict[str, FloatArray]
    confidence: float | None

    @property
    def best(self) -> int | None:
        """Place of the best candidate, the first one of equals; null without candidates."""
        return int(np.argmax(self.scores)) if len(self.scores) else None

    def without(self, member: str, weights: Mapping[str, float]) -> FloatArray:
        """The sum without one member's vote."""
        return self.scores - weights[member] * self.votes[member] if member in self.votes else self.scores


class EnsembleTeacher:
    """The weighted sum of what several rankers think, each standardised within the candidates of the query.

    ``z(cross-encoder) + .5 (z(dense) + z(lexical) + ...)``: standardising makes logits, cosines and BM25 scores comparable, and removes from each what is the
    same for all candidates. A member that does not tell the candidates of a query apart adds nothing there.

    Parameters
    ----------
    members
        At least one; their names differ.
    weights
        By name, positive; those not named have ``WEIGHTS`` or ``OTHERS``.

    Raises
    ------
    BadInput
        No member, two of one name, or a weight that is not positive or of nobody.
    """

    def __init__(self, members: Sequence[Member], weights: Mapping[str, float] | None = None) -> None:
        names = [member.name for member in members]
        if not names or len(set(names)) != len(names):
            raise BadInput(f"an ensemble needs members of different names, not {names}. Give at least the champion or the index.")
        strange = {name: weight for name, weight in (weights or {}).items() if name not in names or not 0.0 < weight < float("inf")}
        if strange:
            raise BadInput(f"teacher weights {strange}: each is a positive number of one of {', '.join(names)}. Leave a member out instead of weighing it 0.")
        self._members = tuple(members)
        self.weights: dict[str, float] = {name: {**WEIGHTS, **(weights or {})}.get(name, OTHERS) for name in names}
        self.name = said(self.weights)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of those that vote."""
        return tuple(self.weights)

    def cheap(self) -> EnsembleTeacher | None:
        """The same ensemble without its models (cross-encoders and further bi-encoders), which take nearly all of its time; null where nobody is left."""
        left = [member for member in self._members if not isinstance(member, CrossEncoder | BiEncoder)]
        return EnsembleTeacher(left, {member.name: self.weights[member.name] for member in left}) if left else None

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[FloatArray]:
        """The weighted sums; see :meth:`label`."""
        return [labels.scores for labels in self.label(queries, doc_ids, texts)]

    def label(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[SoftLabels]:
        """Scores, votes and agreement, one per query.

        Parameters
        ----------
        doc_ids, texts
            The candidates of each query, aligned with each other; a query may have none.

        Raises
        ------
        BadInput
            The three are not of one shape, or a member gave a score that is missing or not a number.
        """
        sizes = [len(ids) for ids in doc_ids]
        if len(queries) != len(sizes) or sizes != [len(some) for some in texts]:
            raise BadInput(f"{len(queries)} queries with {sum(sizes)} documents and {sum(map(len, texts))} texts: give each document of each query its text.")
        opinions = {member.name: self._asked(member, queries, doc_ids, texts, sizes) for member in self._members}
        found = []
        for at, size in enumerate(sizes):
            votes = {name: vote for name, answers in opinions.items() if (vote := answers[at]) is not None}
            scores = sum((self.weights[name] * vote for name, vote in votes.items()), np.zeros(size))
            found.append(SoftLabels(scores, votes, agreement(votes, self.weights)))
        return found

    def _asked(
        self, member: Member, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]], sizes: Sequence[int]
    ) -> list[FloatArray | None]:
        """The member's standardised votes, null where it has none."""
        answers = member.score(queries, doc_ids, texts)
        if len(answers) != len(queries):
            raise BadInput(f"teacher {member.name}: {len(answers)} answers to {len(queries)} queries. Check the teacher model.")
        votes: list[FloatArray | None] = []
        for query, size, answer in zip(queries, sizes, answers, strict=True):
            if answer is not None and (len(answer) != size or not np.isfinite(answer).all()):
                finite = int(np.isfinite(answer).sum())
                raise BadInput(
                    f"teacher {member.name}: {len(answer)} scores for {size} candidates of a query of {len(query)} characters, {finite} of them finite. "
                    "Check the teacher model."
                )
            vote = None if answer is None else standardised(answer)
            votes.append(vote if vote is not None and vote.any() else None)
        return votes


def said(weights: Mapping[str, float]) -> str:
    """An ensemble in words: ``1 cross-encoder + 0.5 dense``."""
    return " + ".join(f"{round(weight, 2):g} {name}" for name, weight in weights.items())


def agreement(votes: Mapping[str, FloatArray], weights: Mapping[str, float]) -> float | None:
    """How far the members agree on the ensemble's best candidate, 0 to 1; null with fewer than two candidates or votes.

    The weighted mean over the members of ``exp(-above / 4)``, where ``above`` candidates stand above that one in the member's own order (those level with it
    by half). All alike give 1, one above .78, four .37. It is lenient on purpose: where several documents answer a query, members that choose different
    ones are all right, so the lead of the best over the next says nothing there. Of the quarter of the queries with least and with most agreement, the best
    candidate was relevant for .39 and .86 on scifact, .90 and .95 on stackfaq, .37 and .97 on faq-docs (queries and members of the table above, without bge).
    """
    if len(votes) < 2:
        return None
    total = sum((weights[name] * vote for name, vote in votes.items()), np.zeros(1))
    best = int(np.argmax(total))
    above = {name: float((vote > vote[best]).sum() + 0.5 * ((vote == vote[best]).sum() - 1)) for name, vote in votes.items()}
    return float(sum(weights[name] * np.exp(-above[name] / _LENIENCE) for name in votes) / sum(weights[name] for name in votes))


def ensemble_of(
    index: Legs,
    cross_encoder: ScorePairs | None,
    *,
    bi_encoders: Sequence[BiEncoder] = (),
    larger: ScorePairs | None = None,
    signals: Sequence[Member] = (),
    weights: Mapping[str, float] | None = None,
) -> EnsembleTeacher:
    """The teacher that a service can have: its champion, both legs of its index, and whatever else is at hand.

    Parameters
    ----------
    index
        The live ``HybridIndex``.
    cross_encoder
        The champion on pairs; null leaves it out.
    bi_encoders
        Further ones, such as those of ``teacher_models.installed_bi_encoders``.
    larger
        A larger cross-encoder on pairs, where one is configured.
    signals
        What is known beside rankers' opinions, such as ``signals.click_signal``.
    weights
        By member name, in place of the default ones.
    """
    crossed = [CrossEncoder(score, name) for name, score in ((CROSS_ENCODER, cross_encoder), (LARGER, larger)) if score is not None]
    return EnsembleTeacher([*crossed, IndexLeg(index, DENSE), IndexLeg(index, LEXICAL), *bi_encoders, *signals], weights)
