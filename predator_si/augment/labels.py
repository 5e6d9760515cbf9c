"""The teacher's part in a data set: answers for the log's queries, soft labels for every group, within one budget.

What belongs here: who is labelled out of one budget. What must not: the labelling itself (``pseudo_labels``), filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from predator_si.augment.negatives import FirstStage
from predator_si.augment.pseudo_labels import Budget, Choice, Group, answer_by_teacher, label_within
from predator_si.augment.recipe import ASKED, Proposal
from predator_si.augment.reliability import weighed
from predator_si.augment.teacher import EnsembleTeacher


def label_groups(
    proposals: Sequence[Proposal],
    index: FirstStage,
    teacher: EnsembleTeacher,
    rng: np.random.Generator,
    choice: Choice | None = None,
    budget: Budget | None = None,
    *,
    on_share: Callable[[float], None] = lambda share: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[Proposal], dict[str, Any]]:
    """The proposals with the teacher's scores, as far as the budget reaches; log queries get their answers first.

    A log query that the teacher could not answer goes. Other groups without a label stay, with ``teacher`` null. The weight of a made-up group is multiplied by
    the agreement of the teacher's members.

    Parameters
    ----------
    on_share
        Called with what is done, 0..1.

    Returns
    -------
    tuple
        The proposals in their order, and what was labelled and what was not, by ``log`` and ``groups``.

    Raises
    ------
    Refused
        ``should_stop`` said so.
    """
    budget = budget or Budget()
    open_ones = [proposal for proposal in proposals if not proposal.doc_id]
    half = 0.5 if open_ones else 0.0
    answered, of_log = answer_by_teacher(
        open_ones, index, teacher, rng, choice, budget, on_progress=lambda done, total: on_share(half * done / max(total, 1)), should_stop=should_stop
    )
    by_query = {proposal.query: proposal for proposal in answered}
    labelled_pairs = sum(1 + len(proposal.negatives) for proposal in answered)
    spent = of_log["seconds"]
    left = replace(
        budget,
        examples=None if budget.examples is None else max(0, budget.examples - labelled_pairs),
        seconds=None if budget.seconds is None else max(0.0, budget.seconds - float(spent)),  # type: ignore[arg-type]
    )
    closed = [proposal for proposal in proposals if proposal.doc_id]
    groups = [
        Group(p.query, [p.doc_id, *(entry[0] for entry in p.negatives)], [index.text(p.doc_id), *(entry[1] for entry in p.negatives)], p.targeted)
        for p in closed
    ]
    labelling = label_within(groups, teacher, left, on_progress=lambda done, total: on_share(half + (1 - half) * done / max(total, 1)), should_stop=should_stop)
    weights: dict[str, float] = of_log["weights"]  # type: ignore[assignment]
    for proposal, cast in zip(closed, labelling.labels, strict=True):
        if cast is not None:
            labels = weighed(cast, weights)
            proposal.teacher = labels.scores
            if labels.confidence is not None and proposal.source not in ASKED:
                proposal.weight *= labels.confidence
    found = [proposal if proposal.doc_id else by_query.get(proposal.query) for proposal in proposals]
    return [proposal for proposal in found if proposal is not None], {"log": of_log, "groups": labelling.statistics()}
