"""What follows what happened: messages to people, costs into the ledger. It starts no run, and nothing that fails here holds the loop up."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from predator_si.errors import PredatorError
from predator_si.notify.log import LOG
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metering import settle_costs
from predator_si.orchestration.steps import tell
from predator_si.orchestration.steps.anchor import anchor_if_due, has_repository
from predator_si.orchestration.traces import send_ended
from predator_si.orchestration.trust import distrust
from predator_si.settings import Settings

Part = Callable[[Loop, dg.DagsterInstance], str]
"""One duty; what it did, in a word or two."""


def told(loop: Loop, instance: dg.DagsterInstance) -> str:
    """Messages that are due."""
    done = tell.tell(loop)
    return f"{done.sent} messages told, {done.waiting} on their way" + (f", {done.failed} not taken" if done.failed else "")


def costs_settled(loop: Loop, instance: dg.DagsterInstance) -> str:
    """Costs of cycles that have ended."""
    return f"{settle_costs(loop, loop.control.cycles(20, loop.contour))} costs recorded"


def stop_settled(loop: Loop, instance: dg.DagsterInstance) -> str:
    """A kill switch that was pressed by a file while the database could not be written."""
    return "a stop by a file is in the ledger" if loop.control.settle_stop(loop.contour) else "no stop by a file"


def anchored(loop: Loop, instance: dg.DagsterInstance) -> str:
    """The ledger's head into Git, where that is due."""
    if not has_repository(loop):
        return "nothing to anchor in"
    if (why := distrust(loop.home, loop.contour, loop.control)) is not None:
        return f"not anchored: {why}"
    anchor = anchor_if_due(loop)
    return "no anchor is due" if anchor is None else f"ledger anchored at {anchor.seq}"


def traces_sent(loop: Loop, instance: dg.DagsterInstance) -> str:
    """Trees of spans of cycles that have ended."""
    return f"{send_ended(loop, instance)} traces sent"


PARTS: dict[str, Part] = {"stop": stop_settled, "costs": costs_settled, "anchor": anchored, "messages": told, "traces": traces_sent}


def messenger_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor of a contour; running from the start where it enables the loop."""

    @dg.sensor(
        name="messenger_sensor",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED,
        description="Tells people what they must know (docs/alerts.md), writes costs of ended cycles into the ledger, anchors it in Git, sends traces.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        loop = Loop(settings)
        said: list[str] = []
        for name, part in PARTS.items():
            try:
                said.append(part(loop, context.instance))
            except PredatorError as error:
                LOG.error("- %s: %s", name, error)
                said.append(f"{name}: {error}")
        return dg.SkipReason("; ".join(said))

    return sensor
