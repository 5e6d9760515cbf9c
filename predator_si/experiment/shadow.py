"""The verdict of a trial in shadow: the challenger scores requests that the champion answers, and nobody sees it.

What belongs here: failures and time of both models on the same requests, within-request. What must not: relevance (nobody clicks what nobody sees).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from predator_si.experiment.inputs import kept_inputs
from predator_si.experiment.quality import STALE_AFTER, TOLERATED_SHARE, busiest_check, losses_check, order_check, within_limits
from predator_si.experiment.rule import conclude, weigh
from predator_si.records import Answer, Criterion, ExperimentResult, GateResult, Verdict
from predator_si.search.events import EventFrames
from predator_si.statistics.counts import rate_log_e, rate_sequence
from predator_si.statistics.design import DEFAULT_DESIGN, Design
from predator_si.statistics.evidence import needed
from predator_si.statistics.mixture import mean_log_e, mean_sequence, running_sums

ERROR_MARGIN = 0.01
SLOWER_MARGIN = 0.15
"""Largest accepted change of the (geometric) mean time of a request."""
_DROPPED = 0.5
"""Share of sampled requests dropped under load from which the rest is no fair sample."""


def judge_shadow(
    events: EventFrames,
    champion: str,
    challenger: str,
    *,
    cycle_id: str,
    window_start: datetime,
    window_end: datetime,
    now: datetime,
    min_sample: int = 30,
    asks_proof: bool = True,
    longest: str | None = None,
    design: Design = DEFAULT_DESIGN,
) -> ExperimentResult:
    """Judge a step in shadow at any time, as often as one likes.

    Parameters
    ----------
    events
        With ``shadows`` of role ``candidate``.
    min_sample
        Requests that both models scored.
    asks_proof
        Whether failures must be shown to be few; otherwise it is enough that they are not shown to be many.
    longest
        As ``rule.conclude`` takes it.
    """
    inside = pl.col("timestamp").is_between(window_start, window_end, closed="left") & (pl.col("role") == "candidate")
    sampled = events.shadows.filter(inside).sort("timestamp", "writer", "seq", "query_id", maintain_order=True, nulls_last=True)
    scored = sampled.filter(pl.col("status") == "scored")
    tried = sampled.filter(pl.col("status") != "dropped")
    quality = _quality(events, sampled, champion, challenger, now)
    errors, error_path = _errors(tried, design, asks_proof)
    latency, better, latency_path = _latency(scored, design)
    guardrails = [errors, latency]
    if scored.height < min_sample and errors.answer is not Answer.FAIL:
        verdict, reason = weigh(quality, (), (), asks_success=False)
        if verdict is not Verdict.INCONCLUSIVE:
            verdict, reason = Verdict.INCONCLUSIVE, f"{scored.height} requests scored by both models, {min_sample} are needed"
    else:
        verdict, reason = weigh(quality, [better], guardrails, asks_success=False)
    verdict, reason = conclude(verdict, reason if reason.startswith("invalid") else f"shadow, {scored.height} requests: {reason}", longest)
    return ExperimentResult(
        cycle_id=cycle_id,
        mode="shadow",
        started_at=window_start,
        ended_at=window_end,
        requests={"scored": scored.height, "failed": tried.height - scored.height, "dropped": sampled.height - tried.height},
        simulated=bool(sampled["simulated"].any()),
        arms={},
        guardrails=guardrails,
        sample_ratio_p=None,
        verdict=verdict,
        reason=reason,
        quality=quality,
        success=[better],
        paths=[error_path, latency_path],
        would_change=[gate.reason for gate in [*quality, *guardrails] if gate.answer is not Answer.PASS],
        inputs=kept_inputs(champion, challenger, cycle_id, window_start, window_end, now, min_sample, longest, design, events.lost, asks_proof=asks_proof),
    )


def _gate(criterion: Criterion, answer: Answer, value: float | None, n: int, reason: str) -> GateResult:
    return GateResult(criterion=criterion, answer=answer, value=value, limit=criterion.threshold, n=n, reason=reason)


def _quality(events: EventFrames, sampled: pl.DataFrame, champion: str, challenger: str, now: datetime) -> list[GateResult]:
    n = sampled.height
    other = sampled.filter((pl.col("served_digest") != champion) | (pl.col("shadow_digest") != challenger)).height
    dropped = sampled.filter(pl.col("status") == "dropped").height
    twice = n - sampled["query_id"].n_unique()
    newest = sampled["timestamp"].max()
    age = (now - newest).total_seconds() if isinstance(newest, datetime) else None
    limit = STALE_AFTER.total_seconds()
    checks: list[tuple[str, float | None, float, str, str]] = [
        ("models", other / n if n else 0.0, TOLERATED_SHARE, f"{other} of {n} requests were scored by other models", "the release changed during the trial"),
        ("dropped", dropped / n if n else 0.0, _DROPPED, f"{dropped} of {n} sampled requests were dropped", "what is left are the quiet moments"),
        ("duplicates", float(twice), 0.0, f"{twice} of {n} requests were recorded twice", "somebody else made this frame"),
        ("freshness", age, limit, "there is no event" if age is None else f"the newest event is {age:.0f} s old", "the data are stale"),
    ]
    asked = sampled.select("query_id").join(events.search.unique("query_id", keep="any"), on="query_id", how="left")
    return [
        *within_limits(checks, n),
        order_check(_written(sampled)),
        losses_check(events.lost, max(n, events.search.height)),
        busiest_check(asked["client_id"]),
    ]


def _written(sampled: pl.DataFrame) -> pl.DataFrame:
    """Scored requests at the times when their events were written: the events carry their requests' times, and the queue may make them wait for minutes."""
    spent = sum((pl.col(name).fill_null(0.0) for name in ("waited_ms", "served_ms", "shadow_ms")), pl.lit(0.0))
    written = pl.col("timestamp") + pl.duration(microseconds=(spent * 1e3).cast(pl.Int64))
    return sampled.filter(pl.col("status") == "scored").with_columns(timestamp=written)


