"""What starts a cycle, what moves it on, what takes it back: plain sensors over the control database.

Each asks one pure question and explains every skip. None imports a heavy library.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from predator_si.errors import PredatorError
from predator_si.monitor import Skip
from predator_si.notify.log import refused
from predator_si.orchestration.jobs import NEXT_JOB, cycle_act_job, cycle_prepare_job, jobs, observe_job, rollback_job
from predator_si.orchestration.loop import OPENERS, Loop
from predator_si.orchestration.op_tags import CYCLE, REASON, TRIGGER
from predator_si.orchestration.partitions import cycles
from predator_si.orchestration.runs import UNFINISHED, fail_orphans
from predator_si.orchestration.steps import arrive, observe, permission
from predator_si.orchestration.steps.aliases import settle
from predator_si.orchestration.steps.keep import IN_PRODUCTION, ordered_note
from predator_si.orchestration.steps.references import in_force
from predator_si.orchestration.steps.telemetry import take_in
from predator_si.orchestration.tracking import existing_tracker
from predator_si.records import Cycle, CycleState, WatchResult, utc_now
from predator_si.settings import Settings

_TRIES = 3
"""Runs of one job for one state of a cycle before the cycle is called failed: a killed worker gets two more."""
_HANDED_OVER = timedelta(minutes=2)
"""How long the first run of a cycle may take to appear: run keys are remembered per sensor, so two of them would start it twice."""
LAUNCHES_ITSELF = "api:"
"""How the names of those begin who open a cycle and launch its first job at once, as the REST API does."""
_LAUNCHED_BY_NOW = timedelta(seconds=30)
"""How long the run that a person's order launches may take to appear."""
_ROLLBACK_WAIT, _ROLLBACK_LONGEST_WAIT = timedelta(seconds=15), timedelta(minutes=5)
_TOLD_AGAIN = timedelta(minutes=5)
"""What a snapshot says already needs no other one for so long; what is new does, however young the newest snapshot is."""
_QUICK = frozenset({"error_rate", "p95_latency_ms", "avg_latency_ms", "index_errors", "etl_lag_seconds"})
"""Metrics whose rows of the trigger table react within minutes."""


def sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors of a contour; running from the start where it enables the loop."""
    status = dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        minimum_interval_seconds=30,
        default_status=status,
        jobs=[observe_job],
        description="Takes new events into the raw layer as they come, so that a tick finds a window's million there already. Starts nothing.",
    )
    def intake_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        loop = Loop(settings)
        try:
            _ = loop.plan  # a home in which nothing is prepared stays as it is
            report = take_in(loop)
        except PredatorError as error:
            return dg.SkipReason(f"unknown: {error}")
        late = f", {report.late} of them late" if report.late else ""
        return dg.SkipReason(f"{sum(report.good.values())} events taken in{late}, {sum(report.quarantined.values())} set aside, {report.seconds:.1f} s")

    @dg.sensor(
        jobs=[cycle_prepare_job, cycle_act_job],
        minimum_interval_seconds=15,  # a part of every row's reaction time (`bench react`), and it costs one look at the newest snapshot
        default_status=status,
        description="A failed gate of the newest snapshot starts a cycle; unknown never does.",
    )
    def quality_gate_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        loop = Loop(settings)
        try:
            answer = observe.next_step(loop)
        except PredatorError as error:
            return dg.SkipReason(f"unknown: {error}")
        if isinstance(answer, Skip):
            refused("quality_gate_sensor", "; ".join(answer.reasons))
            return dg.SkipReason("; ".join(answer.reasons))
        cycle = loop.control.open_cycle(loop.contour, answer.trigger, "quality_gate_sensor", answer.reason)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=f"{cycle.cycle_id}:opened:0",
                    job_name=job_for(loop, cycle.cycle_id),
                    partition_key=cycle.cycle_id,
                    tags=cycle_tags(cycle.cycle_id, answer.trigger.type, answer.reason),
                )
            ],
            dynamic_partitions_requests=[cycles.build_add_request([cycle.cycle_id])],
        )

    @dg.sensor(
        jobs=jobs(settings.run_resources),
        minimum_interval_seconds=15,
        default_status=status,
        description="Gives the active cycle the job that its state needs, once; waits for traffic and people.",
    )
    def cycle_advance_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        loop = Loop(settings)
        cycle = loop.control.active_cycle(loop.contour)
        if cycle is None:
            return dg.SkipReason("no cycle is active")
        try:
            waiting = reason_to_wait(loop, cycle.cycle_id)
        except PredatorError as error:
            return dg.SkipReason(f"unknown: {error}")
        if waiting is not None:
            return dg.SkipReason(waiting)
        name = job_for(loop, cycle.cycle_id)
        if (
            (cycle.actor in OPENERS or cycle.actor.startswith(LAUNCHES_ITSELF))
            and cycle.state is CycleState.OPENED
            and utc_now() - cycle.opened_at < _HANDED_OVER
        ):
            return dg.SkipReason(f"{name} of {cycle.cycle_id} was just asked for by {cycle.actor}")
        filters = dg.RunsFilter(job_name=name, tags={"dagster/partition": cycle.cycle_id})
        fail_orphans(context.instance, context.instance.get_runs(dg.RunsFilter(job_name=name, tags=filters.tags, statuses=list(UNFINISHED))))
        runs = context.instance.get_run_records(filters)
        if any(record.dagster_run.status in UNFINISHED for record in runs):
            return dg.SkipReason(f"{name} of {cycle.cycle_id} is under way")
        since = [record for record in runs if record.create_timestamp.timestamp() >= cycle.updated_at.timestamp()]
        failed = [record for record in since if record.dagster_run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)]
        if len(failed) >= _TRIES and cycle.state not in (CycleState.RELEASED, CycleState.WATCHING):
            loop.control.transition(
                cycle.cycle_id, CycleState.FAILED, f"{name} failed {len(failed)} times in state {cycle.state.value}", "cycle_advance_sensor"
            )
            settle(loop, existing_tracker(loop.home), cycle.cycle_id)
            return dg.SkipReason(f"{cycle.cycle_id} has failed: {name} did not succeed in {len(failed)} runs")
        stage = "acting" if name == "cycle_act_job" else cycle.state.value  # an opened cycle may need two jobs, one after the other
        key = f"{cycle.cycle_id}:{stage}:{len(runs)}"
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=key, job_name=name, partition_key=cycle.cycle_id, tags=cycle_tags(cycle.cycle_id, cycle.trigger.type, cycle.reason))
            ],
            dynamic_partitions_requests=[cycles.build_add_request([cycle.cycle_id])],  # a cycle may have been opened by hand, or by a tick that died
        )

    @dg.sensor(
        job=rollback_job,
        minimum_interval_seconds=10,
        default_status=status,
        description="A watch, or a person, that asks for a rollback gets one, as often as it takes; the stored numbers are judged again first.",
    )
    def rollback_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        loop, waiting = Loop(settings), list[str]()
        for cycle, reason in rollbacks_wanted(loop, waiting):
            mine = {"dagster/partition": cycle.cycle_id}
            filters = dg.RunsFilter(job_name=rollback_job.name, tags=mine, statuses=list(UNFINISHED))
            fail_orphans(context.instance, context.instance.get_runs(filters))
            runs = context.instance.get_run_records(dg.RunsFilter(job_name=rollback_job.name, tags=mine))
            if any(record.dagster_run.status in UNFINISHED for record in runs):
                waiting.append(f"the rollback of {cycle.cycle_id} is under way")
                continue
            again = _tried_again_at(runs)
            if again is not None and utc_now() < again:
                waiting.append(f"the rollback of {cycle.cycle_id} failed {len(runs)} times and is tried again at {again:%H:%M:%S} UTC")
                continue
            return dg.RunRequest(
                run_key=f"rollback:{cycle.cycle_id}:{len(runs)}",  # a key whose run failed is not taken again
                job_name=rollback_job.name,
                partition_key=cycle.cycle_id,
                tags=cycle_tags(cycle.cycle_id, cycle.trigger.type, reason),
            )
        return dg.SkipReason("; ".join(waiting) or "no released cycle asks for a rollback")

    @dg.run_failure_sensor(
        monitored_jobs=list(jobs(settings.run_resources)),
        default_status=status,
        description="Writes each failed run into the audit trail and closes its MLflow run.",
    )
    def cycle_failure_sensor(context: dg.RunFailureSensorContext) -> None:
        loop = Loop(settings)
        run = context.dagster_run
        cycle_id = run.tags.get("dagster/partition")
        loop.control.append("run_failed", "dagster", cycle_id, context.failure_event.message or "", {"run_id": run.run_id, "job": run.job_name})
        if run.job_name == "cycle_train_job":
            from predator_si.orchestration.tracking import MlflowTracker

            MlflowTracker(loop.home).close_runs(run.run_id, "FAILED")

    @dg.sensor(
        job_name="observe_job",
        minimum_interval_seconds=60,
        default_status=status,
        description="Errors, latency and index health each minute: those rows of the trigger table cannot wait.",
    )
    def service_guard_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        loop = Loop(settings)
        try:
            reasons = guard_reasons(loop)
        except PredatorError as error:
            return dg.SkipReason(f"unknown: {error}")
        if not reasons:
            return dg.SkipReason("service: errors, latency and index are within their limits")
        minute = utc_now().strftime("%Y%m%dT%H%M")
        return dg.RunRequest(run_key=f"guard:{minute}", tags={REASON: "; ".join(reasons)[:200]})

    @dg.sensor(
        minimum_interval_seconds=60,
        default_status=status,
        jobs=[observe_job],
        description="What another contour promoted to this one: fetches its bytes, and opens the cycle that watches it. Starts nothing itself.",
    )
    def arrival_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            told = arrive.look(Loop(settings))
        except PredatorError as error:
            return dg.SkipReason(f"unknown: {error}")
        return dg.SkipReason("; ".join(told) or "no other contour promoted anything new")

    return [intake_sensor, arrival_sensor, quality_gate_sensor, cycle_advance_sensor, rollback_sensor, cycle_failure_sensor, service_guard_sensor]


def rollbacks_wanted(loop: Loop, waiting: list[str]) -> Iterator[tuple[Cycle, str]]:
    """Releases that are to be taken back, each with the reason: a person's order comes before what watches say. Why others wait is added to ``waiting``."""
    ordered = loop.control.get_note(ordered_note(loop.contour))
    if ordered is not None:
        cycle, at = loop.control.cycle(ordered["cycle_id"]), datetime.fromisoformat(ordered["at"])
        if cycle.state in IN_PRODUCTION:
            if utc_now() - at >= _LAUNCHED_BY_NOW:
                yield cycle, "ordered by a person"
            else:
                waiting.append(f"the rollback of {cycle.cycle_id} was just asked for")
            return
    for cycle in loop.control.cycles(20, loop.contour):
        path = loop.home.artifacts / cycle.cycle_id / "watch.json"
        if cycle.state not in (CycleState.RELEASED, CycleState.WATCHING) or not path.is_file():
            continue
        try:
            if WatchResult.read(path).answer != "rollback":
                continue
            allowed = permission.ruling(loop, "rollback", cycle_id=cycle.cycle_id)
        except PredatorError as error:  # this one's file must not keep another release from its way back
            waiting.append(f"unknown: {error}")
            continue
        if allowed.answer == "allow":
            yield cycle, "degraded"
        else:
            waiting.append(f"{cycle.cycle_id} is degraded, and {allowed.reason}")


