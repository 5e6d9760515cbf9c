"""The GraphQL that is sent is what the pinned Dagster understands, and the cookbook does what it says: on the real schema, resolvers and instance."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import graphql
import pytest

from predator_si.api import documents
from predator_si.api.documents import DOCUMENTS
from predator_si.home import DAGSTER_INSTANCE
from predator_si_tests.support.dagster_peer import real_schema

COOKBOOK = Path(__file__).resolve().parents[2] / "docs" / "graphql.md"
BLOCKS = re.findall(r"```graphql\n(.*?)```(?:\s*```json\n(.*?)```)?", COOKBOOK.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.name)
def test_every_document_is_valid(document: documents.Document):
    parsed = graphql.parse(document.text)
    assert graphql.validate(real_schema(), parsed) == []
    [operation] = parsed.definitions
    assert isinstance(operation, graphql.OperationDefinitionNode) and operation.name is not None and operation.name.value == document.name


def test_launch_parameters_fit_their_type():
    params = documents.job("cycle_prepare_job", {"dagster/partition": "si_2026_01_31_001"})
    wrong: list[str] = []
    kind = real_schema().type_map["ExecutionParams"]
    assert isinstance(kind, graphql.GraphQLInputObjectType)
    graphql.coerce_input_value(params, kind, lambda path, value, error: wrong.append(f"{path}: {error}"))
    assert wrong == []


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The real webserver's GraphQL over our definitions in this process, with our run coordinator; returns the function that asks it."""
    import os

    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster_graphql.test.utils import execute_dagster_graphql

    folder = tmp_path_factory.mktemp("cookbook")
    instance_folder = folder / "home" / "dagster"
    instance_folder.mkdir(parents=True)
    (instance_folder / "dagster.yaml").write_text(DAGSTER_INSTANCE)
    before = dict(os.environ)
    os.environ.update({"PREDATOR_SI_HOME": str(folder / "home"), "DAGSTER_HOME": str(instance_folder)})
    try:
        target = ModuleTarget(module_name="predator_si.definitions", attribute=None, working_directory=None, location_name="predator_si")
        with dg.DagsterInstance.from_config(str(instance_folder)) as instance, WorkspaceProcessContext(instance, target) as process:

            def ask(text: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
                result = execute_dagster_graphql(process.create_request_context(), text, variables)
                assert not result.errors, result.errors
                return dict(result.data)

            ask.instance = instance  # type: ignore[attr-defined]
            yield ask
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.slow
def test_the_cookbook_does_what_it_says(dagster: Any):
    assert len(BLOCKS) >= 12
    state, launched, said = "", "", {}
    for text, variables in BLOCKS:
        name = re.search(r"(?:query|mutation) (\w+)", text)
        assert name is not None
        values = (variables or "{}").replace("ID OF THE SENSOR'S STATE", state).replace("ID OF A RUN", launched)
        answer = dagster(text, json.loads(values))
        said[name[1]] = answer
        [body] = answer.values() if len(answer) == 1 else [None]
        if isinstance(body, dict):
            assert not str(body.get("__typename", "")).endswith("Error"), (name[1], body)
        if name[1] == "SensorState":
            state = body["sensorState"]["id"]
        if name[1] == "LaunchJob":
            launched = body["run"]["runId"]
    assert said["AddCyclePartition"]["addDynamicPartition"]["partitionKey"] == "si_2026_11_23_001"
    assert said["StartSensor"]["startSensor"]["sensorState"]["status"] == "RUNNING"
    assert said["StopSensor"]["stopSensor"]["instigationState"]["status"] == "STOPPED"
    assert said["TerminateRuns"]["terminateRuns"]["terminateRunResults"][0]["run"]["runId"] == launched
    assert "si_2026_11_23_001" in said["CyclePartitions"]["assetNodes"][0]["partitionKeys"]
    [lineage] = said["Lineage"]["assetNodes"]
    assert {"path": ["cycle", "optimized_reranker"]} in lineage["dependencyKeys"] and lineage["groupName"] == "cycle"
    run = dagster.instance.get_run_by_id(launched)
    assert run is not None and run.status is dg.DagsterRunStatus.CANCELED and run.tags["predator/actor"] and run.tags["predator/lane"] == "cycle"
    assert any(one["daemonType"] == "SENSOR" for one in said["Daemons"]["instance"]["daemonHealth"]["allDaemonStatuses"])


@pytest.mark.slow
def test_what_the_facade_sends_works_there(dagster: Any):
    state = dagster(documents.STATE.text)
    assert state["repositoryOrError"]["__typename"] == "Repository"
    assert {"quality_gate_sensor", "cycle_advance_sensor", "rollback_sensor"} <= {one["name"] for one in state["repositoryOrError"]["sensors"]}
    assert "snapshot_schedule" in {one["name"] for one in state["repositoryOrError"]["schedules"]}
    dagster(documents.ADD_PARTITION.text, {"cycle": "si_2026_01_31_002"})
    launched = dagster(
        documents.LAUNCH.text, {"params": documents.job("rollback_job", {"dagster/partition": "si_2026_01_31_002", "predator/actor": "api:anna"})}
    )
    run_id = launched["launchRun"]["run"]["runId"]
    found = dagster(documents.RUNS.text, {"filter": {"tags": [{"key": "predator/lane", "value": "rollback"}], "statuses": ["QUEUED"]}, "limit": 5})
    [run] = found["runsOrError"]["results"]
    assert run["runId"] == run_id and {"key": "predator/actor", "value": "api:anna"} in run["tags"]
    assert dagster(documents.RUN.text, {"id": run_id})["runOrError"]["status"] == "QUEUED"
