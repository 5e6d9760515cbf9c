"""The verdict of an A/B trial: first whether the trial is valid at all, then its guardrails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import polars as pl

from predator_si.errors import BadInput
from predator_si.experiment.guardrails import EARLY_CONFIDENCE, Guardrail, default_guardrails, judge_guardrail
from predator_si.monitor import Traffic, champion_traffic, traffic_metrics
from predator_si.records import Answer, ExperimentResult, GateResult, Metric, Verdict
from predator_si.search.events import EventFrames
from predator_si.statistics import sample_ratio_p

SAMPLE_RATIO_ALPHA = 0.001
"""Below it the split is broken and no number of the trial can be trusted (Fabijan et al. 2019, KDD)."""
TOLERATED_SHARE = 0.02
"""Share of clients seen in both arms, or of requests answered by a third model, that a trial may have (a swap in progress leaves a few)."""
FAMILY_ALPHA = 0.05
"""Chance of calling harm anywhere when there is none, over all guardrails together (Bonferroni)."""


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
) -> ExperimentResult:
    """Judge an A/B trial once, at its planned end.

    Order of the questions: is the split as intended (sample ratio over clients), is the sample large enough, does a guardrail fail, is each
    one shown. ``REJECT`` when one fails, ``PROMOTE`` when all pass, ``INCONCLUSIVE`` (hold) in every other case, an invalid trial included.
    Superiority is not asked here. The intervals are for one look: asking again and again until it passes is not covered by them; only errors
    may end a trial early (at 99.9%).

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
        Served requests of both arms together.
    same_model
        Both arms run one model with other settings (depth, fusion): the variant tells them apart. Then, and only then, the digests are the same.

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
    arms = {
        name: champion_traffic(_of_variant(events, variant) if same_model else events, window_start, window_end, digest, variant=variant)
        for name, variant, digest in (("champion", "champion", champion), ("challenger", "candidate", challenger))
    }
    sizes = {name: arm.requests.height for name, arm in arms.items()}
    others = sum(arm.others for arm in arms.values()) if same_model else arms["champion"].others - sizes["challenger"]
    clients = {name: arm.requests.select(client=pl.coalesce("client_id", "query_id")).unique() for name, arm in arms.items()}
    ratio = None if not any(sizes.values()) else sample_ratio_p([clients["champion"].height, clients["challenger"].height], [1.0 - split, split])
    # Below the planned sample only the strict early bound may blame anybody.
    early = sum(arm.served.height for arm in arms.values()) < min_sample
    harm_confidence = EARLY_CONFIDENCE if early else 1.0 - FAMILY_ALPHA / len(rules)
    results = [
        judge_guardrail(rule, arms["champion"], arms["challenger"], harm_confidence=harm_confidence, seed=seed, position_bias=position_bias) for rule in rules
    ]
    verdict, reason = _verdict(arms, clients, others, ratio, split, min_sample, results)
    return ExperimentResult(
        cycle_id=cycle_id,
        mode="ab",
        started_at=window_start,
        ended_at=window_end,
        requests={**sizes, "other": others, "probes": arms["champion"].probes},
        simulated=any(arm.simulated for arm in arms.values()),
        arms={
            name: _metrics(arm, digest, now, seed, position_bias, window_start, window_end)
            for (name, arm), digest in zip(arms.items(), (champion, challenger), strict=True)
        },
        guardrails=results,
        sample_ratio_p=ratio,
        verdict=verdict,
        reason=reason,
    )


def _of_variant(events: EventFrames, variant: str) -> EventFrames:
    return replace(events, search=events.search.filter(pl.col("variant").fill_null("champion") == variant))


def _verdict(
    arms: dict[str, Traffic], clients: dict[str, pl.DataFrame], others: int, ratio: float | None, split: float, min_sample: int, results: list[GateResult]
) -> tuple[Verdict, str]:
    counts = f"{arms['champion'].served.height} + {arms['challenger'].served.height} requests"
    if ratio is None:
        return Verdict.INCONCLUSIVE, "no request was served by either model in the window"
    invalid = _invalid(arms, clients, others, ratio, split)
    if invalid is not None:
        return Verdict.INCONCLUSIVE, f"invalid: {invalid}"
    total = sum(arm.served.height for arm in arms.values())
    failed = [result for result in results if result.answer is Answer.FAIL]
    if total < min_sample:
        # Only errors may end a trial before its time: users see nothing worse, and a rate needs no large sample to be beyond doubt.
        failed = [result for result in failed if result.criterion.metric == "error_rate"]
        if not failed:
            return Verdict.INCONCLUSIVE, f"{counts}, the trial needs {min_sample}"
    if failed:
        return Verdict.REJECT, f"{counts}: " + "; ".join(result.reason for result in failed)
    open_ones = [result for result in results if result.answer is not Answer.PASS]
    if open_ones:
        return Verdict.INCONCLUSIVE, f"{counts}: " + "; ".join(result.reason for result in open_ones)
    return Verdict.PROMOTE, f"{counts}, split as intended (p={ratio:.3g}): " + "; ".join(result.reason for result in results)


def _invalid(arms: dict[str, Traffic], clients: dict[str, pl.DataFrame], others: int, ratio: float, split: float) -> str | None:
    mine, theirs = clients["champion"], clients["challenger"]
    if ratio < SAMPLE_RATIO_ALPHA:
        share = theirs.height / (mine.height + theirs.height)
        got = f"the challenger got {share:.1%} of {mine.height + theirs.height} clients instead of {split:.1%}"
        return f"{got} (sample-ratio p={ratio:.2g}); find out why before trusting any number"
    both = mine.join(theirs, on="client", how="semi").height
    if both > TOLERATED_SHARE * (mine.height + theirs.height - both):
        return f"{both} clients were served by both models; assignment is not sticky"
    requests = sum(arm.requests.height for arm in arms.values())
    if others > TOLERATED_SHARE * (requests + others):
        return f"{others} of {requests + others} requests were answered by a third model; the release changed during the trial"
    return None


def _metrics(arm: Traffic, digest: str, now: datetime, seed: int, eta: float, start: datetime, end: datetime) -> dict[str, Metric]:
    window = {"window_start": start, "window_end": end}
    return {metric.name: metric.model_copy(update=window) for metric in traffic_metrics(arm, digest, now, seed=seed, position_bias=eta)}
