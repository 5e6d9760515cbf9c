"""Drill (e): two of everything at the same moment. One of them wins, the other is told, nothing is lost.

What belongs here: the races and what each may end as. What must not: locks of its own.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from predator_si.errors import PredatorError, Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import decide, keep
from predator_si.proof.drill import lane
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.plan import DrillPlan
from predator_si.proof.drill.processes import wait_until
from predator_si.proof.drill.rollback import pushed_at
from predator_si.records import CycleState, Rollback
from predator_si.release.release_file import parse_release

_ENDED = (CycleState.ROLLED_BACK, CycleState.FAILED, CycleState.CANCELLED)
_PUSH_SECONDS = 1.0
"""A push that had begun when the kill switch was pressed may still arrive."""
_WAIT_SECONDS = 15.0
_NEXT_SEEDS = 50_000
"""Between the damaged models of one race."""
Race = Callable[[Ground, Load, int], list[str]]


def drill_race(ground: Ground, load: Load, plan: DrillPlan, tally: Tally, on_progress: Callable[[int, int], None]) -> None:
    """Each race ``plan.n`` times; at the small scale a few of them."""
    names = list(RACES) if plan.scale == "full" else list(_FEW)
    total = plan.n * len(names)
    for number in range(total):
        name = names[number % len(names)]
        race = RACES[name]
        problems: list[str] = []
        try:
            problems += race(ground, load, plan.seed * 100_000 + number)
            ground.wait_settled()
            problems += ground.look()
        except PredatorError as error:
            problems.append(str(error))
        if problems:
            ground.clear()
        tally.note(f"{name}, round {number // len(names) + 1}", problems)
        on_progress(number + 1, total)


def at_once(*doings: Callable[[], Any]) -> list[Any]:
    """Do all of them at the same moment, each in a thread; what each gave, or the error that it raised."""
    barrier = threading.Barrier(len(doings))
    found: list[Any] = [None] * len(doings)

    def one(place: int) -> None:
        barrier.wait(30)
        try:
            found[place] = doings[place]()
        except Exception as error:  # handed to the caller, who judges it
            found[place] = error

    threads = [threading.Thread(target=one, args=(place,), daemon=True) for place in range(len(doings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    return found


def _strange(found: Sequence[Any]) -> list[str]:
    """Errors that are no answer: the platform's own say what was wrong."""
    return [f"{type(one).__name__}: {one}" for one in found if isinstance(one, Exception) and not isinstance(one, PredatorError)]


def _loop(ground: Ground) -> Loop:
    """The parts of the home once more, as another process would open them."""
    return Loop(ground.settings)


def _to_its_end(ground: Ground, load: Load, cycle_id: str) -> list[str]:
    """Let the loop finish what a race left; what is wrong when it cannot."""
    last = ""
    for _ in range(3):
        if ground.loop.control.cycle(cycle_id).state in _ENDED:
            return []
        try:
            lane.resume(ground.loop, cycle_id, load.wait_for, ground.tracker)
        except PredatorError as error:
            last = str(error)
    state = ground.loop.control.cycle(cycle_id).state
    return [] if state in _ENDED else [f"{cycle_id} is {state.value} and goes no further: {last}"]


# --------------------------------------------------------------------------- the races


def two_cycles(ground: Ground, load: Load, seed: int) -> list[str]:
    """Two triggers at once: one cycle is opened, the other is told that there is one."""
    from predator_si.records import Trigger

    trigger = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=None, baseline=None, delta=None, actions=("drill",), reason=lane.REASON)
    found = at_once(*[lambda: _loop(ground).control.open_cycle(ground.loop.contour, trigger, "drill", lane.REASON).cycle_id] * 4)
    opened = [one for one in found if isinstance(one, str)]
    for cycle_id in opened:
        ground.loop.control.transition(cycle_id, CycleState.CANCELLED, "the race is over", "drill")
    refused = [one for one in found if isinstance(one, Refused)]
    return [] if (len(opened), len(refused)) == (1, 3) else [f"{len(opened)} of four cycles were opened, {len(refused)} refused: {found}"]


