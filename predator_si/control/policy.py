"""May a cycle start now? One pure function, every input plain, every refusal with its reason and the time when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from predator_si.control.states import ACTIVE
from predator_si.records import Cycle, CycleState

_FRUITLESS = frozenset({CycleState.REJECTED, CycleState.ROLLED_BACK})


@dataclass(frozen=True)
class Allowed:
    """The cycle may start."""

    reason: str
    allowed: Literal[True] = True


@dataclass(frozen=True)
class Refusal:
    """The cycle may not start. ``retry_at`` is when this rule stops applying by itself; null when a person or an event must end it."""

    rule: Literal["kill_switch", "disabled", "active_cycle", "max_cycles_per_day", "cycle_interval", "cool_down"]
    reason: str
    retry_at: datetime | None = None
    allowed: Literal[False] = False


def may_start_cycle(
    trigger: str,
    recent: Sequence[Cycle],
    *,
    now: datetime,
    enabled: bool,
    kill_switch: bool,
    max_cycles_per_day: int,
    cycle_interval: timedelta,
    cool_down: timedelta = timedelta(0),
    force: bool = False,
) -> Allowed | Refusal:
    """Judge one wish to start a cycle.

    Parameters
    ----------
    trigger
        ``Trigger.type`` of the wish; the cool-down looks at cycles of the same type.
    recent
        Cycles of this contour, any order, at least those of today, of the last ``cycle_interval`` and of the last ``cool_down``.
    now
        With time zone. A day is a UTC day, as in the cycle ids.
    max_cycles_per_day, cycle_interval
        The contour's bounds; the interval runs from the start of the newest cycle.
    cool_down
        After a cycle of the same trigger that ended ``rejected`` or ``rolled_back``: the same data would very likely give the same answer.
    force
        A person insists: passes ``cycle_interval`` and ``cool_down``, and never the other rules.
    """
    if kill_switch:
        return Refusal("kill_switch", "the kill switch is on: start the optimizer again to let cycles begin")
    if not enabled:
        return Refusal("disabled", "selfImprovement.enabled is false in this contour")
    for cycle in recent:
        if cycle.state in ACTIVE:
            return Refusal("active_cycle", f"cycle {cycle.cycle_id} is {cycle.state.value}: one cycle at a time")
    today = now.astimezone(UTC).date()
    started_today = sum(cycle.opened_at.astimezone(UTC).date() == today for cycle in recent)
    if started_today >= max_cycles_per_day:
        midnight = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1)
        return Refusal("max_cycles_per_day", f"{started_today} cycles were started today (UTC), the limit is {max_cycles_per_day}", midnight)
    if force:
        return Allowed("forced: interval and cool-down were not asked")
    newest = max((cycle.opened_at for cycle in recent), default=None)
    if newest is not None and now - newest < cycle_interval:
        return Refusal("cycle_interval", f"the last cycle started at {newest.isoformat()}, the interval is {cycle_interval}", newest + cycle_interval)
    fruitless = max((cycle.updated_at for cycle in recent if cycle.state in _FRUITLESS and cycle.trigger.type == trigger), default=None)
    if fruitless is not None and now - fruitless < cool_down:
        reason = f"a cycle for the same trigger ({trigger}) was rejected or rolled back at {fruitless.isoformat()}, the cool-down is {cool_down}"
        return Refusal("cool_down", reason, fruitless + cool_down)
    return Allowed(f"{started_today} of {max_cycles_per_day} cycles used today")
