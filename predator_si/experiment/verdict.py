"""The verdict of an A/B trial at any look: first whether the trial is valid at all, then its guardrails and slices.

What belongs here: putting quality, guardrails, slices and the rule together, and writing down what they were given. What must not: estimating a change
(``changes``), margins (``guardrails``), when to look (``plan``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

import polars as pl

from predator_si.errors import BadInput
from predator_si.experiment.evidence import anonymise
from predator_si.experiment.guardrails import Guardrail, Judged, default_guardrails, judge_guardrail
from predator_si.experiment.inputs import given_inputs, kept_inputs
from predator_si.experiment.interleave import judge_interleave
from predator_si.experiment.proofs import Levels
from predator_si.experiment.quality import asked_by_people, quality_checks
from predator_si.experiment.rule import conclude, weigh
from predator_si.experiment.shadow import judge_shadow
from predator_si.experiment.slices import judge_slices
from predator_si.experiment.what_if import what_would_change
from predator_si.monitor import Traffic, champion_traffic, traffic_metrics
from predator_si.records import Answer, Criterion, ExperimentResult, GateResult, Metric, Verdict
from predator_si.search.events import EventFrames
from predator_si.statistics.design import DEFAULT_DESIGN, Design

_SUCCESS = ("ndcg_at_10_clicks", "click_through", "avg_latency_ms")
"""Metrics that a trial may be better in; each of those asked at its equal part of the design's ``superiority_alpha`` (Bonferroni)."""


def judge_ab(
    events: EventFrames,
    champion: str,
    challenger: str,
    *,
    cycle_id: str,
    window_start: datetime,
    window_end: datetime,
    now: datetime,
    split: float = 0.2,
    guardrails: Sequence[Guardrail] | None = None,
    contour: str = "local",
    min_sample: int = 200,
    seed: int = 0,
    position_bias: float = 1.0,
    same_model: bool = False,
    novelty: timedelta = timedelta(0),
    longest: str | None = None,
    design: Design = DEFAULT_DESIGN,
) -> ExperimentResult:
    """Judge an A/B trial at any time, as often as one likes.

    Order of the questions: is the trial valid (``quality``), is the sample large enough, does a guardrail or a slice fail, is each guardrail shown.
    ``REJECT`` when one fails, ``PROMOTE`` when all pass, ``INCONCLUSIVE`` (hold, or go on) in every other case, an invalid trial included.
    Superiority is told and not asked here: judged queries show it, before the trial. Every sequence and e-process holds at all looks together,
    so looking again and again costs nothing; before the minimum sample only errors may end a trial, since nothing else is so plain to see.

    The events are anonymised first (``evidence.anonymise``): the verdict is the same from the stored copy.

    Parameters
    ----------
    events
        Events of the trial's window; probes are left out.
    champion, challenger
        Digests of the two models.
    split
        Intended share of the challenger's clients, 0..1 exclusive.
    guardrails
        Default: :func:`~predator_si.experiment.default_guardrails` of the contour.
    min_sample
        Served requests of both arms together, those of ``novelty`` left out.
    same_model
        Both arms run one model with other settings (depth, fusion): the variant tells them apart. Then, and only then, the digests are the same.
    novelty
        The first part of the trial that counts for errors and validity only: what is new is clicked because it is new.
    longest
        What ended the trial, at its last look (``rule.conclude``).
    design
        Levels and tuning.

    Raises
    ------
    BadInput
        The digests are the same without ``same_model``, the split is not a share, or the window is empty.
    """
    if (champion == challenger) is not same_model:
        if same_model:
            raise BadInput(f"trial of {cycle_id}: {champion} and {challenger} are two models; same_model is for one with other settings.")
        raise BadInput(f"trial of {cycle_id}: champion and challenger are both {champion}; a model cannot be tried against itself.")
    if not 0.0 < split < 1.0:
        raise BadInput(f"trial of {cycle_id}: the split is {split}; it must lie between 0 and 1.")
    rules = default_guardrails(contour) if guardrails is None else tuple(guardrails)
    if not rules:
        raise BadInput(f"trial of {cycle_id}: there are no guardrails, so it could only pass. Name at least one.")
    plain = anonymise(events, window_start, window_end)
    probes = int(plain.search["probe"].sum())
    known = replace(plain, search=asked_by_people(plain.search))
    whole = _arms(known, champion, challenger, window_start, window_end, same_model)
    counted = (
        whole
        if not novelty
        else _arms(known, champion, challenger, min(window_start + novelty, window_end - timedelta(microseconds=1)), window_end, same_model)
    )
    sizes = {name: arm.requests.height for name, arm in whole.items()}
    others = sum(arm.others for arm in whole.values()) if same_model else whole["champion"].others - sizes["challenger"]
    quality = quality_checks(known, champion, challenger, split=split, window=(window_start, window_end), now=now, same_model=same_model, design=design)
    asked = max(1, sum(rule.criterion.metric in _SUCCESS for rule in rules))
    levels = Levels(design.replaced({"superiority_alpha": design.superiority_alpha / asked}), split, min_sample, design.harm_alpha)
    judged = [_judged(rule, whole if rule.criterion.metric == "error_rate" else counted, levels, position_bias) for rule in rules]
    slices = judge_slices(rules, counted, levels, position_bias=position_bias)
    success = _success(judged, levels.design)
    served = sum(arm.served.height for arm in counted.values())
    gates = [one.gate for one in judged]
    said = (Verdict.INCONCLUSIVE, "no request was served by either model in the window")
    if any(arm.requests.height for arm in whole.values()):
        said = _verdict(counted, quality, success, gates, [gate for gate, _ in slices], served, min_sample)
    verdict, reason = conclude(*said, longest)
    ratio = quality[0].value
    return ExperimentResult(
        cycle_id=cycle_id,
        mode="ab",
        started_at=window_start,
        ended_at=window_end,
        requests={**sizes, "other": others, "probes": probes},
        simulated=any(arm.simulated for arm in whole.values()),
        arms={
            name: _metrics(arm, digest, now, seed, position_bias, window_start, window_end)
            for (name, arm), digest in zip(counted.items(), (champion, challenger), strict=True)
        },
        guardrails=gates,
        sample_ratio_p=ratio,
        verdict=verdict,
        reason=reason,
        quality=quality,
        success=success,
        slices=[row for _, row in slices],
        paths=_paths(judged),
        would_change=what_would_change(verdict, quality, judged, served, min_sample),
        inputs=kept_inputs(
            champion, challenger, cycle_id, window_start, window_end, now, min_sample, longest, design, events.lost,
            split=split,
            guardrails=[{"criterion": rule.criterion.model_dump(mode="json"), "proof": rule.proof} for rule in rules],
            contour=contour,
            seed=seed,
            position_bias=position_bias,
            same_model=same_model,
            novelty=novelty.total_seconds(),
        ),
    )  # fmt: skip


