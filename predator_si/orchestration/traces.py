"""Which functions are timed, and a cycle's runs and steps out of Dagster: the facts behind ``notify.tracing``'s tree.

What belongs here: the decorator of functions that take time, and sending each ended cycle's tree once. What must not: ids and places in the tree.
"""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from predator_si.control import ACTIVE
from predator_si.errors import PredatorError
from predator_si.notify.log import LOG
from predator_si.notify.tracing import FILE, JobRun, StepRun, TimedCall, read_calls, tree, wanted
from predator_si.records import Cycle, utc_now
from predator_si.reports.costs import read_costs

if TYPE_CHECKING:
    import dagster as dg

    from predator_si.orchestration.loop import Loop

P = ParamSpec("P")
R = TypeVar("R")
_AROUND: ContextVar[str | None] = ContextVar("predator_si_call", default=None)
_RECENT = timedelta(days=1)
"""Older cycles are not sent when tracing is switched on."""
_PAUSE = timedelta(minutes=10)
"""After a collector that did not answer."""


def traced(function: Callable[P, R]) -> Callable[P, R]:
    """Time each call of a step's function ``(loop, cycle or its id, ...)`` into the cycle's ``spans.jsonl``; off, it is only called."""

    @functools.wraps(function)
    def timed(*arguments: P.args, **named: P.kwargs) -> R:
        if not wanted():
            return function(*arguments, **named)
        loop: Any = arguments[0]
        cycle: Any = arguments[1] if len(arguments) > 1 else named["cycle_id"]
        cycle_id, key, parent = str(getattr(cycle, "cycle_id", cycle)), f"call:{uuid.uuid4().hex}", _AROUND.get()
        start, token, error = utc_now(), _AROUND.set(key), None
        try:
            return function(*arguments, **named)
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            _AROUND.reset(token)
            run_id, step = _here()
            call = TimedCall(key=key, parent=parent, name=function.__name__, start=start, end=utc_now(), run_id=run_id, step=step, error=error)
            _keep(loop, cycle_id, call)

    return timed


def _here() -> tuple[str | None, str | None]:
    """Run and step that this process works on, by Dagster; where it is not even loaded, there is none."""
    if "dagster" not in sys.modules:
        return None, None
    import dagster as dg

    try:
        context = dg.OpExecutionContext.get()
    except dg.DagsterError:
        return None, None
    return context.run_id, context.get_step_execution_context().step.key


def _keep(loop: Loop, cycle_id: str, call: TimedCall) -> None:
    try:
        with (loop.artifacts(cycle_id) / FILE).open("a", encoding="utf-8") as stream:
            stream.write(call.model_dump_json() + "\n")
    except OSError as error:
        LOG.error("%s a span was not kept (%s)", cycle_id, error)


# --------------------------------------------------------------------------- sending


def runs_of(instance: dg.DagsterInstance, cycle_id: str) -> list[JobRun]:
    """The runs of a cycle that began and ended, with their steps."""
    import dagster as dg

    found = []
    for record in instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": cycle_id})):
        if record.start_time is None or record.end_time is None:
            continue
        run = record.dagster_run
        steps = [
            StepRun(one.step_key, _moment(one.start_time), _moment(one.end_time), one.status is not None and one.status.value == "SUCCESS")
            for one in instance.get_run_step_stats(run.run_id)
            if one.start_time is not None and one.end_time is not None
        ]
        found.append(JobRun(run.run_id, run.job_name, run.status.value, _moment(record.start_time), _moment(record.end_time), steps))
    return found


def send_ended(loop: Loop, instance: dg.DagsterInstance, now: datetime | None = None) -> int:
    """Send the tree of each cycle that ended in the last day and was not sent yet; how many. Nothing, and no library loaded, where tracing is off.

    Raises
    ------
    Unavailable
        A collector does not take one; the next try comes after ten minutes.
    """
    if not wanted():
        return 0
    moment, pause = now or utc_now(), f"traces/{loop.contour}/pause"
    until = loop.control.get_note(pause)
    if until is not None and moment < datetime.fromisoformat(until):
        return 0
    count = 0
    for cycle in loop.control.cycles(20, loop.contour):
        note = f"traces/{cycle.cycle_id}"
        if cycle.state in ACTIVE or moment - cycle.updated_at > _RECENT or loop.control.get_note(note) is not None:
            continue
        try:
            took = send_cycle(loop, instance, cycle)
        except PredatorError:
            loop.control.set_note(pause, (moment + _PAUSE).isoformat())
            raise
        loop.control.set_note(note, {"at": moment.isoformat(), "took": took})
        count += 1
    return count


def send_cycle(loop: Loop, instance: dg.DagsterInstance, cycle: Cycle) -> list[str]:
    """Send one cycle's tree now; who took it."""
    from predator_si.notify.trace_export import send

    folder = loop.home.artifacts / cycle.cycle_id
    path = folder / FILE
    calls = read_calls(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else []
    costs = read_costs(folder)
    records = loop.control.records(1000, cycle_id=cycle.cycle_id)
    return send(cycle.cycle_id, tree(cycle, records, runs_of(instance, cycle.cycle_id), calls, costs.total_cost_usd if costs is not None else None))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
