"""The time from a fault to the loop's first action, part by part: what was measured, and what was counted because nobody sits through it.

What belongs here: the parts, and where each one's length comes from. What must not: a length that is written down here; intervals are read from the sensors,
the schedule and the run queue themselves.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from predator_si.errors import Unavailable
from predator_si.monitor import TriggerRule
from predator_si.proof.drill.ground import Ground
from predator_si.settings import Settings

_EVERY = re.compile(r"^\*/(\d+) \* \* \* \*$")
_LAUNCH_SECONDS = 300.0


@dataclass(frozen=True)
class Part:
    """One part of the way.

    Attributes
    ----------
    how
        ``measured``: in this row. ``counted``: an interval of the platform at its longest, not sat through. ``measured once``: in this run of the bench, for
        all its rows.
    """

    name: str
    seconds: float
    how: Literal["measured", "counted", "measured once"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Waits:
    """How long the platform may take to look, and to start what it wants to run; seconds."""

    guard: float
    tick: float
    gates: float
    daemon: float
    """Between two looks of the daemon at all its sensors."""
    dequeue: float
    launch: float
    """From a run worker's start to its first step."""

    def parts(self, rule: TriggerRule) -> list[Part]:
        """What a row waits for besides its work: who notices, two runs in a row, and the sensor between them."""
        watched = rule.watched_each_minute
        noticed = [Part("service_guard_sensor", self.guard, "counted"), Part("daemon", self.daemon, "counted")]
        return [
            *(noticed if watched else [Part("snapshot_schedule", self.tick, "counted")]),
            Part("dequeue of observe_job", self.dequeue, "counted"),
            Part("launch of observe_job", self.launch, "measured once"),
            Part("quality_gate_sensor", self.gates, "counted"),
            Part("daemon", self.daemon, "counted"),
            Part("dequeue of the cycle's first job", self.dequeue, "counted"),
            Part("launch of the cycle's first job", self.launch, "measured once"),
        ]


def waits_of(ground: Ground) -> Waits:
    """The waits of the platform that this home would run."""
    import dagster as dg
    from dagster._core.run_coordinator import QueuedRunCoordinator
    from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

    from predator_si.orchestration.sensors import sensors
    from predator_si.proof.prepare import make_dagster_storage

    settings = ground.settings
    every = {sensor.name: float(sensor.minimum_interval_seconds or 0) for sensor in sensors(settings)}
    make_dagster_storage(settings)
    with dg.DagsterInstance.from_config(str(ground.loop.home.dagster)) as instance:
        queue = instance.run_coordinator
        if not isinstance(queue, QueuedRunCoordinator):
            raise Unavailable(f"{ground.loop.home.dagster}: its run coordinator has no queue, so no wait for it is known. Restore dagster.yaml.")
        dequeue = float(queue.dequeue_interval_seconds)
    return Waits(
        guard=every["service_guard_sensor"],
        tick=_period(settings),
        gates=every["quality_gate_sensor"],
        daemon=float(MIN_INTERVAL_LOOP_TIME),
        dequeue=dequeue,
        launch=measure_launch(ground),
    )


def measure_launch(ground: Ground) -> float:
    """Seconds from the start of a run worker to its first step: a process of its own that loads the code location and runs ``observe_job``, as the launcher's.

    Raises
    ------
    Unavailable
        The run does not start.
    """
    import dagster as dg

    home = ground.loop.home
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "predator_si.definitions", "-j", "observe_job"]
    environment = ground.environment | {"DAGSTER_HOME": str(home.dagster)}
    home.logs.mkdir(parents=True, exist_ok=True)
    began = time.time()
    with (home.logs / "launch.log").open("ab") as stream:
        code = subprocess.run(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment, timeout=_LAUNCH_SECONDS, check=False).returncode
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        newest = instance.get_run_records(dg.RunsFilter(job_name="observe_job"), limit=1)
        steps = instance.all_logs(newest[0].dagster_run.run_id, of_type=dg.DagsterEventType.STEP_START) if newest else []
    if not steps:
        raise Unavailable(f"observe_job did not start in a process of its own (exit code {code}): {home.logs / 'launch.log'} says why.")
    return float(steps[0].timestamp) - began


def _period(settings: Settings) -> float:
    """Seconds between two ticks."""
    from predator_si.orchestration.schedules import schedules

    cron = next(str(schedule.cron_schedule) for schedule in schedules(settings) if schedule.name == "snapshot_schedule")
    found = _EVERY.match(cron)
    if found is None:
        raise Unavailable(f"snapshot_schedule runs at {cron!r}: its longest wait is not known here. Teach proof.react.waits this form.")
    return 60.0 * int(found.group(1))
