"""Bring the raw layer up to date with every source of the contour, and ask those that answer with numbers.

What belongs here: which sources this installation has, from its settings. What must not: a source's language, storing (``monitor.intake``).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from predator_si.monitor.intake import Intake, IntakeReport
from predator_si.monitor.sources import EventFiles, OpenCost, OpenSearchUBI, PostgresTables, Prometheus, Source, Spool, plan, resolve_snapshot
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.retention import let_old_go
from predator_si.records import Metric, MetricsSnapshot, Provenance, utc_now
from predator_si.search.events import EventFrames
from predator_si.search.personal import open_vault


def take_in(loop: Loop, now: datetime | None = None) -> IntakeReport:
    """Take what the embedded service and the contour's other event sources have into the raw layer.

    A source that is down is named in the report and read again at the next tick, up to a day back. The first tick of a day lets go what is too old.
    """
    let_old_go(loop, now or utc_now())
    return Intake(loop.home.telemetry, open_vault(loop.home.path)).run(event_sources(loop), now)


def event_sources(loop: Loop) -> list[Source]:
    """The sources of events of this installation: its own service's spool first."""
    named, found = loop.settings.sources, list[Source]()
    found.append(Spool(loop.home.events))
    if named.events is not None:
        found.append(EventFiles(Path(named.events.path).expanduser()))
    if named.postgres is not None:
        found.append(PostgresTables(named.postgres, named.credentials.get("postgres")))
    if named.opensearch is not None:
        found.append(OpenSearchUBI(named.opensearch, named.credentials.get("opensearch")))
    return found


def choose(loop: Loop, snapshot: MetricsSnapshot, events: EventFrames, intake: IntakeReport) -> MetricsSnapshot:
    """The snapshot with each metric from the source that the contour puts first, if it is fresh; Prometheus and OpenCost are asked where it names them."""
    named = loop.settings.sources
    wanted = plan(named)
    others: dict[str, dict[str, Metric]] = {}
    said: list[Provenance] = list(intake.sources)
    prometheus = None
    if named.prometheus is not None:
        asked = {name: one for name, sources in wanted.items() for one in sources if one.source == "prometheus"}
        prometheus = Prometheus(named.prometheus, asked, named.credentials.get("prometheus"))
        reading = prometheus.read(snapshot.window_start, snapshot.window_end)
        others["prometheus"] = dict(reading.metrics)
        said.append(reading.provenance)
    allocation = next((one.query for one in wanted["cost_per_1k_requests"] if one.source == "opencost"), None)
    if named.opencost is not None and allocation is not None:

        def requests(start: datetime, end: datetime) -> Metric:
            """Counted from events where there are any, else by Prometheus."""
            if events.search.height or prometheus is None:
                return Metric(name="requests", value=float(events.search.height), source="search events", window_start=start, window_end=end)
            return prometheus.requests(start, end)

        reading = OpenCost(named.opencost, allocation, requests, named.credentials.get("opencost")).read(snapshot.window_start, snapshot.window_end)
        others["opencost"] = dict(reading.metrics)
        said.append(reading.provenance)
    return resolve_snapshot(snapshot, named, others).model_copy(update={"sources": tuple(said)})