def two_answers(ground: Ground, load: Load, seed: int) -> list[str]:
    """One person approves, another rejects, at once: one answer stands, and the ledger has that one."""
    loop = ground.loop
    cycle_id = lane.open_drill(loop, ground.damaged(seed))
    loop.control.ask_approval(cycle_id, "promote", loop.contour, f"{seed}", {"drill": True}, timedelta(minutes=5))
    found = at_once(
        lambda: _loop(ground).control.decide_approval(cycle_id, "approved", "drill:ann", "better"),
        lambda: _loop(ground).control.decide_approval(cycle_id, "rejected", "drill:bob", "worse"),
    )
    said = [record.action for record in loop.control.records(500, cycle_id=cycle_id) if record.action in ("approval_approved", "approval_rejected")]
    stands = loop.control.approval(cycle_id)
    loop.control.transition(cycle_id, CycleState.CANCELLED, "the race is over", "drill")
    problems = _strange(found)
    if len(said) != 1 or stands is None or said != [f"approval_{stands.decision}"]:
        problems.append(f"two answers at once: the ledger has {said}, and {stands.decision if stands else None} stands")
    if sum(isinstance(one, Refused) for one in found) != 1:
        problems.append(f"two answers at once: {found}")
    return problems


def two_releases(ground: Ground, load: Load, seed: int) -> list[str]:
    """Two runs release the same cycle at once, as a sensor's and a person's would: one commit."""
    loop = ground.loop
    cycle_id = lane.open_drill(loop, ground.damaged(seed))
    found = at_once(*[lambda: lane.release(_loop(ground), cycle_id, ground.new_tracker())] * 2)
    problems = _strange(found)
    if loop.control.cycle(cycle_id).state is not CycleState.RELEASED and all(isinstance(one, PredatorError) for one in found):
        problems.append(f"neither of two runs released: {found}")
    return problems + _to_its_end(ground, load, cycle_id)


def a_person_edits(ground: Ground, load: Load, seed: int) -> list[str]:
    """A person changes another key of the release file while the loop releases: neither edit is lost."""
    loop, name = ground.loop, ground.loop.release_name
    cycle_id = lane.open_drill(loop, ground.damaged(seed))
    replicas = parse_release(loop.release_text(), name).replicas

    def edit() -> str | None:
        def change(files: Mapping[str, str]) -> Mapping[str, str]:
            return {name: files[name].replace(f"replicas: {replicas}\n", f"replicas: {replicas % 9 + 1}\n")}

        return _loop(ground).repo.change(change, "a person: another number of replicas")

    found = at_once(lambda: lane.release(_loop(ground), cycle_id, ground.new_tracker()), edit)
    problems = _strange(found) + [f"{type(one).__name__}: {one}" for one in found if isinstance(one, PredatorError)]
    problems += _to_its_end(ground, load, cycle_id)
    kept = parse_release(loop.release_text(), name).replicas
    if kept != replicas % 9 + 1:
        problems.append(f"a person's edit was lost: replicas is {kept}, not {replicas % 9 + 1}")
    return problems


def rollback_during_release(ground: Ground, load: Load, seed: int) -> list[str]:
    """A person takes a release back between its commit and the service's word for it: the old model stays, the cycle has ended."""
    loop = ground.loop
    cycle_id = lane.open_drill(loop, ground.damaged(seed))

    def take_back() -> Rollback:
        mine = _loop(ground)

        def pushed() -> bool:
            mine.repo.sync()
            return mine.repo.find_commit(cycle_id, "promote") is not None

        wait_until(pushed, 120.0, "the commit of the release")
        return keep.take_back(mine, cycle_id, "drill: a person takes it back at once", tracker=ground.new_tracker())

    # whoever released waits for a model that was taken back meanwhile: to the end, so that is not minutes
    found = at_once(lambda: lane.release(Loop(ground.impatient(_WAIT_SECONDS)), cycle_id, ground.new_tracker()), take_back)
    problems = _strange(found)
    if isinstance(found[1], PredatorError):
        problems.append(f"the way back was not open: {found[1]}")
    state = loop.control.cycle(cycle_id).state
    if state not in _ENDED:
        problems.append(f"the release was taken back, and the cycle is {state.value}")
        problems += _to_its_end(ground, load, cycle_id)
    return problems


