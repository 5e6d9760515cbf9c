"""A person's approval of a release: the question with its evidence, the answer, and what goes on while they think.

What belongs here: around ``Control``'s queue. What must not: judging (``experiment``, ``monitor``), committing (``decide``).

While a question waits, the trial goes on serving its share and is judged again at each tick, and so are the contour's gates. The person decides on the
evidence that they were shown; a degrade in the meantime ends the cycle, whatever they think of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from predator_si.errors import PredatorError, Refused
from predator_si.experiment.evidence import anonymise, read_evidence, write_evidence
from predator_si.orchestration.links import cycle_urls
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases, observe
from predator_si.records import Answer, Approval, CycleState, Decision, Evaluation, ExperimentResult, Record, Verdict, utc_now
from predator_si.release.decide import approve
from predator_si.release.deploy import evidence_hash
from predator_si.release.recompute import EXPERIMENT, decision_name
from predator_si.search.events import read_events
from predator_si.train.tracking import ExperimentTracker

WAITING = "approval-watch.json"
_SHOWN = 30
_AFTER = {"rejected": CycleState.REJECTED, "expired": CycleState.EXPIRED, "cancelled": CycleState.CANCELLED}
"""An answer that is no approval, and the cycle's state after it."""


class WaitingLook(Record):
    """``approval-watch.json``: the newest look at a trial and at the gates while a person thinks."""

    cycle_id: str
    at: datetime
    requests: dict[str, int]
    """By arm since the trial's last step; empty where there is no trial."""
    trial: Verdict | None
    """What the trial says now; null where there is none."""
    failing: tuple[str, ...]
    """Critical gates that fail now and did not when the person was asked."""
    answer: Literal["waits", "cancelled", "expired", "unknown"]
    reason: str


def ask(loop: Loop, cycle_id: str, decision: Decision) -> Approval:
    """Put a promotion into the queue with everything that a person decides by; the same evidence is asked once."""
    return loop.control.ask_approval(
        cycle_id,
        "promote",
        loop.contour,
        evidence_hash(decision),
        shown_evidence(loop, cycle_id, decision),
        loop.settings.values.approval.expires_in,
    )


def shown_evidence(loop: Loop, cycle_id: str, decision: Decision) -> dict[str, Any]:
    """Verdict, numbers, gates, slices, what would change the verdict, and where to look."""
    folder = loop.home.artifacts / cycle_id
    evaluation = Evaluation.read(folder / "evaluation.json")
    tried = ExperimentResult.read(folder / EXPERIMENT) if EXPERIMENT in decision.evidence else None
    gain = evaluation.ndcg_difference
    return {
        "verdict": decision.verdict.value,
        "reason": decision.reason,
        "champion": decision.champion.model_dump(mode="json"),
        "challenger": decision.challenger.model_dump(mode="json"),
        "numbers": {
            "ndcg_champion": evaluation.ndcg_champion,
            "ndcg_challenger": evaluation.ndcg_challenger,
            "ndcg_difference": [gain.estimate, gain.low, gain.high],
            "queries": evaluation.n_queries,
            "requests": {} if tried is None else tried.requests,
        },
        "gates": [{"name": one.criterion.name, "answer": one.answer.value, "value": one.value, "reason": one.reason} for one in decision.gates],
        "slices": (evaluation.slices if tried is None else tried.slices)[:_SHOWN],
        "would_change": [] if tried is None else tried.would_change,
        "failing_gates": sorted(_failing(loop, cycle_id)),
        "links": cycle_urls(loop.settings, cycle_id),
    }


def is_approved(loop: Loop, cycle_id: str, decision: Decision) -> bool:
    """Whether the queue says that this person approved this evidence; a name in the file proves nothing."""
    found = loop.control.approval(cycle_id)
    return (
        found is not None
        and (found.decision, found.actor, found.evidence_hash) == ("approved", decision.approved_by, evidence_hash(decision))
        and decision.approved_by is not None
    )


def give_approval(loop: Loop, cycle_id: str, actor: str, reason: str) -> Decision:
    """Record a person's approval of the promotion, in the queue, the ledger and the decision. The release job commits it.

    Raises
    ------
    Refused
        The cycle does not wait for one, the question has expired, or this person overrode a gate in it (in contour ``local`` that is only recorded).
    """
    _require_waiting(loop, cycle_id)
    path = loop.artifacts(cycle_id) / decision_name("promote")
    decision = approve(Decision.read(path), actor)
    if loop.control.approval(cycle_id) is None:  # of a cycle that began to wait before there was a queue
        ask(loop, cycle_id, decision)
    loop.control.decide_approval(cycle_id, "approved", actor, reason, separated=loop.contour != "local")
    loop.save(cycle_id, path.name, decision)
    return decision


def refuse_approval(loop: Loop, cycle_id: str, actor: str, reason: str, tracker: ExperimentTracker | None = None) -> None:
    """Record that a person says no: the challenger is taken off its trial, and the cycle ends rejected.

    Raises
    ------
    Refused
        The cycle does not wait for an approval, or the question has expired.
    """
    _require_waiting(loop, cycle_id)
    if loop.control.approval(cycle_id) is None:
        ask(loop, cycle_id, Decision.read(loop.artifacts(cycle_id) / decision_name("promote")))
    loop.control.decide_approval(cycle_id, "rejected", actor, reason)
    _end(loop, cycle_id, CycleState.REJECTED, f"{actor} refused the release: {reason}", actor, tracker)


