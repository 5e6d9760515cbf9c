"""A trial by slice: no part of the traffic with enough data may be worse than its margin.

What belongs here: cutting both arms by what is kept of queries in the clear, and judging each part. What must not: finding slices that do badly, which
would need its own correction (``diagnose`` does that offline).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from predator_si.experiment.guardrails import Guardrail, measure
from predator_si.experiment.proofs import Levels
from predator_si.monitor import Traffic
from predator_si.records import Answer, GateResult

_METRICS = ("avg_latency_ms", "ndcg_at_10_clicks", "error_rate")
_MOST = 12
"""Slices, the largest first: each costs a part of the level."""


def judge_slices(
    guardrails: Sequence[Guardrail], arms: Mapping[str, Traffic], levels: Levels, *, position_bias: float = 1.0
) -> list[tuple[GateResult, dict[str, Any]]]:
    """Each slice and metric: a gate (fail: shown worse than the margin), and a row for the report.

    The chance of calling any slice worse when none is, over all slices and looks, is the level of one guardrail (Bonferroni).
    """
    rules = [rule for rule in guardrails if rule.criterion.metric in _METRICS]
    parts = list(_parts(arms, max((rule.criterion.min_sample for rule in rules), default=1)))
    asked = max(1, len(parts) * len(rules))
    strict = replace(levels, harm_alpha=levels.harm_alpha / asked)
    found = []
    for name, champion, challenger in parts:
        for rule in rules:
            found.append(_judge(name, rule, champion, challenger, strict, position_bias))
    return found


def _judge(name: str, guardrail: Guardrail, champion: Traffic, challenger: Traffic, levels: Levels, eta: float) -> tuple[GateResult, dict[str, Any]]:
    rule = guardrail.criterion.model_copy(update={"name": f"{guardrail.criterion.name}:{name}"})
    sizes = (champion.answered.height, challenger.answered.height)
    change = measure(rule, champion, challenger, levels, eta)
    if isinstance(change, str):
        answer, value, told = Answer.UNKNOWN, None, change
    else:
        answer = Answer.FAIL if change.beyond else Answer.PASS if change.inside else Answer.UNKNOWN
        word = {Answer.FAIL: "worse than the margin", Answer.PASS: "within the margin", Answer.UNKNOWN: "nothing shown either way"}[answer]
        value, told = change.estimate, f"{change.shown}: {word}"
    reason = f"slice {name}: {rule.metric} {told}"
    row = {
        "name": name, "metric": rule.metric, "champion": sizes[0], "challenger": sizes[1], "estimate": value,
        "low": None if isinstance(change, str) or not np.isfinite(change.low) else change.low,
        "high": None if isinstance(change, str) or not np.isfinite(change.high) else change.high,
        "margin": rule.threshold, "answer": answer.value, "reason": reason,
    }  # fmt: skip
    return GateResult(criterion=rule, answer=answer, value=value, limit=rule.threshold, n=min(sizes), reason=reason), row


def _parts(arms: Mapping[str, Traffic], least: int) -> Iterator[tuple[str, Traffic, Traffic]]:
    """Slices in which both arms have ``least`` answered requests and that are not all of the traffic, largest first."""
    champion, challenger = (_labelled(arms[name]) for name in ("champion", "challenger"))
    counts: dict[tuple[str, str], int] = {}
    for column in ("words", "script"):
        sizes = [dict(arm.answered.filter(pl.col(column).is_not_null()).group_by(column).len().iter_rows()) for arm in (champion, challenger)]
        both = {label: min(size.get(label, 0) for size in sizes) for label in sorted(set().union(*sizes))}
        if len(both) > 1:
            counts |= {(column, label): n for label, n in both.items() if n >= least}
    for column, label in sorted(counts, key=lambda key: (-counts[key], key))[:_MOST]:
        yield f"{column} {label}", _only(champion, column, label), _only(challenger, column, label)


def _labelled(arm: Traffic) -> Traffic:
    words = pl.col("query_words")
    label = pl.when(words <= 2).then(pl.lit("1-2")).when(words <= 5).then(pl.lit("3-5")).when(words > 5).then(pl.lit("6+"))
    return replace(arm, requests=arm.requests.with_columns(words=label))


def _only(arm: Traffic, column: str, label: str) -> Traffic:
    return replace(arm, requests=arm.requests.filter(pl.col(column) == label))
