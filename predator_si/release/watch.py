"""The checks after a deploy: keep, roll back, or look once more.

Looking again and again finds something by chance sooner or later. Each statistical question therefore gets a share of the total error
``alpha``: Bonferroni over the questions asked and over the planned checks, so that a good release is rolled back with probability at most
``alpha`` in the whole watch, whatever the order of the looks. A watch that goes on past its plan, because data are missing, judges its k-th
look at ``alpha / k``; only then can the total grow, by less than ``alpha * ln(looks / planned)``.

What a rollback needs:

- the service reports another digest than the released one: at once, no statistics;
- failures: the exact one-sided bound of Clopper and Pearson (1934) of the failure rate lies above the limit;
- slow requests: the same bound of the share of requests slower than the P95 limit lies above 5%, which is "P95 is above the limit" in
  counts, without assuming a distribution (requests are taken as independent: a stall that slows many at once is overstated);
- relevance: the one-sided upper Student bound of the mean NDCG difference, released minus old champion on the same probe queries, lies
  below the margin. One difference of +1, the best there can be, is added to the sample: without it a sample of equal small losses would
  have no spread at all, and gains too rare to have been seen yet would count as impossible. A probe query asked in several checks counts
  once, with its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import numpy as np
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.records import Answer, Criterion, GateResult, Record, WatchResult, utc_now

_QUESTIONS = 3
_SLOW_SHARE = 0.05
_NDCG_MARGINS = {"ndcg_at_10": 0.0, "schedule": 0.0}
_DEFAULT_MARGIN = 0.01


class WatchPlan(Record):
    """What is watched, and how strictly; fixed before the first check."""

    cycle_id: str
    released_digest: str
    planned_checks: int = Field(default=12, ge=1, le=1000)
    min_requests: int = Field(default=200, ge=1)
    """Requests over all checks before a release may be called stable."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    max_error_rate: float = Field(default=0.01, ge=0, lt=1)
    p95_limit_ms: float | None = Field(default=1000.0, gt=0)
    """The trigger table's rollback row; null where the contour has none."""
    ndcg_margin: float = Field(default=_DEFAULT_MARGIN, ge=0, le=1)
    """How much lower than the old champion's the NDCG may be; 0 after a cycle for relevance."""
    min_probes: int = Field(default=30, ge=2)
    probes_expected: bool = True
    """False where the contour has no judged queries to probe with, or where ranking is not what the release is about."""
    max_lag_seconds: float | None = Field(default=None, gt=0)
    """Longest wait in the ingest queue at the last planned check; null where the release is not about it."""


class WatchCheck(Record):
    """The numbers of one check."""

    at: datetime
    requests: int = Field(ge=0)
    failures: int = Field(ge=0)
    """Requests that got no usable answer: status 500 and above, or none at all."""
    slow: int | None = Field(default=None, ge=0)
    """Answered requests slower than ``WatchPlan.p95_limit_ms``; null when latency is not known."""
    p95_ms: float | None = None
    """For the report; the judgement counts ``slow``."""
    served_digest: str | None = None
    """What ``/info`` named as champion; null when it did not answer."""
    lag_seconds: float | None = Field(default=None, ge=0)
    """How long the oldest document waits to be indexed; null when the service did not say."""
    probes: dict[str, float] = Field(default_factory=dict)
    """Probe query -> NDCG@10 of the released model minus that of the old champion, on the same candidates: -1..1."""


def ndcg_margin_of(trigger: str) -> float:
    """The margin that belongs to a trigger: after a cycle for relevance any proven loss is too much (CONTRACT.md section 3)."""
    return _NDCG_MARGINS.get(trigger.removesuffix("_down").removesuffix("_up"), _DEFAULT_MARGIN)


