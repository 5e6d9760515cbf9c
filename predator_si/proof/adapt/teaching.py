"""From queries to training groups: candidates, the teacher's opinion of them, and which of them become a group.

What belongs here: groups for distillation and for the supervised oracle, and what is held out for choosing. What must not: training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from predator_si.augment.dataset import SCHEMA
from predator_si.augment.minhash import NearDuplicates, character_shingles
from predator_si.augment.pseudo_labels import Budget, Group, label_within
from predator_si.augment.recipe import Filters
from predator_si.augment.reliability import Reliability, estimate, weighed
from predator_si.augment.signals import keys_of
from predator_si.augment.teacher import EnsembleTeacher, SoftLabels
from predator_si.errors import BadInput
from predator_si.proof.adapt.plan import Plan
from predator_si.search.retrieve import Candidates, HybridIndex

SHARPNESS = 1.5
"""Targets are softmax(1.5 x the teacher's sum of standardised scores)."""
_ROUND_TRIP = 3
"""A made-up query stays when the teacher ranks its own document this high."""
_FAINT = 0.01
"""Shares of the teacher's distribution below this are no relevance when candidates are chosen."""
_CANDIDATE_NEGATIVES, _NEGATIVES_FROM, _MOST_POSITIVES = 4, 3, 3


@dataclass(frozen=True)
class Question:
    """A query that may be learned from. ``doc_id`` is the document it was made from, empty for one that people asked."""

    text: str
    source: str
    method: str
    doc_id: str = ""


@dataclass(frozen=True)
class Lesson:
    """A question with its candidates and what the teacher thinks of them."""

    question: Question
    candidates: Candidates
    labels: SoftLabels

    @property
    def own_rank(self) -> int:
        """Rank that the teacher gives to the question's own document; 0 where it has none among the candidates."""
        if self.question.doc_id not in self.candidates.doc_ids:
            return 0
        own = self.labels.scores[self.candidates.doc_ids.index(self.question.doc_id)]
        return int((self.labels.scores > own).sum()) + 1


def apart_from(questions: Iterable[Question], guarded: Sequence[str]) -> tuple[list[Question], int]:
    """Questions, each text once, that do not resemble a query of the evaluation, and how many did. Only texts are compared: no judgment is known here."""
    every = list({question.text: question for question in questions}.values())
    near = NearDuplicates(Filters().leak_similarity)
    near.add_all(character_shingles(list(guarded)))
    said = set(keys_of(guarded))
    similar, keys = near.similar(character_shingles([question.text for question in every])), keys_of([question.text for question in every])
    left = [question for question, alike, key in zip(every, similar, keys, strict=True) if not alike and key not in said]
    return left, len(every) - len(left)


def ask_teacher(
    questions: Sequence[Question],
    index: HybridIndex,
    teacher: EnsembleTeacher,
    depth: int,
    *,
    seconds: float | None = None,
    beside: Sequence[str] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Lesson], Reliability]:
    """The teacher's opinion of the first ``depth`` candidates of each question, the most useful first as far as ``seconds`` reach; in the order given.

    Questions with fewer than two candidates, and made-up ones whose own document the teacher does not rank high, are left out. The members' weights are those
    that their votes on what people asked make likely (``augment.reliability``); ``beside`` names members that are no rankers.
    """
    found = zip(questions, index.candidates([question.text for question in questions], depth), strict=True)
    # A made-up query that does not even find its document is not worth the teacher's time.
    pairs = [(question, own) for question, own in found if len(own.doc_ids) > 1 and (not question.doc_id or question.doc_id in own.doc_ids)]
    groups = [Group(question.text, own.doc_ids, own.texts) for question, own in pairs]
    labels = label_within(groups, teacher, Budget(examples=None, seconds=seconds), on_progress=on_progress).labels
    found_weights = estimate(
        [label for (question, _), label in zip(pairs, labels, strict=True) if label and not question.doc_id], teacher.weights, beside=beside
    )
    lessons = [Lesson(question, own, weighed(label, found_weights.weights)) for (question, own), label in zip(pairs, labels, strict=True) if label is not None]
    return [lesson for lesson in lessons if not lesson.question.doc_id or 0 < lesson.own_rank <= _ROUND_TRIP], found_weights


