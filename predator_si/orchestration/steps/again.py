"""A challenger that was rejected is not judged again by the same evidence: asking until the answer pleases would spend the month's error on one candidate.

What belongs here: recognising it, and ending its cycle. What must not: judging (``improve``, ``release.decide``).
"""

from __future__ import annotations

from datetime import datetime

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases
from predator_si.records import Cycle, CycleState, Evaluation, ServingConfig, utc_now
from predator_si.release.decide import is_tried

_CYCLES = 200


def rejected_before(loop: Loop, cycle_id: str, now: datetime | None = None) -> Cycle | None:
    """The newest earlier cycle that rejected this very challenger (model, depth, fusion) by what would judge it now; null where there is none.

    The same evidence: the sealed queries of the same corpus that this month would ask, against the champion that serves now. Repairs are judged by no sealed
    queries and may be tried again.
    """
    if not is_tried(loop.judged_as(cycle_id)):
        return None
    challenger, champion = ServingConfig.read(loop.artifacts(cycle_id) / "challenger.json"), loop.serving()
    month = (now or utc_now()).strftime("%Y-%m")
    for cycle in loop.control.cycles(_CYCLES, loop.contour):
        folder = loop.home.artifacts / cycle.cycle_id
        if cycle.cycle_id == cycle_id or cycle.state is not CycleState.REJECTED or not (folder / "evaluation.json").is_file():
            continue
        known = Evaluation.read(folder / "evaluation.json")
        if known.holdout is None or known.corpus != loop.corpus.name or (known.challenger, known.champion.model) != (challenger, champion.model):
            continue
        if known.holdout.opening.period == month or known.holdout.blocks == 1:  # a pool of one block asks the same queries each month
            return cycle
    return None


def end_if_rejected_before(loop: Loop, cycle_id: str) -> str | None:
    """End a cycle whose challenger was rejected by this evidence before, without breaking the seal; the reason, or null where it is to be judged."""
    from predator_si.orchestration.tracking import existing_tracker

    before = rejected_before(loop, cycle_id)
    if before is None:
        return None
    reason = f"rejected before by the same evidence: {before.cycle_id} ({before.reason})"[:2000]
    loop.control.transition(cycle_id, CycleState.REJECTED, reason, "loop", {"rejected_by": before.cycle_id})
    aliases.settle(loop, existing_tracker(loop.home), cycle_id)
    return reason
