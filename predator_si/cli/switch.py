"""`stop` and `start`: the kill switch. It stops new cycles and promotions; it never blocks the watch and the rollback."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.optimizer import client_of
from predator_si.cli.screen import remark, say
from predator_si.errors import PredatorError, Unavailable
from predator_si.settings import Settings

if TYPE_CHECKING:
    from predator_si.orchestration.runs import EndedRun

_HOW = {
    "canceled": "canceled",
    "asked": "told to end",
    "flagged": "ends when it next looks at the kill switch",
}
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")]


def register(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    app.command()(stop)
    app.command()(start)


def actor() -> str:
    """Who acts, for the ledger."""
    return f"cli:{getpass.getuser()}"


def stop(context: typer.Context, reason: Reason = "asked for on the command line") -> None:
    """Press the kill switch: no new cycle, no promotion, and what a cycle has queued or running is ended. Watch and rollback go on.

    Example: `predator-si stop --reason "release freeze"`
    """
    from predator_si.control.stop_flag import Pressed, StopFlags, press_switch

    settings = settings_of(context)
    flags, contour = StopFlags(settings.home), settings.contour
    neither: PredatorError | None = None
    try:
        pressed = press_switch(lambda: _set(context, True, reason), flags, contour, actor(), reason)
        say("the kill switch is on" if pressed.changed else "the kill switch was on already")
    except PredatorError as error:  # runs are ended all the same
        pressed, neither = Pressed(False, str(error)), error
    for run in _terminate(settings, reason, noted=pressed.problem is None):
        say(f"{run.job} ({run.run_id[:8]}): {_HOW[run.how]}")
    if neither is not None:
        raise neither
    if pressed.problem is not None:
        raise Unavailable(f"the control database does not take the kill switch ({pressed.problem}); it is on by {flags.path(contour)}. Stop again later.")


def start(context: typer.Context, reason: Reason = "asked for on the command line") -> None:
    """Lift the kill switch.

    Example: `predator-si start --reason "freeze is over"`
    """
    changed = _set(context, False, reason)
    say("the kill switch is off" if changed else "the kill switch was off already")
    try:
        with client_of(context, seconds=10.0) as client:
            say(client.start(reason)["message"])
    except PredatorError as error:
        remark(f"quality_gate_sensor was not started in Dagster, and stays as it is ({error})")


def _set(context: typer.Context, on: bool, reason: str) -> bool:
    from predator_si.control.opening import open_control

    settings = settings_of(context)
    return open_control(settings.folders.ensure()).set_kill_switch(settings.contour, on, actor(), reason)


def _terminate(settings: Settings, reason: str, *, noted: bool) -> list[EndedRun]:
    """End what the cycle and training lanes of this home have queued or running, with one ledger record where there was anything."""
    if not (settings.folders.dagster / "history").is_dir():
        return []  # Dagster never ran here, and opening an instance would make its storage
    import os

    import dagster as dg

    from predator_si.control.opening import open_control
    from predator_si.orchestration.runs import terminate_runs

    os.environ.update(settings.environment())  # what the instance's own classes read
    with dg.DagsterInstance.from_config(str(settings.folders.dagster)) as instance:
        ended = terminate_runs(instance)
    if ended and noted:
        payload = {"contour": settings.contour, "runs": [asdict(run) for run in ended]}
        open_control(settings.folders).append("runs_terminated", actor(), None, reason, payload)
    return ended
