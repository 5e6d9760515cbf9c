"""The one choke point of every launch: UI, sensors, schedules, backfills and the command line all submit their runs here.

What belongs here: stamping who asked, the lane and the GPU settings of a run, and refusing it under the kill switch. What must not:
anything slow or heavy, since the webserver and the daemon import this module; the policy of cycles (``control``).

A run that is refused ends as CANCELED with the reason in its event log and in the tag ``predator/refused``. Raising instead would give
the person a stack trace, and would make the sensor daemon try again.

Who asked, in this order: the header ``X-Forwarded-User`` that the proxy in front of the webserver sets; the tag ``predator/actor`` that
the launcher set (not one copied from the run that is repeated); ``ui`` for any other HTTP request; then ``sensor:<name>``,
``schedule:<name>``, ``backfill:<id>``, ``automation``; ``cli`` for what is left. The header is only as true as the proxy: a webserver that
people reach directly must not be exposed (DESIGN.md section 4.10). A backfill's runs come from the daemon, which knows no request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from predator_si.control.opening import is_there, open_control
from predator_si.control.stop_flag import StopFlags
from predator_si.errors import PredatorError
from predator_si.notify.log import refused, write_to
from predator_si.orchestration import op_tags
from predator_si.orchestration.op_tags import Lane
from predator_si.orchestration.trust import distrust
from predator_si.records import CYCLE_ID
from predator_si.settings import Settings, load_settings

USER_HEADER = "X-Forwarded-User"
KILL_SWITCH_EXEMPT_JOBS = frozenset({"watch_job", "rollback_job"})
"""A release must stay watched and must be able to go back, whatever is switched off."""
_FREE_LANES = frozenset({Lane.OBSERVE, Lane.UPKEEP, Lane.WATCH, Lane.ROLLBACK})
_LANES = frozenset(lane.value for lane in Lane)
_LONGEST_ACTOR = 128
_BUSY_SECONDS = 10.0


class PredatorRunCoordinator(QueuedRunCoordinator["dg.DagsterInstance"]):
    """Dagster's queue, with an actor on every run, GPU settings on every run that trains, and a kill switch.

    Named in ``dagster.yaml``; takes the configuration of ``QueuedRunCoordinator``. The home folder and the contour come from the
    environment of the process, as everywhere (``settings.load_settings``).
    """

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Stamp the run and put it into the queue, or cancel it with the reason."""
        run = context.dagster_run
        if run.status is not dg.DagsterRunStatus.NOT_STARTED:
            return super().submit_run(context)
        assets = assets_of(self._instance, run)
        tags = {op_tags.ACTOR: self._actor(context)} | _cycle_tag(run)
        lane = op_tags.lane_of(assets)
        if assets or run.tags.get(op_tags.LANE) not in _LANES:  # a run without a lane would be counted by no limit, and could take a rollback's place
            tags[op_tags.LANE] = lane.value  # also over another value: the queue limits must not depend on what a launcher writes
        refusal = None
        if not _exempt(run, assets, lane):
            try:
                settings = load_settings(env=os.environ)
                write_to(settings.folders.logs)  # this process may be a webserver, which opens no loop
                refusal = kill_switch_refusal(settings)
                tags |= _gpu_tag(run, lane, settings)
            except (PredatorError, ValueError) as error:
                refusal = f"whether this run may start cannot be known: {error}"
        if refusal is not None:
            tags[op_tags.REFUSED] = refusal
        elif lane is Lane.TRAIN:
            _limit_training(self._instance)
        self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context) if refusal is None else self._cancel(run, refusal)

    def _cancel(self, run: dg.DagsterRun, refusal: str) -> dg.DagsterRun:
        message = f"Refused: {refusal}"
        refused("coordinator", f"run {run.job_name}: {refusal}", run.tags.get("dagster/partition"))
        self._instance.report_engine_event(message, run)
        self._instance.report_run_canceled(run, message=message)
        stored = self._instance.get_run_by_id(run.run_id)
        return run if stored is None else stored

    def _actor(self, context: SubmitRunContext) -> str:
        user = "".join(char for char in (context.get_request_header(USER_HEADER) or "") if char.isprintable()).strip()
        if user:
            return user[:_LONGEST_ACTOR]
        run = context.dagster_run
        own = run.tags.get(op_tags.ACTOR)
        if own and own != self._parents_actor(run):
            return own
        if getattr(context.workspace, "source", None) is not None:
            return "ui"
        for tag, kind in (("dagster/sensor_name", "sensor"), ("dagster/schedule_name", "schedule"), ("dagster/backfill", "backfill")):
            if tag in run.tags:
                return f"{kind}:{run.tags[tag]}"
        if "dagster/from_automation_condition" in run.tags:
            return "automation"
        return own or "cli"

    def _parents_actor(self, run: dg.DagsterRun) -> str | None:
        """The actor of the run that this one repeats: a repetition copies tags, and with them the name of somebody else."""
        parent = self._instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
        return None if parent is None else parent.tags.get(op_tags.ACTOR)


