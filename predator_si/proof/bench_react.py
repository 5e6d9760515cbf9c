"""`bench react`: each fault of the trigger table planted in a small live platform, the seconds until the loop acts, and what each action changes.

What belongs here: planting, asking the loop's own functions in the order in which its sensors ask them, taking the time. What must not: a rule of its own.

The service answers over HTTP on loopback with a trained tiny reranker; the faults sit in what it loads (a slow or upside-down part), in what it is sent
(documents that cannot be indexed, deletions, bad ratings), or in the price table. The clock of a row runs from the fault to the first action: the option that
``chosen_action`` takes, or the diagnosis where the row trains. The loop's waits between looks, its queue and the start of its runs are parts of a row's
seconds by their own names (``proof.react.waits``). An action without training is then put into force, and its signal is read again (``proof.react.effects``).
"""

from __future__ import annotations

import os
import platform as machine
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from predator_si import __version__
from predator_si.errors import PredatorError
from predator_si.evaluate.actions import ActionPlan
from predator_si.monitor import TRIGGERS, Skip, TriggerRule
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import act, observe, prepare
from predator_si.proof.drill.processes import wait_until
from predator_si.proof.react.effects import SCENARIOS, UNKNOWN, WITHOUT_PATCH, Effects, Planted, Reading, Strength, effect_of, trigger_for
from predator_si.proof.react.platform import LONGEST, Platform
from predator_si.proof.react.waits import Part, Waits, waits_of
from predator_si.records import CycleState, utc_now
from predator_si.train.tracking import NullTracker

Say = Callable[[str], None]
STRENGTHS = {
    "full": Strength(pair_seconds=0.105, document_seconds=1.1),
    "small": Strength(pair_seconds=0.012, document_seconds=0.1, lag_limit=2.0, p95_limit=75.0),
}
"""By scale. ``small`` lowers two limits by gate overrides."""
FAULTS = {
    "ndcg_at_10_down": "upside_down",
    "recall_at_20_down": "lost_documents",
    "user_satisfaction_down": "bad_ratings",
    "p95_latency_ms_up": "slow_backend",
    "etl_lag_seconds_up": "slow_embedding",
    "cost_per_1k_requests_up": "dear_backend",
    "error_rate_up": "full",
    "index_errors_up": "passing_letters",
}
"""What is planted for each row, in the order in which the rows run: those that compare with a healthy past come first."""
_ENDED = (CycleState.REJECTED, CycleState.FAILED)
_OF_THE_CLOCK = frozenset({"seconds", "limit_seconds", "within", "measured_seconds", "counted_seconds", "parts", "cycle_id", "why"})


