"""`stop` and `start`: the kill switch. It stops new cycles and promotions; it never blocks the watch and the rollback."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.screen import say

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")]


def register(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    app.command()(stop)
    app.command()(start)


def actor() -> str:
    """Who acts, for the ledger."""
    return f"cli:{getpass.getuser()}"


def stop(context: typer.Context, reason: Reason = "asked for on the command line") -> None:
    """Press the kill switch: no new cycle, no promotion; training stops at its next check. Watch and rollback go on.

    Example: `predator-si stop --reason "release freeze"`
    """
    changed = _set(context, True, reason)
    say("the kill switch is on" if changed else "the kill switch was on already")


def start(context: typer.Context, reason: Reason = "asked for on the command line") -> None:
    """Lift the kill switch.

    Example: `predator-si start --reason "freeze is over"`
    """
    changed = _set(context, False, reason)
    say("the kill switch is off" if changed else "the kill switch was off already")


def _set(context: typer.Context, on: bool, reason: str) -> bool:
    from predator_si.control import Control

    settings = settings_of(context)
    return Control(settings.folders.ensure().control_db).set_kill_switch(settings.contour, on, actor(), reason)
