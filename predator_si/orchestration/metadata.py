"""Records as Dagster metadata and check results: what people see on an asset's page.

What belongs here: numbers, pictures and paths of a record, criteria as check specs. What must not: computing anything that decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from predator_si.experiment.plan import Experiment
from predator_si.orchestration.partitions import cycles
from predator_si.orchestration.steps.judge import Judged
from predator_si.records import AnomalyReport, Answer, ChampionSpan, Criterion, Decision, Evaluation, ExperimentResult, GateResult, MetricsSnapshot, Record
from predator_si.reports import as_markdown, difference_histogram, latency_histogram, metric_history, ndcg_slices
from predator_si.reports.pages import window_url
from predator_si.reports.sequences import confidence_sequences


def gate_specs(key: Sequence[str], criteria: Sequence[Criterion], *, blocking: bool) -> list[dg.AssetCheckSpec]:
    """One check per criterion, by name; on a cycle's assets each cycle has its own history."""
    partitions = cycles if key[0] == "cycle" else None
    return [
        dg.AssetCheckSpec(
            name=criterion.name,
            asset=dg.AssetKey(list(key)),
            blocking=blocking and criterion.critical,
            description=criterion.description.get("en") or f"{criterion.metric} {criterion.direction} {criterion.threshold:g}",
            partitions_def=partitions,
        )
        for criterion in unique(criteria)
    ]


def unique(criteria: Sequence[Criterion]) -> list[Criterion]:
    """Criteria by name, the first of each."""
    return list({criterion.name: criterion for criterion in reversed(criteria)}.values())[::-1]


def check_results(key: Sequence[str], gates: Sequence[GateResult], specs: Sequence[dg.AssetCheckSpec]) -> list[dg.AssetCheckResult]:
    """The gates' answers. Unknown does not pass: it is a warning, and says why; a criterion that was not judged is unknown too."""
    by_name = {gate.criterion.name: gate for gate in gates}
    bent = {gate.criterion.metric: gate for gate in gates if gate.criterion.override is not None}
    results = []
    for spec in specs:
        gate = by_name.get(spec.name) or bent.get(spec.name.removesuffix("_relative"))  # an override stands in for a relative gate, too
        answer = gate.answer if gate is not None else Answer.NOT_APPLICABLE
        metadata: dict[str, Any] = {"answer": answer.value, "reason": gate.reason if gate is not None else "not a criterion of this cycle's trigger"}
        if gate is not None:
            metadata |= {
                name: float(value) for name, value in (("value", gate.value), ("limit", gate.limit), ("reference", gate.reference)) if value is not None
            }
            metadata["n"] = gate.n
        failed = answer is Answer.FAIL and (gate is None or gate.criterion.critical)
        results.append(
            dg.AssetCheckResult(
                asset_key=dg.AssetKey(list(key)),
                check_name=spec.name,
                passed=answer in (Answer.PASS, Answer.NOT_APPLICABLE),
                severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
                metadata=metadata,
            )
        )
    return results


def anomaly_spec(key: Sequence[str]) -> dg.AssetCheckSpec:
    """The check that shows anomalies and standing change alarms; it warns and blocks nothing, since neither starts a cycle alone."""
    return dg.AssetCheckSpec(
        name="anomalies", asset=dg.AssetKey(list(key)), blocking=False, description="No metric is an outlier, and no sequential test has called a change"
    )


def anomaly_check(key: Sequence[str], report: AnomalyReport | None, baseline: str) -> dg.AssetCheckResult:
    """What is unusual about the newest window, what was looked at, and what the baseline stands on."""
    found: dict[str, Any] = {"baseline": baseline}
    if report is not None:
        scores = [
            dg.TableRecord({"metric": one.metric, "z": "unknown" if one.z is None else f"{one.z:+.1f}", "windows": one.windows, "reason": one.reason})
            for one in report.scores
        ]
        changes = [
            dg.TableRecord({"stream": one.stream, "log_evidence": "none" if one.log_e is None else f"{one.log_e:.1f}", "reason": one.reason})
            for one in report.changes
        ]
        found |= {"false_alarms_per_month": report.false_alarms_per_month, "alarms": "; ".join(report.alarms) or "none"}
        found |= {"scores": dg.MetadataValue.table(scores)} if scores else {}
        found["changes"] = dg.MetadataValue.table(changes)
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(list(key)),
        check_name="anomalies",
        passed=report is None or not report.alarms,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=found,
    )


