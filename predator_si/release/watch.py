"""The checks after a deploy: keep, roll back, or look once more.

Any look is allowed. Each statistical question is an e-process that grows with the data of all checks (``predator_si.statistics``), and it is answered
when it reaches the inverse of its level (``statistics.design``): a good release is rolled back with at most the sum of these levels' probability in the
whole watch, however many checks there are and whenever they come (Ville's inequality). Nothing is paid for looking again.

What a rollback needs:

- the service reports another digest than the released one: at once, no statistics;
- failures: evidence (beta-binomial) that the failure rate lies above the limit;
- slow requests: the same for the share of requests slower than the P95 limit above 5%, which is "P95 is above the limit" in counts;
- slower than before: where the old champion scores a sample of the same requests in shadow, evidence (normal mixture) that the mean log ratio of both
  times lies above what was accepted at the promotion;
- relevance: evidence (betting, no normal approximation) that the mean NDCG difference, released minus old champion on the same queries and candidates,
  lies below the margin. A query that is asked in several checks counts once, with its first difference.

Evidence that does not suffice for a rollback, but would be a surprise after a good release (``doubt``), keeps a release from being called stable: the
watch goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from predator_si.errors import BadInput
from predator_si.records import Answer, Criterion, Decision, GateResult, Record, WatchResult, utc_now
from predator_si.release.criteria import NDCG_MARGIN
from predator_si.release.decide import is_tried
from predator_si.statistics.betting import bounded_mean_log_e
from predator_si.statistics.counts import rate_log_e
from predator_si.statistics.design import DEFAULT_DESIGN, Design
from predator_si.statistics.evidence import Array, ArrayLike, needed
from predator_si.statistics.mixture import mean_log_e

_SLOW_SHARE = 0.05
_LOSES_NOTHING = frozenset({"ndcg_at_10", "schedule"})
_DOUBT_ENDS = 2
"""Times the planned checks after which doubt alone holds a release no longer: what could not be shown by then is small."""
QUESTIONS = ("errors", "latency", "slower", "ndcg")
"""What is asked by statistics; each has its part of the chance of a false rollback."""


class WatchPlan(Record):
    """What is watched, and how strictly; fixed before the first check."""

    cycle_id: str
    released_digest: str
    planned_checks: int = Field(default=12, ge=1, le=1000)
    min_requests: int = Field(default=200, ge=1)
    """Requests over all checks before a release may be called stable."""
    design: Design = DEFAULT_DESIGN
    """Levels and tuning: what ``predator-si simulate`` proves."""
    doubt: float = Field(default=0.05, gt=0, lt=0.5)
    """Evidence at this level keeps the watch going."""
    max_error_rate: float = Field(default=0.01, gt=0, lt=1)
    p95_limit_ms: float | None = Field(default=1000.0, gt=0)
    """The trigger table's rollback row; null where the contour has none."""
    latency_ratio: float = Field(default=DEFAULT_DESIGN.latency_margin, gt=0)
    """How many times the old champion's time a request may take on the (geometric) mean: what was accepted at the promotion, and the design's margin."""
    ndcg_margin: float = Field(default=NDCG_MARGIN, ge=0, lt=1)
    """How much lower than the old champion's the NDCG may be; 0 after a cycle for relevance."""
    min_probes: int = Field(default=30, ge=2)
    probes_expected: bool = True
    """False where the contour has no judged queries to probe with, or where ranking is not what the release is about."""
    shadow_expected: bool = False
    """Whether the old champion scores a sample of the requests; without it nobody waits for pairs."""
    max_lag_seconds: float | None = Field(default=None, gt=0)
    """Longest wait in the ingest queue at the last planned check; null where the release is not about it."""

    max_index_errors: float | None = Field(default=None, gt=0)
    """Open dead letters of the ingest queue; null where the release is not about them."""

    @field_validator("design", mode="before")
    @classmethod
    def _kept(cls, design: Any) -> Any:
        return Design.kept(design) if isinstance(design, Mapping) else design

    def level(self, question: str) -> float:
        """Chance of a rollback by this question after a good release; latency is asked in two ways, which share its level."""
        design = self.design
        return {"errors": design.errors_alpha, "latency": design.latency_alpha / 2, "slower": design.latency_alpha / 2, "ndcg": design.ndcg_alpha}[question]


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
    index_errors: float | None = Field(default=None, ge=0)
    """Open dead letters; null when the service did not say."""
    probes: dict[str, float] = Field(default_factory=dict)
    """Query -> NDCG@10 of the released model minus that of the old champion, on the same candidates: -1..1."""
    pairs: int = Field(default=0, ge=0)
    """Requests that both models timed."""
    log_ratio_sum: float = 0.0
    """Over these: log of the released model's time over the old champion's."""
    log_ratio_squares: float = Field(default=0.0, ge=0)
    evidence: dict[str, str] = Field(default_factory=dict)
    """File below the cycle's folder -> sha256: what was counted (``watch_evidence``)."""


