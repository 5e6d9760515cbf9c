"""The second half of drill (c): daemon and code server are killed while a real run worker stands at a side effect, and while a run waits in the queue.

What belongs here: the processes of a small Dagster, the blows, and the proof that what was started again works. What must not: what a run does; it is the
platform's job, walking the same roads.

One cycle takes Dagster minutes, so each cycle takes several blows. The roads' points are learned by a walk of Dagster's own: its jobs are several workers.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from predator_si.errors import PredatorError, Unavailable
from predator_si.proof.drill import lane
from predator_si.proof.drill.blows import WHOLE, Blow, Road, choose, deal
from predator_si.proof.drill.effects import VARIABLE, Listener
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.processes import free_port, wait_until
from predator_si.records import CycleState

if TYPE_CHECKING:
    import dagster as dg

DAEMON, CODE_SERVER = "daemon", "code server"
_DAEMONS = frozenset({"SENSOR", "QUEUED_RUN_COORDINATOR"})
"""Parts of the daemon that a cycle needs."""
_CYCLE_SECONDS = 1800.0
_AGAIN_SECONDS = 180.0
_QUEUE_LOOK = 0.2


@dataclass
class ByDagster:
    """How often each was killed and is proven to have come back, how many blows were planned and did not fall, and how the cycles ended."""

    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys((DAEMON, CODE_SERVER), 0))
    planned: int = 0
    unreached: int = 0
    ends: Counter[str] = field(default_factory=Counter)


class Dagster:
    """Code server and daemon of a drill's home, as processes; run workers call in at ``listener``.

    A process is ready when it has shown that it works: the daemon by a heartbeat of each part that is newer than its start and bears another id than before,
    the code server by an answer with another id.
    """

    def __init__(self, ground: Ground, listener: Listener) -> None:
        import dagster as dg

        from predator_si.proof.prepare import make_dagster_storage

        make_dagster_storage(ground.settings)
        self.ground, self._port = ground, free_port()
        self._workspace = ground.loop.home.dagster / "drill-workspace.yaml"
        self._workspace.write_text(f"load_from:\n  - grpc_server:\n      host: 127.0.0.1\n      port: {self._port}\n      location_name: drill\n")
        self._listener = listener
        self._before: dict[str, Any] = {DAEMON: {}, CODE_SERVER: None}
        self.instance: dg.DagsterInstance = dg.DagsterInstance.from_config(str(ground.loop.home.dagster))

    def start(self) -> None:
        """Both, until both work."""
        server = [sys.executable, "-m", "dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(self._port), "-m", "predator_si.proof.drill.location"]
        self.ground.processes.start(CODE_SERVER, server, self._serves, {VARIABLE: self._listener.path})
        self.ground.processes.start(DAEMON, [sys.executable, "-m", "dagster._daemon", "run", "-w", str(self._workspace)], self._beats)

    def end(self) -> None:
        """Both."""
        self.ground.processes.end(DAEMON)
        self.ground.processes.end(CODE_SERVER)
        self.instance.dispose()

    def kill(self, name: str) -> dict[str, Any]:
        """SIGKILL, start again; what shows that the new one works: both process ids, and seconds until its first sign of life.

        Raises
        ------
        Unavailable
            The new one shows none.
        """
        processes = self.ground.processes
        self._before = {DAEMON: self._daemon_ids(), CODE_SERVER: self._server_id()}
        old = processes.pid(name)
        processes.kill(name)
        if processes.lives(name):
            raise Unavailable(f"{name} {old} lives after SIGKILL.")
        began = time.time()
        processes.start_again(name)
        processes.wait_ready(name, _AGAIN_SECONDS)
        sign = self._daemon_ids() if name == DAEMON else self._server_id()
        return {"killed": name, "old_pid": old, "new_pid": processes.pid(name), "sign_of_life": sign, "seconds": round(time.time() - began, 2)}

    def queued(self, cycle_id: str) -> str | None:
        """The job of a run of a cycle that waits in the queue; null where none does."""
        import dagster as dg

        filters = dg.RunsFilter(tags={"dagster/partition": cycle_id}, statuses=[dg.DagsterRunStatus.QUEUED])
        return next((run.job_name for run in self.instance.get_runs(filters)), None)

    def _beats(self) -> bool:
        return all(self._daemon_ids().get(kind, None) not in (None, self._before[DAEMON].get(kind)) for kind in _DAEMONS)

    def _daemon_ids(self) -> dict[str, str]:
        """Part of the daemon -> id of the process that gave its newest heartbeat."""
        return {kind: str(beat.daemon_id) for kind, beat in self.instance.get_daemon_heartbeats().items() if kind in _DAEMONS}

    def _serves(self) -> bool:
        return self._server_id() not in (None, self._before[CODE_SERVER])

    def _server_id(self) -> str | None:
        """By the code server's own word; null where it does not answer."""
        from dagster._core.errors import DagsterUserCodeUnreachableError
        from dagster._grpc.client import DagsterGrpcClient

        try:
            return str(DagsterGrpcClient(port=self._port, host="127.0.0.1").get_server_id(timeout=5))
        except DagsterUserCodeUnreachableError:
            return None


