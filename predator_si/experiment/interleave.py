"""The verdict of an interleaved trial: whose documents do people click when both rankings share one list?

What belongs here: wins of two rankings over requests of different clients, and what they show. What must not: drafting lists and crediting clicks
(``search.interleave``), latency and absolute metrics, which a merged list cannot tell.

A client counts once, by its first request that one side wins: clients are independent, requests of one client are not. Ties say nothing and are left out.
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
from predator_si.search.interleave import credited_clicks, team_draft
from predator_si.statistics.counts import rate_log_e, rate_sequence
from predator_si.statistics.design import DEFAULT_DESIGN, Design
from predator_si.statistics.evidence import needed

MARGIN = 0.05
"""How far below a half the challenger's share of the wins may lie and still count as not worse."""
FALLBACK_MARGIN = 0.01
_REDRAWN = 200
"""Lists that are drafted again from their seed to see that they were drafted fairly."""


def judge_interleave(
    events: EventFrames,
    champion: str,
    challenger: str,
    *,
    cycle_id: str,
    window_start: datetime,
    window_end: datetime,
    now: datetime,
    min_sample: int = 50,
    longest: str | None = None,
    design: Design = DEFAULT_DESIGN,
) -> ExperimentResult:
    """Judge an interleaved step at any time, as often as one likes.

    ``PROMOTE`` where the challenger's share of the wins is shown to be above a half, or not more than ``MARGIN`` below it; ``REJECT`` where it is shown to
    be below a half and not shown to be within the margin.

    Parameters
    ----------
    events
        With ``exposures`` of mode ``interleave``.
    min_sample
        Merged lists that were shown.
    longest
        As ``rule.conclude`` takes it.
    """
    inside = pl.col("timestamp").is_between(window_start, window_end, closed="left")
    merged = events.exposures.filter(inside & (pl.col("mode") == "interleave") & (pl.col("variant") == "interleaved") & ~pl.col("probe"))
    merged = merged.sort("timestamp", "writer", "seq", "query_id", maintain_order=True, nulls_last=True)
    credits = credited_clicks(events.search, merged, events.actions)
    decisive = credits.filter(pl.col("champion_clicks") != pl.col("candidate_clicks")).with_columns(client=pl.coalesce("client_id", "query_id"))
    first = decisive.sort("timestamp", "query_id").unique("client", keep="first", maintain_order=True)
    wins = (first["candidate_clicks"] > first["champion_clicks"]).to_numpy().astype(np.float64)
    quality = _quality(events, merged, champion, challenger, now)
    preference, better, path = _preference(wins, design)
    fallbacks = _fallbacks(merged, design)
    guardrails = [preference, fallbacks]
    verdict, reason = weigh(quality, [better], guardrails, asks_success=False)
    if merged.height < min_sample and verdict is not Verdict.REJECT and not reason.startswith("invalid"):
        verdict, reason = Verdict.INCONCLUSIVE, f"{merged.height} merged lists, {min_sample} are needed"
    verdict, reason = conclude(verdict, reason if reason.startswith("invalid") else f"interleaved, {merged.height} lists: {reason}", longest)
    return ExperimentResult(
        cycle_id=cycle_id,
        mode="interleave",
        started_at=window_start,
        ended_at=window_end,
        requests={"merged": merged.height, "decisive": decisive.height, "clients": first.height, "challenger_wins": int(wins.sum())},
        simulated=bool(merged["simulated"].any()),
        arms={},
        guardrails=guardrails,
        sample_ratio_p=None,
        verdict=verdict,
        reason=reason,
        quality=quality,
        success=[better],
        paths=[path],
        would_change=[gate.reason for gate in [*quality, *guardrails] if gate.answer is not Answer.PASS],
        inputs=kept_inputs(champion, challenger, cycle_id, window_start, window_end, now, min_sample, longest, design, events.lost),
    )


def _gate(name: str, limit: float, side: Any, answer: Answer, value: float | None, n: int, reason: str) -> GateResult:
    return GateResult(criterion=Criterion(name=name, metric=name, direction=side, threshold=limit), answer=answer, value=value, limit=limit, n=n, reason=reason)