def ndcg_margin_of(trigger: str, margin: float = NDCG_MARGIN) -> float:
    """The margin that belongs to a trigger: after a cycle for relevance any proven loss is too much (CONTRACT.md section 3), else the contour's."""
    return 0.0 if trigger.removesuffix("_down").removesuffix("_up") in _LOSES_NOTHING else margin


def stays_warm(trigger: str, decision: Decision, share: float) -> bool:
    """Whether the old champion scores ``share`` of the requests unseen while a release is watched: where the release brought another model for its ranking."""
    return share > 0 and decision.champion.model != decision.challenger.model and is_tried(trigger)


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
            name="slower", metric="latency_ratio", direction="max", threshold=plan.latency_ratio, min_sample=plan.min_probes,
            no_data="unknown" if plan.shadow_expected else "not_applicable",
            description={"en": "Time of a request against the old champion's, on the same request", "uk": "Час запиту проти попереднього чемпіона"},
        ),
        Criterion(
            name="ndcg", metric="ndcg_difference", direction="min", threshold=-plan.ndcg_margin, min_sample=plan.min_probes, no_data=no_probes,
            description={"en": "NDCG@10 against the old champion, on probes", "uk": "NDCG@10 проти попереднього чемпіона, на пробах"},
        ),
        *(() if plan.max_lag_seconds is None else (Criterion(
            name="lag", metric="etl_lag_seconds", direction="max", threshold=plan.max_lag_seconds,
            description={"en": "How long the oldest unindexed document waits", "uk": "Скільки чекає найстаріший документ у черзі"},
        ),)),
        *(() if plan.max_index_errors is None else (Criterion(
            name="index_errors", metric="index_errors", direction="max", threshold=plan.max_index_errors,
            description={"en": "Documents that could not be indexed", "uk": "Документи, які не вдалося проіндексувати"},
        ),)),
    )  # fmt: skip


# --------------------------------------------------------------------------- evidence: the functions that `simulate` calls with many lives at once


def errors_log_e(plan: WatchPlan, failures: ArrayLike, requests: ArrayLike) -> Array:
    """Evidence that the failure rate is above the limit; counts so far, shape (..., looks)."""
    return rate_log_e(failures, requests, plan.max_error_rate, strength=plan.design.errors_strength)


def latency_log_e(plan: WatchPlan, slow: ArrayLike, answered: ArrayLike) -> Array:
    """Evidence that P95 is above its limit: more than a twentieth of the answers slower than it; counts so far, shape (..., looks)."""
    return rate_log_e(slow, answered, _SLOW_SHARE, strength=plan.design.slow_strength)


def slower_log_e(plan: WatchPlan, pairs: ArrayLike, log_ratio_sum: ArrayLike, log_ratio_squares: ArrayLike) -> Array:
    """Evidence that the mean log ratio of both models' times is above ``latency_ratio``'s; sums so far, shape (..., looks)."""
    design = plan.design
    return mean_log_e(
        pairs, log_ratio_sum, log_ratio_squares, math.log(plan.latency_ratio), prior=design.latency_prior, alternative="greater", burn_in=design.latency_burn_in
    )


def ndcg_log_e(plan: WatchPlan, differences: ArrayLike) -> Array:
    """Evidence after each query that the mean NDCG difference is below the margin; shape (..., queries) of differences in -1..1."""
    return bounded_mean_log_e(differences, -plan.ndcg_margin, alternative="less", bets=plan.design.ndcg_bets)