def watch_criteria(plan: WatchPlan) -> tuple[Criterion, ...]:
    """The plan's rules as data, in the order of the gates in ``WatchResult``."""
    limit = "" if plan.p95_limit_ms is None else f" {plan.p95_limit_ms:g} ms"
    no_probes: Literal["unknown", "not_applicable"] = "unknown" if plan.probes_expected else "not_applicable"
    return (
        Criterion(
            name="digest", metric="served_digest_is_released", direction="min", threshold=1.0,
            description={"en": "The service serves the released model", "uk": "Сервіс віддає випущену модель"},
        ),
        Criterion(
            name="errors", metric="error_rate", direction="max", threshold=plan.max_error_rate, min_sample=plan.min_requests,
            description={"en": "Failed requests", "uk": "Запити з помилкою"},
        ),
        Criterion(
            name="latency", metric="slow_share", direction="max", threshold=_SLOW_SHARE, min_sample=plan.min_requests,
            no_data="not_applicable" if plan.p95_limit_ms is None else "unknown",
            description={"en": f"Share of requests slower than{limit}", "uk": f"Частка запитів, повільніших за{limit}"},
        ),
        Criterion(
            name="ndcg", metric="ndcg_difference", direction="min", threshold=-plan.ndcg_margin, min_sample=plan.min_probes, no_data=no_probes,
            description={"en": "NDCG@10 against the old champion, on probes", "uk": "NDCG@10 проти попереднього чемпіона, на пробах"},
        ),
        *(() if plan.max_lag_seconds is None else (Criterion(
            name="lag", metric="etl_lag_seconds", direction="max", threshold=plan.max_lag_seconds,
            description={"en": "How long the oldest unindexed document waits", "uk": "Скільки чекає найстаріший документ у черзі"},
        ),)),
    )  # fmt: skip


def judge_watch(plan: WatchPlan, checks: Sequence[WatchCheck], now: datetime | None = None) -> WatchResult:
    """What all checks so far mean together.

    Returns
    -------
    WatchResult
        ``rollback`` as soon as one gate fails; ``keep`` when the planned checks are done and no gate is unknown; ``continue`` otherwise,
        also past the plan: a release is never called stable for lack of data, and the caller sets how long it waits.

    Raises
    ------
    BadInput
        A check that cannot be: more failures or slow requests than requests, a difference outside -1..1.
    """
    for number, check in enumerate(checks, start=1):
        if check.failures > check.requests or (check.slow or 0) > check.requests - check.failures:
            raise BadInput(f"watch check {number}: {check.failures} failures and {check.slow} slow ones of {check.requests} requests. Count them again.")
        if not all(-1.0 <= difference <= 1.0 for difference in check.probes.values()):
            raise BadInput(f"watch check {number}: an NDCG difference outside -1..1, or not a number. Score the probes again.")
    level = plan.alpha / (_QUESTIONS * max(plan.planned_checks, len(checks)))
    digest, errors, latency, ndcg, *lag = watch_criteria(plan)
    gates = [_digest(digest, plan, checks), _errors(errors, checks, level), _latency(latency, checks, level), _ndcg(ndcg, checks, level)]
    gates += [_lag(criterion, plan, checks) for criterion in lag]
    failed = [gate for gate in gates if gate.answer is Answer.FAIL]
    unknown = [gate for gate in gates if gate.answer is Answer.UNKNOWN]
    progress = f"check {len(checks)} of {plan.planned_checks}"
    answer: Literal["keep", "rollback", "continue"]
    if failed:
        answer, reason = "rollback", f"{progress}: " + "; ".join(gate.reason for gate in failed)
    elif len(checks) >= plan.planned_checks and not unknown:
        answer, reason = "keep", f"{progress}: " + "; ".join(gate.reason for gate in gates)
    else:
        waiting = "; ".join(gate.reason for gate in unknown) or "nothing speaks against the release so far"
        answer, reason = "continue", f"{progress}: {waiting}"
    return WatchResult(
        cycle_id=plan.cycle_id,
        checks=[check.model_dump(mode="json") for check in checks],
        requests=sum(check.requests for check in checks),
        failed_requests=sum(check.failures for check in checks),
        answer=answer,
        gates=gates,
        reason=reason,
        created_at=now or utc_now(),
    )


# --------------------------------------------------------------------------- the four gates


def _digest(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck]) -> GateResult:
    seen = [check.served_digest for check in checks if check.served_digest is not None]
    strange = next((digest for digest in seen if digest != plan.released_digest), None)
    if strange is not None:
        return _gate(criterion, Answer.FAIL, 0.0, len(seen), f"the service serves {strange}, released is {plan.released_digest}")
    if not seen or checks[-1].served_digest is None:
        return _gate(criterion, Answer.UNKNOWN, None, len(seen), "the service did not say what it serves")
    return _gate(criterion, Answer.PASS, 1.0, len(seen), f"the service served {plan.released_digest[:19]} in {len(seen)} of {len(checks)} checks")


