"""Drill (c): SIGKILL before and after each side effect of a cycle, each process in turn, on both roads (``blows``).

What belongs here: who is killed where, and what must hold then. What must not: the roads themselves (``lane``), the wrapping of side effects (``effects``).

A worker walks the road and stops at each side effect. There the victim dies: the worker itself, which another one then follows; or the search service, the
reconciler or the API, which are started again while the worker goes on. These three also die at writes of their own. Daemon and code server: ``kill_dagster``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import httpx

from predator_si.api.client import BASE
from predator_si.errors import PredatorError, Unavailable
from predator_si.proof.drill.blows import BACK, ROADS, WHOLE, Blow, Road, choose, deal
from predator_si.proof.drill.effects import Listener, Worker
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.kill_dagster import kill_dagster, open_on
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.marked import LOADED
from predator_si.proof.drill.plan import DrillPlan
from predator_si.proof.drill.victims import API, Victims, workers
from predator_si.proof.drill.worker import run_id

WORKER = "run worker"
VICTIMS = (WORKER, "search", "reconciler", API)
"""Of the first half; daemon and code server are killed in the second (``kill_dagster``)."""
OWN: dict[str, dict[Road, tuple[str, ...]]] = {
    "search": dict.fromkeys(ROADS, (f"{LOADED} 1 before", f"{LOADED} 1 after")),
    "reconciler": {
        road: tuple(f"applied {name} {moment}" for name in names for moment in ("before", "after"))
        for road, names in ((WHOLE, ("RELEASE 1", "RELEASE 2")), (BACK, ("RELEASE 1", "RELEASE 2", "deny.yaml 1")))
    },
    API: dict.fromkeys(ROADS, ("control press_switch 1 before", "control press_switch 1 after")),
}
"""Writes of their own, with the count in a cycle; RELEASE stands for the contour's release file."""
_FEW = (
    Blow(WORKER, WHOLE, "file training.json 1 before"),
    Blow("search", WHOLE, "file training.json 1 after"),
    Blow("reconciler", BACK, "git push 1 before"),
    Blow(API, BACK, "control press_switch 1 before", own=True),
)
"""For a walk through this drill: each process once, at points that every road has."""
_TRIES = 3
"""Runs of a job that a state gets, as the sensor gives them; each blow on the worker costs one more."""
_PAUSE = 0.25
"""Seconds between two searches of a client: a road is measured by its steps, not by its load."""
_STOP_SECONDS = 180.0


def drill_kill(ground: Ground, load: Load, plan: DrillPlan, tally: Tally, on_progress: Callable[[int, int], None]) -> None:
    """Walk each road once unhurt to learn its points, then kill each victim at ``plan.n`` of them, or at all; ``small``: at one that is known."""
    killed = dict.fromkeys(VICTIMS, 0)
    ends: Counter[str] = Counter()
    load.pause, done = _PAUSE, 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        on_progress(done, max(done, planned))

    with ground.people(), Listener() as listener, Victims(ground, load) as victims, workers(ground, listener) as work:
        drill = _Drill(ground, listener, victims, work, plan.seed * 100_000, tally, ends)
        if plan.scale == "full":
            points = {road: drill.walk_unhurt(road) for road in ROADS}
            blows = [blow for victim in VICTIMS for blow in choose(victim, points, plan.n, plan.seed, OWN.get(victim))]
        else:
            blows = list(_FEW)
            points = {road: [blow.point for blow in blows if blow.road == road] for road in ROADS}
        planned = len(blows) + (2 * plan.n if plan.scale == "full" else 0)
        fallen = deal(blows, points, drill.strike, tell)
        killed |= Counter(blow.victim for blow in fallen)
    planned, unreached = len(blows), len(set(blows) - set(fallen))
    if plan.scale == "full":
        with ground.people():
            by_dagster = kill_dagster(ground, ROADS, plan.n, plan.seed * 100_000 + 50_000, tally, tell)
        killed |= by_dagster.killed
        planned, unreached = planned + by_dagster.planned, unreached + by_dagster.unreached
        ends += by_dagster.ends
    load.pause = 0.0
    ground.crown(ground.champion)
    names = [f"{road.name}: {point}" for road, found in points.items() for point in found]
    tally.more |= {"points": len(names), "point_names": names, "killed": killed, "ended": dict(ends), "planned": planned, "unreached": unreached}
    tally.violations += [f"at the end: {problem}" for problem in ground.look()]


