"""The second half of drill (c): daemon and code server are killed while a real run worker stands at a side effect.

What belongs here: the processes of a small Dagster, and the blows. What must not: what a run does; it is the platform's job, walking the same road.

One cycle takes Dagster a minute, so each cycle takes several blows, in the order of its road; the processes are started again while the worker goes on.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from predator_si.errors import PredatorError, Unavailable
from predator_si.proof.drill import lane
from predator_si.proof.drill.effects import VARIABLE, Listener
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.processes import free_port, wait_until
from predator_si.records import CycleState

DAEMON, CODE_SERVER = "daemon", "code server"
_BLOWS = 6
"""In one cycle."""
_CYCLE_SECONDS = 900.0
Blow = tuple[str, str]
"""(who is killed, at which point)."""


@contextmanager
def dagster(ground: Ground, listener: Listener) -> Iterator[None]:
    """Code server and daemon of the drill's home, as processes; run workers call in at ``listener``."""
    from predator_si.proof.prepare import make_dagster_storage

    make_dagster_storage(ground.settings)
    port = free_port()
    workspace = ground.loop.home.dagster / "drill-workspace.yaml"
    workspace.write_text(f"load_from:\n  - grpc_server:\n      host: 127.0.0.1\n      port: {port}\n      location_name: drill\n")
    server = [sys.executable, "-m", "dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(port), "-m", "predator_si.proof.drill.location"]
    ground.processes.start(CODE_SERVER, server, lambda: _listens(port), {VARIABLE: listener.path})
    ground.processes.start(DAEMON, [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)], lambda: ground.processes.lives(DAEMON))
    try:
        yield
    finally:
        ground.processes.end(DAEMON)
        ground.processes.end(CODE_SERVER)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def kill_dagster(ground: Ground, points: Sequence[str], seed: int, tally: Tally, tell: Callable[[int], None]) -> dict[str, int]:
    """Kill daemon and code server at each of ``points``, several in a cycle; how often each was."""
    blows: list[Blow] = [(victim, point) for point in points for victim in (DAEMON, CODE_SERVER)]
    killed = dict.fromkeys((DAEMON, CODE_SERVER), 0)
    rounds = -(-len(blows) // _BLOWS)
    with Listener() as listener, dagster(ground, listener):
        for number in range(rounds):
            mine = blows[number::rounds]  # spread over the road
            struck, problems = _cycle(ground, listener, mine, seed + number)
            if problems:
                ground.clear()
            for victim, _ in struck:
                killed[victim] += 1
            tally.note("; ".join(f"{victim} killed at {point}" for victim, point in struck) or "no point was reached", problems, struck=bool(struck))
            tell(len(mine))
    return killed


def _cycle(ground: Ground, listener: Listener, blows: Sequence[Blow], seed: int) -> tuple[list[Blow], list[str]]:
    """One cycle that Dagster walks; the blows that fell, and what was wrong."""
    loop, struck, left = ground.loop, list[Blow](), list(blows)
    cycle_id = lane.open_drill(loop, ground.damaged(seed))
    deadline = time.monotonic() + _CYCLE_SECONDS
    problems: list[str] = []
    while loop.control.cycle(cycle_id).state not in (CycleState.ROLLED_BACK, CycleState.FAILED) and time.monotonic() < deadline:
        try:
            worker = listener.worker(5.0)
        except Unavailable:
            continue  # the sensor has nothing to launch yet, or the daemon is on its way up
        with worker:
            while (effect := worker.next()) is not None:
                for blow in [one for one in left if one[1] == effect.point]:
                    left.remove(blow)
                    struck.append(blow)
                    ground.processes.kill(blow[0])
                    ground.processes.start_again(blow[0])
                worker.go()
    state = loop.control.cycle(cycle_id).state
    if state is not CycleState.ROLLED_BACK:
        problems.append(f"{cycle_id} neither went on nor ended cleanly: it is {state.value}")
    try:
        wait_until(lambda: not _unfinished(ground, cycle_id), 120.0, "the end of the cycle's last run", every=0.5)
        ground.wait_settled()
        problems += ground.look(history=False)
    except PredatorError as error:
        problems.append(str(error))
    return struck, problems


def _unfinished(ground: Ground, cycle_id: str) -> bool:
    """Whether a run of the cycle has not ended by Dagster's own word, and somebody works on it or will."""
    import dagster as dg

    from predator_si.orchestration.runs import fail_orphans, unfinished

    with dg.DagsterInstance.from_config(str(ground.loop.home.dagster)) as instance:
        fail_orphans(instance, unfinished(instance, cycle_id=cycle_id))
        return bool(unfinished(instance, cycle_id=cycle_id))


__all__ = ["CODE_SERVER", "DAEMON", "dagster", "kill_dagster"]
