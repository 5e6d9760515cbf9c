"""Open a cycle: for the newest snapshot's failed gate as the sensor does, or for the trigger that a person insists on.

What belongs here: the one way in which people (command line, REST API) open cycles. What must not: policy itself (``control.policy``), running jobs.
"""

from __future__ import annotations

from collections.abc import Collection

from predator_si.errors import BadInput, Refused
from predator_si.monitor import Skip
from predator_si.monitor.triggers import TRIGGERS
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import observe, permission
from predator_si.records import Answer, Cycle, Trigger


def open_or_resume(
    loop: Loop, actor: str, trigger_type: str | None = None, reason: str = "", *, force: bool = False, among: Collection[str] | None = None
) -> Cycle | Skip:
    """The active cycle, or a new one: for the newest snapshot's failed gate, or, with ``force``, for the trigger that a person names.

    A named trigger without ``force`` must be the one that the snapshot gives. The kill switch and the contour's switch hold for all.

    Parameters
    ----------
    among
        Triggers that are wanted at all; null: every one.

    Raises
    ------
    BadInput
        No trigger has this name.
    Refused
        Policy does not allow the forced cycle, or another one was faster.
    """
    active = loop.control.active_cycle(loop.contour)
    if active is not None:
        return active
    known = {rule.type: rule for rule in TRIGGERS}
    if trigger_type is not None and trigger_type not in known:
        raise BadInput(f"--trigger {trigger_type!r}: there are {', '.join(known)}.")
    if trigger_type is not None and force:
        trigger = forced_trigger(loop, trigger_type, reason)
        return loop.control.open_cycle(loop.contour, trigger, actor, trigger.reason)
    answer = observe.next_step(loop, force=force)
    if isinstance(answer, Skip):
        return answer
    if trigger_type not in (None, answer.trigger.type) or (among is not None and answer.trigger.type not in among):
        wanted = trigger_type or " or ".join(sorted(among or ()))
        return Skip((f"the newest snapshot asks for {answer.trigger.type}, not {wanted} ({answer.reason}); --force insists",))
    why = f"{answer.reason} ({reason})" if reason else answer.reason
    return loop.control.open_cycle(loop.contour, answer.trigger, actor, why)


def forced_trigger(loop: Loop, trigger_type: str, reason: str) -> Trigger:
    """A trigger that a person insists on, with the numbers of the newest snapshot where it has them.

    Raises
    ------
    Refused
        Policy does not allow a cycle now, or nothing was measured yet.
    """
    rule = next(rule for rule in TRIGGERS if rule.type == trigger_type)
    answer = permission.ruling(loop, "start_cycle", trigger=rule.type, force=True)
    if answer.answer != "allow":
        raise Refused(f"{trigger_type}: {answer.reason}; --force does not pass this.")
    newest = loop.snapshots(1)
    if not newest:
        raise Refused(f"{loop.home.snapshots}: no metrics snapshot yet, so there is nothing to diagnose. `predator-si up` takes one every 15 minutes.")
    judged = [gate for gate in observe.gates(loop, newest[-1]) if gate.criterion.metric in rule.metrics]
    gate = next((gate for gate in judged if gate.answer is Answer.FAIL), next(iter(judged), None))
    value, reference = (gate.value, gate.reference) if gate is not None else (None, None)
    return Trigger(
        type=rule.type,
        metric=rule.metrics[0] if gate is None else gate.criterion.metric,
        value=value,
        baseline=reference,
        delta=value - reference if value is not None and reference is not None else None,
        actions=rule.actions,
        reason=f"a person insists: {reason or 'no reason given'}" + (f" ({gate.reason})" if gate is not None else ""),
    )


__all__ = ["forced_trigger", "open_or_resume"]
