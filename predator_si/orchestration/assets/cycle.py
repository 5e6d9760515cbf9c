"""One pass of the loop, from the reason of a drop to the model that serves."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg

from predator_si.orchestration.assets.external import JUDGMENTS
from predator_si.orchestration.links import linked
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metadata import (
    champion_metadata,
    check_results,
    decision_metadata,
    evaluation_metadata,
    experiment_metadata,
    files,
    gate_specs,
    latency_metadata,
    scalars,
)
from predator_si.orchestration.op_tags import GPU_K8S_CONFIG, GPU_POOL, K8S_CONFIG
from predator_si.orchestration.partitions import cycles
from predator_si.orchestration.steps import act as acting
from predator_si.orchestration.steps import again, improve, prepare
from predator_si.orchestration.steps import decide as deciding
from predator_si.orchestration.steps import trial as trying
from predator_si.records import CycleState, ExperimentResult, Verdict
from predator_si.release.criteria import PROMOTION_CRITERIA
from predator_si.release.recompute import earlier_steps
from predator_si.reports.dataset_card import DATASET_CARD
from predator_si.reports.pages import dataset_url, trial_url
from predator_si.reports.trial import write_trial_page
from predator_si.train.tracking import ExperimentTracker

_PROMOTION = [criterion for criteria in PROMOTION_CRITERIA.values() for criterion in criteria]
_TRIAL_SPECS = gate_specs(["cycle", "trial_decision"], _PROMOTION, blocking=True)
_RELEASE_SPECS = gate_specs(["cycle", "release_decision"], _PROMOTION, blocking=True)
_EXPERIMENT_CHECK = dg.AssetCheckSpec(
    "no_harm", asset=dg.AssetKey(["cycle", "experiment_result"]), partitions_def=cycles, description="No guardrail of the trial failed."
)
_DEPLOYED_CHECK = dg.AssetCheckSpec(
    "digest_served", asset=dg.AssetKey(["cycle", "deployment"]), blocking=True, partitions_def=cycles, description="The service reports the committed digest."
)
if TYPE_CHECKING:
    Result = dg.MaterializeResult[Any]
else:
    Result = dg.MaterializeResult  # Dagster does not know the annotation with a parameter
LoopParam = dg.ResourceParam[Loop]
TrackerParam = dg.ResourceParam[ExperimentTracker]


def cycle_asset(**own: Any) -> Callable[[Callable[..., Result]], dg.AssetsDefinition]:
    """``dg.asset`` for what one cycle makes: a partition each, in one group with one owner, with links to where the cycle can be looked at."""
    decorator: Callable[[Callable[..., Result]], dg.AssetsDefinition] = dg.asset(
        partitions_def=cycles, group_name="cycle", owners=["team:search"], code_version="1", **own
    )
    return lambda step: decorator(linked(step))


class Drill(dg.Config):
    """Run configuration of the release job: only an explicit drill may push a model past the gates."""

    drill: bool = False


@cycle_asset(key=["cycle", "diagnostic_report"], kinds={"polars"}, deps=[["observe", "metrics_snapshot"]])
def diagnostic_report(context: dg.AssetExecutionContext, loop: LoopParam) -> Result:
    """Why the metric dropped: service, data, retrieval miss or rerank miss; weak words, slices, new vocabulary."""
    with loop.working_on(context.partition_key) as cycle:
        report = prepare.report_causes(loop, cycle.cycle_id)
    return Result(metadata={"cause": report.root_cause_analysis.type, "affected": report.root_cause_analysis.affected_categories, **scalars(report.misses),
                            **files(loop.artifacts(report.cycle_id) / "diagnostic_report.json")})  # fmt: skip


@cycle_asset(key=["cycle", "chosen_action"], kinds={"polars"}, deps=[diagnostic_report])
def chosen_action(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """What needs no training, weighed on dev queries: a faster backend, another depth or fusion, a smaller or an earlier model, more workers."""
    with loop.working_on(context.partition_key) as cycle:
        plan = acting.act(loop, cycle.cycle_id, tracker, lambda done, total: context.log.info("option %s of %s", done, total))
    rows = [dg.TableRecord({"action": one.action, "what": one.note, "passes": str(one.passes), "measured": one.reason}) for one in plan.tried]
    found = {"tried": dg.MetadataValue.table(rows), "not_built": dg.MetadataValue.json(plan.not_built)} if rows else {}
    return Result(metadata={**found, "action": plan.action or "none", **scalars(plan), **files(loop.artifacts(cycle.cycle_id) / acting.PLAN)})


@cycle_asset(key=["cycle", "synthetic_dataset"], kinds={"polars", "parquet"}, deps=[diagnostic_report])
def synthetic_dataset(context: dg.AssetExecutionContext, loop: LoopParam) -> Result:
    """Training groups aimed at the report's findings, versioned with DVC."""
    with loop.working_on(context.partition_key) as cycle:
        dataset = prepare.build_data(loop, cycle.cycle_id, lambda done, total: context.log.debug("data: %s of %s", done, total))
    folder = loop.artifacts(cycle.cycle_id)
    return Result(
        metadata={
            "examples": dataset.examples.height,
            "dataset": dataset.dataset_id,
            "card": dg.MetadataValue.url(dataset_url(loop.settings.ports.api, cycle.cycle_id)),
            **files(folder / "dataset_manifest.yaml", folder / "augmented_dataset.parquet", folder / DATASET_CARD),
        }
    )


