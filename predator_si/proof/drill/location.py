# no `from __future__ import annotations` here: Dagster reads the annotations of a sensor
"""The code location of a drill's Dagster: the platform's own assets, jobs and ``rollback_sensor``, one sensor that gives a drill's cycle its next job, and
run workers that stop at each side effect.

What belongs here: what a code server of a drill loads. What must not: another asset or job than the platform's.

Run configuration says ``drill``, which no sensor of the platform ever does; so its sensors that move a cycle on are left out and this one takes their place.
The way back is the platform's own. Daemon, code server, run queue and run workers are the real ones.
"""

import multiprocessing
import os

import dagster as dg

from predator_si.build import build_defs
from predator_si.errors import PredatorError
from predator_si.orchestration.jobs import jobs
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import CYCLE
from predator_si.orchestration.partitions import cycles
from predator_si.orchestration.runs import UNFINISHED, fail_orphans
from predator_si.orchestration.sensors import job_for, reason_to_wait
from predator_si.proof.drill import effects, lane
from predator_si.records import CycleState
from predator_si.settings import Settings, load_settings

_DRILL = {"ops": {f"cycle__{name}": {"config": {"drill": True}} for name in ("release_decision", "helm_patch")}}


def next_job(loop: Loop, cycle_id: str) -> str | None:
    """The job that a drill's cycle needs now, as the platform's sensors have it; null while it waits for traffic or its rollback, or has ended."""
    state = loop.control.cycle(cycle_id).state
    if state is CycleState.EVALUATED and lane.is_damaged(loop, cycle_id):
        return "cycle_release_job"  # past the gates and the trial
    return None if state in lane.ENDED or reason_to_wait(loop, cycle_id) is not None else job_for(loop, cycle_id)


def drill_sensor(settings: Settings) -> dg.SensorDefinition:
    """Gives the active drill the job that its state needs, one at a time."""

    @dg.sensor(jobs=jobs(settings.resources), minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
    def drill_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        loop = Loop(settings)
        cycle = loop.control.active_cycle(loop.contour)
        if cycle is None or cycle.actor != "drill":
            return dg.SkipReason("no drill is under way")
        try:
            name = next_job(loop, cycle.cycle_id)
        except PredatorError as error:
            return dg.SkipReason(f"unknown: {error}")
        if name is None:
            return dg.SkipReason(f"{cycle.cycle_id} waits")
        mine = {"dagster/partition": cycle.cycle_id}
        fail_orphans(context.instance, context.instance.get_runs(dg.RunsFilter(tags=mine, statuses=list(UNFINISHED))))
        runs = context.instance.get_runs(dg.RunsFilter(tags=mine))
        if any(run.status in UNFINISHED for run in runs):
            return dg.SkipReason(f"{cycle.cycle_id}: a run is under way")
        config = _DRILL if name == "cycle_release_job" and lane.is_damaged(loop, cycle.cycle_id) else {}
        request = dg.RunRequest(
            run_key=f"{cycle.cycle_id}:{name}:{len(runs)}", job_name=name, partition_key=cycle.cycle_id, run_config=config, tags={CYCLE: cycle.cycle_id}
        )
        return dg.SensorResult(run_requests=[request], dynamic_partitions_requests=[cycles.build_add_request([cycle.cycle_id])])

    return drill_sensor


def _definitions() -> dg.Definitions:
    settings = load_settings()
    platform = build_defs(settings)
    path = os.environ.get(effects.VARIABLE)
    if path is not None and multiprocessing.parent_process() is not None:  # a run worker: the code server starts each as a process of its own
        effects.install(effects.Line(path).tell, settings.home)
    (way_back,) = [sensor for sensor in platform.sensors or [] if sensor.name == "rollback_sensor"]
    return dg.Definitions(
        assets=platform.assets, asset_checks=platform.asset_checks, jobs=platform.jobs, resources=platform.resources, executor=platform.executor,
        sensors=[drill_sensor(settings), way_back],
    )  # fmt: skip


defs = _definitions()
