"""What people must know since the last look: from the ledger and from the state of things into the outbox, and from there to the channels.

What belongs here: collecting what the rules ask about. What must not: the rules and their words (``notify.rules``), delivery (``notify.outbox``).
"""

from __future__ import annotations

from datetime import UTC, datetime

from predator_si.monitor import Skip
from predator_si.monitor.triggers import COST
from predator_si.notify import Delivered, Event, Place, events_of, rules
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metering import spent_in_month
from predator_si.orchestration.steps import observe
from predator_si.orchestration.trust import distrust
from predator_si.records import Answer, WatchResult, utc_now

_PAGE = 500


def place_of(loop: Loop) -> Place:
    """Where messages of this installation point to."""
    return Place(loop.settings.values.notify.link or f"http://127.0.0.1:{loop.settings.ports.api}", loop.contour)


def tell(loop: Loop, now: datetime | None = None, silent_daemon: str | None = None) -> Delivered:
    """Put everything new into the outbox and deliver what is due. The first look at a home begins with today's ledger: old stories are not told.

    Parameters
    ----------
    silent_daemon
        Why somebody else than Dagster's daemon tells; null where it does.
    """
    moment = now or utc_now()
    for event in rules.silent_daemon(silent_daemon, place_of(loop), moment):
        loop.notify(event)
    collect(loop, moment)
    return loop.outbox.deliver(loop.channels, now)


def collect(loop: Loop, now: datetime) -> list[Event]:
    """What is new, already in the outbox; the place in the ledger is remembered after that, so a killed process tells it again, never not at all."""
    place, values, note = place_of(loop), loop.settings.values, f"notify/{loop.contour}"
    cursor = loop.control.get_note(note)
    if cursor is None:
        head = loop.control.head()
        cursor = head[0] if head is not None else 0
        loop.control.set_note(note, cursor)
    records = loop.control.records(_PAGE, after_seq=int(cursor))
    events = events_of(records, place, alert_on_degrade=values.monitoring.alert_on_degrade)
    events += _state(loop, place, now)
    for event in events:
        loop.notify(event)
    if records:
        loop.control.set_note(note, records[-1].seq)
    return events


def _state(loop: Loop, place: Place, now: datetime) -> list[Event]:
    """What is so now, whoever caused it."""
    found = rules.approvals_waiting(loop.control.approvals(loop.answered_here, waiting=True, now=now), place, now)
    release = loop.control.current_release(loop.contour)
    if release is not None:
        path = loop.home.artifacts / release.cycle_id / "watch.json"
        last = WatchResult.read(path).created_at if path.is_file() else None
        found += rules.unwatched(release, last, loop.settings.watch.interval, place, now)
    limit, percent = loop.settings.budget.usd_per_month, loop.settings.values.kubecost.budget_alert
    found += rules.over_budget(spent_in_month(loop, now), limit, percent, f"{now.astimezone(UTC):%Y-%m}", place, now)
    if loop.settings.enabled and (loop.home.path / "plan.json").is_file():
        found += _measured(loop, place, now, busy=loop.control.active_cycle(loop.contour) is not None)
    found += rules.ledger_distrusted(distrust(loop.home, loop.contour, loop.control), place, now)
    return found


def _measured(loop: Loop, place: Place, now: datetime, *, busy: bool) -> list[Event]:
    """Stale data at each look; the gates once for each new snapshot, since judging them takes longer."""
    newest = next(iter(loop.snapshots(1)), None)
    note = f"notify/{loop.contour}/snapshot"
    if newest is None or now - newest.created_at > rules.STALE_AFTER or loop.control.get_note(note) == newest.snapshot_id:
        return rules.stale_data(newest, [], place, now, loop.plan.prepared_at)
    gates = observe.gates(loop, newest, now)
    found = rules.stale_data(newest, gates, place, now, loop.plan.prepared_at)
    if not busy and loop.settings.values.monitoring.alert_on_degrade and any(gate.answer is Answer.FAIL for gate in gates):
        answer = observe.next_step(loop, now)
        only_told = () if loop.settings.values.kubecost.cost_optimization else COST.metrics
        found += rules.degraded(gates, place, now, "; ".join(answer.reasons) if isinstance(answer, Skip) else None, only_told)
    loop.control.set_note(note, newest.snapshot_id)
    return found


__all__ = ["collect", "place_of", "tell"]
