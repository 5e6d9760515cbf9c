"""Verdict, policy and approval for a stage: the only thing that lets a patch be committed.

A challenger is promoted when every promotion criterion of its trigger passes, rejected when one of the rejection criteria shows that it is
worse, and held in every other case. The criteria are data: an asset check, the patch asset and the REST answer show the same results.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from predator_si.errors import BadInput, Refused
from predator_si.records import Answer, Criterion, Decision, Evaluation, ExperimentResult, GateResult, Metric, ServingConfig, Verdict, utc_now
from predator_si.release.criteria import ABOVE_ZERO, ALPHA, NAMES_NO_SUCCESS, NDCG_MARGIN, PROMOTION_CRITERIA, SAMPLE_RATIO, UNSPLIT, criteria_of
from predator_si.release.latency import known_or_not, latency_metrics

_ALIASES = {
    "avg_latency_ms": "p95_latency_ms",
    "p95_latency": "p95_latency_ms",
    "cost": "cost_per_1k_requests",
    "etl_lag": "etl_lag_seconds",
    "schedule": "ndcg_at_10",
    "arrival": "ndcg_at_10",
}


def signal_of(trigger: str) -> str:
    """The signal whose criteria judge a cycle of this trigger type (``ndcg_at_10_down`` -> ``ndcg_at_10``).

    Raises
    ------
    BadInput
        Cycles of this trigger bring no model, so no criteria exist.
    """
    name = trigger.removesuffix("_down").removesuffix("_up")
    name = _ALIASES.get(name, name)
    if name not in PROMOTION_CRITERIA:
        raise BadInput(f"no promotion criteria for trigger {trigger!r}; there are some for {', '.join(sorted(PROMOTION_CRITERIA))}.")
    return name


def judged_as(trigger: str, challenger: ServingConfig | None) -> str:
    """The trigger type whose criteria judge a cycle: its own, or ``replicas`` where its challenger changes nothing but their number."""
    return "replicas" if challenger is not None and challenger.replicas is not None else trigger


def is_tried(trigger: str) -> bool:
    """Whether a cycle of this trigger type goes through a trial on live traffic."""
    return signal_of(trigger) not in UNSPLIT


def decide_trial(
    evaluation: Evaluation,
    *,
    trigger: str,
    policy: str,
    approval_required: bool = False,
    latency: Mapping[str, Any] | None = None,
    latency_target_ms: float | None = None,
    level: float | None = None,
    margin: float = NDCG_MARGIN,
    extra: Mapping[str, Metric] | None = None,
    evidence: Mapping[str, str] | None = None,
    drill: bool = False,
    now: datetime | None = None,
) -> Decision:
    """May the challenger be tried on a share of the traffic?

    Parameters
    ----------
    evaluation
        Champion against challenger on judged queries.
    trigger
        ``Trigger.type`` of the cycle: chooses the criteria.
    policy
        The contour's policy, for the record.
    latency
        As ``latency.summarise_latency`` gives it; default: the evaluation's own. Before the challenger was served there may be none; then
        the latency criteria do not apply yet, and only then.
    latency_target_ms
        The contour's gate for p95.
    level
        What a p-value of superiority must reach: the candidate's share of the month's error (``evaluate.promotion_level``), by the ledger. Null:
        :data:`ALPHA`, for queries that nobody uses again. A trial asks for it too: one whose promotion could not follow would cost its clients for nothing.
        Guardrails keep their own 95%: ALL must hold, which needs no correction (Berger 1982).
    margin
        How much lower NDCG@10 may be and still count as not worse.
    extra
        Further metrics that criteria name, by name (``cost_change_high``).
    evidence
        File name -> sha256 (``recompute.collect_evidence``).
    drill
        An explicit drill pushes the model past the gates; recorded, and allowed only where the patch asset allows it.
    """
    known = comparison_metrics(evaluation, latency, latency_target_ms) | dict(extra or {})
    gates, verdict, reason = _judge(trigger, known, level, margin, before_trial=not (latency or evaluation.latency))
    given = {"trigger": trigger, "latency_target_ms": latency_target_ms, "level": level, "margin": margin}
    return _decision(evaluation, "trial", gates, verdict, reason, policy, approval_required, evidence, given, drill, now)


def decide_promote(
    evaluation: Evaluation,
    experiment: ExperimentResult | None,
    *,
    trigger: str,
    policy: str,
    earlier: Sequence[ExperimentResult] = (),
    approval_required: bool = False,
    trial_required: bool = True,
    latency: Mapping[str, Any] | None = None,
    latency_target_ms: float | None = None,
    level: float | None = None,
    margin: float = NDCG_MARGIN,
    extra: Mapping[str, Metric] | None = None,
    evidence: Mapping[str, str] | None = None,
    drill: bool = False,
    now: datetime | None = None,
) -> Decision:
    """May the challenger become the champion? The criteria of ``decide_trial``, all known now, and the trial without harm.

    Parameters
    ----------
    experiment
        The trial's result; its arms give the latency where nothing better was measured. ``None`` holds, unless ``trial_required`` is false.
    earlier
        Results of the trial's steps before its last one: what people preferred in an interleaved step is a success too.

    Raises
    ------
    BadInput
        The experiment or a step of it belongs to another cycle, or the trigger has no criteria.
    """
    foreign = next((one for one in [*([experiment] if experiment is not None else []), *earlier] if one.cycle_id != evaluation.cycle_id), None)
    if foreign is not None:
        raise BadInput(f"the trial belongs to cycle {foreign.cycle_id}, the evaluation to {evaluation.cycle_id}. Give those of one cycle.")
    measured = latency or evaluation.latency or (_trial_latency(experiment) if experiment else None)
    known = comparison_metrics(evaluation, measured, latency_target_ms) | dict(extra or {})
    gates, verdict, reason = _judge(trigger, known, level, margin, before_trial=False)
    if experiment is None:
        if trial_required and verdict is Verdict.PROMOTE:
            verdict, reason = Verdict.INCONCLUSIVE, f"{reason}; there was no trial, and this contour asks for one"
    else:
        ratio = Metric(name="sample_ratio_p", value=experiment.sample_ratio_p, n=sum(experiment.requests.values()), reason="the trial gives none")
        judged = next((gate.criterion.threshold for gate in experiment.quality if gate.criterion.metric == "sample_ratio_p"), SAMPLE_RATIO.threshold)
        split = SAMPLE_RATIO.model_copy(update={"threshold": judged} | ({} if experiment.mode == "ab" else {"no_data": "not_applicable"}))
        trial_gates = [*experiment.guardrails, judge_criterion(split, {"sample_ratio_p": ratio})]
        gates += trial_gates
        verdict, reason = _with_trial(verdict, reason, experiment, trial_gates)
    if verdict is Verdict.PROMOTE and signal_of(trigger) in NAMES_NO_SUCCESS:
        verdict, reason = _with_success(reason, evaluation, experiment, earlier, level)
    given = {"trigger": trigger, "trial_required": trial_required, "latency_target_ms": latency_target_ms, "level": level, "margin": margin}
    return _decision(evaluation, "promote", gates, verdict, reason, policy, approval_required, evidence, given, drill, now)


def approve(decision: Decision, actor: str, *, overridden_by: Collection[str] = (), now: datetime | None = None) -> Decision:
    """The decision with a person's approval.

    Parameters
    ----------
    overridden_by
        Who overrode a gate in this cycle: they cannot approve it as well.

    Raises
    ------
    Refused
        The approver overrode a gate, the verdict is not to promote, or somebody else approved already.
    """
    if not actor.strip():
        raise BadInput("an approval needs the name of who approves.")
    if actor in overridden_by:
        raise Refused(f"{actor} overrode a gate in cycle {decision.cycle_id} and cannot approve it. Ask somebody else.")
    if decision.verdict is not Verdict.PROMOTE:
        raise Refused(f"cycle {decision.cycle_id}: the {decision.stage} verdict is {decision.verdict.value} ({decision.reason}). There is nothing to approve.")
    if decision.approved_by is not None:
        if decision.approved_by == actor:
            return decision
        raise Refused(f"cycle {decision.cycle_id} was approved by {decision.approved_by} at {decision.approved_at}.")
    return decision.model_copy(update={"approved_by": actor, "approved_at": now or utc_now()})


# --------------------------------------------------------------------------- numbers and answers


def comparison_metrics(evaluation: Evaluation, latency: Mapping[str, Any] | None = None, latency_target_ms: float | None = None) -> dict[str, Metric]:
    """The numbers that the criteria name, from an evaluation and a latency measurement. What was not measured is null with its reason."""
    found = evaluation.ndcg_difference
    constant = found.sd == 0.0 and found.estimate != 0.0  # a spread that was never seen is not zero; no difference at all is the same ranking
    why = f"all {found.n} differences are {found.estimate:+.4f}, so nothing says how sure that is"
    known = [
        known_or_not("ndcg_difference_low", None if constant else found.low, found.n, why),
        known_or_not("ndcg_difference_high", None if constant else found.high, found.n, why),
        known_or_not("ndcg_p_value", found.p_value, found.n, "the evaluation holds no p-value"),
        known_or_not("ndcg_gain", found.estimate / evaluation.ndcg_champion if evaluation.ndcg_champion > 0 else None, found.n, "the champion's NDCG is 0"),
        known_or_not("recall_difference_low", None, 0, "no interval of the recall difference was computed"),
    ]
    return {metric.name: metric for metric in [*known, *latency_metrics(latency or evaluation.latency, latency_target_ms)]}


def _trial_latency(experiment: ExperimentResult) -> dict[str, Any]:
    """P95 of the trial's arms; without an interval, which is the guardrails' business."""
    sides: dict[str, Any] = {}
    for side in ("champion", "challenger"):
        metric = experiment.arms.get(side, {}).get("p95_latency_ms")
        if metric is not None and metric.value is not None:
            sides[side] = {"p95_ms": metric.value, "n": metric.n}
    return sides


def judge_criterion(criterion: Criterion, metrics: Mapping[str, Metric]) -> GateResult:
    """One criterion's answer. Decisions know absolute thresholds only: what a value is compared with is in the metric itself."""
    if criterion.kind != "absolute":
        raise BadInput(f"criterion {criterion.name}: a decision judges absolute thresholds, not relative ones.")
    metric = metrics.get(criterion.metric)
    if metric is None or metric.value is None:
        why = metric.reason if metric is not None and metric.reason else "it was not measured"
        answer = {"unknown": Answer.UNKNOWN, "fail": Answer.FAIL, "not_applicable": Answer.NOT_APPLICABLE}[criterion.no_data]
        return GateResult(criterion=criterion, answer=answer, value=None, limit=criterion.threshold, n=0, reason=f"{criterion.metric} is unknown: {why}")
    value, limit, n = metric.value, criterion.threshold, metric.n
    if n < criterion.min_sample:
        reason = f"{criterion.metric}: {n} observations, {criterion.min_sample} are needed"
        return GateResult(criterion=criterion, answer=Answer.UNKNOWN, value=value, limit=limit, n=n, reason=reason)
    good = value >= limit if criterion.direction == "min" else value <= limit
    sign = ">=" if criterion.direction == "min" else "<="
    answer = Answer.PASS if good else Answer.FAIL
    about = f" ({metric.source})" if metric.source else ""
    reason = f"{criterion.metric}{about} {value:.4g} {'meets' if good else 'misses'} {sign} {limit:.4g} (n={n})"
    return GateResult(criterion=criterion, answer=answer, value=value, limit=limit, n=n, reason=reason)