class _Drill:
    """The forked half: one worker at a time walks, and blows fall."""

    def __init__(self, ground: Ground, listener: Listener, victims: Victims, work: Callable[[str], None], seed: int, tally: Tally, ends: Counter[str]) -> None:
        self.ground, self.listener, self.victims, self.work = ground, listener, victims, work
        self.seed, self.tally, self.ends = seed, tally, ends

    def walk_unhurt(self, road: Road) -> list[str]:
        """The points of a road, in order.

        Raises
        ------
        Unavailable
            Even unhurt the road does not end where it should.
        """
        best = "stable" if road == WHOLE else "rolled_back"
        for number in range(_TRIES):
            cycle_id = open_on(self.ground, road, self.seed + 99_900 + number)
            self.listener.new_cycle()
            self.work(cycle_id)
            points: list[str] = []
            with self.listener.worker() as worker:
                while (effect := worker.next()) is not None:
                    points.append(effect.point)
                    worker.go()
            self.ends[self.ground.loop.control.cycle(cycle_id).state.value] += 1
            if worker.ended == best:
                return list(dict.fromkeys(points))
        reason = self.ground.loop.control.cycle(cycle_id).reason
        raise Unavailable(f"{cycle_id}: nobody was killed, and it ended so: {worker.ended} ({reason}). The drill means nothing until that is mended.")

    def strike(self, road: Road, blows: list[Blow], number: int) -> list[Blow]:
        """One cycle; the blows that fell. What was wrong is noted."""
        ground, loop = self.ground, self.ground.loop
        cycle_id, struck, problems = open_on(ground, road, self.seed + number), list[Blow](), list[str]()
        self.listener.new_cycle()
        left = list(blows)
        for blow in [one for one in blows if one.own and one.victim != API]:
            self.victims.plan(blow.victim, blow.point)
        ended: str | None = None
        for _ in range(_TRIES + sum(blow.victim in (WORKER, API) for blow in blows)):
            self.work(cycle_id)
            with self.listener.worker() as worker:
                self._walk(worker, left, struck, problems)
                ended = worker.ended
            loop.control.set_kill_switch(loop.contour, False, "drill", "drill: the worker has stopped")
            if ended in {end.value for end in road.ends}:
                break
            problems += [f"ledger right after: {problem}" for problem in loop.control.verify()]
            if ended is not None and ended.startswith("broke"):
                problems.append(f"a step broke: {ended}")
            self.victims.all_ready()
        struck += [blow for blow in blows if blow.own and blow.victim != API and self.victims.fell(blow.victim)]
        self.victims.all_ready()
        state = loop.control.cycle(cycle_id).state
        self.ends[state.value] += 1
        if state not in road.ends:
            problems.append(f"the cycle neither went on nor ended cleanly: it is {state.value} ({ended})")
        try:
            ground.wait_settled()
            problems += ground.look(history=False)
        except PredatorError as error:
            problems.append(str(error))
        if problems:
            ground.clear()
        what = "; ".join(str(blow) for blow in struck) or "no point was reached"
        self.tally.note(f"{cycle_id}: {what}", problems, struck=len(struck), planned=[str(blow) for blow in blows], ended=state.value)
        return struck

    def _walk(self, worker: Worker, left: list[Blow], struck: list[Blow], problems: list[str]) -> None:
        """Let a worker walk to its end, with the blows that fall on its way."""
        while (effect := worker.next()) is not None:
            due = [blow for blow in left if blow.point == effect.point and not blow.own]
            if effect.name == "git push":  # an own write of the API needs somebody who asks it, once, while the worker stands
                due += [blow for blow in left if blow.own and blow.victim == API][:1]
            for blow in sorted(due, key=lambda one: one.victim == WORKER):
                left.remove(blow)
                if blow.victim == WORKER:
                    worker.kill()
                    self.ground.close_run(run_id(worker.pid))
                elif blow.own:
                    problems += self._stop_by_http(blow)
                else:
                    self.victims.kill(blow.victim)
                struck.append(blow)
            worker.go()

    def _stop_by_http(self, blow: Blow) -> list[str]:
        """A person presses stop, the API dies at its own write of that, and the person tries again; what was wrong. The switch stays pressed."""
        self.victims.plan(API, blow.point)
        url, deadline = f"http://127.0.0.1:{self.ground.settings.ports.api}{BASE}/stop", time.monotonic() + _STOP_SECONDS
        while True:
            try:
                answer = httpx.post(url, json={"reason": "drill"}, timeout=60.0, trust_env=False)
                if answer.status_code == 200:
                    break
                if answer.status_code < 500:
                    return [f"the API refuses the kill switch: HTTP {answer.status_code} {answer.text[:200]}"]
            except httpx.HTTPError:
                pass  # it died, as planned
            if time.monotonic() > deadline:
                return ["the API does not take the kill switch any more"]
            time.sleep(0.2)
        found = [] if self.victims.fell(API) else ["the API did not die at its own write"]
        return found if self.ground.loop.control.kill_switch(self.ground.loop.contour) else [*found, "the API said stopped, and the kill switch is off"]
