"""Drill (c): SIGKILL before and after each side effect of a cycle's road from its decision to its end, each process in turn.

What belongs here: who is killed where, and what must hold then. What must not: the road itself (``lane``), the wrapping of side effects (``effects``).

A worker walks the road and stops at each side effect. There the victim dies: the worker itself, which another one then follows; or the search service, the
reconciler or the API, which are started again while the worker goes on. Daemon and code server: ``kill_dagster``.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from predator_si.errors import PredatorError, Unavailable
from predator_si.proof.drill import lane
from predator_si.proof.drill.effects import Listener, Worker
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.kill_dagster import kill_dagster
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.plan import DrillPlan
from predator_si.records import CycleState

WORKER = "run worker"
API = "api"
VICTIMS = (WORKER, "search", "reconciler", API)
"""Of the first half; daemon and code server are killed in the second (``kill_dagster``), at the full scale only."""
_TRIES = 3
"""Runs of a job that a state gets, as the sensor gives them."""
_AGAIN_SECONDS = 180.0


def drill_kill(ground: Ground, load: Load, plan: DrillPlan, tally: Tally, on_progress: Callable[[int, int], None]) -> None:
    """Walk the road once unhurt to learn its points, then kill each victim at ``plan.n`` of them, or at all."""
    done, killed = 0, dict.fromkeys(VICTIMS, 0)
    with Listener() as listener, _api(ground), _workers(ground, listener) as work:
        points = _walk_unhurt(ground, listener, work, plan)
        blows = [(victim, point) for victim in VICTIMS for point in _chosen(points, plan, victim)]
        by_dagster = _chosen(points, plan, "dagster") if plan.scale == "full" else []
        total = len(blows) + 2 * len(by_dagster)
        for victim, point in blows:
            struck, problems = _strike(ground, load, listener, work, victim, point, plan.seed * 100_000 + done)
            killed[victim] += struck
            if problems:
                ground.clear()
            tally.note(f"{victim} killed at {point}", problems, struck=struck)
            done += 1
            on_progress(done, total)

    def tell(more: int) -> None:
        nonlocal done
        done += more
        on_progress(done, total)

    if by_dagster:
        killed |= kill_dagster(ground, by_dagster, plan.seed * 100_000 + 50_000, tally, tell)
    tally.more |= {"points": len(points), "point_names": points, "killed": killed, "unreached": total - sum(killed.values())}
    tally.violations += [f"at the end: {problem}" for problem in ground.look()]


def _chosen(points: list[str], plan: DrillPlan, victim: str) -> list[str]:
    """All points, or ``plan.n`` of them, drawn by the seed and in the order of the road."""
    if plan.n == 0 or plan.n >= len(points):
        return points
    drawn = random.Random(f"{plan.seed} {victim}").sample(range(len(points)), plan.n)
    return [points[index] for index in sorted(drawn)]


def _walk_unhurt(ground: Ground, listener: Listener, work: Callable[[str], None], plan: DrillPlan) -> list[str]:
    """The points of the road, in order.

    Raises
    ------
    Unavailable
        Even unhurt the road does not end where it should.
    """
    cycle_id = lane.open_drill(ground.loop, ground.damaged(plan.seed * 100_000 + 99_999))
    work(cycle_id)
    points: list[str] = []
    with listener.worker() as worker:
        while (effect := worker.next()) is not None:
            points.append(effect.point)
            worker.go()
    if worker.ended != CycleState.ROLLED_BACK.value:
        raise Unavailable(f"{cycle_id}: nobody was killed, and it ended so: {worker.ended}. The drill means nothing until that is mended.")
    return list(dict.fromkeys(points))


def _strike(ground: Ground, load: Load, listener: Listener, work: Callable[[str], None], victim: str, point: str, seed: int) -> tuple[bool, list[str]]:
    """One kill; whether the point was reached, and what was wrong afterwards."""
    loop, problems = ground.loop, []
    cycle_id = lane.open_drill(loop, ground.damaged(seed))
    with ExitStack() as down:
        work(cycle_id)
        with listener.worker() as worker:
            struck = _until(worker, point, lambda: _blow(ground, load, worker, victim, down))
            ended = worker.ended
        for _ in range(_TRIES):
            if ended == CycleState.ROLLED_BACK.value:
                break
            problems += [f"ledger right after: {problem}" for problem in loop.control.verify()]
            if ended is not None and ended.startswith("broke"):
                problems.append(f"a step broke: {ended}")
            if victim != WORKER:
                ground.processes.wait_ready(victim, _AGAIN_SECONDS)
            work(cycle_id)
            with listener.worker() as worker:
                _until(worker, None, lambda: None)
                ended = worker.ended
        if victim != WORKER:
            ground.processes.wait_ready(victim, _AGAIN_SECONDS)
    state = loop.control.cycle(cycle_id).state
    if state is not CycleState.ROLLED_BACK:
        problems.append(f"the cycle neither went on nor ended cleanly: it is {state.value} ({ended})")
    try:
        ground.wait_settled()
        problems += ground.look(history=False)
    except PredatorError as error:
        problems.append(str(error))
    return struck, problems


def _until(worker: Worker, point: str | None, blow: Callable[[], None]) -> bool:
    """Let a worker walk to its end, with the blow at a point; whether that was reached."""
    struck = False
    while (effect := worker.next()) is not None:
        if not struck and effect.point == point:
            struck = True
            blow()
        worker.go()
    return struck


def _blow(ground: Ground, load: Load, worker: Worker, victim: str, down: ExitStack) -> None:
    if victim == WORKER:
        worker.kill()
        return
    if victim == "search":
        down.enter_context(load.excusing())
    ground.processes.kill(victim)
    ground.processes.start_again(victim)


@contextmanager
def _api(ground: Ground) -> Iterator[None]:
    """The REST facade of the drill's home, as ``predator-si up`` starts it."""
    import httpx

    settings = ground.settings
    words = ["--home", str(settings.home), "--contour", settings.contour, "--port", str(settings.ports.api)]

    def healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{settings.ports.api}/health", timeout=5.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    ground.processes.start(API, [sys.executable, "-m", "predator_si.api", *words], healthy)
    try:
        yield
    finally:
        ground.processes.end(API)


@contextmanager
def _workers(ground: Ground, listener: Listener) -> Iterator[Callable[[str], None]]:
    """A warm process, and the function that makes it walk a cycle's road in a child."""
    log = ground.loop.home.logs / "worker.log"
    command = [sys.executable, "-m", "predator_si.proof.drill.worker", listener.path]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, env=ground.environment, text=True, bufsize=1)
    assert process.stdin is not None and process.stdout is not None

    def walk(cycle_id: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        said = process.stdout.readline()  # ``ready``, or that the child before this one is over
        if not said:
            raise Unavailable(f"the drill's worker ended: {log}")
        process.stdin.write(f"{cycle_id}\n")
        process.stdin.flush()

    try:
        yield walk
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
        process.stdout.close()
