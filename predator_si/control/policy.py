"""The one policy decision point: may the loop do this now? Allow, deny, or ask a person; pure functions of a :class:`Standing`.

Sensors, assets, the command line and the REST API all ask :func:`decide`, so they cannot disagree. What belongs here: rules about permission. What must not:
what a metric is, where the standing comes from (``orchestration.steps.permission``), evidence of a model (``release.decide``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from predator_si.control.states import ACTIVE
from predator_si.records import Cycle, CycleState

Action = Literal["start_cycle", "train", "trial", "promote", "promote_next", "rollback", "index_change", "spend", "notify"]
"""What the loop does by itself. ``promote_next`` takes a release to the next contour, ``spend`` asks a language model that costs money."""
ACTIONS: tuple[Action, ...] = get_args(Action)
Answer = Literal["allow", "deny", "needs_approval"]
Rule = Literal[
    "kill_switch",
    "ledger",
    "disabled",
    "flag",
    "active_cycle",
    "max_cycles_per_day",
    "cycle_interval",
    "cool_down",
    "month_budget",
    "cycle_budget",
    "person",
    "none",
]
FREE: frozenset[Action] = frozenset({"rollback", "notify"})
"""What neither the kill switch nor a lack of money stops: a release must be able to go back, and somebody must hear of it."""
COSTLY: frozenset[Action] = frozenset({"start_cycle", "train", "index_change", "spend"})
"""What the month's budget stops. A model that is trained already may be tried and released."""
DRILL = "drill"
"""Actor of cycles that break something on purpose: they say nothing about their trigger."""
LONGEST_COOL_DOWN = timedelta(days=7)
_FRUITLESS = frozenset({CycleState.REJECTED, CycleState.ROLLED_BACK, CycleState.EXPIRED, CycleState.FAILED})
_FRUITFUL = frozenset({CycleState.STABLE})


@dataclass(frozen=True)
class Standing:
    """What policy asks about a contour at one moment: values, flags, what runs and what was spent.

    Attributes
    ----------
    cycles
        Cycles of this contour, any order, at least those of today, of the last ``cycle_interval`` and of the last ``longest_cool_down``.
    flags
        Feature flags that somebody turned: false under an action's name forbids it, ``auto_promote`` false asks a person for each promotion.
    cool_down
        After one fruitless cycle of a trigger; doubled with each further one in a row, at most ``longest_cool_down``.
    distrust
        Why the ledger is not believed (``orchestration.trust``); null: it is.
    spent_month_usd, spent_cycle_usd
        Null: nobody knows, and the budget rule says so instead of guessing.
    """

    enabled: bool
    kill_switch: bool
    distrust: str | None = None
    cycles: Sequence[Cycle] = ()
    max_cycles_per_day: int = 6
    cycle_interval: timedelta = timedelta(hours=1)
    cool_down: timedelta = timedelta(0)
    longest_cool_down: timedelta = LONGEST_COOL_DOWN
    flags: Mapping[str, bool] = field(default_factory=dict)
    approval_required: bool = False
    rollback_on_degrade: bool = True
    spent_month_usd: float | None = None
    month_budget_usd: float | None = None
    spent_cycle_usd: float | None = None
    cycle_budget_usd: float | None = None


@dataclass(frozen=True)
class Ruling:
    """The answer about one action. ``retry_at`` is when the rule stops applying by itself; null when a person or an event must end it."""

    action: Action
    answer: Answer
    rule: Rule
    reason: str
    retry_at: datetime | None = None


@dataclass(frozen=True)
class Allowed:
    """The cycle may start."""

    reason: str
    allowed: Literal[True] = True


@dataclass(frozen=True)
class Refusal:
    """The cycle may not start. ``retry_at`` is when this rule stops applying by itself; null when a person or an event must end it."""

    rule: Rule
    reason: str
    retry_at: datetime | None = None
    allowed: Literal[False] = False


