"""After a release: the watch, and the way back."""

import dagster as dg

from predator_si.orchestration.assets.cycle import LoopParam, Result, TrackerParam, cycle_asset, deployment
from predator_si.orchestration.metadata import champion_metadata, check_results, files, gate_specs, scalars
from predator_si.orchestration.metering import metered
from predator_si.orchestration.partitions import cycles
from predator_si.orchestration.steps import keep
from predator_si.release.watch import WatchPlan, watch_criteria

_PLAN = WatchPlan(cycle_id="si_2000_01_01_001", released_digest="sha256:" + "0" * 64, max_lag_seconds=120.0)
WATCH_SPECS = gate_specs(["cycle", "watch"], watch_criteria(_PLAN), blocking=False)
_BACK_CHECK = dg.AssetCheckSpec(
    "old_digest_served", asset=dg.AssetKey(["cycle", "rollback"]), partitions_def=cycles, description="The service reports the old digest again."
)


@cycle_asset(key=["cycle", "watch"], kinds={"polars"}, deps=[deployment], check_specs=WATCH_SPECS)
def watch(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """One check of the release over the traffic since the last; a failed ERROR check starts the rollback."""
    with metered(loop, context.partition_key, "watch"):
        result = keep.watch_once(loop, context.partition_key, tracker=tracker)
    report = keep.write_report(loop, context.partition_key)
    metadata = {**scalars({"answer": result.answer, "reason": result.reason, "requests": result.requests, "failed": result.failed_requests}), **files(report)}
    return Result(metadata=metadata, check_results=check_results(["cycle", "watch"], result.gates, WATCH_SPECS))


@cycle_asset(key=["cycle", "rollback"], kinds={"git"}, deps=[watch], check_specs=[_BACK_CHECK])
def rollback(context: dg.AssetExecutionContext, loop: LoopParam, tracker: TrackerParam) -> Result:
    """Reverse patch and deny list in one commit, the alias back, the old digest verified at the service."""
    with metered(loop, context.partition_key, "rollback"):
        found = keep.roll_back_degraded(loop, context.partition_key, tracker)
    keep.write_report(loop, context.partition_key)
    verified = dg.AssetCheckResult(check_name="old_digest_served", passed=found.verified, metadata={"reason": found.reason, "digest": found.to_digest})
    return Result(metadata={**scalars(found), **champion_metadata(loop.control.champions(loop.contour, 20))}, check_results=[verified])


KEEP_ASSETS = [watch, rollback]