@cycle_asset(key=["cycle", "reranker_model"], kinds={"pytorch", "mlflow"}, deps=[synthetic_dataset], pool=GPU_POOL, op_tags={K8S_CONFIG: GPU_K8S_CONFIG})
def reranker_model(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """The champion's weights, fine-tuned on the cycle's data; resumes from a checkpoint."""
    with loop.working_on(context.partition_key) as cycle:
        trained = improve.train_model(
            loop, cycle.cycle_id, tracker, lambda done, total: context.log.info("step %s of %s", done, total) if done % 25 == 0 else None
        )
    return Result(metadata=scalars(trained), data_version=dg.DataVersion(trained.digest))


@cycle_asset(key=["cycle", "optimized_reranker"], kinds={"openvino", "onnx"}, deps=[reranker_model])
def optimized_reranker(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """The fastest way to run the new model on this chip that keeps its ranking, query by query."""
    with loop.working_on(context.partition_key) as cycle:
        found = improve.shrink_model(loop, cycle.cycle_id, tracker)
    rows = [
        dg.TableRecord({"backend": one.backend, "p50_ms": round(one.p50_ms, 1), "p95_ms": round(one.p95_ms, 1), "non_inferior": str(one.non_inferior)})
        for one in found.variants
    ]
    return Result(metadata={**scalars(found), "variants": dg.MetadataValue.table(rows)}, data_version=dg.DataVersion(found.chosen))


@cycle_asset(key=["cycle", "evaluation"], kinds={"polars"}, deps=[optimized_reranker, chosen_action, JUDGMENTS])
def evaluation(context: dg.AssetExecutionContext, loop: LoopParam) -> Result:
    """Champion and challenger on the same sealed queries, candidates, depth and fusion, with the interval of the difference."""
    with loop.working_on(context.partition_key) as cycle:
        ended = again.end_if_rejected_before(loop, cycle.cycle_id)
        if ended is not None:
            return Result(metadata={"evaluated": False, "reason": ended})
        found, frame = improve.evaluate_challenger(loop, cycle.cycle_id)
    folder = loop.artifacts(cycle.cycle_id)
    return Result(metadata={**evaluation_metadata(found, frame), **files(folder / "evaluation.json", folder / found.per_query)})


@cycle_asset(key=["cycle", "trial_decision"], kinds={"python"}, deps=[evaluation], check_specs=_TRIAL_SPECS)
def trial_decision(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """May the challenger be tried on a share of the traffic? A failed criterion blocks the patch."""
    with loop.working_on(context.partition_key) as cycle:
        decision = deciding.decide(loop, cycle.cycle_id, "trial", tracker=tracker)
    return Result(metadata=decision_metadata(decision), check_results=check_results(["cycle", "trial_decision"], decision.gates, _TRIAL_SPECS))


@cycle_asset(key=["cycle", "trial_patch"], kinds={"git", "helm"}, deps=[trial_decision])
def trial_patch(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """The challenger at a share of the clients: a commit, made from a recomputed decision, and the service's word that it serves."""
    with loop.working_on(context.partition_key) as cycle:
        if loop.control.cycle(cycle.cycle_id).state is CycleState.REJECTED:
            return Result(metadata={"committed": False, "reason": "the trial decision does not allow it"})
        patch = deciding.commit(loop, cycle.cycle_id, "trial")
        deployment = deciding.deploy(loop, cycle.cycle_id, "trial", tracker)
    return Result(metadata={"commit": patch.commit or "", "seconds": deployment.seconds, "changes": dg.MetadataValue.json(patch.changes)})


@cycle_asset(key=["cycle", "experiment_result"], kinds={"polars"}, deps=[trial_patch], check_specs=[_EXPERIMENT_CHECK])
def experiment_result(context: dg.AssetExecutionContext, loop: LoopParam) -> Result:
    """One look at the trial on live traffic: validity, guardrails and slices by sequences that allow any look; it goes on, takes its next step, or ends."""
    with loop.working_on(context.partition_key) as cycle:
        looked = trying.judge_trial(loop, cycle.cycle_id)
    result = looked.result
    folder = loop.artifacts(cycle.cycle_id)
    page = write_trial_page(folder, looked.trial, result, [ExperimentResult.read(folder / name) for name in earlier_steps(folder)])
    check = dg.AssetCheckResult(
        check_name="no_harm",
        passed=result.verdict is Verdict.PROMOTE,
        severity=dg.AssetCheckSeverity.ERROR if result.verdict is Verdict.REJECT else dg.AssetCheckSeverity.WARN,
        metadata={"reason": result.reason, "verdict": result.verdict.value},
    )  # fmt: skip
    return Result(
        metadata={**experiment_metadata(result, looked.trial), **files(page), "page": dg.MetadataValue.url(trial_url(loop.settings.ports.api, cycle.cycle_id)),
                  **(latency_metadata(looked.times) if looked.times else {})},
        check_results=[check],
    )  # fmt: skip


@cycle_asset(key=["cycle", "release_decision"], kinds={"python"}, deps=[experiment_result], check_specs=_RELEASE_SPECS)
def release_decision(context: dg.AssetExecutionContext, config: Drill, loop: LoopParam, tracker: TrackerParam) -> Result:
    """May the challenger become the champion? All criteria, the trial, and where the contour wants it a person."""
    with loop.working_on(context.partition_key) as cycle:
        decision = deciding.decide(loop, cycle.cycle_id, "promote", drill=config.drill, tracker=tracker)
    gates = [] if config.drill else decision.gates  # a drill goes past the gates; the decision itself and the ledger say so
    return Result(metadata=decision_metadata(decision), check_results=check_results(["cycle", "release_decision"], gates, _RELEASE_SPECS))


@cycle_asset(key=["cycle", "helm_patch"], kinds={"git", "helm"}, deps=[release_decision])
def helm_patch(context: dg.AssetExecutionContext, config: Drill, loop: LoopParam) -> Result:
    """The commit that makes the challenger the champion; stored with its reverse. Recomputes the decision and refuses otherwise."""
    with loop.working_on(context.partition_key) as cycle:
        if (why := deciding.may_commit(loop, cycle.cycle_id)) is not None:
            return Result(metadata={"committed": False, "reason": why})
        patch = deciding.commit(loop, cycle.cycle_id, "promote", allow_drill=config.drill)
    return Result(metadata={"commit": patch.commit or "", "changes": dg.MetadataValue.json(patch.changes), "reverse": dg.MetadataValue.json(patch.reverse)})


@cycle_asset(key=["cycle", "deployment"], kinds={"git"}, deps=[helm_patch], check_specs=[_DEPLOYED_CHECK])
def deployment(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """The service's own word: the digest of the bytes it loaded is the committed one, or the release failed and was taken back."""
    with loop.working_on(context.partition_key) as cycle:
        if (why := deciding.may_commit(loop, cycle.cycle_id)) is not None:
            result = dg.AssetCheckResult(check_name="digest_served", passed=True, metadata={"reason": f"nothing was deployed: {why}"})
            return Result(metadata={"deployed": False}, check_results=[result])
        found = deciding.deploy(loop, cycle.cycle_id, "promote", tracker)
    served = dg.AssetCheckResult(
        check_name="digest_served", passed=found.confirmed, metadata={"served": found.served_digest or "unknown", "reason": found.reason}
    )
    return Result(metadata={**scalars(found), **champion_metadata(loop.control.champions(loop.contour, 20))}, check_results=[served])


CYCLE_ASSETS = [
    diagnostic_report, chosen_action, synthetic_dataset, reranker_model, optimized_reranker, evaluation, trial_decision, trial_patch, experiment_result,
    release_decision, helm_patch, deployment,
]  # fmt: skip