def _errors(tried: pl.DataFrame, design: Design, asks_proof: bool) -> tuple[GateResult, dict[str, Any]]:
    criterion = Criterion(name="error_rate", metric="error_rate", direction="max", threshold=ERROR_MARGIN)
    failed = np.cumsum((tried["status"] == "failed").to_numpy().astype(np.float64))
    n = np.arange(1, failed.size + 1, dtype=np.float64)
    low, high = rate_sequence(failed, n, 2.0 * design.non_inferiority_alpha)
    path = _path("error_rate", "absolute", ERROR_MARGIN, failed / n, low, high)
    if not n.size:
        return _gate(criterion, Answer.UNKNOWN, None, 0, "error_rate: the challenger scored no request yet"), path
    told = f"error_rate of the challenger in shadow: {failed[-1]:.0f} of {n.size} requests"
    if (rate_log_e(failed, n, ERROR_MARGIN) >= needed(design.harm_alpha)).any():
        answer, word = Answer.FAIL, f"shown to be above {ERROR_MARGIN:.0%}"
    elif float(high.min()) < ERROR_MARGIN:
        answer, word = Answer.PASS, f"shown to be below {ERROR_MARGIN:.0%}"
    else:
        answer, word = (Answer.UNKNOWN, "not yet shown") if asks_proof else (Answer.PASS, f"not shown to be above {ERROR_MARGIN:.0%}")
    return _gate(criterion, answer, float(failed[-1] / n[-1]), n.size, f"{told}; {word}"), path


def _latency(scored: pl.DataFrame, design: Design) -> tuple[GateResult, GateResult, dict[str, Any]]:
    """Time on the same request, one model after the other in a random order: what a request is like falls out of the ratio."""
    criterion = Criterion(name="latency_ratio", metric="latency_ratio", direction="max", kind="relative", threshold=SLOWER_MARGIN)
    superior = Criterion(name="latency_ratio_better", metric="latency_ratio", direction="max", kind="relative", threshold=0.0)
    timed = scored.filter((pl.col("served_ms") > 0) & (pl.col("shadow_ms") > 0))
    logs = np.log(timed["shadow_ms"].to_numpy().astype(np.float64) / timed["served_ms"].to_numpy().astype(np.float64))
    if not logs.size:
        reason = "latency_ratio: no request was timed on both models"
        empty = _path("latency_ratio", "relative", SLOWER_MARGIN, logs, logs, logs)
        return _gate(criterion, Answer.UNKNOWN, None, 0, reason), _gate(superior, Answer.UNKNOWN, None, 0, reason), empty
    n, total, squares = running_sums(logs)
    given: dict[str, Any] = {"prior": design.latency_prior, "burn_in": design.latency_burn_in}

    def shown(margin: float, side: Any, alpha: float) -> bool:
        return bool((mean_log_e(n, total, squares, float(np.log1p(margin)), alternative=side, **given) >= needed(alpha)).any())

    inside, better = shown(SLOWER_MARGIN, "less", design.non_inferiority_alpha), shown(0.0, "less", design.superiority_alpha)
    harm = shown(0.0, "greater", design.harm_alpha) and not inside
    low, high = mean_sequence(n, total, squares, 0.05, **given)
    estimate = float(np.expm1(total[-1] / n[-1]))
    told = f"latency_ratio: the challenger takes {estimate:+.1%} of the champion's time on {n.size} requests that both scored"
    answer, word = (Answer.FAIL, "harm") if harm else (Answer.PASS, "within the margin") if inside else (Answer.UNKNOWN, "not yet proven within the margin")
    path = _path("latency_ratio", "relative", SLOWER_MARGIN, np.expm1(total / n), np.expm1(low), np.expm1(high))
    gate = _gate(criterion, answer, estimate, n.size, f"{told}, margin {SLOWER_MARGIN:+.0%}: {word}")
    win = _gate(superior, Answer.PASS if better else Answer.UNKNOWN, estimate, n.size, f"{told}: {'faster' if better else 'not shown to be faster'}")
    return gate, win, path


def _path(metric: str, kind: str, margin: float, estimate: Any, low: Any, high: Any) -> dict[str, Any]:
    """At most 24 points of the sequence by number of requests."""
    places: list[int] = np.unique(np.linspace(0, len(estimate) - 1, 24).round().astype(int)).tolist() if len(estimate) else []

    def known(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    points = [{"n": int(k) + 1, "at": None, "estimate": known(estimate[k]), "low": known(low[k]), "high": known(high[k])} for k in places]
    return {"metric": metric, "kind": kind, "direction": "max", "margin": margin, "points": points}