# --------------------------------------------------------------------------- the verdict


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
        A check that cannot be: more failures or slow requests than requests, a difference outside -1..1, times of no pairs, checks out of order.
    """
    _possible(checks)
    digest, errors, latency, slower, ndcg, *queue = watch_criteria(plan)
    evidence = _evidence(plan, checks)
    gates = [
        _digest(digest, plan, checks),
        _errors(errors, plan, checks, evidence["errors"]),
        _latency(latency, plan, checks, evidence["latency"]),
        _slower(slower, plan, checks, evidence["slower"]),
        _ndcg(ndcg, plan, checks, evidence["ndcg"]),
        *({"lag": _lag, "index_errors": _index_errors}[criterion.name](criterion, plan, checks) for criterion in queue),
    ]
    failed = [gate for gate in gates if gate.answer is Answer.FAIL]
    unknown = [gate for gate in gates if gate.answer is Answer.UNKNOWN]
    progress = f"check {len(checks)} of {plan.planned_checks}"
    answer: Literal["keep", "rollback", "continue"]
    if failed:
        answer, reason = "rollback", f"{progress}: " + "; ".join(gate.reason for gate in failed)
    elif len(checks) >= plan.planned_checks and not unknown:
        answer, reason = "keep", f"{progress}: " + "; ".join(gate.reason for gate in gates if gate.answer is not Answer.NOT_APPLICABLE)
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
        plan=plan.model_dump(mode="json"),
        evidence={question: [float(value) for value in values] for question, values in evidence.items()},
        needed={question: needed(plan.level(question)) for question in QUESTIONS},
    )


def _possible(checks: Sequence[WatchCheck]) -> None:
    for number, check in enumerate(checks, start=1):
        if check.failures > check.requests or (check.slow or 0) > check.requests - check.failures:
            raise BadInput(f"watch check {number}: {check.failures} failures and {check.slow} slow ones of {check.requests} requests. Count them again.")
        if not all(-1.0 <= difference <= 1.0 for difference in check.probes.values()):
            raise BadInput(f"watch check {number}: an NDCG difference outside -1..1, or not a number. Score the probes again.")
        if not check.pairs and (check.log_ratio_sum or check.log_ratio_squares):
            raise BadInput(f"watch check {number}: sums of log ratios without pairs. Time the requests again.")
        if number > 1 and check.at < checks[number - 2].at:
            raise BadInput(
                f"watch check {number}: it was made at {check.at:%H:%M:%S}, before the check before it. A clock went backwards: set it, then watch on."
            )


def _evidence(plan: WatchPlan, checks: Sequence[WatchCheck]) -> dict[str, Array]:
    """Log evidence after each check, by question."""

    def running(values: Sequence[float]) -> Array:
        return np.cumsum(np.asarray(values, dtype=np.float64))

    timed = [check.slow is not None for check in checks]
    slow = running([check.slow or 0 for check in checks])
    answered = running([(check.requests - check.failures) * known for check, known in zip(checks, timed, strict=True)])
    differences, sizes = _first_differences(checks)
    betted = np.concatenate([[0.0], ndcg_log_e(plan, differences)])
    return {
        "errors": errors_log_e(plan, running([check.failures for check in checks]), running([check.requests for check in checks])),
        "latency": latency_log_e(plan, slow, answered),
        "slower": slower_log_e(
            plan,
            running([check.pairs for check in checks]),
            running([check.log_ratio_sum for check in checks]),
            running([check.log_ratio_squares for check in checks]),
        ),
        "ndcg": betted[sizes],
    }


def _first_differences(checks: Sequence[WatchCheck]) -> tuple[Array, list[int]]:
    """Each query's first difference in the order of the checks, within one by name; and how many there are after each check."""
    found: dict[str, float] = {}
    sizes = []
    for check in checks:
        for query_id in sorted(check.probes):
            found.setdefault(query_id, check.probes[query_id])
        sizes.append(len(found))
    return np.array(list(found.values()), dtype=np.float64), sizes


# --------------------------------------------------------------------------- the gates


def _digest(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck]) -> GateResult:
    seen = [check.served_digest for check in checks if check.served_digest is not None]
    strange = next((digest for digest in seen if digest != plan.released_digest), None)
    if strange is not None:
        return _gate(criterion, Answer.FAIL, 0.0, len(seen), f"the service serves {strange}, released is {plan.released_digest}")
    if not seen or checks[-1].served_digest is None:
        return _gate(criterion, Answer.UNKNOWN, None, len(seen), "the service did not say what it serves")
    return _gate(criterion, Answer.PASS, 1.0, len(seen), f"the service served {plan.released_digest[:19]} in {len(seen)} of {len(checks)} checks")


def _errors(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck], evidence: Array) -> GateResult:
    bad, n = sum(check.failures for check in checks), sum(check.requests for check in checks)
    return _share(criterion, plan, bad, n, evidence, "requests failed")


def _latency(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck], evidence: Array) -> GateResult:
    if criterion.no_data == "not_applicable":
        return _gate(criterion, Answer.NOT_APPLICABLE, None, 0, "the contour has no P95 limit")
    timed = [check for check in checks if check.slow is not None]
    slow, answered = sum(check.slow or 0 for check in timed), sum(check.requests - check.failures for check in timed)
    return _share(criterion, plan, slow, answered, evidence, "answers were slower than the P95 limit")