def assets_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> frozenset[dg.AssetKey]:
    """What ``run`` is going to make or check, read from its stored execution plan; empty when it is not known or there is no asset.

    ``DagsterRun.asset_selection`` alone would not do: it is empty for a job that is launched as a whole.
    """
    named = {*(run.asset_selection or ()), *(check.asset_key for check in run.asset_check_selection or ())}
    if run.execution_plan_snapshot_id is None:
        return frozenset(named)
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    chosen = set(plan.step_keys_to_execute)
    for step in plan.steps:
        for output in step.outputs if step.key in chosen else ():
            properties = output.properties
            if properties is None:
                continue
            if properties.asset_key is not None:
                named.add(properties.asset_key)
            if properties.asset_check_key is not None:
                named.add(properties.asset_check_key.asset_key)
    return frozenset(named)


def kill_switch_refusal(settings: Settings) -> str | None:
    """Why the kill switch forbids a run in this contour; ``None`` when it is off.

    Raises
    ------
    PredatorError
        The control database cannot be read: then nobody knows, and only watch, rollback and observation may run.
    """
    if settings.kill_switch:
        return f"the values of contour {settings.contour} set killSwitch. Only watch, rollback and observation run; clear it there to go on."
    by_file = StopFlags(settings.home).pressed(settings.contour)
    if by_file is not None:
        return f"{by_file.actor} stopped contour {settings.contour} by a file. Only watch, rollback and observation run; `predator-si start` lifts it."
    control = open_control(settings.folders, busy_seconds=_BUSY_SECONDS) if is_there(settings.folders) else None
    if control is not None and control.kill_switch(settings.contour):
        return f"the kill switch of contour {settings.contour} is on. Only watch, rollback and observation run; `predator-si start` lifts it."
    return distrust(settings.folders, settings.contour, control)


def _limit_training(instance: dg.DagsterInstance) -> None:
    """Give the training pool its one place before any run waits for it: a pool that nobody has used yet lets two runs through (facts of Dagster 1.13)."""
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits and op_tags.GPU_POOL not in {pool.name for pool in storage.get_pool_limits()}:
        storage.set_concurrency_slots(op_tags.GPU_POOL, 1)


def _exempt(run: dg.DagsterRun, assets: frozenset[dg.AssetKey], lane: Lane) -> bool:
    # by what it makes, not by its lane tag, which anybody can write
    return run.job_name in KILL_SWITCH_EXEMPT_JOBS or (bool(assets) and lane in _FREE_LANES)


def _cycle_tag(run: dg.DagsterRun) -> dict[str, str]:
    partition = run.tags.get("dagster/partition", "")
    return {op_tags.CYCLE: partition} if CYCLE_ID.fullmatch(partition) else {}


def _gpu_tag(run: dg.DagsterRun, lane: Lane, settings: Settings) -> Mapping[str, str]:
    wanted = settings.run_resources
    if lane is not Lane.TRAIN or not wanted.gpu:
        return {}
    config = op_tags.gpu_k8s_config(max(1, wanted.gpu_count), wanted.gpu_type or "nvidia")
    try:
        return {op_tags.K8S_CONFIG: op_tags.with_gpu(run.tags.get(op_tags.K8S_CONFIG), config)}
    except json.JSONDecodeError as error:
        raise ValueError(f"the tag {op_tags.K8S_CONFIG} is not JSON ({error})") from error
