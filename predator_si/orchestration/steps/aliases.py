"""Aliases of the model registry: derived from Git and the control database, never the other way round.

What belongs here: saying to the registry what is served, what is on trial, and what proved itself. What must not: deciding any of it.
"""

from __future__ import annotations

from predator_si.control.states import ENDED
from predator_si.errors import PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState, ServingConfig
from predator_si.release.release_file import parse_release
from predator_si.train.tracking import ExperimentTracker

_HAS_CHALLENGER = frozenset(
    {CycleState.TRAINED, CycleState.EVALUATED, CycleState.ON_TRIAL, CycleState.DECIDED, CycleState.AWAITING_APPROVAL},
)
"""States of a cycle in which its model may still become the champion."""


def follow(loop: Loop, tracker: ExperimentTracker) -> None:
    """Point ``champion`` at what Git serves, and ``challenger`` at what may replace it, or at nothing.

    A model that was rejected, or whose cycle failed, has no alias after this; it stays a version with its tags.
    """
    champion = loop.serving().model
    tracker.register(champion, loop.models.path(champion), {})  # one that came past training: the first of a home, a drill's
    tracker.set_alias("champion", champion)
    challenger = challenger_of(loop)
    if challenger is None or challenger == champion:
        tracker.clear_alias("challenger")
    else:
        tracker.register(challenger, loop.models.path(challenger), {})
        tracker.set_alias("challenger", challenger)


def challenger_of(loop: Loop) -> str | None:
    """The model on trial by Git, or the one that the active cycle is about to try; null when there is neither."""
    on_trial = parse_release(loop.release_text(), loop.release_name).reranker.candidate
    if on_trial is not None:
        return on_trial
    cycle = loop.control.active_cycle(loop.contour)
    path = None if cycle is None else loop.home.artifacts / cycle.cycle_id / "challenger.json"
    if cycle is None or path is None or cycle.state not in _HAS_CHALLENGER or not path.is_file():
        return None
    return ServingConfig.read(path).model


def note_outcome(loop: Loop, tracker: ExperimentTracker, cycle_id: str) -> None:
    """Write on a registered challenger how its cycle ended."""
    path = loop.home.artifacts / cycle_id / "challenger.json"
    if not path.is_file():
        return
    digest, cycle = ServingConfig.read(path).model, loop.control.cycle(cycle_id)
    if digest in loop.models:
        tracker.register(digest, loop.models.path(digest), {"outcome": cycle.state.value, "outcome_cycle": cycle_id, "outcome_reason": cycle.reason[:1000]})


def settle(loop: Loop, tracker: ExperimentTracker | None, cycle_id: str) -> None:
    """After a step that may have ended a cycle: aliases as they should be, and on a model that lost why. Nothing without a registry.

    Git is the truth. A registry that does not answer stops no step; the ledger says that its aliases are behind, and the next step catches up.
    """
    if tracker is None:
        return
    loop.control.require_lease()
    try:
        follow(loop, tracker)
        if loop.control.cycle(cycle_id).state in ENDED:
            note_outcome(loop, tracker, cycle_id)
    except PredatorError as error:
        loop.control.append("aliases_behind", "loop", cycle_id, str(error)[:500], {})


def keep_gold(loop: Loop, tracker: ExperimentTracker, cycle_id: str, *, told: bool = False) -> str | None:
    """Give the release that has become stable the next ``gold-N``; a model that has one keeps it. The alias, or null where the registry does not answer.

    A registry that is away must not undo a watch: the ledger says that the alias is missing, once (``told``: it does already), and the next tick tries again.
    """
    digest = loop.serving().model
    try:
        known = {alias: holder for alias, holder in tracker.aliases().items() if alias.startswith("gold-")}
        alias = next((name for name, holder in known.items() if holder == digest), None)
        if alias is None:
            alias = f"gold-{max((int(name.removeprefix('gold-')) for name in known), default=0) + 1}"
            tracker.register(digest, loop.models.path(digest), {"gold": alias, "gold_cycle": cycle_id})
            tracker.set_alias(alias, digest)
    except PredatorError as error:
        if not told:
            loop.control.append("gold_not_set", "loop", cycle_id, str(error)[:500], {"digest": digest})
        return None
    loop.control.append("gold_set", "loop", cycle_id, f"{alias} is {digest}", {"alias": alias, "digest": digest})
    return alias
