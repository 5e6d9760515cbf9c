"""Where the teacher's minutes go, and what becomes of queries that nobody answered.

What belongs here: which groups are worth labelling first, labelling within a budget, and turning a query's labelled candidates into a training group. What must
not: the teacher itself (``teacher``), filters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from predator_si.augment.negatives import FirstStage
from predator_si.augment.recipe import Proposal
from predator_si.augment.reliability import estimate, weighed
from predator_si.augment.teacher import CROSS_ENCODER, EnsembleTeacher, SoftLabels
from predator_si.errors import BadInput, Refused

_BATCH = 256
"""Queries that the first stage and the cheap members see at once."""
_PAIRS = 512
"""Candidates that are labelled between two looks at the clock: some seconds of a cross-encoder of 12 layers."""
_HARD_UNTIL = 10


@dataclass(frozen=True)
class Group:
    """A query with candidates that want labels; ``kept`` of them will be training examples, all where null."""

    query: str
    doc_ids: Sequence[str]
    texts: Sequence[str]
    targeted: bool = False
    kept: int | None = None

    @property
    def examples(self) -> int:
        """How many training examples it gives."""
        return len(self.doc_ids) if self.kept is None else min(self.kept, len(self.doc_ids))


@dataclass(frozen=True)
class Budget:
    """What labelling may cost: whichever ends first.

    Attributes
    ----------
    examples
        Training examples with a label; null: no limit. More pairs than that are scored where a group keeps only some of its candidates.
    seconds
        Of wall time; null: no limit. It is kept by looking at the clock after every few hundred pairs, and by what a pair has taken so far.
    """

    examples: int | None = 5_000
    seconds: float | None = 480.0


@dataclass(frozen=True)
class Labelling:
    """What was labelled, and what was not.

    Attributes
    ----------
    labels
        Aligned with the groups; null where the budget had ended.
    groups, examples
        Labelled ones.
    pairs
        Candidates that were scored for them.
    left_groups, left_examples
        Those without a label.
    seconds
        Wall time.
    reason
        Why there are groups without a label; null where there are none.
    changed
        Labelled groups whose best candidate is another one than the champion's: what the champion can learn from; null without a champion in the ensemble.
    """

    labels: list[SoftLabels | None]
    groups: int
    examples: int
    pairs: int
    left_groups: int
    left_examples: int
    seconds: float
    reason: str | None
    changed: int | None

    def statistics(self) -> dict[str, object]:
        """Everything but the labels, for a manifest."""
        return {name: value for name, value in vars(self).items() if name != "labels"}


@dataclass(frozen=True)
class Choice:
    """How a labelled query becomes a group: its answer is the ensemble's best candidate.

    Attributes
    ----------
    depth
        Candidates of the first stage that are labelled.
    best
        So many of the ensemble's best are in the group: the answer and what is nearly one.
    others
        So many of the rest, at random: hard negatives alone made the model worse, see ``recipe.Sizes``.
    least_confidence
        0 to 1: queries on whose answer the members agree less are left out, as are those whose candidates no member tells apart. A sole member has nobody to
        agree with: its answers stay.
    """

    depth: int = 20
    best: int = 3
    others: int = 5
    least_confidence: float = 0.6


def most_useful(groups: Sequence[Group], teacher: EnsembleTeacher) -> list[int]:
    """Places of the groups in the order in which labels are worth having: targeted ones, then those on which the cheap members agree least; ties as given.

    Cheap are the legs of the index and clicks: no model is asked. On train queries of three collections (see ``teacher``) the ensemble with bge is .026 better
    than the champion in NDCG@10 on the third of the queries where the two legs agree most, .039 and .054 on the others; without bge it is .022, .026 and
    .026, and the order hardly matters. Groups of fewer than two candidates teach nothing and come last.
    """
    cheap = teacher.cheap()
    unsure: list[float] = []
    for start in range(0, len(groups), _BATCH):
        some = groups[start : start + _BATCH]
        if cheap is None:
            unsure += [0.0] * len(some)
            continue
        labels = cheap.label([group.query for group in some], [group.doc_ids for group in some], [group.texts for group in some])
        unsure += [0.0 if one.confidence is None else 1.0 - one.confidence for one in labels]
    return sorted(range(len(groups)), key=lambda at: (len(groups[at].doc_ids) < 2, not groups[at].targeted, -round(unsure[at], 6), at))


def label_within(
    groups: Sequence[Group],
    teacher: EnsembleTeacher,
    budget: Budget | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Labelling:
    """Soft labels of the most useful groups, as many as the budget allows.

    Parameters
    ----------
    on_progress
        Called with (scored pairs, pairs that fit into the budget's examples).
    clock
        Seconds that only grow.

    Raises
    ------
    Refused
        ``should_stop`` said so.
    """
    budget, began = budget or Budget(), clock()
    affordable: list[int] = []
    room = budget.examples
    for at in most_useful(groups, teacher):
        if room is None or groups[at].examples <= room:
            affordable.append(at)
            room = None if room is None else room - groups[at].examples
    pairs = sum(len(groups[at].doc_ids) for at in affordable)
    labels: list[SoftLabels | None] = [None] * len(groups)
    done, at, rate, started = 0, 0, 0.0, clock()
    out_of_time = False
    while at < len(affordable):
        if should_stop():
            raise Refused(f"labelling was stopped after {done} of {pairs} pairs. Start the cycle again when it may run.")
        batch: list[int] = []
        size = 0
        while at + len(batch) < len(affordable) and (not batch or size + len(groups[affordable[at + len(batch)]].doc_ids) <= _PAIRS):
            batch.append(affordable[at + len(batch)])
            size += len(groups[batch[-1]].doc_ids)
        if budget.seconds is not None and clock() - began + rate * size > budget.seconds:
            out_of_time = True
            break
        some = [groups[place] for place in batch]
        found = teacher.label([group.query for group in some], [group.doc_ids for group in some], [group.texts for group in some])
        for place, one in zip(batch, found, strict=True):
            labels[place] = one
        at, done = at + len(batch), done + size
        rate = (clock() - started) / max(done, 1)
        on_progress(done, pairs)
    labelled = sum(group.examples for group, one in zip(groups, labels, strict=True) if one is not None)
    left = [group for group, one in zip(groups, labels, strict=True) if one is None]
    reason = None
    if left:
        limit = f"{budget.seconds:g} s" if out_of_time else f"{budget.examples} examples"
        reason = f"the budget of {limit} ended before {len(left)} of {len(groups)} groups; give the teacher more, or fewer groups"
    return Labelling(
        labels,
        len(groups) - len(left),
        labelled,
        done,
        len(left),
        sum(group.examples for group in left),
        clock() - began,
        reason,
        _changed([one for one in labels if one is not None]) if CROSS_ENCODER in teacher.members else None,
    )


def answer_by_teacher(
    proposals: Sequence[Proposal],
    index: FirstStage,
    teacher: EnsembleTeacher,
    rng: np.random.Generator,
    choice: Choice | None = None,
    budget: Budget | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[Proposal], dict[str, object]]:
    """Groups of the queries without an answer: the teacher's best candidate answers, its next best and a random mix of the rest stand beside it.

    Parameters
    ----------
    proposals
        With empty ``doc_id``. What a proposal excludes (clicked documents) may be its answer, never a negative.

    Returns
    -------
    list[Proposal]
        New proposals in their order, with ``doc_id``, ``first_rank``, ``negatives`` (in the ensemble's order, then at random), ``teacher`` (scores of the
        answer and the negatives) and ``weight``: times the members' agreement, where there are two members to agree.
    dict
        How many queries were labelled, left, found nothing, or were dropped for want of agreement; see :class:`Labelling` and :class:`Choice`. ``weights``: of
        the teacher's members, fitted to their votes (``reliability``), or the given ones and why.

    Raises
    ------
    BadInput
        A proposal has an answer.
    Refused
        ``should_stop`` said so.
    """
    choice = choice or Choice()
    answered = next((proposal for proposal in proposals if proposal.doc_id), None)
    if answered is not None:
        raise BadInput(f"the {answered.source} proposal has the answer {answered.doc_id!r} already; give the teacher those without one.")
    groups = []
    for start in range(0, len(proposals), _BATCH):
        some = proposals[start : start + _BATCH]
        found = index.candidates([proposal.query for proposal in some], choice.depth)
        kept = choice.best + choice.others
        groups += [Group(proposal.query, one.doc_ids, one.texts, proposal.targeted, kept) for proposal, one in zip(some, found, strict=True)]
    labelling = label_within(groups, teacher, budget, on_progress=on_progress, should_stop=should_stop, clock=clock)
    worth = estimate([labels for labels in labelling.labels if labels is not None], teacher.weights)
    counts: dict[str, object] = {**labelling.statistics(), "without_candidates": sum(len(group.doc_ids) < 2 for group in groups), "unsure": 0}
    made, unsure = [], 0
    for proposal, group, cast in zip(proposals, groups, labelling.labels, strict=True):
        if cast is None or len(group.doc_ids) < 2:
            continue
        labels = weighed(cast, worth.weights)
        if not labels.votes or (labels.confidence is not None and labels.confidence < choice.least_confidence):
            unsure += 1
            continue
        made.append(_grouped(proposal, group, labels, choice, rng))
    return made, {**counts, "unsure": unsure, "answered": len(made), "weights": worth.weights, "weights_given_because": worth.reason}


def _grouped(proposal: Proposal, group: Group, labels: SoftLabels, choice: Choice, rng: np.random.Generator) -> Proposal:
    order = np.argsort(-labels.scores, kind="stable").tolist()
    first, *rest = [at for at in order if at == order[0] or group.doc_ids[at] not in proposal.excluded]
    near, far = rest[: choice.best - 1], rest[choice.best - 1 :]
    drawn = [far[place] for place in rng.choice(len(far), min(choice.others, len(far)), replace=False).tolist()] if far else []
    members = [*near, *drawn]
    return replace(
        proposal,
        doc_id=group.doc_ids[first],
        first_rank=first + 1,
        weight=proposal.weight * (1.0 if labels.confidence is None else labels.confidence),
        negatives=[(group.doc_ids[at], group.texts[at], "hard" if at < _HARD_UNTIL else "medium", at + 1) for at in members],
        teacher=labels.scores[[first, *members]],
    )


def _changed(labels: Sequence[SoftLabels]) -> int:
    """Of how many groups the ensemble's best is not the champion's; a champion that tells no two candidates apart has no best."""
    voted = [(one.best, one.votes.get(CROSS_ENCODER)) for one in labels]
    return sum(vote is not None and best != int(np.argmax(vote)) for best, vote in voted)
