"""How much each member of a teacher is worth on this collection, told from where the members agree: no judgment is needed.

What belongs here: the estimate, from votes that were cast anyway. What must not: members, budgets, training.

A model of one factor: the vote of member i on a candidate is ``loading_i x relevance + noise_i``, noises independent, votes standardised. Then the correlation
of two members is the product of their loadings, so three members or more tell each one's loading without knowing relevance (the idea of Parisi, Strino,
Nadler and Kluger 2014, "Ranking and combining multiple predictors without labeled data", for scores instead of classes). The best linear estimate of the
factor weighs member i by ``loading / (1 - loading^2)`` (Bartlett 1937). Members whose errors are alike, as those of two bi-encoders are, look better than they
are; the weights are therefore held within a range.

NDCG@10 of the top 20 of the first stage on train queries, whose labels served for this table only (cross-encoder L-12, MiniLM, BM25, bge-small; 150, 150, 103
and 150 queries):

======================================  ========  ========  =========  =======
teacher                                 stackfaq  faq-docs  cranfield  scifact
======================================  ========  ========  =========  =======
best member alone                       .912      .849      .419       .756
fixed weights (1, .5, .5, .5)           .878      .822      .419       .749
weights by this model                   .895      .836      .425       .754
best of 125 weightings, by the labels   .909      .852      .433       .756
======================================  ========  ========  =========  =======
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predator_si.augment.teacher import CLICKS, CROSS_ENCODER, LARGER, SoftLabels, agreement, said

FloatArray = npt.NDArray[np.float64]
LEAST_QUERIES = 30
"""Queries that all members voted on, below which the given weights stay."""
_LEAST_MEMBERS = 3
_RANGE = (0.1, 3.0)
"""Of a weight, as a multiple of the cross-encoder's, or of the best member's where there is none."""
_COMMUNALITY = (0.01, 0.95)
"""A squared loading outside is an accident of a small sample (a Heywood case)."""
_ROUNDS = 500
_SETTLED = 1e-7
ANCHORS = (LARGER, CROSS_ENCODER)


@dataclass(frozen=True)
class Reliability:
    """``weights`` by member; ``loadings`` of the members that were judged, empty where the given weights stayed, and then ``reason`` says why."""

    weights: dict[str, float]
    loadings: dict[str, float]
    n: int
    reason: str | None = None

    def __str__(self) -> str:
        """The ensemble in words."""
        return said(self.weights)


def estimate(labels: Sequence[SoftLabels], weights: Mapping[str, float], *, beside: Sequence[str] = (CLICKS,)) -> Reliability:
    """Weights of the rankers in ``labels``, whose sum stays that of the given ones; what is named in ``beside`` is no ranker and keeps its weight.

    Parameters
    ----------
    labels
        Of queries that people asked: made-up ones favour the member that is nearest to how they were made.
    weights
        ``EnsembleTeacher.weights``.
    beside
        Members that vote from other knowledge, such as clicks.
    """
    rankers = [name for name in weights if name not in beside]
    common = [one for one in labels if all(name in one.votes for name in rankers) and len(one.scores) > 1]
    if len(rankers) < _LEAST_MEMBERS or len(common) < LEAST_QUERIES:
        why = f"{len(rankers)} rankers voted together on {len(common)} queries; {_LEAST_MEMBERS} and {LEAST_QUERIES} are needed"
        return Reliability(dict(weights), {}, len(common), why)
    correlation = np.corrcoef(np.stack([np.concatenate([one.votes[name] for one in common]) for name in rankers]))
    loadings = one_factor(correlation)
    found = dict(zip(rankers, loadings.tolist(), strict=True))
    if (loadings <= 0.0).any():
        against = ", ".join(name for name in rankers if found[name] <= 0.0)
        return Reliability(dict(weights), found, len(common), f"{against} votes against the others: nothing tells who is right")
    worth = loadings / (1.0 - loadings**2)
    anchor = next((rankers.index(name) for name in ANCHORS if name in rankers), int(np.argmax(worth)))
    worth = np.clip(worth / worth[anchor], *_RANGE)
    worth *= sum(weights[name] for name in rankers) / worth.sum()
    return Reliability({**weights, **dict(zip(rankers, worth.tolist(), strict=True))}, found, len(common))


def one_factor(correlation: FloatArray) -> FloatArray:
    """Loadings of one common factor, by iterated principal axes (Harman 1976, ch. 8): ``(k,)`` for a ``(k, k)`` correlation matrix, their sum not negative."""
    shared = np.full(len(correlation), 0.5)
    loadings = np.sqrt(shared)
    for _ in range(_ROUNDS):
        reduced = correlation.copy()
        np.fill_diagonal(reduced, shared)
        values, vectors = np.linalg.eigh(reduced)
        loadings = vectors[:, -1] * np.sqrt(max(float(values[-1]), 0.0))
        loadings = loadings if loadings.sum() >= 0.0 else -loadings
        new = np.clip(loadings**2, *_COMMUNALITY)
        if float(np.abs(new - shared).max()) < _SETTLED:
            break
        shared = new
    bounded: FloatArray = np.sign(loadings) * np.minimum(np.abs(loadings), np.sqrt(_COMMUNALITY[1]))
    return bounded


def weighed(labels: SoftLabels, weights: Mapping[str, float]) -> SoftLabels:
    """The same votes, added up with other weights."""
    scores = sum((weights[name] * vote for name, vote in labels.votes.items()), np.zeros(len(labels.scores)))
    return SoftLabels(scores, labels.votes, agreement(labels.votes, weights))