def distilled_groups(lessons: Sequence[Lesson], plan: Plan, seed: int, draws: int = 1) -> pl.DataFrame:
    """Training groups with the columns of ``augment.dataset.SCHEMA``: the teacher's best few and some of the other candidates, at random.

    Only hard ones teach the wrong thing where the teacher errs; only random ones teach nothing. ``label`` is 1 for the teacher's pick, ``teacher_score`` its
    sum, ``weight`` how far its members agree. Each lesson becomes ``draws`` groups, with other random candidates in each: a second time over the same queries
    uses more of what was labelled.

    Raises
    ------
    BadInput
        There is no lesson.
    """
    if not lessons:
        raise BadInput("no query is left to learn from: the log is empty, everything resembled the evaluation, or no query had two candidates.")
    rows = []
    for number, lesson in enumerate([*lessons] * draws):
        rng = np.random.default_rng([seed, number])
        order = np.argsort(-lesson.labels.scores, kind="stable")
        rest = order[plan.teacher_best :]
        others = rng.choice(rest, min(plan.group_size - plan.teacher_best, len(rest)), replace=False) if len(rest) else rest
        for place, at in enumerate([*order[: plan.teacher_best].tolist(), *others.tolist()]):
            label = 1.0 if place == 0 else 0.0
            rows.append(_row(number, lesson.question, lesson.candidates, at, label, float(lesson.labels.scores[at]), _weight(lesson)))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def supervised_groups(queries: pl.DataFrame, judgments: pl.DataFrame, index: HybridIndex, plan: Plan, seed: int) -> pl.DataFrame:
    """Training groups from judgments: up to three relevant documents, four candidates from rank three down, one document from anywhere.

    That mix, with true labels, gained where the seven hardest negatives lost (facts of ``augment.recipe.Sizes``). Grades are scaled to at most 1.

    Raises
    ------
    BadInput
        No query has a relevant document in the index.
    """
    grades: dict[str, dict[str, float]] = {}
    for query_id, doc_id, grade in judgments.filter(pl.col("relevance") > 0).select("query_id", "doc_id", "relevance").iter_rows():
        if doc_id in index:
            grades.setdefault(query_id, {})[doc_id] = float(grade)
    judged = queries.filter(pl.col("query_id").is_in(list(grades)))
    if judged.is_empty():
        raise BadInput(f"none of the {queries.height} train queries has a relevant document in the index: nothing supervised can be trained.")
    rows = []
    for number, (query_id, text, found) in enumerate(
        zip(judged["query_id"], judged["text"], index.candidates(judged["text"].to_list(), plan.depth), strict=True)
    ):
        rng, own = np.random.default_rng([seed, number]), grades[query_id]
        best = sorted(own, key=lambda doc_id: (-own[doc_id], doc_id not in found.doc_ids, doc_id))[:_MOST_POSITIVES]
        pool = [at for at, doc_id in enumerate(found.doc_ids) if doc_id not in own and at + 1 >= _NEGATIVES_FROM]
        chosen = [found.doc_ids[at] for at in rng.choice(pool, min(_CANDIDATE_NEGATIVES, len(pool)), replace=False)] if pool else []
        anywhere = [doc_id for doc_id in (index.doc_ids[int(at)] for at in rng.integers(len(index.doc_ids), size=20)) if doc_id not in {*own, *found.doc_ids}]
        question = Question(text, "log", "judged")
        top = max(own.values())
        for doc_id in [*best, *chosen, *anywhere[:1]]:
            rank = found.doc_ids.index(doc_id) + 1 if doc_id in found.doc_ids else 0
            kind = "positive" if doc_id in own else "hard" if rank else "random"
            label = own.get(doc_id, 0.0) / top
            rows.append((number, text, doc_id, index.text(doc_id), label, None, question.source, question.method, kind, rank, 1.0, False, "train"))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def held_out_set(lessons: Sequence[Lesson]) -> tuple[pl.DataFrame, pl.DataFrame, list[Candidates]]:
    """Queries, labels and candidates for choosing among candidates without a judgment.

    A made-up query has one relevant document, the one it was made from, whatever the teacher thinks; for a query that people asked the relevance of a
    candidate is its share in the teacher's distribution.
    """
    queries = pl.DataFrame({"query_id": [f"h{at}" for at in range(len(lessons))], "text": [lesson.question.text for lesson in lessons]})
    rows: list[tuple[str, str, float]] = []
    for at, lesson in enumerate(lessons):
        if lesson.question.doc_id:
            rows.append((f"h{at}", lesson.question.doc_id, 1.0))
            continue
        shares = np.exp(SHARPNESS * (lesson.labels.scores - lesson.labels.scores.max()))
        shares /= shares.sum()
        rows += [(f"h{at}", doc_id, float(share)) for doc_id, share in zip(lesson.candidates.doc_ids, shares, strict=True) if share >= _FAINT]
    labels = pl.DataFrame(rows, schema={"query_id": pl.String, "doc_id": pl.String, "relevance": pl.Float64}, orient="row")
    return queries, labels, [lesson.candidates for lesson in lessons]


def _weight(lesson: Lesson) -> float:
    return 0.5 if lesson.labels.confidence is None else max(lesson.labels.confidence, 0.05)


def _row(group: int, question: Question, found: Candidates, at: int, label: float, score: float, weight: float) -> tuple[object, ...]:
    kind = "positive" if label > 0 else "hard"
    return (group, question.text, found.doc_ids[at], found.texts[at], label, score, question.source, question.method, kind, at + 1, weight, False, "train")