def judge_while_waiting(loop: Loop, now: datetime | None = None, tracker: ExperimentTracker | None = None) -> WaitingLook | None:
    """One more look at the cycle that waits for a person: it waits on, has expired, or is cancelled because something got worse. Null where none waits.

    What cannot be known cancels nothing: the look says so, and the next tick looks again.
    """
    cycle = loop.control.active_cycle(loop.contour)
    if cycle is None or cycle.state is not CycleState.AWAITING_APPROVAL:
        return None
    cycle_id, moment = cycle.cycle_id, now or utc_now()
    asked = loop.control.approval(cycle_id)
    if asked is None or asked.decision == "approved":
        return None  # the release job acts on it
    if asked.decision is not None:  # a process died between the answer and what follows from it
        _end(loop, cycle_id, _AFTER[asked.decision], f"{asked.decision} by {asked.actor}: {asked.reason}", asked.actor or "loop", tracker)
        return None
    if asked.state(moment) == "expired":
        reason = f"nobody answered within {loop.settings.values.approval.expires_in}"
        return _conclude(loop, WaitingLook(cycle_id=cycle_id, at=moment, requests={}, trial=None, failing=(), answer="expired", reason=reason), tracker)
    try:
        tried = _trial_now(loop, cycle_id, moment)
        failing = tuple(sorted(_failing(loop, cycle_id, moment) - set(asked.evidence.get("failing_gates", []))))
    except PredatorError as error:
        look = WaitingLook(cycle_id=cycle_id, at=moment, requests={}, trial=None, failing=(), answer="unknown", reason=str(error))
        loop.save(cycle_id, WAITING, look)
        return look
    worse = [] if tried is None or tried.verdict is not Verdict.REJECT else [f"the trial shows harm now: {tried.reason}"]
    worse += [f"a gate fails that did not when a person was asked: {name}" for name in failing]
    look = WaitingLook(
        cycle_id=cycle_id,
        at=moment,
        requests={} if tried is None else tried.requests,
        trial=None if tried is None else tried.verdict,
        failing=failing,
        answer="cancelled" if worse else "waits",
        reason="; ".join(worse) or f"a person is asked until {asked.expires_at:%Y-%m-%d %H:%M} UTC",
    )
    return _conclude(loop, look, tracker)


def _conclude(loop: Loop, look: WaitingLook, tracker: ExperimentTracker | None) -> WaitingLook:
    loop.save(look.cycle_id, WAITING, look)
    ended: Literal["cancelled", "expired"] | None = None if look.answer in ("waits", "unknown") else "cancelled" if look.answer == "cancelled" else "expired"
    if ended is not None and loop.control.close_approval(look.cycle_id, ended, look.reason, now=look.at):  # not answered meanwhile
        _end(loop, look.cycle_id, _AFTER[ended], f"{ended} while a person was asked: {look.reason}", "loop", tracker)
    return look


def _trial_now(loop: Loop, cycle_id: str, now: datetime) -> ExperimentResult | None:
    """The trial's last step judged over all its traffic up to now; the result that the person was shown stays as it is."""
    from predator_si.orchestration.steps import trial

    folder = loop.artifacts(cycle_id)
    if not (folder / trial.EXPERIMENT).is_file() or loop.repo.find_commit(cycle_id, "trial") is None:
        return None
    loop.flush()
    known = trial.open_trial(loop, cycle_id)
    events = anonymise(read_events(loop.home.events, known.step_started_at, now, open_text=False), known.step_started_at, now)
    evidence = write_evidence(folder, events, "trial/waiting")
    return trial.judged_so_far(loop, known, read_evidence(folder, evidence, lost=events.lost), now)


def _failing(loop: Loop, cycle_id: str, now: datetime | None = None) -> set[str]:
    """Critical gates that fail on the newest snapshot, those on the cycle's own trigger apart: it was opened because they do."""
    from predator_si.monitor.triggers import TRIGGERS

    newest = loop.snapshots(1)
    if not newest:
        return set()
    trigger = loop.control.cycle(cycle_id).trigger
    own = {trigger.metric, *(metric for rule in TRIGGERS if rule.type == trigger.type for metric in rule.metrics)}
    failed = (gate for gate in observe.gates(loop, newest[-1], now) if gate.answer is Answer.FAIL and gate.value is not None and not gate.recovering)
    return {gate.criterion.name for gate in failed if gate.criterion.critical and gate.criterion.metric not in own}


def _end(loop: Loop, cycle_id: str, to: CycleState, reason: str, actor: str, tracker: ExperimentTracker | None) -> None:
    from predator_si.orchestration.steps.decide import end_trial
    from predator_si.orchestration.tracking import existing_tracker

    if loop.repo.find_commit(cycle_id, "trial") is not None:
        end_trial(loop, cycle_id, reason)
    loop.control.transition(cycle_id, to, reason, actor)
    aliases.settle(loop, tracker or existing_tracker(loop.home), cycle_id)


def _require_waiting(loop: Loop, cycle_id: str) -> None:
    state = loop.control.cycle(cycle_id).state
    if state is not CycleState.AWAITING_APPROVAL:
        raise Refused(f"cycle {cycle_id} is {state.value} and waits for nobody's approval. `predator-si cycle queue` shows which one does.")