def _share(criterion: Criterion, plan: WatchPlan, bad: int, n: int, evidence: Array, words: str) -> GateResult:
    """Fail: shown above the limit. Unknown: too few, or above the limit without proof. Pass: enough, and not above it."""
    if n == 0:
        return _gate(criterion, Answer.UNKNOWN, None, 0, f"no data on how many {words}")
    share = bad / n
    told = f"{bad} of {n} {words} ({share:.2%}, limit {criterion.threshold:.2%}; {_told(plan, criterion.name, evidence)})"
    if _shown(plan, criterion.name, evidence):
        return _gate(criterion, Answer.FAIL, share, n, told)
    if n < criterion.min_sample:
        return _gate(criterion, Answer.UNKNOWN, share, n, f"{told}, {criterion.min_sample} are needed")
    return _gate(criterion, Answer.PASS if share <= criterion.threshold else Answer.UNKNOWN, share, n, told)


def _slower(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck], evidence: Array) -> GateResult:
    n = sum(check.pairs for check in checks)
    if n < 1:
        waits = criterion.no_data == "unknown"
        return _gate(criterion, Answer.UNKNOWN if waits else Answer.NOT_APPLICABLE, None, 0, "no request was timed on both models")
    ratio = math.exp(sum(check.log_ratio_sum for check in checks) / n)
    told = f"a request takes {ratio:.3f} times the old champion's time on {n} requests that both scored (limit {plan.latency_ratio:.3f}; "
    told += f"{_told(plan, criterion.name, evidence)})"
    return _mean_gate(criterion, plan, ratio, n, told, evidence, waits=criterion.no_data == "unknown")


def _ndcg(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck], evidence: Array) -> GateResult:
    differences, _ = _first_differences(checks)
    n = differences.size
    if n == 0:
        answer = Answer.NOT_APPLICABLE if criterion.no_data == "not_applicable" else Answer.UNKNOWN
        return _gate(criterion, answer, None, 0, f"0 probe queries, {criterion.min_sample} are needed")
    mean = float(differences.mean())
    told = f"NDCG@10 differs by {mean:+.4f} from the old champion on {n} probe queries (limit {criterion.threshold:+.4f}; {_told(plan, 'ndcg', evidence)})"
    return _mean_gate(criterion, plan, mean, n, told, evidence, waits=criterion.no_data == "unknown")


def _mean_gate(criterion: Criterion, plan: WatchPlan, value: float, n: int, told: str, evidence: Array, *, waits: bool) -> GateResult:
    if _shown(plan, criterion.name, evidence):
        return _gate(criterion, Answer.FAIL, value, n, told)
    if n < criterion.min_sample:
        return _gate(criterion, Answer.UNKNOWN if waits else Answer.NOT_APPLICABLE, value, n, f"{told}, {criterion.min_sample} are needed")
    if evidence[-1] >= needed(plan.doubt) and evidence.size < _DOUBT_ENDS * plan.planned_checks:
        return _gate(criterion, Answer.UNKNOWN, value, n, f"{told}; doubtful, so the watch goes on")
    return _gate(criterion, Answer.PASS, value, n, told)


def _index_errors(criterion: Criterion, plan: WatchPlan, checks: Sequence[WatchCheck]) -> GateResult:
    value = checks[-1].index_errors if checks else None
    if value is None:
        return _gate(criterion, Answer.UNKNOWN, None, 0, "the service did not say how many documents it gave up")
    answer = Answer.PASS if value <= criterion.threshold else Answer.FAIL
    return _gate(criterion, answer, value, len(checks), f"{value:.0f} documents were given up, nothing answers for them; limit {criterion.threshold:.0f}")


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


def _shown(plan: WatchPlan, question: str, evidence: Array) -> bool:
    """Whether the evidence sufficed at any check: what was shown once stays shown."""
    return bool(evidence.size and evidence.max() >= needed(plan.level(question)))


def _told(plan: WatchPlan, question: str, evidence: Array) -> str:
    best = float(evidence.max()) if evidence.size else 0.0
    return f"evidence {_number(best)}, {_number(needed(plan.level(question)))} is proof"


def _number(log_e: float) -> str:
    """An e-value for people."""
    return f"{math.exp(log_e):,.3g}" if log_e < 15 else f"10^{log_e / math.log(10):.0f}"