def files(*paths: Path) -> dict[str, dg.MetadataValue[Any]]:
    """Paths of artifacts by file name."""
    return {path.name.replace(".", "_").replace("-", "_"): dg.MetadataValue.path(str(path)) for path in paths if path.is_file()}


def scalars(record: Record | Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a record."""
    content = record.model_dump(mode="json") if isinstance(record, Record) else dict(record)
    return {name: value for name, value in content.items() if isinstance(value, int | float | str | bool)}


def snapshot_metadata(snapshot: MetricsSnapshot, history: Sequence[MetricsSnapshot]) -> dict[str, Any]:
    """Each known metric as a number (Dagster plots it over time), a table of all, and the history of NDCG and P95."""
    rows = [
        dg.TableRecord(
            {
                "metric": metric.name,
                "value": "unknown" if metric.value is None else f"{metric.value:.4g}",
                "interval": "" if metric.ci_low is None or metric.ci_high is None else f"[{metric.ci_low:.4g}, {metric.ci_high:.4g}]",
                "n": metric.n,
                "unit": metric.unit,
                "source": metric.source,
                "reason": metric.reason or "",
            }
        )
        for metric in snapshot.metrics.values()
    ]
    found: dict[str, Any] = {name: float(metric.value) for name, metric in snapshot.metrics.items() if metric.value is not None}
    found["metrics"] = dg.MetadataValue.table(rows)
    for name in ("ndcg_at_10", "p95_latency_ms"):
        if any(name in one.metrics and one.metrics[name].known for one in history):
            found[f"{name}_history"] = dg.MetadataValue.md(as_markdown(metric_history(list(history)[-60:], name), f"{name} over the windows"))
    silent = "; ".join(f"{one.source}: {reason}" for one in snapshot.sources for reason in one.unknown)
    found |= {"lost_events": snapshot.lost_events, "quarantined": snapshot.quarantined, "silent_sources": silent or "none"}
    return found | {"champion": snapshot.champion or "unknown"}


def page_metadata(report: Mapping[str, Any], port: int) -> dict[str, Any]:
    """Links to a window's pages as ``predator-si up`` serves them, where they lie, and the plain facts of ``report``."""
    found: dict[str, Any] = {name: dg.MetadataValue.url(window_url(port, path.name)) for name, path in report.items() if isinstance(path, Path)}
    found |= {f"{name}_file": dg.MetadataValue.path(str(path)) for name, path in report.items() if isinstance(path, Path)}
    return found | scalars(report)


def judgment_metadata(found: Judged) -> dict[str, Any]:
    """Labels by origin and by set, propensities with their intervals, and votes that disagree."""
    rows = [
        dg.TableRecord(
            {
                "position": one.position,
                "propensity": "unknown" if one.propensity is None else f"{one.propensity:.3f}",
                "interval": "" if one.low is None or one.high is None else f"[{one.low:.3f}, {one.high:.3f}]",
                "impressions": one.impressions,
                "clicks": one.clicks,
                "moved_clicks": one.moved_clicks,
                "reason": one.reason or "",
            }
        )
        for one in found.bias.positions
    ]
    sets = [dg.TableRecord({"set": name, "origin": origin, "labels": n}) for name, counts in found.sets.items() for origin, n in counts.items()]
    eta, fitted = found.bias.eta(), found.bias.fitted_at
    return {
        **{f"labels_{origin}": n for origin, n in found.counts.items()},
        "sets": dg.MetadataValue.table(sets),
        "propensities": dg.MetadataValue.table(rows),
        "propensity_shape": found.bias.shape,
        "position_bias_eta": float(eta) if eta is not None else "unknown",
        "propensities_unknown": found.bias.reason or "",
        "fitted_at": fitted.isoformat() if fitted is not None else "never",
        "simulated": found.bias.simulated,
        **({} if found.feedback is None else {"votes_in_conflict": found.feedback.conflicts.height, "voters_weighed_down": found.feedback.capped}),
    }


def evaluation_metadata(evaluation: Evaluation, per_query: pl.DataFrame) -> dict[str, Any]:
    """NDCG before and after, in all and by slice."""
    difference = evaluation.ndcg_difference
    slices = [
        {"name": row["name"], "n": row["n"], "before": row["ndcg_champion"], "after": row["ndcg_challenger"], "low": row["low"], "high": row["high"]}
        for row in evaluation.slices
        if row["ndcg_champion"] is not None and row["low"] is not None
    ]
    found: dict[str, Any] = {
        "ndcg_before": evaluation.ndcg_champion,
        "ndcg_after": evaluation.ndcg_challenger,
        "difference": difference.estimate,
        "interval": f"[{difference.low:+.4f}, {difference.high:+.4f}]",
        "p_value": float(difference.p_value) if difference.p_value is not None else "unknown",
        "queries": evaluation.n_queries,
        "resolves": evaluation.power or "unknown",
        "differences": dg.MetadataValue.md(as_markdown(difference_histogram(per_query["ndcg_difference"].to_numpy(), difference), "challenger minus champion")),
    }
    if slices:
        found["slices"] = dg.MetadataValue.md(as_markdown(ndcg_slices(slices), "NDCG@10 by slice"))
    holdout = evaluation.holdout
    if holdout is not None:
        found |= {
            "promotion_needs_p": holdout.level,
            "sealed_queries": f"block {holdout.block + 1} of {holdout.blocks} of {holdout.pool} queries",
            "candidate": f"{holdout.opening.candidate} of {holdout.opening.period}",
            "resolves_for_promotion": holdout.power,
            "best_told": f"{holdout.told:.4f}" + (" (raised)" if holdout.rose else ""),
        }
    return found


def experiment_metadata(result: ExperimentResult, trial: Experiment) -> dict[str, Any]:
    """A look at a trial: its verdict, the confidence sequences with their margins, validity, slices, and what would change it."""
    found: dict[str, Any] = {
        "verdict": result.verdict.value,
        "reason": result.reason,
        "requests": dg.MetadataValue.json(result.requests),
        "step": f"{min(trial.step + 1, len(trial.plan.steps))} of {len(trial.plan.steps)}, looked at in mode {result.mode}",
        "looks": len(trial.looks),
        "ended": trial.reason if trial.ended_at is not None else "goes on",
        "sample_ratio_p": "does not apply" if result.sample_ratio_p is None else float(result.sample_ratio_p),
        "would_change": dg.MetadataValue.md("\n".join(f"- {line}" for line in result.would_change) or "nothing"),
    }
    if result.paths and any(path["points"] for path in result.paths):
        found["sequences"] = dg.MetadataValue.md(as_markdown(confidence_sequences(result.paths), "confidence sequences over the trial, with their margins"))
    for name, rows in (("gates", [*result.quality, *result.guardrails, *result.success]),):
        records = [dg.TableRecord({"gate": gate.criterion.name, "answer": gate.answer.value, "n": gate.n, "reason": gate.reason}) for gate in rows]
        found |= {name: dg.MetadataValue.table(records)} if records else {}
    slices = [dg.TableRecord({"slice": row["name"], "metric": row["metric"], "answer": row["answer"], "reason": row["reason"]}) for row in result.slices]
    return found | ({"slices": dg.MetadataValue.table(slices)} if slices else {})


def latency_metadata(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """P95 of each arm and the histogram."""
    found: dict[str, Any] = {f"p95_{arm}_ms": float(np.percentile(values, 95)) for arm, values in times.items()}
    return found | {"latency": dg.MetadataValue.md(as_markdown(latency_histogram(times), "latency of both arms"))}


def champion_metadata(history: Sequence[ChampionSpan]) -> dict[str, Any]:
    """Who was champion when and why, newest first."""
    rows = [
        dg.TableRecord(
            {
                "model": span.digest[:19],
                "since": f"{span.since:%Y-%m-%d %H:%M} UTC",
                "until": "now" if span.until is None else f"{span.until:%Y-%m-%d %H:%M} UTC",
                "cycle": span.cycle_id or "",
                "why": span.why[:300],
            }
        )
        for span in history
    ]
    return {"champions": dg.MetadataValue.table(rows)} if rows else {}


def decision_metadata(decision: Decision) -> dict[str, Any]:
    """The verdict with its reason, and every gate."""
    rows = [dg.TableRecord({"criterion": gate.criterion.name, "answer": gate.answer.value, "reason": gate.reason}) for gate in decision.gates]
    found = {"verdict": decision.verdict.value, "reason": decision.reason, "drill": decision.drill}
    return found | ({"gates": dg.MetadataValue.table(rows)} if rows else {})  # a table without rows is none to Dagster
