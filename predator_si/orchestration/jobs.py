"""The jobs: short ones, chained by the cycle's state, so that no process waits for traffic or people."""

from __future__ import annotations

import json
from functools import cache

import dagster as dg

from predator_si.contour import Resources
from predator_si.orchestration.op_tags import K8S_CONFIG, Lane, gpu_k8s_config
from predator_si.orchestration.partitions import cycles
from predator_si.records import CycleState

TRAINING_MAX_RUNTIME = {"dagster/max_runtime": "14400"}


def _selection(*names: str) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*[["cycle", name] for name in names])


def _job(name: str, lane: Lane, *assets: str, description: str, tags: dict[str, str] | None = None) -> dg.UnresolvedAssetJobDefinition:  # type: ignore[name-defined]
    return dg.define_asset_job(
        name,
        selection=_selection(*assets),
        partitions_def=cycles,
        tags={**lane.tags, **(tags or {})},
        description=description,
        executor_def=dg.in_process_executor,
    )


observe_job = dg.define_asset_job(
    "observe_job",
    selection=dg.AssetSelection.assets(["observe", "metrics_snapshot"], ["observe", "quality_report"], ["observe", "judgments"]),
    tags=Lane.OBSERVE.tags,
    description="The 15-minute tick: a snapshot, its report, and the labels behind it.",
    executor_def=dg.in_process_executor,
)
warehouse_job = dg.define_asset_job(
    "warehouse_job",
    selection=dg.AssetSelection.groups("warehouse"),
    tags={**Lane.UPKEEP.tags, "dagster/priority": "-1", "dagster/max_runtime": "3600"},
    description="The marts of what has changed, tested, and compared with the newest snapshot. It yields to everything else.",
    executor_def=dg.in_process_executor,
)
aa_replay_job = dg.define_asset_job(
    "aa_replay_job",
    selection=dg.AssetSelection.assets(["observe", "aa_replay"], ["experiment", "operating_characteristics"]),
    tags={**Lane.UPKEEP.tags, "dagster/priority": "-1", "dagster/max_runtime": "3600"},
    description="Is a model called worse than itself (A/A), and what did the newest simulation find? It yields to everything else.",
    executor_def=dg.in_process_executor,
)
cycle_prepare_job = _job("cycle_prepare_job", Lane.CYCLE, "diagnostic_report", "synthetic_dataset", description="Why it got worse, and what to train on.")
cycle_act_job = _job("cycle_act_job", Lane.CYCLE, "diagnostic_report", "chosen_action", description="What needs no training: backend, depth, fusion, workers.")
cycle_evaluate_job = _job("cycle_evaluate_job", Lane.CYCLE, "evaluation", description="Champion against challenger on sealed queries.")
cycle_trial_job = _job("cycle_trial_job", Lane.CYCLE, "trial_decision", "trial_patch", description="The challenger gets its share of the clients.")
cycle_judge_job = _job("cycle_judge_job", Lane.CYCLE, "experiment_result", description="The trial's verdict, once there is enough traffic.")
cycle_release_job = _job("cycle_release_job", Lane.CYCLE, "release_decision", "helm_patch", "deployment", description="The challenger becomes the champion.")
watch_job = _job("watch_job", Lane.WATCH, "watch", description="One check of the newest release.")
rollback_job = _job("rollback_job", Lane.ROLLBACK, "rollback", description="The way back.", tags={"dagster/priority": "100"})


@cache
def training_job(resources: Resources) -> dg.UnresolvedAssetJobDefinition:  # type: ignore[name-defined]
    """The only job that holds a GPU, where the contour has one: elsewhere the tag would keep its pod waiting for a node that never comes."""
    gpu = gpu_k8s_config(max(1, resources.gpu_count), resources.gpu_type or "nvidia") if resources.gpu else None
    return _job(
        "cycle_train_job",
        Lane.TRAIN,
        "reranker_model",
        "optimized_reranker",
        description="The only job that holds a GPU.",
        tags={**({K8S_CONFIG: json.dumps(gpu, sort_keys=True)} if gpu else {}), **TRAINING_MAX_RUNTIME},
    )


@cache
def jobs(resources: Resources) -> tuple[dg.UnresolvedAssetJobDefinition, ...]:  # type: ignore[name-defined]
    """Every job of a contour whose training may use these resources; the same objects each time, as Dagster wants them."""
    return (
        observe_job, warehouse_job, aa_replay_job, cycle_act_job, cycle_prepare_job, training_job(resources), cycle_evaluate_job, cycle_trial_job,
        cycle_judge_job, cycle_release_job, watch_job, rollback_job,
    )  # fmt: skip


NEXT_JOB: dict[CycleState, str] = {
    CycleState.OPENED: "cycle_prepare_job",
    CycleState.PREPARED: "cycle_train_job",
    CycleState.TRAINED: "cycle_evaluate_job",
    CycleState.EVALUATED: "cycle_trial_job",
    CycleState.ON_TRIAL: "cycle_judge_job",
    CycleState.DECIDED: "cycle_release_job",
    CycleState.RELEASED: "watch_job",
    CycleState.WATCHING: "watch_job",
}
"""What a cycle in a state needs next; a run that was killed is simply needed again. A trial is judged only when its traffic suffices, an
approval is given by a person, so neither state is in a hurry. A trigger that has actions without training begins with these (``sensors.job_for``)."""
