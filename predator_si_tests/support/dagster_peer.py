"""A Dagster webserver's GraphQL in this process: every document and every answer is held to the schema of the installed version, nothing is run.

The schema is printed by dagster-graphql itself and built anew, so that resolvers of ours take the place of the real ones while types stay the real ones.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from typing import Any

import graphql
import httpx


@functools.cache
def real_schema() -> graphql.GraphQLSchema:
    """The schema of the installed webserver."""
    from dagster_graphql.schema import create_schema

    found: graphql.GraphQLSchema = create_schema().graphql_schema
    return found


@functools.cache
def bare_schema() -> graphql.GraphQLSchema:
    """The same types without resolvers."""
    return graphql.build_schema(graphql.print_schema(real_schema()))


@functools.cache
def _document(text: str) -> graphql.DocumentNode:
    parsed = graphql.parse(text)
    wrong = graphql.validate(bare_schema(), parsed)
    assert not wrong, wrong
    return parsed


class DagsterPeer:
    """One webserver: sensors that can be turned, runs that can be launched and ended."""

    def __init__(self) -> None:
        self.down = False
        self.deaf = False
        """Whether runs refuse to be told."""
        names = ("intake_sensor", "quality_gate_sensor", "cycle_advance_sensor", "rollback_sensor", "cycle_failure_sensor", "service_guard_sensor")
        self.sensors = dict.fromkeys(names, True)
        self.partitions: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.users: list[str | None] = []
        """Who asked, by the header that the coordinator reads, for each document."""
        self.asked: list[str] = []
        self.healthy = True
        self.next_tick = time.time() + 600

    def transport(self) -> httpx.MockTransport:
        """Stands in for the network."""
        return httpx.MockTransport(self._answer)

    def run(self, job: str, lane: str = "cycle", status: str = "STARTED", **tags: str) -> str:
        """A run that is there already."""
        run_id = f"run-{len(self.runs)}"
        self.runs.append({"runId": run_id, "jobName": job, "status": status, "tags": {"predator/lane": lane, **tags}})
        return run_id

    # ------------------------------------------------------------------ the wire

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        assert request.url.path == "/graphql" and request.method == "POST", request.url
        body = json.loads(request.content)
        self.asked.append(body["operationName"])
        self.users.append(request.headers.get("x-forwarded-user"))
        result = graphql.execute_sync(
            bare_schema(), _document(body["query"]), self._root(), variable_values=body["variables"], operation_name=body["operationName"]
        )
        content: dict[str, Any] = {"data": result.data}
        if result.errors:
            content["errors"] = [{"message": str(error)} for error in result.errors]
        return httpx.Response(200, json=content)

    def _root(self) -> dict[str, Any]:
        return {
            "version": "1.13.27",
            "repositoryOrError": lambda info, repositorySelector: self._repository(repositorySelector),
            "instance": {"daemonHealth": {"allDaemonStatuses": [
                {"daemonType": "SENSOR", "required": True, "healthy": self.healthy, "lastHeartbeatTime": time.time()},
                {"daemonType": "BACKFILL", "required": False, "healthy": None, "lastHeartbeatTime": None},
            ]}},
            "runsOrError": lambda info, filter=None, cursor=None, limit=None: self._runs(filter or {}),
            "runOrError": lambda info, runId: next(({"__typename": "Run", **_told(run)} for run in self.runs if run["runId"] == runId), _missing("Run")),
            "startSensor": lambda info, sensorSelector: self._turn(sensorSelector["sensorName"], True),
            "stopSensor": lambda info, id=None, **_: {"__typename": "StopSensorMutationResult", "instigationState": self._turn(str(id), False)["sensorState"]},
            "addDynamicPartition": lambda info, partitionKey, **_: self._add(partitionKey),
            "launchRun": lambda info, executionParams: self._launch(executionParams),
            "terminateRuns": lambda info, runIds, terminatePolicy=None: self._terminate(runIds),
        }  # fmt: skip

    def _repository(self, selector: Mapping[str, str]) -> dict[str, Any]:
        assert selector == {"repositoryLocationName": "predator_si", "repositoryName": "__repository__"}
        state = {"id": "schedule", "status": "RUNNING", "nextTick": {"timestamp": self.next_tick}}
        schedules = [{"name": name, "scheduleState": state} for name in ("snapshot_schedule", "warehouse_schedule")]
        return {"__typename": "Repository", "sensors": [self._sensor(name) for name in self.sensors], "schedules": schedules}

    def _sensor(self, name: str) -> dict[str, Any]:
        on = self.sensors[name]
        state = {"id": name, "status": "RUNNING" if on else "STOPPED", "nextTick": {"timestamp": time.time() + 30} if on else None}
        return {"__typename": "Sensor", "name": name, "sensorState": state}

    def _turn(self, name: str, on: bool) -> dict[str, Any]:
        self.sensors[name] = on
        return self._sensor(name)

    def _add(self, key: str) -> dict[str, Any]:
        if key in self.partitions:
            return {"__typename": "DuplicateDynamicPartitionError", "message": f"{key} is there"}
        self.partitions.append(key)
        return {"__typename": "AddDynamicPartitionSuccess", "partitionsDefName": "cycles", "partitionKey": key}

    def _launch(self, params: Mapping[str, Any]) -> dict[str, Any]:
        tags = {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
        if "dagster/partition" in tags:
            assert tags["dagster/partition"] in self.partitions, "a partition must be there before its run"
        run_id = self.run(params["selector"]["jobName"], status="QUEUED", **tags)
        return {"__typename": "LaunchRunSuccess", "run": {"runId": run_id, "status": "QUEUED"}}

    def _runs(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        tags = {(tag["key"], tag["value"]) for tag in wanted.get("tags") or ()}
        statuses = wanted.get("statuses")
        found = [run for run in self.runs[::-1] if tags <= set(run["tags"].items()) and (statuses is None or run["status"] in statuses)]
        return {"__typename": "Runs", "results": [_told(run) for run in found]}

    def _terminate(self, run_ids: list[str]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for run in self.runs:
            if run["runId"] in run_ids:
                if self.deaf:
                    rows.append({"__typename": "TerminateRunFailure", "message": "nobody hears", "run": _told(run)})
                else:
                    run["status"] = "CANCELED"
                    rows.append({"__typename": "TerminateRunSuccess", "run": _told(run)})
        return {"__typename": "TerminateRunsResult", "terminateRunResults": rows}


def _told(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run, "startTime": None, "endTime": None, "tags": [{"key": key, "value": value} for key, value in run["tags"].items()]}


def _missing(what: str) -> dict[str, Any]:
    return {"__typename": f"{what}NotFoundError", "message": "not there"}