def _errors(criterion: Criterion, checks: Sequence[WatchCheck], level: float) -> GateResult:
    return _share(criterion, sum(check.failures for check in checks), sum(check.requests for check in checks), level, "requests failed")


def _latency(criterion: Criterion, checks: Sequence[WatchCheck], level: float) -> GateResult:
    if criterion.no_data == "not_applicable":
        return _gate(criterion, Answer.NOT_APPLICABLE, None, 0, "the contour has no P95 limit")
    timed = [check for check in checks if check.slow is not None]
    slow, answered = sum(check.slow or 0 for check in timed), sum(check.requests - check.failures for check in timed)
    return _share(criterion, slow, answered, level, "answers were slower than the P95 limit")


def _share(criterion: Criterion, bad: int, n: int, level: float, words: str) -> GateResult:
    """Fail: proven above the limit. Unknown: too few, or above the limit without proof. Pass: enough, and not above it."""
    if n == 0:
        return _gate(criterion, Answer.UNKNOWN, None, 0, f"no data on how many {words}")
    share, bound = bad / n, _lower_bound(bad, n, level)
    told = f"{bad} of {n} {words} ({share:.2%}, surely above {bound:.2%}; limit {criterion.threshold:.2%})"
    if bound > criterion.threshold:
        return _gate(criterion, Answer.FAIL, share, n, told)
    if n < criterion.min_sample:
        return _gate(criterion, Answer.UNKNOWN, share, n, f"{told}, {criterion.min_sample} are needed")
    return _gate(criterion, Answer.PASS if share <= criterion.threshold else Answer.UNKNOWN, share, n, told)


def _ndcg(criterion: Criterion, checks: Sequence[WatchCheck], level: float) -> GateResult:
    by_query: dict[str, list[float]] = {}
    for check in checks:
        for query_id, difference in check.probes.items():
            by_query.setdefault(query_id, []).append(difference)
    n = len(by_query)
    if n < criterion.min_sample:
        answer = Answer.NOT_APPLICABLE if n == 0 and criterion.no_data == "not_applicable" else Answer.UNKNOWN
        return _gate(criterion, answer, None, n, f"{n} probe queries, {criterion.min_sample} are needed")
    differences = np.array([float(np.mean(values)) for values in by_query.values()])
    mean, bound = float(differences.mean()), _upper_bound(differences, level)
    told = f"NDCG@10 differs by {mean:+.4f} from the old champion on {n} probe queries (surely below {bound:+.4f}; limit {criterion.threshold:+.4f})"
    return _gate(criterion, Answer.FAIL if bound < criterion.threshold else Answer.PASS, mean, n, told)


def _lag(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck]) -> GateResult:
    """A backlog takes its time: it must be gone by the last planned check, and only then is one that is not a failure."""
    value = checks[-1].lag_seconds if checks else None
    if value is None:
        return _gate(criterion, Answer.UNKNOWN, None, 0, "the service did not say how long documents wait")
    told = f"the oldest document waits {value:.0f} s, at most {criterion.threshold:.0f} s are allowed"
    late = len(checks) >= plan.planned_checks
    answer = Answer.PASS if value <= criterion.threshold else Answer.FAIL if late else Answer.UNKNOWN
    return _gate(criterion, answer, value, len(checks), told)


def _gate(criterion: Criterion, answer: Answer, value: float | None, n: int, reason: str) -> GateResult:
    return GateResult(criterion=criterion, answer=answer, value=value, limit=criterion.threshold, n=n, reason=reason)


def _lower_bound(bad: int, n: int, level: float) -> float:
    """One-sided Clopper-Pearson bound: the true share is above it with probability 1 - level or more."""
    from scipy.special import betaincinv

    return 0.0 if bad == 0 else float(betaincinv(bad, n - bad + 1, level))


def _upper_bound(differences: np.ndarray[tuple[int], np.dtype[np.float64]], level: float) -> float:
    """One-sided Student bound of the mean of differences in -1..1, with one unseen +1 added."""
    from scipy.special import stdtrit

    sample = np.append(differences, 1.0)
    half = float(stdtrit(sample.size - 1, 1.0 - level)) * float(sample.std(ddof=1)) / float(np.sqrt(sample.size))
    return float(sample.mean()) + half
