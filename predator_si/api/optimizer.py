"""``Optimizer``: what the calls that change something do, in terms of the control database and Dagster.

What belongs here: the order of steps, and what is said when a part does not answer. What must not: HTTP, roles, any decision of the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

import httpx

from predator_si.api import answers, readings
from predator_si.api.graphql import STARTS_CYCLES, DagsterGraphQL, LoopState
from predator_si.api.people import People
from predator_si.control import ACTIVE
from predator_si.control.stop_flag import Pressed, StopFlags, press_switch
from predator_si.errors import Missing, PredatorError, Refused, Unavailable
from predator_si.monitor import Skip
from predator_si.monitor.triggers import TRIGGERS
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import ACTOR, LANE, Lane
from predator_si.orchestration.sensors import cycle_tags, job_for
from predator_si.orchestration.steps.begin import open_or_resume
from predator_si.records import Cycle, CycleState, Rollback

log = logging.getLogger("AutoOptimizer")
T = TypeVar("T")
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
_CHANGES = 4
"""Threads that change something: so many may wait for a locked database at once, and the others wait for them."""
_WAITS_FOR_OTHERS = frozenset({CycleState.ON_TRIAL, CycleState.AWAITING_APPROVAL})


class Optimizer(People):
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
        self._first: str | None = None
        self._changes = ThreadPoolExecutor(_CHANGES, "change")
        self._stops = ThreadPoolExecutor(1, "stop")

    async def close(self) -> None:
        """Let go of connections and of what was to follow."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        await self._search.aclose()
        await self.dagster.close()
        for pool in (self._changes, self._stops):
            pool.shutdown(wait=False, cancel_futures=True)

    async def changing(self, act: Callable[..., T], *given: Any) -> T:
        """What ``act`` gives, done by the threads that may wait for a locked database; reading has others, and so has ``stop``."""
        return await asyncio.get_running_loop().run_in_executor(self._changes, act, *given)

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
                opened = await self.changing(self._open, asked, target, actor)
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
        """Nothing was ever measured here: measure now, and go on with the cycle once that is done. Who asks meanwhile is told of the same run."""
        message = "nothing was measured here yet: observe_job takes the first snapshot, and the cycle begins with it"
        if self._first is not None:
            return _answer("skipped", target, message, run_id=self._first)
        under_way = [run for run in await self.dagster.runs(lanes=(Lane.OBSERVE,)) if run.job == "observe_job"]
        run_id = under_way[0].run_id if under_way else await self.dagster.launch("observe_job", {ACTOR: actor, LANE: Lane.OBSERVE.value}, actor)
        done = [] if under_way else ["observe_job launched"]
        self._first = run_id

        async def go_on() -> None:
            try:
                ended = await self._until(lambda: self._run_ended(run_id), _FIRST_SNAPSHOT_SECONDS)
                self._first = None
                if ended:
                    after = await self.trigger(asked.model_copy(update={"wait": 0.0}), actor) if not await asyncio.to_thread(self._lacks_snapshot) else None
                    log.info("trigger of %s after the first snapshot: %s", actor, after.message if after else "no snapshot came of it; look at observe_job")
            except PredatorError as error:
                log.warning("trigger of %s after the first snapshot failed: %s", actor, error)
            finally:
                self._first = None

        task = asyncio.create_task(go_on())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
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
            Dagster does not answer: nothing was changed. Or the control database does not: the sensor runs, and starts nothing, since the switch is on.
        """
        settings = self.loop.settings
        if not settings.enabled:
            raise Refused(f"contour {settings.contour}: selfImprovement.enabled is false. Set it in the values; no call passes it.")
        if settings.kill_switch:
            raise Refused(f"contour {settings.contour}: selfImprovement.killSwitch is true. Clear it in the values; no call passes it.")
        state = await self.dagster.state(fresh=True)
        sensor = state.sensors.get(STARTS_CYCLES)
        if sensor is None or not sensor.running:
            await self.dagster.start_sensor(STARTS_CYCLES, actor)
        lifted = await self.changing(self.loop.control.set_kill_switch, self.loop.contour, False, actor, reason or "POST start")
        if not lifted and sensor is not None and sensor.running:
            return answers.Started(status="already_running", message="the loop runs already; nothing was changed", interval_minutes=INTERVAL_MINUTES)
        log.info("started by %s", actor)
        message = f"the loop runs: the kill switch is off and {STARTS_CYCLES} is on"
        return answers.Started(status="started", message=message, interval_minutes=INTERVAL_MINUTES)

    async def stop(self, actor: str, reason: str) -> answers.Stopped:
        """Press the kill switch, stop the sensor, end what runs for a cycle. Takes effect even where the webserver does not answer.

        Raises
        ------
        Unavailable
            The control database does not take it; the message says what was done all the same: the switch by a file, the sensor, the runs.
        """
        why, contour = reason or "POST stop", self.loop.contour
        pressed = await self._aside(self._press, actor, why)
        said = ["the kill switch is on" if pressed.changed else "the kill switch was on already", "watch and rollback go on"]
        if pressed.problem is not None:
            said = [pressed.problem, "watch and rollback go on"]
        told: list[str] = []
        left: list[str] = []
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                runs = [run.run_id for run in await self.dagster.runs(lanes=(Lane.CYCLE, Lane.TRAIN))]
                told = await self.dagster.terminate(runs, actor)
                left = [run for run in runs if run not in told]
                await self.dagster.stop_sensor(STARTS_CYCLES, actor)
        except (PredatorError, TimeoutError) as error:
            log.warning("stop by %s without the webserver: %s", actor, error)
            said.append(f"Dagster's webserver does not answer, so {STARTS_CYCLES} stays as it is: it starts nothing while the switch is on")
            try:
                told, left = await self._aside(self._end_without_webserver)
            except Exception as other:  # Dagster's storage raises whatever its database does
                log.warning("stop by %s could not end runs by Dagster's storage: %s", actor, other)
                said.append("runs could not be ended; each ends when it looks at the switch next")
        log.info("stopped by %s: %d runs told to end, %d end at their next look", actor, len(told), len(left))
        if pressed.problem is None and (told or left):
            payload = {"contour": contour, "runs": told, "asked": left}
            try:
                await self._aside(partial(self.loop.control.append, "runs_terminated", actor, None, why, payload))
            except PredatorError as error:
                said.append(f"the ended runs are not in the ledger: {error}")
        if pressed.problem is not None:
            raise Unavailable(f"{'; '.join(said)}. Runs told to end: {len(told)}, at their next look: {len(left)}. POST stop again once the database answers.")
        return answers.Stopped(status="stopped", message="; ".join(said), terminated_runs=told, asked_runs=left)

    async def _aside(self, act: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._stops, act, *given)

    def _press(self, actor: str, reason: str) -> Pressed:
        """The switch, in the database or by the file; where neither can be, the problem says so and the rest of the stop goes on."""
        flags, contour = StopFlags(self.loop.home.path), self.loop.contour
        try:
            found = press_switch(lambda: self.loop.control.set_kill_switch(contour, True, actor, reason), flags, contour, actor, reason)
        except PredatorError as error:
            return Pressed(False, f"the kill switch could be pressed neither in the control database nor by its file ({error})")
        if found.problem is None:
            return found
        return Pressed(found.changed, f"the control database does not take the kill switch ({found.problem}); it is on by {flags.path(contour).name}")

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