def _judge(trigger: str, metrics: Mapping[str, Metric], level: float | None, margin: float, *, before_trial: bool) -> tuple[list[GateResult], Verdict, str]:
    signal = signal_of(trigger)
    asked, refused = criteria_of(signal, level, margin)
    promotion = [judge_criterion(_not_yet(criterion) if before_trial else criterion, metrics) for criterion in asked]
    rejection = [judge_criterion(criterion, metrics) for criterion in refused]
    worse = [gate for gate in rejection if gate.answer is Answer.FAIL]
    open_ones = [gate for gate in promotion if gate.criterion.critical and gate.answer not in (Answer.PASS, Answer.NOT_APPLICABLE)]
    if worse:
        return promotion + rejection, Verdict.REJECT, "proven worse: " + _reasons(worse)
    if open_ones:
        return promotion + rejection, Verdict.INCONCLUSIVE, "neither proven better nor worse: " + _reasons(open_ones)
    shown = _reasons([gate for gate in promotion if gate.answer is Answer.PASS])
    return promotion + rejection, Verdict.PROMOTE, shown or f"{signal}: the service is to be brought back, and the watch says whether it is"


def _not_yet(criterion: Criterion) -> Criterion:
    """Latency and cost are measured through the service, which serves a challenger from its trial on."""
    return criterion.model_copy(update={"no_data": "not_applicable"}) if criterion.metric.startswith(("p95_", "cost_")) else criterion


