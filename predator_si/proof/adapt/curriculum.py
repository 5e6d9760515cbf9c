"""What the trainings of one adaptation learn from: which queries are labelled, what is held back, which mixes there are.

What belongs here: how many of what. What must not: how a query becomes a group (``teaching``), training (``arms``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from predator_si.augment.material import Generator
from predator_si.augment.signals import Signal, click_signal
from predator_si.augment.teacher import DENSE, LEXICAL, BiEncoder, CrossEncoder, EnsembleTeacher, IndexLeg, Member
from predator_si.proof.adapt.arms import Workshop
from predator_si.proof.adapt.collection import Collection
from predator_si.proof.adapt.labels import Judgments
from predator_si.proof.adapt.plan import Plan
from predator_si.proof.adapt.questions import asked, made_up
from predator_si.proof.adapt.signals import WEIGHTS, judged_signal, simulated_log
from predator_si.proof.adapt.teaching import Lesson, Question, ask_teacher
from predator_si.search.rerank import fuse

HELD_OUT_SHARE = 0.2
_TRAINING_SHARE = 0.12
"""Of the budget, for one training: what labelling reckons with before anything was timed but scoring."""
_TRAINING_COST = 4.5
"""A trained pair takes so many times the time of a scored one (measured in five runs on two cores: 3.4 to 6.3). What is labelled and not trained on is lost."""
_ASKED_SHARE = 0.85
"""Of the labelled queries, those that people asked, where there are as many and others can be made up."""
_TEACHER_SHARE = 0.25
"""Most of the budget that labelling may take, whatever was reckoned."""


@dataclass(frozen=True)
class Curriculum:
    """Labelled queries to train on, those held back for choosing, how many there were of what, and the teacher's name."""

    lessons: list[Lesson]
    held_out: list[Lesson]
    counts: dict[str, int]
    teacher: str


def draw_up(
    collection: Collection,
    workshop: Workshop,
    door: Judgments,
    pairs_per_second: float,
    generators: Sequence[Generator],
    bi_encoders: Sequence[BiEncoder],
    tell: Callable[[str], None],
    on_progress: Callable[[int, int], None],
    most: int | None = None,
) -> Curriculum:
    """Queries, their candidates and the teacher's opinion: as many as a training will have time for, a fifth held out (at most ``Plan.held_out``).

    ``most`` is what an earlier attempt of the run had time to label: this one labels no more.
    """
    plan, index = workshop.plan, collection.index
    rng = np.random.default_rng(plan.seed)
    log, leaked = asked(collection)
    wanted = affordable(plan, pairs_per_second)
    people = _drawn(log, round(wanted * (_ASKED_SHARE if generators else 1.0)), rng)
    made, near = made_up(collection, generators, wanted - len(people), plan.seed)
    members: list[Member] = [CrossEncoder(workshop.teacher_scores), IndexLeg(index, DENSE), IndexLeg(index, LEXICAL), *bi_encoders]
    texts = [question.text for question in people]
    signal = _signal(collection, collection.train.filter(pl.col("text").is_in(texts)), workshop, door, tell)
    if signal is not None:
        members.append(signal)
    teacher = EnsembleTeacher(members, {name: weight for name, weight in WEIGHTS.items() if signal is not None and name == signal.name})
    tell(f"the teacher labels {len(people)} asked and {len(made)} made-up queries: {teacher.name}")
    limit = _TEACHER_SHARE * 60.0 * plan.budget_minutes
    beside = [] if signal is None else [signal.name]
    questions = [*people, *_drawn(made, len(made), rng)][:most]
    lessons, reliable = ask_teacher(questions, index, teacher, plan.depth, seconds=limit, beside=beside, on_progress=on_progress)
    tell(f"the members' votes weigh {reliable}" if reliable.reason is None else f"the members keep their weights: {reliable.reason}")
    held = [lesson for own in (False, True) for lesson in _held(lessons, own, plan)]
    out = {id(lesson) for lesson in held}
    counts = {"asked": len(log), "made_up": len(made), "near_evaluation_left_out": leaked + near, "labelled": len(lessons), "held_out": len(held)}
    return Curriculum([lesson for lesson in lessons if id(lesson) not in out], held, counts, str(reliable))


def affordable(plan: Plan, pairs_per_second: float) -> int:
    """Queries that are worth a label: what one training and the choice among candidates can use, at most ``Plan.examples`` and the held-out ones."""
    trained = _TRAINING_SHARE * 60.0 * plan.budget_minutes * pairs_per_second / _TRAINING_COST / plan.group_size
    return round(min(trained, plan.examples)) + min(plan.held_out, round(HELD_OUT_SHARE * min(trained, plan.examples)))


@dataclass(frozen=True)
class Mix:
    """What one training is given; ``pace`` multiplies the learning rate."""

    name: str
    lessons: list[Lesson]
    pace: float


def mixes(curriculum: Curriculum) -> list[Mix]:
    """Two recipes: what people asked, and the same with what was made up; of one kind only, the same lessons at half the rate.

    Twice the rate was last or next to last on the held-out queries of all five collections that were adapted with it.
    """
    log = [lesson for lesson in curriculum.lessons if not lesson.question.doc_id]
    if 0 < len(log) < len(curriculum.lessons):
        return [Mix("asked", log, 1.0), Mix("asked and made up", curriculum.lessons, 1.0)]
    return [Mix("all", curriculum.lessons, 1.0), Mix("all, slower", curriculum.lessons, 0.5)]


def _signal(collection: Collection, queries: pl.DataFrame, workshop: Workshop, door: Judgments, tell: Callable[[str], None]) -> Signal | None:
    """The member that knows clicks or judgments of these queries; null without labels."""
    plan = workshop.plan
    if plan.labels == "train":
        return judged_signal(queries, door.open("training"))
    if plan.labels == "none":
        return None
    tell(f"simulated users ask {queries.height} queries {plan.click_searches} times each of the zero-shot ranking")
    found = collection.index.candidates(queries["text"].to_list(), plan.depth)
    scores = workshop.teacher_scores([(text, one) for text, own in zip(queries["text"], found, strict=True) for one in own.texts])
    shown, at = [], 0
    for own in found:
        size = len(own.doc_ids)
        fused = fuse(scores[at : at + size], own.scores, plan.fusion_weight)
        shown.append([own.doc_ids[place] for place in np.argsort(-fused, kind="stable")])
        at += size
    judgments = door.open("click simulation")
    return click_signal(simulated_log(queries, judgments, shown, plan.click_searches, np.random.default_rng(plan.seed)))


def _held(lessons: Sequence[Lesson], made_up: bool, plan: Plan) -> list[Lesson]:
    """The first of one kind, in proportion to all lessons."""
    own = [lesson for lesson in lessons if bool(lesson.question.doc_id) is made_up]
    return own[: min(int(HELD_OUT_SHARE * len(own)), plan.held_out * len(own) // max(1, len(lessons)))]


def _drawn(questions: Sequence[Question], most: int, rng: np.random.Generator) -> list[Question]:
    return [questions[int(at)] for at in rng.permutation(len(questions))[:most]]
