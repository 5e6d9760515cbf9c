"""What every tick sees."""

from datetime import timedelta
from typing import Any

import dagster as dg

from predator_si.errors import PredatorError
from predator_si.orchestration.assets.external import EVENTS, JUDGMENTS
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metadata import (
    anomaly_check,
    anomaly_spec,
    champion_metadata,
    check_results,
    gate_specs,
    judgment_metadata,
    page_metadata,
    scalars,
    snapshot_metadata,
)
from predator_si.orchestration.steps import judge, observe, quality, references, same
from predator_si.orchestration.steps.follow_up import follow_up
from predator_si.release.champions import champions_of
from predator_si.settings import Settings

_KEY = ["observe", "metrics_snapshot"]
_NO_WOLF = dg.AssetCheckSpec("no_false_alarms", asset=dg.AssetKey(["observe", "aa_replay"]), description="A model is not called worse than itself")
_CHAMPIONS = 20
"""Newest ones shown with a snapshot."""


def observe_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The observing assets of a contour; its gates are checks on the snapshot."""
    specs = gate_specs(_KEY, settings.quality_gates, blocking=False)

    @dg.asset(
        key=_KEY,
        group_name="observe",
        kinds={"polars"},
        owners=["team:search"],
        code_version="1",
        deps=[EVENTS, JUDGMENTS],
        check_specs=[*specs, anomaly_spec(_KEY)],
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=45)),
    )
    def metrics_snapshot(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """All metrics of the newest window, each with its sample, interval, source and age; what cannot be known is unknown."""
        snapshot = observe.take_snapshot(loop)
        for line in follow_up(loop):
            context.log.info("%s", line)
        gates = observe.gates(loop, snapshot)
        unusual = anomaly_check(_KEY, references.anomalies(loop, snapshot.snapshot_id), references.baseline_note(loop, snapshot))
        metadata = {**snapshot_metadata(snapshot, loop.snapshots(60)), **_champions(loop, context)}
        return dg.MaterializeResult(metadata=metadata, check_results=[*check_results(_KEY, gates, specs), unusual])

    @dg.asset(
        key=["observe", "quality_report"],
        group_name="observe",
        kinds={"html", "evidently"},
        owners=["team:search"],
        code_version="2",
        deps=[metrics_snapshot],
    )
    def quality_report(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The newest window as a page in English and Ukrainian: gates and why not, histories, worst slices, stages, drift; the links open it."""
        return dg.MaterializeResult(metadata=page_metadata(quality.write_quality_report(loop), settings.ports.api))

    @dg.asset(key=["observe", "judgments"], group_name="observe", kinds={"polars"}, owners=["team:search"], code_version="1", deps=[EVENTS, JUDGMENTS])
    def judgments(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """Labels by origin, what clicks and votes of the newest week add, and the examination propensities behind the click metrics."""
        return dg.MaterializeResult(metadata=judgment_metadata(judge.refresh(loop)))

    @dg.asset(
        key=["observe", "aa_replay"], group_name="observe", kinds={"polars"}, owners=["team:search"], code_version="1", deps=[EVENTS], check_specs=[_NO_WOLF]
    )
    def aa_replay(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """A/A: the newest week of the champion's own traffic through the trial's rule, split at random a hundred times; any harm found is a false alarm."""
        found = same.replay_month(loop, on_progress=lambda done, total: context.log.debug("split %s of %s", done, total))
        told: dict[str, Any] = {"reasons": "; ".join(found.reasons) or "none", "upper": found.false_alarm_upper, "promised": found.promised}
        check = dg.AssetCheckResult(check_name="no_false_alarms", passed=found.holds, severity=dg.AssetCheckSeverity.WARN, metadata=told)
        return dg.MaterializeResult(metadata=scalars(found), check_results=[check])

    return [metrics_snapshot, quality_report, judgments, aa_replay]


def _champions(loop: Loop, context: dg.AssetExecutionContext) -> dict[str, Any]:
    """Who was champion when, arrivals and a person's commits included; nothing, with the reason in the run's log, where it cannot be read.

    The table is enough while it ends with whom Git names, so a tick reads one file of Git. It is never written here, nor Git fetched: a release that is
    under way has words of its own for the table.
    """
    try:
        spans = loop.control.champions(loop.contour, _CHAMPIONS)
        if not spans or spans[0].digest != loop.serving().model:
            spans = champions_of(loop.repo, loop.release_name, loop.contour)[: -_CHAMPIONS - 1 : -1]
    except (PredatorError, OSError) as error:
        context.log.warning("the history of champions is left out: %s", error)
        return {}
    return champion_metadata(spans)