@contextmanager
def dagster(ground: Ground, listener: Listener) -> Iterator[Dagster]:
    """A small Dagster as long as the block runs."""
    found = Dagster(ground, listener)
    try:
        found.start()
        yield found
    finally:
        found.end()


def open_on(ground: Ground, road: Road, seed: int) -> str:
    """A cycle at the beginning of a road, on its champion; its id."""
    if road == WHOLE:
        return ground.open_road(seed)
    ground.crown(ground.champion)
    return lane.open_drill(ground.loop, ground.damaged(seed))


def kill_dagster(
    ground: Ground, roads: Sequence[Road], n: int, seed: int, tally: Tally, tell: Callable[[int], None], known: Sequence[Blow] | None = None
) -> ByDagster:
    """Kill daemon and code server at ``n`` points of these roads each (0: at all), several in a cycle, after a walk of each that nobody disturbs.

    Parameters
    ----------
    known
        Blows at points that are known; then no walk comes before.

    Raises
    ------
    Unavailable
        Even undisturbed a road does not end where it should.
    """
    found = ByDagster()
    with Listener() as listener, dagster(ground, listener) as running:

        def strike(road: Road, mine: list[Blow], number: int) -> list[Blow]:
            cycle_id = open_on(ground, road, seed + number)
            walk = _walk(running, listener, cycle_id, mine)
            problems = walk.problems + _after(running, road, cycle_id, found.ends)
            if problems:
                ground.clear()
            what = "; ".join(str(blow) for blow in walk.struck) or "no point was reached"
            tally.note(f"{cycle_id}: {what}", problems, struck=len(walk.struck), came_back=walk.came_back)
            return walk.struck

        orders: dict[Road, Sequence[str]] = {road: [blow.point for blow in known or () if blow.road == road] for road in roads}
        for road in roads if known is None else ():
            cycle_id = open_on(ground, road, seed + 99_000)
            walk = _walk(running, listener, cycle_id, [])
            problems = walk.problems + _after(running, road, cycle_id, found.ends)
            if problems:
                raise Unavailable(f"{cycle_id}: nobody was killed, and {'; '.join(problems)}. The drill means nothing until that is mended.")
            orders[road] = walk.points
        blows = list(known) if known is not None else [blow for victim in (DAEMON, CODE_SERVER) for blow in choose(victim, orders, n, seed)]
        found.planned = len(blows)
        fallen = deal(blows, orders, strike, tell)
        found.killed |= Counter(blow.victim for blow in fallen)
        found.unreached = len(set(blows) - set(fallen))
    return found


@dataclass
class _Walked:
    """A cycle that Dagster walked: its points, the blows that fell and are proven, what showed that each process came back, what was wrong."""

    points: list[str] = field(default_factory=list)
    struck: list[Blow] = field(default_factory=list)
    came_back: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _walk(running: Dagster, listener: Listener, cycle_id: str, blows: Sequence[Blow]) -> _Walked:
    """Let Dagster walk a cycle to its end, with the blows that fall on its way."""
    control, left, found = running.ground.loop.control, list(blows), _Walked()
    listener.new_cycle()
    deadline, waiting = time.monotonic() + _CYCLE_SECONDS, ""

    def reach(point: str) -> None:
        if point not in found.points:
            found.points.append(point)
        for blow in [one for one in left if one.point == point]:
            left.remove(blow)
            try:
                found.came_back.append({"point": point, **running.kill(blow.victim)})
                found.struck.append(blow)
            except PredatorError as error:
                found.problems.append(f"{blow}: {error}")

    while control.cycle(cycle_id).state not in lane.ENDED and time.monotonic() < deadline:
        job = running.queued(cycle_id) or ""
        if job and job != waiting:  # the daemon has something to do now: it must take the run out of the queue
            reach(f"{job} queued")
        waiting = job
        try:
            worker = listener.worker(_QUEUE_LOOK)
        except Unavailable:
            continue  # the sensor has nothing to launch yet, or the daemon is on its way up
        with worker:
            while (effect := worker.next()) is not None:
                reach(effect.point)
                worker.go()
    return found


def _after(running: Dagster, road: Road, cycle_id: str, ends: Counter[str]) -> list[str]:
    """What does not hold once the dust of a cycle has settled."""
    ground, problems = running.ground, []
    state: CycleState = ground.loop.control.cycle(cycle_id).state
    ends[state.value] += 1
    if state not in road.ends:
        problems.append(f"{cycle_id} neither went on nor ended cleanly: it is {state.value}")
    try:
        wait_until(lambda: not _unfinished(running, cycle_id), 120.0, "the end of the cycle's last run", every=0.5)
        ground.wait_settled()
        problems += ground.look(history=False)
    except PredatorError as error:
        problems.append(str(error))
    return problems


def _unfinished(running: Dagster, cycle_id: str) -> bool:
    """Whether a run of the cycle has not ended by Dagster's own word, and somebody works on it or will."""
    from predator_si.orchestration.runs import fail_orphans, unfinished

    fail_orphans(running.instance, unfinished(running.instance, cycle_id=cycle_id))
    return bool(unfinished(running.instance, cycle_id=cycle_id))


__all__ = ["CODE_SERVER", "DAEMON", "ByDagster", "Dagster", "dagster", "kill_dagster", "open_on"]
