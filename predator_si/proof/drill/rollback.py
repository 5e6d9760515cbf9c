"""Drill (a): a damaged model is released under load, the watch notices, the old model comes back; again and again.

What belongs here: the repetitions and their clocks. What must not: a step of the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from predator_si.orchestration.loop import Loop
from predator_si.proof.drill import lane
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.plan import DrillPlan
from predator_si.records import CycleState, Deployment

_BACK_SECONDS = 30.0


def drill_rollback(ground: Ground, load: Load, plan: DrillPlan, tally: Tally, on_progress: Callable[[int, int], None]) -> None:
    """Release and take back ``plan.n`` damaged models, each with weights of its own: a denied one never comes twice."""
    for number in range(plan.n):
        bad = ground.damaged(plan.seed * 100_000 + number)
        cycle_id = lane.open_drill(ground.loop, bad)
        released = lane.release(ground.loop, cycle_id, ground.tracker)
        problems = _one(ground, load, tally, cycle_id, bad, released)
        if problems:
            ground.clear()
        tally.note(f"rollback {number + 1} ({cycle_id})", problems, phases={name: values[-1] for name, values in tally.phases.items()})
        on_progress(number + 1, plan.n)
    tally.violations += [f"at the end: {problem}" for problem in ground.look()]


def _one(ground: Ground, load: Load, tally: Tally, cycle_id: str, bad: str, released: Deployment) -> list[str]:
    """Watch and take back one release; what was wrong."""
    loop, problems = ground.loop, []
    watched = lane.watch(loop, cycle_id, load.wait_for, ground.tracker)
    detected = time.time()
    if watched.answer != "rollback":
        problems.append(f"the watch kept a damaged model: {watched.reason}")
    asked = time.time()
    back = lane.take_back(loop, cycle_id, ground.tracker)
    committed, applied = pushed_at(loop), applied_at(loop)
    first = load.wait_for(ground.champion, committed, _BACK_SECONDS)
    stragglers = [answer for answer in load.by(bad, committed) if answer.sent > first.received]
    if stragglers:
        problems.append(f"{len(stragglers)} searches that were sent after the old model had answered were answered by the bad one")
    if not back.verified or back.to_digest != ground.champion:
        problems.append(f"the old digest was not verified: {back.reason}")
    if loop.control.cycle(cycle_id).state is not CycleState.ROLLED_BACK:
        problems.append(f"the cycle is {loop.control.cycle(cycle_id).state.value}")
    clocks = (detected - released.created_at.timestamp(), committed - asked, applied - committed, first.received - applied)
    for name, value in zip(tally.phases, clocks, strict=True):
        tally.phases[name].append(value)
    return [*problems, *ground.look(history=False)]


def pushed_at(loop: Loop) -> float:
    """When the branch got its newest commit, in seconds since 1970: the time of its ref, to the clock tick of the file system (some 4 ms)."""
    return _changed(loop.home.gitops_bare / "refs" / "heads" / "main")


def applied_at(loop: Loop) -> float:
    """When the reconciler wrote the release file that is in force; it writes it only when it changes."""
    return _changed(loop.home.release_file(loop.contour))


def _changed(path: Path) -> float:
    return path.stat().st_mtime_ns / 1e9
