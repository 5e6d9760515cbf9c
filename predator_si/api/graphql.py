"""``DagsterGraphQL``: one asynchronous client of Dagster's webserver.

What belongs here: asking, and telling an answer from an error. What must not: which call of ours needs what (``optimizer``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from predator_si.api import documents
from predator_si.api.documents import Document
from predator_si.errors import PredatorError, Refused, Unavailable
from predator_si.orchestration.op_tags import LANE, Lane

STARTS_CYCLES = "quality_gate_sensor"
"""The sensor that POST start and stop drive; the one that goes on with cycles stays, because it also watches releases."""
TICK = "snapshot_schedule"
UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
_HELD_SECONDS = 2.0
"""How long the answer about sensors and daemons may be used again."""


@dataclass(frozen=True)
class Switch:
    """A sensor or schedule: whether it runs, and when it is looked at next (seconds since the epoch; null: not known)."""

    id: str
    running: bool
    next_tick: float | None


@dataclass(frozen=True)
class LoopState:
    """What Dagster says about the parts of the loop."""

    version: str
    sensors: dict[str, Switch]
    schedules: dict[str, Switch]
    unhealthy_daemons: tuple[str, ...]
    """Required daemons that have not been heard of lately."""


@dataclass(frozen=True)
class Run:
    """A run of a job."""

    run_id: str
    job: str
    status: str
    tags: dict[str, str]


class DagsterGraphQL:
    """The webserver at one address.

    Parameters
    ----------
    url
        Of the webserver, without ``/graphql``; from the settings, never from a request. Redirects are not followed.
    transport
        Stands in for the network in tests.
    seconds
        How long one answer may take.
    """

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None, seconds: float = 20.0) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(seconds, connect=2.0), trust_env=False, follow_redirects=False)
        self._state: tuple[float, LoopState] | None = None
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()

    async def ask(
        self, document: Document, variables: Mapping[str, Any] | None = None, *, user: str | None = None, seconds: float | None = None
    ) -> dict[str, Any]:
        """The ``data`` of an answer.

        Parameters
        ----------
        user
            Who asks: the run coordinator stamps it on the runs that follow.

        Raises
        ------
        Unavailable
            The webserver does not answer, or answers with errors.
        """
        body = {"query": document.text, "variables": dict(variables or {}), "operationName": document.name}
        headers = {} if user is None else {"X-Forwarded-User": user}
        limit = httpx.USE_CLIENT_DEFAULT if seconds is None else seconds
        try:
            answer = await self._client.post(f"{self.url}/graphql", json=body, headers=headers, timeout=limit)
            content = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"Dagster's webserver at {self.url} does not answer ({type(error).__name__}). Start it with `predator-si up`, or look at its log."
            ) from error
        if not isinstance(content, dict) or content.get("errors") or not isinstance(content.get("data"), dict):
            said = content.get("errors") if isinstance(content, dict) else None
            first = said[0].get("message", "") if isinstance(said, list) and said and isinstance(said[0], dict) else f"HTTP {answer.status_code}"
            raise Unavailable(f"Dagster's webserver at {self.url} refuses {document.name}: {str(first)[:300]}. Its version must be the one that is pinned.")
        found: dict[str, Any] = content["data"]
        return found

    # ------------------------------------------------------------------ questions

    async def state(self, *, fresh: bool = False) -> LoopState:
        """Sensors, schedules and daemons; an answer is used again for two seconds unless a fresh one is wanted."""
        if not fresh and self._state is not None and time.monotonic() - self._state[0] < _HELD_SECONDS:
            return self._state[1]
        asked = time.monotonic()
        async with self._asking:
            if self._state is not None and (self._state[0] >= asked or (not fresh and time.monotonic() - self._state[0] < _HELD_SECONDS)):
                return self._state[1]  # somebody else asked meanwhile
            return await self._ask_state()

    async def _ask_state(self) -> LoopState:
        asked = time.monotonic()
        data = await self.ask(documents.STATE, seconds=10.0)
        repository = _expect(data["repositoryOrError"], "Repository")
        daemons = data["instance"]["daemonHealth"]["allDaemonStatuses"]
        found = LoopState(
            version=data["version"],
            sensors={one["name"]: _switch(one["sensorState"]) for one in repository["sensors"]},
            schedules={one["name"]: _switch(one["scheduleState"]) for one in repository["schedules"]},
            unhealthy_daemons=tuple(sorted(one["daemonType"] for one in daemons if one["required"] and not one["healthy"])),
        )
        self._state = (asked, found)
        return found

    async def runs(self, *, lanes: Collection[Lane] = (), cycle_id: str | None = None, unfinished: bool = True, limit: int = 100) -> list[Run]:
        """Runs, newest first, of these lanes or of one cycle."""
        found: list[Run] = []
        for lane in lanes or (None,):
            tags = [] if lane is None else [{"key": LANE, "value": lane.value}]
            tags += [] if cycle_id is None else [{"key": "dagster/partition", "value": cycle_id}]
            wanted: dict[str, Any] = {"tags": tags, **({"statuses": list(UNFINISHED)} if unfinished else {})}
            data = await self.ask(documents.RUNS, {"filter": wanted, "limit": limit})
            rows = _expect(data["runsOrError"], "Runs")["results"]
            found += [Run(row["runId"], row["jobName"], row["status"], {tag["key"]: tag["value"] for tag in row["tags"]}) for row in rows]
        return found

    async def run(self, run_id: str) -> Run:
        """One run."""
        row = _expect((await self.ask(documents.RUN, {"id": run_id}))["runOrError"], "Run")
        return Run(row["runId"], row["jobName"], row["status"], {})

    # ------------------------------------------------------------------ changes

    async def start_sensor(self, name: str, user: str) -> None:
        """Let a sensor run; one that does stays."""
        self._state = None
        _expect((await self.ask(documents.START_SENSOR, {"selector": documents.sensor(name)}, user=user))["startSensor"], "Sensor")

    async def stop_sensor(self, name: str, user: str) -> bool:
        """Stop a sensor; False where it was stopped."""
        switch = (await self.state(fresh=True)).sensors.get(name)
        if switch is None:
            raise Unavailable(f"Dagster knows no sensor {name}: the code location is not loaded, or another version of it. Look at the webserver's page.")
        self._state = None
        if not switch.running:
            return False
        _expect((await self.ask(documents.STOP_SENSOR, {"id": switch.id}, user=user, seconds=5.0))["stopSensor"], "StopSensorMutationResult")
        return True

    async def launch(self, name: str, tags: dict[str, str], user: str, cycle_id: str | None = None) -> str:
        """Put a job into the queue; its run's id. A cycle becomes a partition first."""
        if cycle_id is not None:
            added = (await self.ask(documents.ADD_PARTITION, {"cycle": cycle_id}, user=user))["addDynamicPartition"]
            _expect(added, "AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")
            tags = {**tags, "dagster/partition": cycle_id}
        data = await self.ask(documents.LAUNCH, {"params": documents.job(name, tags)}, user=user)
        run_id: str = _expect(data["launchRun"], "LaunchRunSuccess")["run"]["runId"]
        return run_id

    async def terminate(self, run_ids: Collection[str], user: str) -> list[str]:
        """Ask runs to end; those that were told. The others end when they look at the kill switch."""
        if not run_ids:
            return []
        data = await self.ask(documents.TERMINATE, {"ids": list(run_ids)}, user=user)
        rows = _expect(data["terminateRuns"], "TerminateRunsResult")["terminateRunResults"]
        return [row["run"]["runId"] for row in rows if row["__typename"] == "TerminateRunSuccess"]


def _switch(state: Mapping[str, Any]) -> Switch:
    tick = state["nextTick"]
    return Switch(state["id"], state["status"] == "RUNNING", None if tick is None else tick["timestamp"])


def _expect(answer: dict[str, Any], *types: str) -> dict[str, Any]:
    """The answer of a union, where it is one of the good types."""
    kind = answer.get("__typename", "")
    if kind in types:
        return answer
    message = " ".join(str(answer.get("message", "no message")).split())[:300]
    error: type[PredatorError] = Refused if kind == "UnauthorizedError" else Unavailable
    raise error(f"Dagster answers {kind}: {message}. Look at the webserver's page, or at `predator-si logs dagster`.")