def _tried_again_at(runs: Sequence[dg.RunRecord]) -> datetime | None:
    """When a rollback whose runs did not do it is tried again: at once after the first, then after waits that double; null before the first run."""
    if len(runs) < 2:
        return None
    newest: datetime = max(record.update_timestamp for record in runs)
    wait: timedelta = min(_ROLLBACK_WAIT * 2 ** (len(runs) - 2), _ROLLBACK_LONGEST_WAIT)
    return newest + wait


def cycle_tags(cycle_id: str, trigger: str, reason: str) -> dict[str, str]:
    """Run tags that say what a run works for, and why."""
    return {CYCLE: cycle_id, TRIGGER: trigger, REASON: reason[:200]}


def job_for(loop: Loop, cycle_id: str) -> str:
    """The job that a cycle's state needs."""
    from predator_si.orchestration.steps import act, decide

    cycle = loop.control.cycle(cycle_id)
    if cycle.state is CycleState.AWAITING_APPROVAL or (cycle.state is CycleState.EVALUATED and not decide.needs_trial(loop, cycle_id)):
        return "cycle_release_job"
    if cycle.state is CycleState.OPENED and act.begins_with_action(loop, cycle):
        return "cycle_act_job"
    return NEXT_JOB[cycle.state]


def reason_to_wait(loop: Loop, cycle_id: str) -> str | None:
    """Why a cycle needs no job now: traffic is missing, a person is asked, or it has ended; null when it does."""
    from predator_si.experiment import plan
    from predator_si.orchestration.steps import decide, trial

    cycle = loop.control.cycle(cycle_id)
    if loop.control.kill_switch(loop.contour) and cycle.state not in (CycleState.RELEASED, CycleState.WATCHING):
        return "the kill switch is on"
    if cycle.state is CycleState.OPENED and arrive.is_arrival(cycle):
        return "arrival_sensor has not written down yet what arrived"
    if cycle.state is CycleState.AWAITING_APPROVAL:
        return decide.may_commit(loop, cycle_id)
    if cycle.state is CycleState.ON_TRIAL:
        try:
            return plan.reason_to_wait(*trial.trial_progress(loop, cycle_id), utc_now())
        except PredatorError as error:
            return f"unknown: {error}"
    if cycle.state in (CycleState.RELEASED, CycleState.WATCHING):
        return _watch_waits(loop, cycle_id)
    return permission.next_refusal(loop, cycle) if cycle.state in NEXT_JOB else f"the cycle is {cycle.state.value}"