class Reactions:
    """The rows of the trigger table and their actions, on one platform."""

    def __init__(self, platform: Platform, strength: Strength, waits: Waits) -> None:
        self.effects, self.platform, self.waits = Effects(platform, strength), platform, waits

    @property
    def loop(self) -> Loop:
        """The platform's loop, which is opened anew after each row."""
        return self.platform.loop

    # ------------------------------------------------------------------ a row

    def row(self, rule: TriggerRule) -> dict[str, Any]:
        """Plant a row's fault, and let the loop find it: its guard or its tick, its snapshot, its decision, its first action; then that action's effect."""
        self.platform.traffic()
        self.effects.snapshot(rule.type)
        clock = _Clock()
        planted = self.effects.plant(FAULTS[rule.type])
        planted.load()
        clock.lap("planting")
        if rule.watched_each_minute:
            self._guarded(rule)
            clock.lap("the guard's question")
        snapshot = observe.take_snapshot(self.loop)
        clock.lap("snapshot")
        answer = observe.next_step(self.loop)
        if isinstance(answer, Skip) or answer.trigger.type != rule.type:
            why = answer.reason if isinstance(answer, Skip) else f"another row came first: {answer.trigger.type}"
            return _row(rule, planted.words, None, [*clock.parts, *self.waits.parts(rule)], None, why)
        cycle = self.loop.control.open_cycle(self.loop.contour, answer.trigger, "quality_gate_sensor", answer.reason)
        clock.lap("gates")
        prepare.report_causes(self.loop, cycle.cycle_id)
        plan: ActionPlan | None
        action: str | None
        if not act.begins_with_action(self.loop, self.loop.control.cycle(cycle.cycle_id)):
            plan, action, why = None, "diagnose", f"then {', '.join(self.loop.control.cycle(cycle.cycle_id).trigger.actions[1:])}"
        else:
            plan = act.act(self.loop, cycle.cycle_id, NullTracker())
            action, why = plan.action or ("train" if plan.train else None), plan.reason
        clock.lap("diagnosis" if plan is None else "diagnosis and choice of an action")
        found = _row(rule, planted.words, action, [*clock.parts, *self.waits.parts(rule)], cycle.cycle_id, why)
        return found | self._effect(rule.type, planted, planted.read(snapshot), plan, cycle.cycle_id)

    def _guarded(self, rule: TriggerRule) -> None:
        from predator_si.orchestration.sensors import guard_reasons

        def seen() -> bool:
            self.loop.flush()
            return any(reason.startswith(rule.metrics) for reason in guard_reasons(self.loop))

        wait_until(seen, LONGEST, f"the guard's word about {rule.metrics[0]}", every=0.5)

    def _effect(self, signal: str, planted: Planted, before: Reading, plan: ActionPlan | None, cycle_id: str) -> dict[str, Any]:
        """The effect of a plan; null where there is none to put into force. The cycle ends."""
        try:
            if plan is None:
                return effect_of(signal, planted, before, None, "its actions read or train: what a trained model brings is measured by its trial and its watch")
            if plan.config is None:
                return effect_of(signal, planted, before, None, plan.reason)
            return self.effects.change(signal, planted, before, plan)
        finally:
            if self.loop.control.cycle(cycle_id).state not in _ENDED:
                self.loop.control.transition(cycle_id, CycleState.CANCELLED, "bench react: measured", "bench")

    # ------------------------------------------------------------------ an action that no row took

    def action(self, action: str) -> dict[str, Any]:
        """Plant the fault that an action is to help against, let the loop choose among this action's options alone, and measure what it changes."""
        signal, fault = SCENARIOS[action]
        self.platform.traffic(2)
        observe.take_snapshot(self.loop, probes=False)
        planted = self.effects.plant(fault)
        planted.load()
        before = planted.read(self.effects.snapshot(signal))
        cycle = self.loop.control.open_cycle(self.loop.contour, trigger_for(signal, before.value, (action,)), "bench", f"bench react: {action}")
        plan = act.act(self._clustered() if action == "add_replicas" else self.loop, cycle.cycle_id, NullTracker())
        told = {"action": action, "signal": signal, "fault": planted.words, "choice": plan.reason[:500]}
        return told | self._effect(signal, planted, before, plan, cycle.cycle_id)

    def _clustered(self) -> Loop:
        """The loop of a contour whose replicas somebody starts; here the bench does."""
        settings = self.platform.settings
        deploy = settings.values.deploy.model_copy(update={"kind": "argocd"})
        return Loop(settings.model_copy(update={"values": settings.values.model_copy(update={"deploy": deploy})}))


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.parts.append(Part(name, now - self._last, "measured"))
        self._last = now


def _row(rule: TriggerRule, fault: str, action: str | None, parts: Sequence[Part], cycle_id: str | None, why: str) -> dict[str, Any]:
    """A row's time; null and not within its limit where nothing reacted."""
    measured = sum(part.seconds for part in parts if part.how == "measured")
    counted = sum(part.seconds for part in parts if part.how != "measured")
    seconds = None if action is None else measured + counted
    return {
        "signal": rule.type, "seconds": seconds, "limit_seconds": rule.react_within_seconds, "action": action, "why": why, "fault": fault, "cycle_id": cycle_id,
        "within": seconds is not None and seconds <= rule.react_within_seconds, "measured_seconds": measured, "counted_seconds": counted,
        "parts": [part.as_dict() for part in parts],
    }  # fmt: skip