def judge_again(result: ExperimentResult, events: EventFrames) -> ExperimentResult:
    """The same verdict from stored evidence (``evidence.read_evidence``), by the inputs that the result holds.

    Raises
    ------
    BadInput
        The result was stored by a version that kept no inputs.
    """
    if not result.inputs:
        raise BadInput(f"the trial's result of {result.cycle_id} holds no inputs; it was judged by an earlier version. Judge the trial again.")
    judge = {"ab": judge_ab, "shadow": judge_shadow, "interleave": judge_interleave}[result.mode]
    given = given_inputs(result.inputs)
    found: ExperimentResult = judge(events, given.pop("champion"), given.pop("challenger"), **given)  # type: ignore[operator]
    return found.model_copy(update={"evidence": result.evidence})


def _arms(events: EventFrames, champion: str, challenger: str, start: datetime, end: datetime, same_model: bool) -> dict[str, Traffic]:
    return {
        name: champion_traffic(_of_variant(events, variant) if same_model else events, start, end, digest, variant=variant)
        for name, variant, digest in (("champion", "champion", champion), ("challenger", "candidate", challenger))
    }


def _of_variant(events: EventFrames, variant: str) -> EventFrames:
    return replace(events, search=events.search.filter(pl.col("variant").fill_null("champion") == variant))


def _judged(rule: Guardrail, arms: dict[str, Traffic], levels: Levels, position_bias: float) -> Judged:
    return judge_guardrail(rule, arms["champion"], arms["challenger"], levels, position_bias=position_bias)


def _success(judged: Sequence[Judged], design: Design) -> list[GateResult]:
    """What is shown to be better on live traffic; the level of superiority is each metric's own, and a result in any of them is told with its name."""
    found = []
    for one in judged:
        rule, change = one.gate.criterion, one.change
        if rule.metric not in _SUCCESS or change is None:
            continue
        side: Literal["min", "max"] = rule.direction
        criterion = Criterion(name=f"{rule.metric}_better", metric=rule.metric, direction=side, kind=rule.kind, threshold=0.0, min_sample=rule.min_sample)
        answer, word = (Answer.PASS, "shown to be better") if change.better else (Answer.UNKNOWN, f"not shown to be better at {design.superiority_alpha:g}")
        found.append(
            GateResult(
                criterion=criterion, answer=answer, value=change.estimate, reference=change.reference, limit=0.0, n=min(change.n),
                reason=f"{rule.metric} {change.shown}: {word}",
            )
        )  # fmt: skip
    return found


def _verdict(
    arms: dict[str, Traffic],
    quality: list[GateResult],
    success: list[GateResult],
    gates: list[GateResult],
    slices: list[GateResult],
    served: int,
    min_sample: int,
) -> tuple[Verdict, str]:
    counts = f"{arms['champion'].served.height} + {arms['challenger'].served.height} requests"
    if served < min_sample:
        # Only errors may end a trial before its time: users see nothing worse, and a rate needs no large sample to be beyond doubt.
        errors = [gate for gate in gates if gate.criterion.metric == "error_rate"]
        verdict, reason = weigh(quality, (), errors, asks_success=False)
        early = verdict is Verdict.REJECT or reason.startswith("invalid")
        return (verdict, _counted(counts, reason)) if early else (Verdict.INCONCLUSIVE, f"{counts}, the trial needs {min_sample}")
    verdict, reason = weigh(quality, success, gates, slices, asks_success=False)
    return verdict, _counted(counts, reason)


def _counted(counts: str, reason: str) -> str:
    return reason if reason.startswith("invalid") else f"{counts}: {reason}"


def _paths(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    return [
        {"metric": one.gate.criterion.metric, "kind": one.gate.criterion.kind, "direction": one.gate.criterion.direction,
         "margin": one.gate.criterion.threshold, "points": one.change.points}
        for one in judged if one.change is not None
    ]  # fmt: skip


def _metrics(arm: Traffic, digest: str, now: datetime, seed: int, eta: float, start: datetime, end: datetime) -> dict[str, Metric]:
    window = {"window_start": start, "window_end": end}
    return {metric.name: metric.model_copy(update=window) for metric in traffic_metrics(arm, digest, now, seed=seed, position_bias=eta)}