def decide(
    action: Action,
    standing: Standing,
    *,
    now: datetime,
    trigger: str | None = None,
    approved: bool = False,
    by_person: bool = False,
    force: bool = False,
) -> Ruling:
    """Judge one wish to act.

    Parameters
    ----------
    now
        With time zone. A day is a UTC day, as in the cycle ids.
    trigger
        ``Trigger.type`` for ``start_cycle``: its cool-down counts.
    approved
        Whether the ledger holds a person's approval of exactly this (``promote``, ``promote_next``).
    by_person
        Whether a person asks: a rollback by hand needs no further approval.
    force
        A person insists on a cycle: passes interval and cool-down, never anything else.
    """

    def ruling(answer: Answer, rule: Rule, reason: str, retry_at: datetime | None = None) -> Ruling:
        return Ruling(action, answer, rule, reason, retry_at)

    if action not in FREE:
        if standing.kill_switch:
            return ruling("deny", "kill_switch", "the kill switch is on: start the optimizer again to let the loop act")
        if standing.distrust is not None:
            return ruling("deny", "ledger", standing.distrust)
        if not standing.enabled and action != "start_cycle":
            return ruling("deny", "disabled", "selfImprovement.enabled is false in this contour")
    if standing.flags.get(action) is False and not (action == "rollback" and by_person):
        return ruling("deny", "flag", f"a person switched {action} off in this contour (feature flag {action})")
    if action == "start_cycle":
        start = may_start_cycle(
            trigger or "",
            standing.cycles,
            now=now,
            enabled=standing.enabled,
            kill_switch=standing.kill_switch,
            max_cycles_per_day=standing.max_cycles_per_day,
            cycle_interval=standing.cycle_interval,
            cool_down=standing.cool_down,
            longest_cool_down=standing.longest_cool_down,
            force=force,
        )
        if isinstance(start, Refusal):
            return ruling("deny", start.rule, start.reason, start.retry_at)
    unknown = ""
    if action in COSTLY:
        over = _over_budget(standing, now)
        if over is not None:
            return ruling("deny", *over)
        if standing.month_budget_usd is not None and standing.spent_month_usd is None:
            unknown = "; what this month has cost is unknown, so the budget could not be asked"
    if action == "rollback" and not standing.rollback_on_degrade and not by_person:
        return ruling("needs_approval", "person", "this contour leaves the rollback to a person")
    asks = action == "promote_next" or (action == "promote" and (standing.approval_required or standing.flags.get("auto_promote") is False))
    if asks and not approved:
        return ruling("needs_approval", "person", "a release to the next contour is a person's decision" if action == "promote_next" else
                      "this contour wants a person's approval of each promotion")  # fmt: skip
    said = start.reason if action == "start_cycle" and isinstance(start, Allowed) else "a person approved" if asks else "nothing is in its way"
    return ruling("allow", "none", said + unknown)


def _over_budget(standing: Standing, now: datetime) -> tuple[Rule, str, datetime | None] | None:
    """The budget rule that forbids spending more, with its reason and its end."""
    spent, limit = standing.spent_month_usd, standing.month_budget_usd
    if spent is not None and limit is not None and spent >= limit:
        day = now.astimezone(UTC)
        following = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
        return "month_budget", f"{spent:.2f} USD were spent this month (UTC), the budget is {limit:.2f}", following
    spent, limit = standing.spent_cycle_usd, standing.cycle_budget_usd
    if spent is not None and limit is not None and spent >= limit:
        return "cycle_budget", f"the cycle has cost {spent:.2f} USD, its budget is {limit:.2f}", None
    return None


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
    longest_cool_down: timedelta = LONGEST_COOL_DOWN,
    force: bool = False,
) -> Allowed | Refusal:
    """Judge one wish to start a cycle.

    Parameters
    ----------
    trigger
        ``Trigger.type`` of the wish; the cool-down looks at cycles of the same type.
    recent
        Cycles of this contour, any order, at least those of today, of the last ``cycle_interval`` and of the last ``longest_cool_down``.
    now
        With time zone. A day is a UTC day, as in the cycle ids.
    max_cycles_per_day, cycle_interval
        The contour's bounds; the interval runs from the start of the newest cycle.
    cool_down, longest_cool_down
        :func:`back_off` after cycles of the same trigger that came to nothing: the same data would very likely give the same answer.
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
    # a moment far ahead was written before the clock went back: it holds nobody up for a year
    newest = max((cycle.opened_at for cycle in recent if abs(now - cycle.opened_at) < cycle_interval), default=None)
    if newest is not None:
        return Refusal("cycle_interval", f"the last cycle started at {newest.isoformat()}, the interval is {cycle_interval}", newest + cycle_interval)
    streak = fruitless_streak(trigger, recent)
    if streak:
        last, wait = streak[0], back_off(len(streak), cool_down, longest_cool_down)
        if abs(now - last.updated_at) < wait:
            when = f"{last.updated_at:%Y-%m-%d %H:%M:%S} UTC" + ("" if len(streak) == 1 else f" ({len(streak)} in a row)")
            reason = f"{last.cycle_id}, for the same trigger ({trigger}), came to nothing ({last.state.value}) at {when}; the cool-down is {wait}"
            return Refusal("cool_down", reason, last.updated_at + wait)
    return Allowed(f"{started_today} of {max_cycles_per_day} cycles used today")


def fruitless_streak(trigger: str, recent: Sequence[Cycle]) -> list[Cycle]:
    """Cycles of a trigger that came to nothing (rejected, rolled back, expired, failed) since its last one that became stable, newest first; drills apart."""
    streak: list[Cycle] = []
    for cycle in sorted(recent, key=lambda one: one.updated_at, reverse=True):
        if cycle.trigger.type != trigger or cycle.actor == DRILL:
            continue
        if cycle.state in _FRUITFUL:
            break
        if cycle.state in _FRUITLESS:
            streak.append(cycle)
    return streak


def back_off(count: int, cool_down: timedelta, longest: timedelta = LONGEST_COOL_DOWN) -> timedelta:
    """How long a trigger waits after ``count`` fruitless cycles in a row: the cool-down, doubled with each, up to ``longest`` (never less than the cool-down).

    Against oscillation: a fault that training cannot mend would otherwise retrain, try and reject at every interval.
    """
    if count <= 0 or cool_down <= timedelta(0):
        return timedelta(0)
    longest = max(longest, cool_down)
    doubled = cool_down
    for _ in range(count - 1):
        if doubled >= longest:
            break
        doubled *= 2
    return min(doubled, longest)