def _watch_waits(loop: Loop, cycle_id: str) -> str | None:
    """A check of the watch is due after so many requests, or so long after the last one."""
    import polars as pl

    from predator_si.orchestration.steps.keep import watch_plan
    from predator_si.records import Deployment
    from predator_si.search.events import read_events

    folder = loop.artifacts(cycle_id)
    known = WatchResult.read(folder / "watch.json") if (folder / "watch.json").is_file() else None
    if known is not None and known.answer == "rollback":
        return "the watch asked for a rollback"
    since = known.created_at if known is not None else Deployment.read(folder / "deployment.json").created_at
    interval = loop.settings.watch.interval
    if interval is not None:
        return f"the next check is due at {since + interval:%H:%M:%S} UTC" if utc_now() < since + interval else None
    plan = watch_plan(loop, cycle_id)
    needed = -(-plan.min_requests // plan.planned_checks)
    seen = (
        read_events(loop.home.events, since, utc_now(), open_text=False)
        .search.filter((pl.col("timestamp") > since) & ~pl.col("probe") & pl.col("stands_for").is_null())
        .height
    )
    return f"{seen} of {needed} requests since the last check" if seen < needed else None


def guard_reasons(loop: Loop) -> list[str]:
    """What in the last five minutes of events, or in the service's own words, needs a snapshot now instead of at the next tick."""
    from predator_si.monitor import measure_window
    from predator_si.monitor.gates import evaluate_gates
    from predator_si.records import Answer
    from predator_si.search.events import read_events

    now = utc_now()
    info: dict[str, Any] = loop.info()
    snapshot = measure_window(
        read_events(loop.home.events, now - timedelta(minutes=5), now, open_text=False),
        now - timedelta(minutes=5),
        now,
        now,
        champion=loop.serving().model,
        contour=loop.contour,
        ingest=info.get("ingest"),
    )
    quick = [gate for gate in in_force(loop, now) if gate.metric in _QUICK]
    failing = [result for result in evaluate_gates(quick, snapshot, loop.baseline(), now) if result.answer is Answer.FAIL]
    newest = loop.snapshots(1)
    told: set[str] = set()
    if newest and now - newest[-1].created_at < _TOLD_AGAIN:
        told = {result.criterion.name for result in evaluate_gates(quick, newest[-1], loop.baseline(), now) if result.answer is Answer.FAIL}
    return [result.reason for result in failing if result.criterion.name not in told]