def bench_react(
    folder: Path,
    cache: Path,
    *,
    scale: str = "full",
    seed: int = 0,
    signals: Sequence[str] = (),
    only_rows: bool = False,
    say: Say = lambda text: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The figures of CONTRACT.md section 7: a row for each trigger of the table; and ``actions``, what each action of these rows changes.

    Parameters
    ----------
    folder
        The bench's own home lies in it.
    signals
        Only these rows; empty: all.
    only_rows
        Leave out the actions that no row took.
    """
    began = time.monotonic()
    rules = {rule.type: rule for rule in TRIGGERS if not signals or rule.type in signals}
    platform = Platform(folder, cache, seed, say)
    rows: list[dict[str, Any]] = []
    actions: list[dict[str, Any]] = []
    with platform.running():
        say("a run worker is started, to see how long that takes")
        platform.traffic()
        waits = waits_of(platform.ground)
        bench = Reactions(platform, STRENGTHS[scale], waits)
        wanted = [signal for signal in FAULTS if signal in rules]
        names = [action for rule in rules.values() for action in rule.actions if action in SCENARIOS] if not only_rows else []
        done, total = 0, len(wanted) + len(names)
        for signal in wanted:
            say(f"{signal}: a fault is planted")
            rows.append(_row_or_why(bench, rules[signal]))
            done = _tell(on_progress, done + 1, total)
        taken = {name: row for row in rows if row.get("effect") is not None and (name := _measured_by(row, rules[str(row["signal"])])) is not None}
        for action in names:
            say(f"{action}: what it changes")
            actions.append(_same(action, taken[action]) if action in taken else _action_or_why(bench, action))
            done = _tell(on_progress, done + 1, total)
    for rule in rules.values():
        actions += [{"action": name, "signal": rule.type, "effect": None, "effect_why": UNKNOWN[name]} for name in rule.actions if name in UNKNOWN]
    order = [rule.type for rule in TRIGGERS]
    rows.sort(key=lambda row: order.index(str(row["signal"])))
    return {
        "rows": rows,
        "actions": actions,
        "without_patch": sorted(WITHOUT_PATCH),
        "within": all(row["within"] for row in rows),
        "seconds": time.monotonic() - began,
        "scale": scale,
        "cores": os.cpu_count(),
        "versions": {"predator_si": __version__, "python": machine.python_version()},
        "seed": seed,
        "at": utc_now().isoformat(),
    }


def _row_or_why(bench: Reactions, rule: TriggerRule) -> dict[str, Any]:
    try:
        return bench.row(rule)
    except PredatorError as error:
        return _row(rule, FAULTS[rule.type], None, bench.waits.parts(rule), None, str(error)) | {"effect": None, "effect_why": str(error)}
    finally:
        bench.effects.mend()


def _action_or_why(bench: Reactions, action: str) -> dict[str, Any]:
    try:
        return bench.action(action)
    except PredatorError as error:
        return {"action": action, "signal": SCENARIOS[action][0], "effect": None, "effect_why": str(error)}
    finally:
        bench.effects.mend()


def _measured_by(row: dict[str, Any], rule: TriggerRule) -> str | None:
    """The action of the table that a row's choice belongs to; null for two of them at once. An option may have a name of its own, such as another backend."""
    own = [action for action in rule.actions if action in SCENARIOS]
    return row["action"] if row["action"] in own else own[0] if len(own) == 1 else None


def _same(action: str, row: dict[str, Any]) -> dict[str, Any]:
    """What a row's own action changed, among the actions."""
    return {key: value for key, value in row.items() if key not in _OF_THE_CLOCK} | {"action": action, "choice": row["why"][:500]}


def _tell(on_progress: Callable[[int, int], None] | None, done: int, total: int) -> int:
    if on_progress is not None:
        on_progress(done, total)
    return done