def two_rollbacks(ground: Ground, load: Load, seed: int) -> list[str]:
    """Two people take the same release back at once: one commit, and both are told that the old model serves."""
    loop = ground.loop
    cycle_id = lane.open_drill(loop, ground.damaged(seed))
    lane.release(loop, cycle_id, ground.tracker)
    found = at_once(*[lambda: keep.take_back(_loop(ground), cycle_id, "drill: two at once", tracker=ground.new_tracker())] * 2)
    problems = [f"{type(one).__name__}: {one}" for one in found if isinstance(one, Exception)]
    problems += [f"not verified: {one.reason}" for one in found if isinstance(one, Rollback) and not one.verified]
    if len({one.commit for one in found if isinstance(one, Rollback)}) > 1:
        problems.append("two rollbacks at once made two commits")
    return problems + _to_its_end(ground, load, cycle_id)


def rollback_under_a_trial(ground: Ground, load: Load, seed: int) -> list[str]:
    """Two people take the last release back while the next one is on trial: that trial is over, its cycle cancelled, and the old model serves."""
    loop = ground.loop

    def on_trial(bad: str) -> str:
        cycle_id = lane.open_drill(loop, bad)
        decide.decide(loop, cycle_id, "trial", drill=True)
        decide.commit(loop, cycle_id, "trial", allow_drill=True)
        decide.deploy(loop, cycle_id, "trial", ground.tracker)
        return cycle_id

    first = on_trial(ground.damaged(seed))
    lane.release(loop, first, ground.tracker)
    loop.control.transition(first, CycleState.STABLE, "drill: as if it had been watched", "drill")
    second = on_trial(ground.damaged(seed + _NEXT_SEEDS))
    found = at_once(*[lambda: keep.take_back(_loop(ground), first, "drill: the next one is on trial", tracker=ground.new_tracker())] * 2)
    problems = [f"{type(one).__name__}: {one}" for one in found if isinstance(one, Exception)]
    problems += [f"not verified: {one.reason}" for one in found if isinstance(one, Rollback) and not one.verified]
    states = tuple(loop.control.cycle(cycle_id).state for cycle_id in (first, second))
    if states != (CycleState.ROLLED_BACK, CycleState.CANCELLED):
        problems.append(f"{first} was taken back while {second} was on trial: they are {states[0].value} and {states[1].value}")
    return problems


def kill_switch(ground: Ground, load: Load, seed: int) -> list[str]:
    """The kill switch is pressed in the middle of a release: nothing is pushed afterwards, and what was pushed before is watched and taken back."""
    loop = ground.loop
    cycle_id = lane.open_drill(loop, ground.damaged(seed))
    pressed: list[float] = []

    def press() -> None:
        time.sleep(random.Random(seed).uniform(0.0, 1.5))
        _loop(ground).control.set_kill_switch(loop.contour, True, "drill", "drill: pressed during a release")
        pressed.append(time.time())

    found = at_once(lambda: lane.release(_loop(ground), cycle_id, ground.new_tracker()), press)
    problems = _strange(found)
    try:
        loop.repo.sync()
        if loop.repo.find_commit(cycle_id, "promote") is not None:
            late = pushed_at(loop) - pressed[0]
            if late > _PUSH_SECONDS:
                problems.append(f"a release was pushed {late:.1f} s after the kill switch was pressed")
            problems += _to_its_end(ground, load, cycle_id)  # the switch is still on: watch and way back are open
        else:
            try:
                decide.commit(loop, cycle_id, "promote", allow_drill=True)
                problems.append("a release was committed although the kill switch is on")
            except PredatorError:
                pass  # as it must be
    finally:
        loop.control.set_kill_switch(loop.contour, False, "drill", "drill: over")
    if loop.control.cycle(cycle_id).state not in _ENDED:
        loop.control.transition(cycle_id, CycleState.CANCELLED, "the race is over", "drill")
    return problems


RACES: dict[str, Race] = {
    race.__name__.replace("_", " "): race
    for race in (two_cycles, two_answers, two_releases, a_person_edits, rollback_during_release, two_rollbacks, rollback_under_a_trial, kill_switch)
}
_FEW = ("two cycles", "two answers", "rollback during release", "kill switch")
