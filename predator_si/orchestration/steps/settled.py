"""What a release that has become stable is owed: its gold alias, and its proposal to the next contour. Each tick makes up for what a killed watch left out.

What belongs here: seeing what is missing. What must not: setting an alias (``aliases``), proposing (``onward``).
"""

from __future__ import annotations

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases, onward
from predator_si.records import CycleState, Decision
from predator_si.release.recompute import decision_name
from predator_si.train.tracking import ExperimentTracker

_ANSWERED = {"promotion_proposed", "promotion_not_proposed"}


def give_what_is_owed(loop: Loop, cycle_id: str, tracker: ExperimentTracker | None) -> list[str]:
    """Gold and the proposal of a stable release, whichever of them the ledger does not know; what was done. Nothing for a drill. Safe to repeat."""
    folder = loop.home.artifacts / cycle_id
    if not (folder / decision_name("promote")).is_file():
        return []
    decision = Decision.read(folder / decision_name("promote"))
    if decision.drill or loop.serving().model != decision.challenger.model:
        return []
    said = {record.action for record in loop.control.records(500, cycle_id=cycle_id)}
    done = []
    if tracker is not None and "gold_set" not in said:
        alias = aliases.keep_gold(loop, tracker, cycle_id, told="gold_not_set" in said)
        done += [f"{cycle_id} is {alias}"] if alias is not None else []
    to = loop.settings.values.promotion.to
    if to is not None and not said & _ANSWERED and loop.control.active_cycle(to) is None:  # one promotion there at a time: this one waits
        onward.propose_where_wanted(loop, cycle_id)
        done.append(f"{cycle_id}: its promotion was looked into")
    return done


def make_up(loop: Loop) -> str | None:
    """:func:`give_what_is_owed` for the newest release, as each tick does; null where nothing was owed."""
    from predator_si.orchestration.tracking import existing_tracker

    cycle = loop.control.current_release(loop.contour)
    if cycle is None or cycle.state is not CycleState.STABLE:
        return None
    return "; ".join(give_what_is_owed(loop, cycle.cycle_id, existing_tracker(loop.home))) or None