def _preference(wins: Any, design: Design) -> tuple[GateResult, GateResult, dict[str, Any]]:
    n = np.arange(1, wins.size + 1, dtype=np.float64)
    won = np.cumsum(wins)
    low, high = rate_sequence(won, n, 2.0 * design.non_inferiority_alpha)
    places: list[int] = np.unique(np.linspace(0, n.size - 1, 24).round().astype(int)).tolist() if n.size else []
    points = [{"n": int(n[k]), "at": None, "estimate": float(won[k] / n[k] - 0.5), "low": float(low[k] - 0.5), "high": float(high[k] - 0.5)} for k in places]
    path = {"metric": "interleaving_wins", "kind": "absolute", "direction": "min", "margin": -MARGIN, "points": points}
    if not n.size:
        reason = "interleaving_wins: no client has clicked more of one side's documents yet"
        return (
            _gate("interleaving_wins", 0.5 - MARGIN, "min", Answer.UNKNOWN, None, 0, reason),
            _gate("interleaving_preferred", 0.5, "min", Answer.UNKNOWN, None, 0, reason),
            path,
        )
    share = float(won[-1] / n[-1])

    def shown(side: Any, limit: float, alpha: float) -> bool:
        return bool((rate_log_e(won, n, limit, alternative=side, strength=design.interleaving_strength) >= needed(alpha)).any())

    better, within = shown("greater", 0.5, design.interleaving_alpha), shown("greater", 0.5 - MARGIN, design.non_inferiority_alpha)
    harm = shown("less", 0.5, design.harm_alpha) and not within
    told = f"interleaving_wins: the challenger won {won[-1]:.0f} of {n.size} clients ({share:.1%})"
    answer, word = (Answer.FAIL, "people prefer the champion") if harm else (Answer.PASS, "not worse") if within or better else (Answer.UNKNOWN, "open")
    gate = _gate("interleaving_wins", 0.5 - MARGIN, "min", answer, share, n.size, f"{told}: {word}")
    win = _gate(
        "interleaving_preferred",
        0.5,
        "min",
        Answer.PASS if better else Answer.UNKNOWN,
        share,
        n.size,
        f"{told}: {'preferred' if better else 'not shown to be preferred'}",
    )
    return gate, win, path


def _fallbacks(merged: pl.DataFrame, design: Design) -> GateResult:
    n, failed = merged.height, int(merged["fell_back"].sum())
    if not n:
        return _gate("fallback_rate", FALLBACK_MARGIN, "max", Answer.UNKNOWN, None, 0, "fallback_rate: no merged list was shown yet")
    path = np.cumsum(merged["fell_back"].to_numpy().astype(np.float64))
    bad = bool((rate_log_e(path, np.arange(1, n + 1), FALLBACK_MARGIN) >= needed(design.harm_alpha)).any())
    told = f"fallback_rate: a model failed in {failed} of {n} merged lists"
    return _gate("fallback_rate", FALLBACK_MARGIN, "max", Answer.FAIL if bad else Answer.PASS, failed / n, n, told)


def _quality(events: EventFrames, merged: pl.DataFrame, champion: str, challenger: str, now: datetime) -> list[GateResult]:
    n = merged.height
    other = merged.filter((pl.col("champion_digest") != champion) | (pl.col("candidate_digest") != challenger)).height
    twice = n - merged["query_id"].n_unique()
    newest = merged["timestamp"].max()
    age = (now - newest).total_seconds() if isinstance(newest, datetime) else None
    unfair = _unfair(merged.filter(pl.col("teams").list.len() > 0))
    checks: list[tuple[str, float | None, float, str, str]] = [
        ("models", other / n if n else 0.0, TOLERATED_SHARE, f"{other} of {n} lists were merged from other models", "the release changed during the trial"),
        ("drafts", float(unfair), 0.0, f"{unfair} lists are not what their seed drafts", "the lists were not drafted fairly"),
        ("duplicates", float(twice), 0.0, f"{twice} of {n} requests were recorded twice", "somebody else made this frame"),
        ("freshness", age, STALE_AFTER.total_seconds(), "there is no event" if age is None else f"the newest event is {age:.0f} s old", "the data are stale"),
    ]  # fmt: skip
    asked = merged.select("query_id").join(events.search.unique("query_id", keep="any"), on="query_id", how="left")
    return [*within_limits(checks, n), order_check(merged), losses_check(events.lost, max(n, events.search.height)), busiest_check(asked["client_id"])]


def _unfair(drafted: pl.DataFrame) -> int:
    """Of the first lists, those whose teams another draft from the same rankings and seed does not give."""
    wrong = 0
    for row in drafted.head(_REDRAWN).iter_rows(named=True):
        if row["draft_seed"] is None:
            wrong += 1
            continue
        again = team_draft(row["champion_ids"], row["candidate_ids"], len(row["teams"]), row["draft_seed"])
        wrong += list(again.teams) != list(row["teams"])
    return wrong
