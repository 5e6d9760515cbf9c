"""What people must know, by rules over the ledger and over the state of things. Each message has its reason, a link and the next step.

What belongs here: when a message is due and what it says. What must not: reading stores (the caller passes what is known), delivering.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from predator_si.notify.event import Event
from predator_si.records import Answer, Approval, Cycle, CycleState, GateResult, LedgerRecord, MetricsSnapshot

STALE_AFTER = timedelta(minutes=45)
"""Three missed ticks."""
_UNWATCHED_AFTER = timedelta(hours=1)
_HOPELESS = frozenset({"watch_job", "rollback_job"})
"""Jobs whose failed run leaves a released model alone."""
_MOST = 600


@dataclass(frozen=True)
class Place:
    """Where a message points to.

    Parameters
    ----------
    base
        Address of the operations page as people reach it, without a slash at its end.
    contour
        Named in each message: channels are shared.
    """

    base: str
    contour: str

    def cycle(self, cycle_id: str) -> str:
        """The page of a cycle, which is there from its opening on; it links the report that watch and rollback write."""
        return f"{self.base}/operations/cycles/{cycle_id}"


def events_of(records: Iterable[LedgerRecord], place: Place, *, alert_on_degrade: bool = True) -> list[Event]:
    """Messages due for ledger records, in their order; most records need none. What an exercise did is not told.

    Parameters
    ----------
    alert_on_degrade
        Whether an opened cycle, which means that a gate failed, is worth a message.
    """
    found: list[Event] = []
    for record in records:
        event = _event(record, place, alert_on_degrade)
        if event is not None and record.actor != "drill":
            found.append(event)
    return found


def _event(record: LedgerRecord, place: Place, alert_on_degrade: bool) -> Event | None:
    cycle, said, facts = record.cycle_id, record.reason[:_MOST], record.payload
    link = place.cycle(cycle) if cycle else place.base
    name = f"[{place.contour}]"

    def event(kind: str, severity: str, title: str, next_step: str, text: str = said) -> Event:
        key = f"{kind}:{cycle or place.contour}:{record.action}:{record.seq}"
        told = {"kind": kind, "severity": severity, "title": f"{name} {title}", "text": text or title, "next_step": next_step}
        return Event.model_validate({**told, "link": link, "key": key, "cycle_id": cycle, "at": record.timestamp})

    if record.action == "cycle_opened" and alert_on_degrade and (facts.get("trigger") or {}).get("type") not in (None, "schedule", "manual"):
        trigger = facts["trigger"]
        return event("degrade", "warning", f"{trigger.get('metric')} got worse: {cycle} was opened", "Nothing yet: the loop diagnoses it. Look at the report.")
    if record.action == "rollback":
        if facts.get("verified"):
            step = "Read why in the report. The model is on the deny list and does not come back by itself."
            return event("rollback", "critical", f"{cycle} was rolled back: {str(facts.get('to'))[:19]} serves again", step)
        step = f"Run `predator-si status`; see that the reconciler or Argo CD runs, and that the service reports {facts.get('to')}."
        return event("rollback", "critical", f"The rollback of {cycle} is not confirmed by the service", step)
    if record.action == "rollback_confirmed":
        return event("rollback", "info", f"The rollback of {cycle} is confirmed: {str(facts.get('to'))[:19]} serves again", "Nothing: this settles its alert.")
    if record.action == "cycle_failed":
        return event("failed_cycle", "critical", f"{cycle} failed", "Open its runs in the Dagster UI; nothing was released by it after this.")
    if record.action == "run_failed" and facts.get("job") in _HOPELESS:
        step = "Open the run in the Dagster UI. Until a check succeeds the released model is not watched."
        return event("failed_cycle", "critical", f"A run of {facts['job']} failed", step)
    if record.action == "run_failed" and facts.get("job") == "backup_job":
        return event("failed_cycle", "warning", "The backup failed", "Open the run in the Dagster UI; see that backup.destination answers and has room.")
    if record.action == "kill_switch_on":
        return event(
            "kill_switch", "warning", f"The loop was stopped by {record.actor}", "`predator-si start` lets cycles begin again. Watch and rollback go on."
        )
    if record.action == "kill_switch_off":
        return event("kill_switch", "info", f"The loop was started again by {record.actor}", "Nothing to do.")
    return None


def approvals_waiting(asked: Iterable[Approval], place: Place, now: datetime) -> list[Event]:
    """Questions to a person, of this contour and of the one to which its releases are promoted; told again while they wait."""
    return [
        Event(
            kind="approval",
            severity="warning",
            title=f"[{one.contour}] {one.cycle_id} waits for an approval",
            text=f"Since {one.asked_at:%Y-%m-%d %H:%M} UTC ({_span(now - one.asked_at)}), until {one.expires_at:%Y-%m-%d %H:%M} UTC. "
            f"The verdict: {one.evidence.get('verdict', 'unknown')}. {one.evidence.get('reason', '')}"[:_MOST].strip(),
            link=place.cycle(one.cycle_id),
            next_step=f"Read the evidence, then `predator-si cycle approve {one.cycle_id}` or `predator-si cycle reject {one.cycle_id}`.",
            key=f"approval:{one.cycle_id}",
            cycle_id=one.cycle_id,
            at=now,
        )
        for one in asked
        if one.state(now) == "waiting"
    ]


def silent_daemon(why: str | None, place: Place, now: datetime) -> list[Event]:
    """Nobody starts anything: said by the process that still lives, the REST API."""
    if why is None:
        return []
    step = "Start the daemon (`predator-si up`, or the deployment `daemon`), and look at its log."
    text = f"{why}. No cycle begins, and no release is watched, until it is back."[:_MOST]
    return [_state("daemon", "critical", f"[{place.contour}] Dagster's daemon is silent", text, step, "daemon", place, now)]


def stale_data(newest: MetricsSnapshot | None, gates: Sequence[GateResult], place: Place, now: datetime, prepared_at: datetime) -> list[Event]:
    """Measuring that stopped, and gates of a critical metric that cannot be judged because its value is missing or old."""
    last = newest.created_at if newest is not None else prepared_at
    if now - last > STALE_AFTER:
        text = f"The newest metrics snapshot is {_span(now - last)} old." if newest is not None else f"Nothing was measured in {_span(now - last)}."
        step = "See that Dagster's daemon runs and that observe_job succeeds; the loop starts nothing on old data."
        return [_state("stale_data", "critical", f"[{place.contour}] Metrics are stale", text, step, "stale_data:snapshot", place, now)]
    blind = [gate for gate in gates if gate.answer is Answer.UNKNOWN and gate.criterion.critical and gate.doubt in ("missing", "stale")]
    if not blind:
        return []
    names = sorted({gate.criterion.metric for gate in blind})
    text = "; ".join(f"{gate.criterion.metric}: {gate.reason}" for gate in blind)[:_MOST]
    step = "See that the source of each metric answers (`predator-si doctor`); an unknown metric starts nothing and promotes nothing."
    key = f"stale_data:{','.join(names)}"
    return [_state("stale_data", "warning", f"[{place.contour}] Cannot be known: {', '.join(names)}", text, step, key, place, now)]


def degraded(gates: Sequence[GateResult], place: Place, now: datetime, why_no_cycle: str | None, also: Collection[str] = ()) -> list[Event]:
    """Failed gates of a critical metric, or of one of ``also``, for which no cycle is begun, with the reason; a cycle that begins is told by the ledger."""
    failed = [gate for gate in gates if gate.answer is Answer.FAIL and (gate.criterion.critical or gate.criterion.metric in also)]
    if not failed or why_no_cycle is None:
        return []
    names = sorted({gate.criterion.metric for gate in failed})
    text = ("; ".join(f"{gate.criterion.metric}: {gate.reason}" for gate in failed) + f". No cycle was begun: {why_no_cycle}")[:_MOST]
    step = "Look at the newest quality page; `predator-si cycle run` begins a cycle where policy allows it."
    return [_state("degrade", "warning", f"[{place.contour}] Below its gate: {', '.join(names)}", text, step, f"degrade:{','.join(names)}", place, now)]


def unwatched(release: Cycle | None, last_check: datetime | None, interval: timedelta | None, place: Place, now: datetime) -> list[Event]:
    """A released model that no check has looked at for three intervals, or for an hour where checks are counted in requests."""
    if release is None or release.state not in (CycleState.RELEASED, CycleState.WATCHING):
        return []
    since = last_check or release.updated_at
    if now - since <= max(3 * interval if interval is not None else _UNWATCHED_AFTER, _UNWATCHED_AFTER):
        return []
    text = f"{release.cycle_id} serves, and nobody has checked it for {_span(now - since)}."
    step = "See that Dagster's daemon runs and that there is traffic; `predator-si status` shows the service."
    found = _state("unwatched_release", "critical", f"[{place.contour}] A release is not watched", text, step, f"unwatched:{release.cycle_id}", place, now)
    return [found.model_copy(update={"link": place.cycle(release.cycle_id), "cycle_id": release.cycle_id})]


def over_budget(spent: float, limit: float, alert_percent: float, month: str, place: Place, now: datetime) -> list[Event]:
    """The month's cycles cost more than the share at which people want to know; at the limit no cycle begins any more."""
    if spent < limit * alert_percent / 100:
        return []
    stopped = spent >= limit
    text = f"Cycles of {month} cost {spent:.2f} USD of {limit:.2f} USD (budget.usdPerMonth)." + (" No cycle begins until the next month." if stopped else "")
    step = "Raise budget.usdPerMonth, or wait: watch and rollback go on." if stopped else "Look at `predator-si report kpis`: which cycles cost the most."
    title = f"[{place.contour}] The month's budget is {'spent' if stopped else f'at {spent / limit:.0%}'}"
    return [_state("budget", "critical" if stopped else "warning", title, text, step, f"budget:{month}:{'spent' if stopped else 'near'}", place, now)]


def ledger_distrusted(why: str | None, place: Place, now: datetime) -> list[Event]:
    """The ledger does not hold what was anchored: an older copy was put back, or it was lost."""
    if why is None:
        return []
    text = f"{why}. Until then nothing begins by itself; watch and rollback go on."[:_MOST]
    step = "Find out who replaced the control database. Put the newer copy back, or run `predator-si audit accept --reason ...`."
    return [_state("ledger", "critical", f"[{place.contour}] The ledger is not believed", text, step, "ledger", place, now)]


def _state(kind: str, severity: str, title: str, text: str, next_step: str, key: str, place: Place, now: datetime) -> Event:
    told = {"kind": kind, "severity": severity, "title": title, "text": text, "next_step": next_step, "key": f"{place.contour}:{key}", "link": place.base}
    return Event.model_validate({**told, "at": now})


def _span(length: timedelta) -> str:
    minutes = int(length.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"