def _with_trial(verdict: Verdict, reason: str, experiment: ExperimentResult, gates: Sequence[GateResult]) -> tuple[Verdict, str]:
    harm = [gate for gate in gates if gate.answer is Answer.FAIL and gate.criterion.critical and gate.criterion.name != SAMPLE_RATIO.name]
    if verdict is Verdict.REJECT:
        return verdict, reason
    if experiment.verdict is Verdict.REJECT or (harm and experiment.verdict is Verdict.PROMOTE):
        return Verdict.REJECT, f"the trial shows harm: {experiment.reason if experiment.verdict is Verdict.REJECT else _reasons(harm)}"
    open_ones = [gate for gate in gates if gate.criterion.critical and gate.answer not in (Answer.PASS, Answer.NOT_APPLICABLE)]
    if experiment.verdict is not Verdict.PROMOTE:
        return Verdict.INCONCLUSIVE, f"the trial is inconclusive: {experiment.reason}; offline: {reason}"
    if open_ones:
        return Verdict.INCONCLUSIVE, f"the trial leaves open: {_reasons(open_ones)}; offline: {reason}"
    return verdict, f"{reason}; trial: {experiment.reason}"


def _with_success(
    reason: str, evaluation: Evaluation, experiment: ExperimentResult | None, earlier: Sequence[ExperimentResult], level: float | None
) -> tuple[Verdict, str]:
    """Ship only what is shown to be better somewhere (``experiment.rule``).

    On judged queries, at this candidate's share of the month's error; in clicks or latency in the trial's last step, which share ``superiority_alpha``; in the
    wins of an interleaved step, at ``interleaving_alpha``.
    """
    steps = [one for one in earlier if one.mode == "interleave"] + ([experiment] if experiment is not None else [])
    shown = [gate.reason for step in steps for gate in step.success if gate.answer is Answer.PASS]
    found = evaluation.ndcg_difference
    if found.low >= ABOVE_ZERO and found.p_value is not None and found.p_value <= (ALPHA if level is None else level):
        shown.append(f"NDCG@10 is higher by {found.low:.4f} or more (p = {found.p_value:.3g})")
    if shown:
        return Verdict.PROMOTE, f"{reason}; better: {'; '.join(shown)}"
    return Verdict.INCONCLUSIVE, f"not worse, and nothing is shown to be better: {reason}"


def _reasons(gates: Sequence[GateResult]) -> str:
    return "; ".join(f"{gate.criterion.name}: {gate.reason}" for gate in gates)


def _decision(
    evaluation: Evaluation,
    stage: Literal["trial", "promote"],
    gates: list[GateResult],
    verdict: Verdict,
    reason: str,
    policy: str,
    approval_required: bool,
    evidence: Mapping[str, str] | None,
    given: dict[str, Any],
    drill: bool,
    now: datetime | None,
) -> Decision:
    return Decision(
        cycle_id=evaluation.cycle_id,
        stage=stage,
        verdict=verdict,
        gates=gates,
        policy=policy,
        approval_required=approval_required,
        champion=evaluation.champion,
        challenger=evaluation.challenger,
        evidence=dict(evidence or {}),
        given=given,
        drill=drill,
        reason=f"DRILL, pushed past the gates: {reason}" if drill else reason,
        created_at=now or utc_now(),
    )
