"""What a data set is made to: sizes, thresholds, and what it must not touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

SOURCES = ("log", "clicks", "title", "phrase", "template", "crop", "llm")
ASKED = frozenset({"log", "clicks"})
"""Sources whose queries people asked: the text is personal data, and whether it looks odd is not for a filter to say."""
STEPS = ("round_trip", "near_duplicate", "embedding_duplicate", "length", "copy", "language", "per_document", "cluster_quota", "same_text", "teacher")
"""Filters that ``Filters.off`` can leave out, for an ablation. What keeps evaluation queries and personal data out is not among them."""


@dataclass(frozen=True)
class Sizes:
    """How much of what.

    A group is one query with one positive, ``candidate_negatives`` sampled from ranks ``negative_ranks`` of the live first stage and
    ``random_negatives`` from the whole index. Four from ranks 3 to 30 and one random raised NDCG@10 by .019 where the seven hardest lowered it by .013 (same
    model, labels and queries): the mix decides the sign.
    """

    click_groups: int = 2_000
    log_groups: int = 0
    """Queries of the log whose answer the teacher picks; none without a teacher."""
    document_groups: int = 1_000
    """Over all sources that make queries up."""
    shares: Mapping[str, float] | None = None
    """How the document groups are divided among the sources that are there; what one source cannot fill the others do, in the same proportion. Null: as the
    diagnosis asks for (``generators.plan``)."""
    crop_share: float = 0.2
    """Most that crops may have of the made-up groups that are kept: they are filler."""
    candidate_negatives: int = 4
    random_negatives: int = 1
    negative_ranks: tuple[int, int] = (3, 30)
    hard_until_rank: int = 10
    legs: tuple[str, ...] = ("fused", "lexical", "fused", "dense")
    """Whose ranks the candidate negatives come from, in turn: what one retriever alone puts high is a mistake of another kind. An index that does not tell its
    legs gives fused ones."""
    targeted_share: float = 0.5
    """At most this share of the document groups comes from the weak slices and words of the report: the rest keeps what the model knows."""
    surplus: float = 2.0
    """So many times more candidate queries than groups are generated, since filters remove some."""
    validation_share: float = 0.1


@dataclass(frozen=True)
class Filters:
    """Thresholds of the filters, in the order they run (see ``sieve``, ``selection``, ``filters``)."""

    round_trip: int = 10
    round_trip_targeted: int = 30
    """Looser for targeted documents: those that are hard to find are the ones to learn from."""
    duplicate_similarity: float = 0.8
    """Jaccard similarity of the character 4-grams of two queries."""
    duplicate_cosine: float = 0.95
    leak_similarity: float = 0.7
    leak_cosine: float = 0.95
    words: tuple[int, int] = (2, 64)
    copied_run: tuple[int, float] = (6, 0.6)
    """A generated query is a copy when more than so many words, and more than this share of it, stand in the body in one run. Crops are copies by nature."""
    foreign_words: float = 1 / 3
    """Most that words of another language may have of a query (see ``language``)."""
    per_document: int = 3
    clusters: int = 24
    cluster_slack: float = 1.5
    """No cluster of documents gives more than so many times its share of all documents, targeted queries apart (their own cap is ``targeted_share``)."""
    false_negative_margin: Mapping[str, float] = field(default_factory=lambda: {**dict.fromkeys(SOURCES, 0.05), "clicks": -0.5})
    """A negative goes when its teacher score exceeds the positive's minus margin x the median gap between positives and negatives. Negative for clicks: a
    person chose that positive, so a negative that the teacher likes a little better is what there is to learn."""
    same_text_similarity: float = 0.8
    min_negatives: int = 2
    client_searches: int = 3
    """Searches of one client for one query that count: who repeats himself is still one person."""
    client_share: float = 0.05
    """Most of all clicked searches that one client may have, where that is more than ``client_least``."""
    client_least: int = 20
    click_ratio: tuple[float, int] = (0.6, 30)
    """A client who clicked more than this share of at least so many shown results clicks whatever it sees: none of its clicks counts."""
    off: frozenset[str] = frozenset()
    """Steps to leave out, for an ablation."""


@dataclass(frozen=True)
class Guard:
    """Evaluation queries, and documents relevant to them: no training query may resemble the former or be generated from the latter."""

    eval_queries: Sequence[str]
    eval_doc_ids: frozenset[str] | set[str]


@dataclass
class Proposal:
    """One query with its positive, on its way through the filters."""

    query: str
    doc_id: str
    source: str
    method: str
    weight: float
    targeted: bool
    excluded: frozenset[str] = frozenset()
    """Documents that must not become its negatives: everything clicked for this query."""
    sealed: str | None = None
    """A client's query as it may be stored; null for a generated one, which is nobody's."""
    grades: dict[str, float] = field(default_factory=dict)
    """Documents that were graded for this query beside its own, 0..1: members of the group with that label."""
    first_rank: int = 0
    negatives: list[tuple[str, str, str, int]] = field(default_factory=list)
    """(doc_id, text, kind, first-stage rank or 0)."""
    teacher: np.ndarray | None = None
    """Teacher's scores of the positive and then the negatives, once known."""
