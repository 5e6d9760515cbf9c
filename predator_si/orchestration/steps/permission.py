"""What the loop may do now, for every sensor, asset, command and the REST API alike: the contour's standing, and ``control.policy``'s ruling on it.

What belongs here: gathering what policy asks. What must not: a rule.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from predator_si.control.policy import ACTIONS, Action, Ruling, Standing, decide
from predator_si.errors import Refused
from predator_si.monitor.triggers import TRIGGERS
from predator_si.notify.log import refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metering import spent_by_cycle, spent_in_month
from predator_si.orchestration.trust import distrust
from predator_si.records import Cycle, CycleState, utc_now

_CYCLES = 200


def standing_facts(loop: Loop, now: datetime, cycle_id: str | None = None) -> dict[str, Any]:
    """The fields of a :class:`Standing` of this contour, read anew: nothing is remembered between two questions."""
    settings, values = loop.settings, loop.settings.values
    return {
        "enabled": settings.enabled,
        "distrust": distrust(loop.home, loop.contour, loop.control),
        "kill_switch": settings.kill_switch or loop.control.kill_switch(loop.contour),
        "cycles": [cycle for cycle in loop.control.cycles(_CYCLES, loop.contour) if cycle.opened_at >= loop.plan.prepared_at],
        "max_cycles_per_day": settings.max_cycles_per_day,
        "cycle_interval": settings.cycle_interval,
        "cool_down": values.cool_down,
        "flags": {name: flag.on for name, flag in loop.control.feature_flags(loop.contour).items()},
        "approval_required": settings.approval_required,
        "rollback_on_degrade": settings.rollback_on_degrade,
        "spent_month_usd": spent_in_month(loop, now),
        "month_budget_usd": settings.budget.usd_per_month,
        "spent_cycle_usd": spent_by_cycle(loop, cycle_id) if cycle_id is not None else None,
        "cycle_budget_usd": settings.budget.usd_per_cycle,
    }


def standing(loop: Loop, now: datetime | None = None, cycle_id: str | None = None) -> Standing:
    """How this contour stands."""
    return Standing(**standing_facts(loop, now or utc_now(), cycle_id))


def ruling(loop: Loop, action: Action, *, cycle_id: str | None = None, now: datetime | None = None, **asked: Any) -> Ruling:
    """Whether this contour's loop may do something now; ``asked`` as in ``control.policy.decide``."""
    moment = now or utc_now()
    return decide(action, standing(loop, moment, cycle_id), now=moment, **asked)


def require(loop: Loop, action: Action, *, cycle_id: str | None = None, **asked: Any) -> Ruling:
    """The ruling, where it allows.

    Raises
    ------
    Refused
        It denies, or wants a person's approval first.
    """
    found = ruling(loop, action, cycle_id=cycle_id, **asked)
    if found.answer == "allow":
        return found
    what = action if cycle_id is None else f"{action} of cycle {cycle_id}"
    until = "" if found.retry_at is None else f" It ends by itself at {found.retry_at:%Y-%m-%d %H:%M} UTC."
    word = "may not be done" if found.answer == "deny" else "waits for a person's approval"
    refused("policy", f"{what} {word}: {found.reason}", cycle_id)
    raise Refused(f"{what} {word}: {found.reason}.{until}")


_NEXT: dict[CycleState, Action] = {CycleState.PREPARED: "train", CycleState.EVALUATED: "trial", CycleState.DECIDED: "promote"}
"""What a cycle's next job does that policy is asked about."""


def next_refusal(loop: Loop, cycle: Cycle) -> str | None:
    """Why a cycle's next job may not run now; null where it may. A release that waits for a person is asked about in its own step."""
    action = _NEXT.get(cycle.state)
    if action is None:
        return None
    found = ruling(loop, action, cycle_id=cycle.cycle_id, approved=True)
    return None if found.answer == "allow" else f"{action} may not be done: {found.reason}"


def rulings(loop: Loop, now: datetime | None = None) -> list[tuple[str, Ruling]]:
    """Every action, and a cycle's start for every row of the trigger table: name and ruling."""
    moment = now or utc_now()
    known = standing(loop, moment)
    starts = [(f"start_cycle ({rule.type})", decide("start_cycle", known, now=moment, trigger=rule.type)) for rule in TRIGGERS]
    return [*starts, *((action, decide(action, known, now=moment)) for action in ACTIONS if action != "start_cycle")]
