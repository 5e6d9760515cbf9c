"""``Optimizer``: what the calls that change something do, in terms of the control database and Dagster.

What belongs here: the order of steps, and what is said when a part does not answer. What must not: HTTP, roles, any decision of the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal

import httpx

from predator_si.api import answers, readings
from predator_si.api.graphql import STARTS_CYCLES, DagsterGraphQL, LoopState
from predator_si.control import ACTIVE
from predator_si.errors import BadInput, Missing, PredatorError, Refused, Unavailable
from predator_si.monitor import Skip
from predator_si.monitor.triggers import TRIGGERS
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import ACTOR, Lane
from predator_si.orchestration.sensors import cycle_tags, job_for
from predator_si.orchestration.steps.begin import open_or_resume
from predator_si.records import Cycle, CycleState, Rollback

log = logging.getLogger("AutoOptimizer")
Target = Literal["all", "models", "infrastructure"]
INTERVAL_MINUTES = 15
"""Of the tick; ``cycleInterval`` bounds how often cycles begin."""
_OF_TARGET: dict[Target, tuple[str, ...]] = {
    "all": tuple(rule.type for rule in TRIGGERS),
    "models": ("ndcg_at_10_down", "recall_at_20_down", "user_satisfaction_down"),
    "infrastructure": tuple(rule.type for rule in TRIGGERS if rule.type not in ("ndcg_at_10_down", "recall_at_20_down", "user_satisfaction_down")),
}
_INSISTED: dict[Target, str] = {"all": "ndcg_at_10_down", "models": "ndcg_at_10_down", "infrastructure": "p95_latency_ms_up"}
"""What a forced cycle works on where no gate fails."""
_POLL_SECONDS = 0.5
_ROLLBACK_SECONDS = 150.0
_FIRST_SNAPSHOT_SECONDS = 600.0
_STOP_SECONDS = 15.0
_WAITS_FOR_OTHERS = frozenset({CycleState.ON_TRIAL, CycleState.AWAITING_APPROVAL})


class Optimizer:
    """The loop of one home as its callers see it.

    Parameters
    ----------
    loop
        The parts of the home.
    dagster
        The webserver that may be written to.
    search
        Stands in for the network to the search service in tests.
    """

    def __init__(self, loop: Loop, dagster: DagsterGraphQL, search: httpx.AsyncBaseTransport | None = None) -> None:
        self.loop = loop
        self.dagster = dagster
        self._search = httpx.AsyncClient(transport=search, timeout=10.0, trust_env=False, follow_redirects=False)
        self._opening = asyncio.Lock()
        self._later: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of connections and of what was to follow."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        await self._search.aclose()
        await self.dagster.close()

    async def known_state(self, *, fresh: bool = False) -> tuple[LoopState | None, str | None]:
        """What Dagster says, or null and why not."""
        try:
            return await self.dagster.state(fresh=fresh), None
        except PredatorError as error:
            return None, str(error)

    async def status(self) -> answers.Status:
        """The status."""
        state, problem = await self.known_state()
        return await asyncio.to_thread(readings.read_status, self.loop, state, problem)

    # ------------------------------------------------------------------ trigger

    async def trigger(self, asked: answers.TriggerRequest, actor: str) -> answers.TriggerAnswer:
        """Open a cycle as the sensor would, launch its first job, and wait as long as asked.

        Raises
        ------
        Unavailable
            Dagster does not answer: nothing was opened.
        """
        target: Target = asked.target or "all"
        if self.loop.settings.kill_switch or await asyncio.to_thread(self.loop.control.kill_switch, self.loop.contour):
            return _answer("refused", target, "the kill switch is on: POST start lifts it; force does not pass it")
        async with self._opening:  # one after another, so that many at once ask Dagster once
            try:
                busy = await asyncio.to_thread(self.loop.control.active_cycle, self.loop.contour)
                if busy is None:
                    await self.dagster.state(fresh=True)  # before anything is opened
                if asked.force and await asyncio.to_thread(self._lacks_snapshot):
                    return await self._measure_first(asked, target, actor)
                opened = await asyncio.to_thread(self._open, asked, target, actor)
            except Refused as error:
                busy = await asyncio.to_thread(self.loop.control.active_cycle, self.loop.contour)
                if busy is None:
                    return _answer("refused", target, str(error).replace("--force", "force"))
                return _answer("skipped", target, f"{busy.cycle_id} is {busy.state.value}: one cycle at a time", busy.cycle_id, state=busy.state.value)
        if isinstance(opened, str):
            return _answer("skipped", target, opened.replace("--force", "force"))
        cycle, is_new = opened
        if not is_new:
            answer = _answer("skipped", target, f"{cycle.cycle_id} is {cycle.state.value}: one cycle at a time", cycle.cycle_id, state=cycle.state.value)
        else:
            answer = await self._launched(cycle, target, actor)
        return await self._awaited(answer, cycle.cycle_id, asked.wait) if asked.wait > 0 else answer

    def _lacks_snapshot(self) -> bool:
        return readings.newest_snapshot(self.loop) is None and self.loop.control.active_cycle(self.loop.contour) is None

    def _open(self, asked: answers.TriggerRequest, target: Target, actor: str) -> tuple[Cycle, bool] | str:
        """A cycle and whether it is new, or why there is none."""
        before = self.loop.control.active_cycle(self.loop.contour)
        if before is not None:
            return before, False
        found = open_or_resume(self.loop, actor, None, asked.reason, force=asked.force, among=_OF_TARGET[target])
        if isinstance(found, Skip) and asked.force:
            found = open_or_resume(self.loop, actor, _INSISTED[target], asked.reason, force=True)
        if isinstance(found, Skip):
            return found.reason
        return found, found.actor == actor and found.state is CycleState.OPENED

    async def _launched(self, cycle: Cycle, target: Target, actor: str) -> answers.TriggerAnswer:
        """The first job of a new cycle, put into Dagster's queue."""
        message = f"{cycle.cycle_id} is opened: {cycle.reason}"
        done = ["cycle_opened"]
        try:
            run_id = await self.launch_next(cycle, actor)
            done.append(f"{await asyncio.to_thread(job_for, self.loop, cycle.cycle_id)} launched")
        except PredatorError as error:
            log.warning("%s: its first job could not be launched: %s", cycle.cycle_id, error)
            return _answer(
                "started", target, f"{message}. Its first job could not be launched ({error}); the loop starts it within minutes", cycle.cycle_id, done
            )
        log.info("%s: opened by %s, run %s", cycle.cycle_id, actor, run_id)
        return _answer("started", target, message, cycle.cycle_id, done, run_id=run_id, state=cycle.state.value)

    async def launch_next(self, cycle: Cycle, actor: str) -> str:
        """Put the job that a cycle's state needs into Dagster's queue; the run's id."""
        name = await asyncio.to_thread(job_for, self.loop, cycle.cycle_id)
        tags = {**cycle_tags(cycle.cycle_id, cycle.trigger.type, cycle.reason), ACTOR: actor}
        return await self.dagster.launch(name, tags, actor, cycle.cycle_id)

    async def _measure_first(self, asked: answers.TriggerRequest, target: Target, actor: str) -> answers.TriggerAnswer:
        """Nothing was ever measured here: measure now, and go on with the cycle once that is done."""
        run_id = await self.dagster.launch("observe_job", {ACTOR: actor}, actor)
        done = ["observe_job launched"]

        async def go_on() -> None:
            try:
                if await self._until(lambda: self._run_ended(run_id), _FIRST_SNAPSHOT_SECONDS):
                    after = await self.trigger(asked.model_copy(update={"wait": 0.0}), actor) if not await asyncio.to_thread(self._lacks_snapshot) else None
                    log.info("trigger of %s after the first snapshot: %s", actor, after.message if after else "no snapshot came of it; look at observe_job")
            except PredatorError as error:
                log.warning("trigger of %s after the first snapshot failed: %s", actor, error)

        task = asyncio.create_task(go_on())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        message = "nothing was measured here yet: observe_job takes the first snapshot, and the cycle begins with it"
        return _answer("started", target, message, None, done, run_id=run_id)

    async def _run_ended(self, run_id: str) -> bool:
        return (await self.dagster.run(run_id)).status in ("SUCCESS", "FAILURE", "CANCELED")

    async def _awaited(self, answer: answers.TriggerAnswer, cycle_id: str, seconds: float) -> answers.TriggerAnswer:
        """The same answer once the cycle has ended, or waits for traffic or people, or the time is over."""

        def standing() -> Cycle:
            return self.loop.control.cycle(cycle_id)

        async def settled() -> bool:
            state = (await asyncio.to_thread(standing)).state
            return state not in ACTIVE or state in _WAITS_FOR_OTHERS

        await self._until(settled, seconds)
        cycle = await asyncio.to_thread(standing)
        records = await asyncio.to_thread(self.loop.control.records, 500, cycle_id)
        ended = cycle.state not in ACTIVE
        changes: dict[str, Any] = {
            "status": "completed" if ended else answer.status,
            "message": f"{cycle_id} is {cycle.state.value}: {cycle.reason}",
            "actions_taken": [record.action for record in records],
            "improvements": await asyncio.to_thread(readings.improvements_of, readings.folder_of(self.loop, cycle_id)),
            "state": cycle.state.value,
        }
        return answer.model_copy(update=changes)

    async def _until(self, true: Callable[[], Awaitable[bool]], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not await true():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(_POLL_SECONDS, left))
        return True

    # ------------------------------------------------------------------ start, stop

    async def start(self, actor: str, reason: str) -> answers.Started:
        """Lift the kill switch and let the sensor run.

        Raises
        ------
        Refused
            The contour's values switch the loop off.
        Unavailable
            Dagster does not answer; nothing was changed.
        """
        settings = self.loop.settings
        if not settings.enabled:
            raise Refused(f"contour {settings.contour}: selfImprovement.enabled is false. Set it in the values; no call passes it.")
        if settings.kill_switch:
            raise Refused(f"contour {settings.contour}: selfImprovement.killSwitch is true. Clear it in the values; no call passes it.")
        state = await self.dagster.state(fresh=True)
        sensor = state.sensors.get(STARTS_CYCLES)
        lifted = await asyncio.to_thread(self.loop.control.set_kill_switch, self.loop.contour, False, actor, reason or "POST start")
        if sensor is None or not sensor.running:
            await self.dagster.start_sensor(STARTS_CYCLES, actor)
        if not lifted and sensor is not None and sensor.running:
            return answers.Started(status="already_running", message="the loop runs already; nothing was changed", interval_minutes=INTERVAL_MINUTES)
        log.info("started by %s", actor)
        message = f"the loop runs: the kill switch is off and {STARTS_CYCLES} is on"
        return answers.Started(status="started", message=message, interval_minutes=INTERVAL_MINUTES)

    async def stop(self, actor: str, reason: str) -> answers.Stopped:
        """Press the kill switch, stop the sensor, end what runs for a cycle. Takes effect even where the webserver does not answer."""
        changed = await asyncio.to_thread(self.loop.control.set_kill_switch, self.loop.contour, True, actor, reason or "POST stop")
        said = ["the kill switch is on" if changed else "the kill switch was on already", "watch and rollback go on"]
        told: list[str] = []
        left: list[str] = []
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                runs = [run.run_id for run in await self.dagster.runs(lanes=(Lane.CYCLE, Lane.TRAIN))]
                told = await self.dagster.terminate(runs, actor)
                left = [run for run in runs if run not in told]
                await self.dagster.stop_sensor(STARTS_CYCLES, actor)
        except (PredatorError, TimeoutError) as error:
            told, left = await asyncio.to_thread(self._end_without_webserver)
            said.append(f"Dagster's webserver does not answer, so {STARTS_CYCLES} stays as it is: it starts nothing while the switch is on")
            log.warning("stop by %s without the webserver: %s", actor, error)
        if told or left:
            payload = {"contour": self.loop.contour, "runs": told, "asked": left}
            await asyncio.to_thread(self.loop.control.append, "runs_terminated", actor, None, reason or "POST stop", payload)
        log.info("stopped by %s: %d runs told to end, %d end at their next look", actor, len(told), len(left))
        return answers.Stopped(status="stopped", message="; ".join(said), terminated_runs=told, asked_runs=left)

    def _end_without_webserver(self) -> tuple[list[str], list[str]]:
        """The same by Dagster's own storage, where it lies on this machine."""
        folder = self.loop.home.dagster
        if not (folder / "history").is_dir():
            return [], []
        import dagster as dg

        from predator_si.orchestration.runs import terminate_runs

        os.environ.update(self.loop.settings.environment())  # what the instance's own classes read
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            ended = terminate_runs(instance)
        return [run.run_id for run in ended if run.how != "flagged"], [run.run_id for run in ended if run.how == "flagged"]

    # ------------------------------------------------------------------ rollback

    async def rollback(self, asked: answers.RollbackRequest, actor: str) -> answers.RollbackAnswer:
        """Take the newest release back because a person says so: the same lane as for a degraded one.

        Raises
        ------
        Missing
            Nothing is released here, or the environment is another API's.
        Refused
            The way back does not lead to the version that is asked for.
        """
        from predator_si.orchestration.steps.keep import order_rollback, take_back

        loop = self.loop
        if asked.environment != loop.contour:
            raise Missing(f"this API serves contour {loop.contour}, not {asked.environment!r}. Ask the API of that contour.")
        cycle = await asyncio.to_thread(loop.control.current_release, loop.contour)
        if cycle is None:
            raise Refused(f"contour {loop.contour}: no cycle has released anything, so nothing can be taken back.")
        began = time.monotonic()
        reason = asked.reason or "a person takes it back"
        await asyncio.to_thread(order_rollback, loop, cycle.cycle_id, actor, reason, asked.to_version)
        try:
            await self.dagster.launch("rollback_job", {**cycle_tags(cycle.cycle_id, cycle.trigger.type, reason), ACTOR: actor}, actor, cycle.cycle_id)
        except Unavailable as error:
            log.warning("rollback of %s without the webserver: %s", cycle.cycle_id, error)
            await asyncio.to_thread(take_back, loop, cycle.cycle_id, f"{actor}: {reason}")
        path = readings.folder_of(loop, cycle.cycle_id) / "rollback.json"

        async def done() -> bool:
            return (await asyncio.to_thread(loop.control.cycle, cycle.cycle_id)).state is CycleState.ROLLED_BACK and path.is_file()

        if not await self._until(done, _ROLLBACK_SECONDS):
            message = "the rollback is on its way; GET status and GET history tell when it is done"
            return answers.RollbackAnswer(
                status="started", cycle_id=cycle.cycle_id, from_digest=None, to_digest=None, revert_commit=None, seconds=None, message=message
            )
        found = await asyncio.to_thread(Rollback.read, path)
        verified = "the service reports the old model" if found.verified else "the service does NOT report the old model yet"
        return answers.RollbackAnswer(
            status="completed",
            cycle_id=cycle.cycle_id,
            from_digest=found.from_digest,
            to_digest=found.to_digest,
            revert_commit=found.commit,
            seconds=round(time.monotonic() - began, 3),
            message=f"taken back; {verified}",
        )

    # ------------------------------------------------------------------ gates, approvals, feedback

    def override(self, metric: str, threshold: float, expires_in: timedelta, actor: str, reason: str) -> answers.GateChanged:
        """Another absolute threshold for a metric, for a time.

        Raises
        ------
        Missing
            No such metric, or this contour has no gate on it.
        BadInput
            The metric cannot take this value.
        """
        from predator_si.contour_gates import Gate, check_gate
        from predator_si.signals import signal

        try:
            found = signal(metric)
        except KeyError as error:
            raise Missing(f"{error.args[0]}. GET quality-gates names those that this contour has.") from error
        mine = [gate for gate in self.loop.settings.quality_gates if gate.metric == found.name]
        if not mine:
            raise Missing(f"contour {self.loop.contour} has no gate on {found.name}. Add one under selfImprovement.qualityGates.")
        try:
            check_gate(found, Gate(min=threshold) if found.direction == "up" else Gate(max=threshold))
        except ValueError as error:
            raise BadInput(f"{error}. GET quality-gates shows what it is now.") from error
        held = self.loop.control.gate_overrides(self.loop.contour).get(found.name)
        absolute = next((gate.threshold for gate in mine if gate.kind == "absolute"), None)
        old = held.threshold if held is not None else absolute
        why = reason or "POST quality-gates"
        made = self.loop.control.override_gate(self.loop.contour, found.name, threshold, actor, why, old=old, expires_in=expires_in)
        log.info("gate of %s: %s instead of %s until %s, by %s", found.name, threshold, old, made.expires_at.isoformat(), actor)
        return answers.GateChanged(
            metric=found.name, old_threshold=old, new_threshold=threshold, updated_at=made.set_at, expires_at=made.expires_at, reason=why, actor=actor
        )

    def decide(self, cycle_id: str, asked: answers.ApprovalRequest, actor: str) -> answers.ApprovalAnswer:
        """A person's answer to a cycle that waits for it.

        Raises
        ------
        Refused
            It does not wait, or this person may not answer.
        """
        from predator_si.orchestration.steps.decide import give_approval, refuse_approval
        from predator_si.orchestration.tracking import existing_tracker

        readings.folder_of(self.loop, cycle_id)
        if asked.decision == "approve":
            give_approval(self.loop, cycle_id, actor, asked.reason)
        else:
            refuse_approval(self.loop, cycle_id, actor, asked.reason, existing_tracker(self.loop.home))
        log.info("%s: %s by %s", cycle_id, asked.decision, actor)
        state = self.loop.control.cycle(cycle_id).state.value
        return answers.ApprovalAnswer(cycle_id=cycle_id, decision=asked.decision, actor=actor, reason=asked.reason, state=state)

    async def feedback(self, asked: answers.FeedbackRequest) -> answers.FeedbackAnswer:
        """Hand a score or a mark to the search service, which records it as a rating.

        Raises
        ------
        BadInput
            Neither a score nor a mark, both, or a mark without its document; or the service refuses it.
        Unavailable
            The service does not answer.
        """
        if (asked.score is None) == (asked.relevant is None):
            raise BadInput("give either score (1 to 5), or relevant with document_id.")
        if asked.relevant is not None and asked.document_id is None:
            raise BadInput("relevant needs document_id: which result is meant.")
        value = asked.score if asked.score is not None else (5 if asked.relevant else 1)
        event = {"query_id": asked.query_id, "action_name": "rating", "value": float(value), "object_id": asked.document_id, "client_id": asked.client_id}
        try:
            answer = await self._search.post(f"{self.loop.search_url}/events", json={key: one for key, one in event.items() if one is not None})
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"the search service does not answer ({type(error).__name__}); the feedback was not recorded. Send it again later.") from error
        if answer.status_code == 422:
            raise BadInput(f"the search service refuses the feedback: {str(body.get('detail'))[:300]}.")
        if answer.status_code != 202:
            raise Unavailable(f"the search service answers HTTP {answer.status_code}; the feedback was not recorded. Send it again later.")
        return answers.FeedbackAnswer(status="accepted", query_id=asked.query_id, known_query=not body.get("unknown_query_id"))


def _answer(
    status: Literal["completed", "started", "skipped", "refused"],
    target: Target,
    message: str,
    cycle_id: str | None = None,
    done: list[str] | None = None,
    *,
    run_id: str | None = None,
    state: str | None = None,
) -> answers.TriggerAnswer:
    nothing = answers.Improvements(ndcg_delta=None, latency_delta=None)
    return answers.TriggerAnswer(
        status=status, message=message, target=target, cycle_id=cycle_id, actions_taken=done or [], improvements=nothing, run_id=run_id, state=state
    )


__all__ = ["INTERVAL_MINUTES", "Optimizer"]
