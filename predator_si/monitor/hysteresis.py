"""Gates that remember: an answer changes after enough windows or by enough margin, not each time a metric crosses its limit by a hair.

What belongs here: what a gate is held to be, from its own answer in each window. What must not: storing the memory (the caller does), judging a metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from predator_si.records import Answer, GateMemory, GateResult, HeldGate, MetricsSnapshot


def remember(results: Sequence[GateResult], snapshot: MetricsSnapshot, memory: GateMemory | None) -> GateMemory:
    """The memory after ``snapshot``, whose gates answered ``results`` on their own.

    A window counts once: the memory does not move for the snapshot it already holds, an older one, or a corrected one. A window whose
    answer is unknown or not applicable neither confirms nor refutes. Another champion starts with a clean memory.
    """
    own = memory is not None and memory.champion == snapshot.champion
    if memory is not None and own and snapshot.window_end <= memory.window_end:
        return memory
    before = memory.gates if memory is not None and own else {}
    gates = {**before, **{_name(result): _moved(before.get(_name(result), HeldGate()), result, snapshot) for result in results}}
    return GateMemory(champion=snapshot.champion, snapshot_id=snapshot.snapshot_id, window_end=snapshot.window_end, gates=gates)


def hold(results: Sequence[GateResult], memory: GateMemory) -> list[GateResult]:
    """What the gates are held to be: their own answers, save where the memory says that it is too early to change.

    A miss that is not yet called a failure is ``unknown`` (doubt ``pending``): it is no pass, and starts nothing. A failing gate that meets its
    limit again stays ``fail`` (``recovering``) until it has cleared; ``decide`` starts no cycle for it, since its newest value is good.
    """
    return [_held(result, memory.gates.get(_name(result))) for result in results]


def _name(result: GateResult) -> str:
    """What a gate is remembered by: an overridden one is another gate, with no past."""
    rule = result.criterion
    return rule.name if rule.override is None else f"{rule.name}@{rule.threshold:g}"


def _moved(held: HeldGate, result: GateResult, snapshot: MetricsSnapshot) -> HeldGate:
    said = _says(result)
    if said is None:
        return held
    if said is held.answer:
        return held.model_copy(update={"against": 0})
    rule = result.criterion.hysteresis
    against = held.against + 1
    needed = rule.fail_after if said is Answer.FAIL else rule.clear_after
    if against >= needed or (said is Answer.PASS and _clearly(result)):
        return HeldGate(answer=said, since=snapshot.window_end, changes=held.changes + 1)
    return held.model_copy(update={"against": against})


def _held(result: GateResult, held: HeldGate | None) -> GateResult:
    said, rule = _says(result), result.criterion.hysteresis
    if held is None or said is None or said is held.answer:
        return result
    if said is Answer.FAIL:
        reason = f"{result.reason}, in {held.against} of {rule.fail_after} windows in a row that make a failure"
        return result.model_copy(update={"answer": Answer.UNKNOWN, "doubt": "pending", "reason": reason})
    since = "" if held.since is None else f" since {held.since:%Y-%m-%d %H:%M} UTC"
    at_once = "" if rule.margin is None else f", or once by {rule.margin:.0%} of it"
    reason = f"failing{since}: {result.reason} again, in {held.against} of {rule.clear_after} windows in a row that clear it{at_once}"
    return result.model_copy(update={"answer": Answer.FAIL, "recovering": True, "reason": reason})


def _says(result: GateResult) -> Literal[Answer.PASS, Answer.FAIL] | None:
    """Pass or fail by a value; null for everything else, a failure for lack of data among it."""
    if result.value is None:
        return None
    return Answer.PASS if result.answer is Answer.PASS else Answer.FAIL if result.answer is Answer.FAIL else None


def _clearly(result: GateResult) -> bool:
    """Whether a value meets its limit by the gate's margin."""
    margin, limit, value = result.criterion.hysteresis.margin, result.limit, result.value
    if margin is None or limit is None or value is None:
        return False
    band = margin * abs(limit)
    return value >= limit + band if result.criterion.direction == "min" else value <= limit - band
