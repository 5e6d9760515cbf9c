"""The GraphQL that this facade speaks to Dagster's webserver, by name; a test validates each against the schema of the installed version.

What belongs here: documents. What must not: sending them (``graphql``).
"""

from __future__ import annotations

from dataclasses import dataclass

LOCATION = "predator_si"
REPOSITORY = "__repository__"


@dataclass(frozen=True)
class Document:
    """One GraphQL operation."""

    name: str
    text: str


_SELECTOR = f'{{repositoryLocationName: "{LOCATION}", repositoryName: "{REPOSITORY}"}}'

STATE = Document(
    "LoopState",
    f"""query LoopState {{
  version
  repositoryOrError(repositorySelector: {_SELECTOR}) {{
    __typename
    ... on Repository {{
      sensors {{ name sensorState {{ id status nextTick {{ timestamp }} }} }}
      schedules {{ name scheduleState {{ id status nextTick {{ timestamp }} }} }}
    }}
    ... on Error {{ message }}
  }}
  instance {{ daemonHealth {{ allDaemonStatuses {{ daemonType required healthy lastHeartbeatTime }} }} }}
}}""",
)
START_SENSOR = Document(
    "StartSensor",
    """mutation StartSensor($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on Sensor { name sensorState { id status } } ... on Error { message } }
}""",
)
STOP_SENSOR = Document(
    "StopSensor",
    """mutation StopSensor($id: String!) {
  stopSensor(id: $id) { __typename ... on StopSensorMutationResult { instigationState { id status } } ... on Error { message } }
}""",
)
ADD_PARTITION = Document(
    "AddCyclePartition",
    f"""mutation AddCyclePartition($cycle: String!) {{
  addDynamicPartition(repositorySelector: {_SELECTOR}, partitionsDefName: "cycles", partitionKey: $cycle) {{
    __typename ... on AddDynamicPartitionSuccess {{ partitionKey }} ... on Error {{ message }}
  }}
}}""",
)
LAUNCH = Document(
    "LaunchJob",
    """mutation LaunchJob($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId status } } ... on Error { message } }
}""",
)
RUNS = Document(
    "Runs",
    """query Runs($filter: RunsFilter!, $limit: Int) {
  runsOrError(filter: $filter, limit: $limit) {
    __typename ... on Runs { results { runId jobName status startTime endTime tags { key value } } } ... on Error { message }
  }
}""",
)
RUN = Document(
    "OneRun",
    """query OneRun($id: ID!) {
  runOrError(runId: $id) { __typename ... on Run { runId jobName status startTime endTime } ... on Error { message } }
}""",
)
TERMINATE = Document(
    "TerminateRuns",
    """mutation TerminateRuns($ids: [String!]!) {
  terminateRuns(runIds: $ids, terminatePolicy: SAFE_TERMINATE) {
    __typename
    ... on TerminateRunsResult { terminateRunResults { __typename ... on TerminateRunSuccess { run { runId } } ... on Error { message } } }
    ... on Error { message }
  }
}""",
)
BACKFILL = Document(
    "BackfillCycles",
    """mutation BackfillCycles($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId launchedRunIds } ... on Error { message }
  }
}""",
)
LINEAGE = Document(
    "Lineage",
    """query Lineage($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) { assetKey { path } groupName isPartitioned dependencyKeys { path } dependedByKeys { path } }
}""",
)
CHECKS = Document(
    "Checks",
    """query Checks($key: AssetKeyInput!, $check: String!, $cycle: String, $limit: Int!) {
  assetCheckExecutions(assetKey: $key, checkName: $check, partition: $cycle, limit: $limit) {
    status timestamp partition runId evaluation { success severity metadataEntries { label } }
  }
}""",
)
PARTITIONS = Document(
    "CyclePartitions",
    """query CyclePartitions($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) { assetKey { path } partitionKeys assetMaterializations(limit: 5) { partition runId timestamp } }
}""",
)

DOCUMENTS: tuple[Document, ...] = (
    STATE, START_SENSOR, STOP_SENSOR, ADD_PARTITION, LAUNCH, RUNS, RUN, TERMINATE, BACKFILL, LINEAGE, CHECKS, PARTITIONS,
)  # fmt: skip
"""Everything that is sent, and the three that only the cookbook shows (docs/graphql.md)."""


def sensor(name: str) -> dict[str, str]:
    """``SensorSelector`` of a sensor of ours."""
    return {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "sensorName": name}


def job(name: str, tags: dict[str, str]) -> dict[str, object]:
    """``ExecutionParams`` of a whole job; a cycle is the tag ``dagster/partition``."""
    selector = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "jobName": name}
    return {"selector": selector, "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in sorted(tags.items())]}}
