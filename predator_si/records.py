"""The nouns of DESIGN.md section 1 as frozen records: the schema of every artifact lives here.

What belongs here: data with names, units and ranges, and how it is read and written as JSON. What must not: any computation beyond a
derived property, any import of a stage.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from predator_si.errors import BadInput

CYCLE_ID = re.compile(r"^si_\d{4}_\d{2}_\d{2}_\d{3}$")


def utc_now() -> datetime:
    """Now, with its time zone."""
    return datetime.now(UTC)


class Record(BaseModel):
    """Base of all records: frozen, strict about unknown keys, one JSON spelling."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", protected_namespaces=())

    def to_json(self) -> str:
        """Indented JSON with a final newline, the same bytes for the same content."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record stored in ``path``.

        Raises
        ------
        BadInput
            The file is missing, is not JSON, or does not have this schema; the message names the file and the field.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise BadInput(f"{path}: no such file; a {cls.__name__} was expected here. Run the stage that writes it first.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "(whole file)"
            raise BadInput(f"{path}: not a {cls.__name__}: {where}: {first['msg']}. Restore the file or run its stage again.") from error


class Answer(StrEnum):
    """What a gate says: three answers, and one for a contour that has no such source."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not_applicable"


class Verdict(StrEnum):
    """What a comparison says. ``INCONCLUSIVE`` holds: nothing is promoted."""

    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


class CycleState(StrEnum):
    """Where a cycle stands (DESIGN.md section 3)."""

    OPENED = "opened"
    PREPARED = "prepared"
    TRAINED = "trained"
    EVALUATED = "evaluated"
    ON_TRIAL = "on_trial"
    DECIDED = "decided"
    AWAITING_APPROVAL = "awaiting_approval"
    RELEASED = "released"
    WATCHING = "watching"
    STABLE = "stable"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"


# --------------------------------------------------------------------------- serving and telemetry


class ScoredDocument(Record):
    """One document in a result list. ``score`` is the final score; the others say where it came from."""

    object_id: str
    score: float
    first_stage_score: float | None = None
    rerank_score: float | None = None


FIRST_STAGE = "first-stage"
"""``model_digest`` of an answer that no reranker had a part in."""


class SearchEvent(Record):
    """One served request, in the field names of OpenSearch User Behavior Insights where UBI has one.

    ``status`` is an HTTP status; latencies are milliseconds; ``cpu_seconds`` is process time measured around the request.
    """

    query_id: str
    timestamp: datetime
    user_query: str
    client_id: str | None = None
    session_id: str | None = None
    variant: Literal["champion", "candidate"] | None = None
    model_digest: str | None = None
    status: int
    latency_ms: float = Field(ge=0)
    retrieve_ms: float | None = None
    rerank_ms: float | None = None
    queue_ms: float | None = None
    cpu_seconds: float | None = None
    depth: int | None = None
    results: tuple[ScoredDocument, ...] = ()
    simulated: bool = False
    probe: bool = False
    stands_for: str | None = None
    """Digest of the model that was stood in for: by its checked twin (``fast`` requests) or by the first stage alone (``first_stage``). Such an event says
    nothing about latency or cost."""
    degraded: bool = False
    """The reranker failed and the first stage's order was served instead: answered (status 200), but an error of this variant."""
    query_words: int | None = None
    script: str | None = None
    query_bucket: int | None = None
    """With the two before it what is kept of the text in the clear: see ``privacy.segments``."""
    seq: int | None = None
    """Consecutive number within one writer process: a gap counts lost events."""
    writer: str | None = None


class ActionEvent(Record):
    """What a person did with a result: a click, a dwell, a rating (UBI ``action_name``)."""

    query_id: str
    timestamp: datetime
    action_name: Literal["click", "dwell", "rating"]
    object_id: str | None = None
    position: int | None = Field(default=None, ge=1)
    value: float | None = None
    """Seconds for a dwell, 1..5 for a rating, null for a click."""
    client_id: str | None = None
    simulated: bool = False
    seq: int | None = None
    """Consecutive number within one writer process, counted apart from the searches."""
    writer: str | None = None


class Judgment(Record):
    """How relevant a document is to a query. ``origin`` is never mixed silently."""

    query_id: str
    object_id: str
    relevance: float = Field(ge=0)
    origin: Literal["human", "click", "llm", "docstring", "feedback"]


# --------------------------------------------------------------------------- monitoring


class Metric(Record):
    """One measured number. ``value`` is null when it cannot be known; ``reason`` then says why."""

    name: str
    value: float | None
    n: int = 0
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    direction: Literal["up", "down"] = "up"
    """The good direction."""
    window_start: datetime | None = None
    window_end: datetime | None = None
    source: str = ""
    age_seconds: float | None = None
    """Age of the newest observation behind the value."""
    reason: str | None = None

    @property
    def known(self) -> bool:
        """Whether there is a value at all."""
        return self.value is not None


class Provenance(Record):
    """Where telemetry of a window comes from and how much of it can be used."""

    source: str
    """Name of the source in the contour: ``spool``, ``events``, ``postgres``, ``opensearch``, ``prometheus``, ``opencost``."""
    origin: str
    """Address, folder or table, never with a password."""
    window_start: datetime
    window_end: datetime
    newest: datetime | None = None
    """Time of the newest observation; null where there is none."""
    rows_good: int = 0
    rows_quarantined: int = 0
    unknown: tuple[str, ...] = ()
    """What this source could not say, and why; a source that is down says so here."""

    def age_seconds(self, now: datetime) -> float | None:
        """How old the newest observation is."""
        return None if self.newest is None else max(0.0, (now - self.newest).total_seconds())


class MetricCandidate(Record):
    """What one source said about a metric, and whether that was taken."""

    source: str
    chosen: bool
    value: float | None
    n: int = 0
    age_seconds: float | None = None
    reason: str = ""
    """Why it was not taken: ``stale``, ``unknown``, ``not applicable`` or ``a source before it has a value``, with the details."""


class MetricsSnapshot(Record):
    """All metrics of one window."""

    snapshot_id: str
    contour: str
    created_at: datetime
    window_start: datetime
    window_end: datetime
    champion: str | None
    metrics: dict[str, Metric]
    mock: bool = False
    lost_events: int = 0
    quarantined: int = 0
    candidates: dict[str, tuple[MetricCandidate, ...]] = {}
    """By metric: what every source of it said, in the order of precedence; for metrics with more than one source."""
    sources: tuple[Provenance, ...] = ()
    """What was read for this window, and what could not be."""


class Reference(Record):
    """What one metric usually is for one champion, and how far healthy windows stray from it."""

    metric: str
    centre: float
    """Median over healthy windows, each weighted by its sample."""
    spread: float | None = None
    """1.4826 x the median absolute deviation from what was expected: the standard deviation of windows, whatever a minority of them does. Null below three."""
    noise: float | None = None
    """Standard error of one window by its own interval (median over windows): what sampling alone makes."""
    error: float | None = None
    """Standard error of ``centre``."""
    windows: int
    observations: int = 0
    """All windows' samples together."""
    mean: float | None = None
    """Mean weighted by sample, for rates whose median is often zero; not robust."""
    tail: tuple[float, float] | None = None
    """How far the outermost 5% of windows lie: their threshold and mean excess, both in spreads. Null below two hundred windows."""
    oldest: datetime | None = None
    newest: datetime | None = None
    season: dict[int, float] = {}
    """Hour of the week (0 is Monday 00:00 UTC) -> what is added to ``centre`` then; empty where two weeks are not known or no season is to be seen."""
    reason: str = ""
    """What it stands on, and what it lacks."""


class Baseline(Record):
    """Reference values over healthy windows of one champion: median per metric, with how many windows are behind it."""

    champion: str
    created_at: datetime
    windows: int
    values: dict[str, float]
    """Metric -> centre; ``references`` has the rest."""
    sources: dict[str, str] = {}
    references: dict[str, Reference] = {}
    oldest: datetime | None = None
    newest: datetime | None = None
    """End of the newest healthy window: a baseline whose newest is long ago describes a service of long ago."""
    left_out: dict[str, int] = {}
    """Why windows of this champion do not count -> how many."""


class Hysteresis(Record):
    """How a gate changes its mind: not at the first window on the other side of a limit that the metric hovers about."""

    fail_after: int = Field(default=1, ge=1)
    """Windows in a row that must miss the limit before the gate fails; until then it is unknown."""
    clear_after: int = Field(default=1, ge=1)
    """Windows in a row that must meet the limit before a failing gate passes again."""
    margin: float | None = Field(default=None, ge=0)
    """A failing gate passes at once when a window meets its limit by this fraction of the limit; null: only ``clear_after`` counts."""


class Criterion(Record):
    """One rule about one metric; the same object serves the asset check, the patch asset and the REST verdict.

    ``kind`` "absolute": ``threshold`` is in the metric's unit. "relative": the change against the baseline as a fraction, so a maximal
    drop of 3% of a metric whose good direction is up is ``-0.03``.
    """

    name: str
    metric: str
    direction: Literal["min", "max"]
    kind: Literal["absolute", "relative"] = "absolute"
    threshold: float
    min_sample: int = 1
    max_age_seconds: float | None = None
    no_data: Literal["unknown", "fail", "not_applicable"] = "unknown"
    critical: bool = True
    description: dict[str, str] = {}
    unit: str | None = None
    """Unit of the threshold; a metric that names another one is unknown to this gate."""
    hysteresis: Hysteresis = Hysteresis()


class GateResult(Record):
    """A criterion's answer with the numbers behind it."""

    criterion: Criterion
    answer: Answer
    value: float | None
    reference: float | None = None
    limit: float | None = None
    n: int = 0
    reason: str
    doubt: Literal["missing", "stale", "unit", "no_baseline", "sample", "interval", "pending"] | None = None
    """Why an answer is unknown: no value, too old, in another unit, nothing to compare with, too few observations, an interval that still holds the
    baseline, or a limit missed in too few windows in a row. Null for the other answers."""
    recovering: bool = False
    """Fails because it failed before and has not yet passed long or clearly enough; its newest value meets the limit."""


class HeldGate(Record):
    """What one gate was last held to be, and how many windows in a row have said otherwise."""

    answer: Literal[Answer.PASS, Answer.FAIL] = Answer.PASS
    against: int = 0
    since: datetime | None = None
    """When the answer became what it is; null: from the beginning."""
    changes: int = 0


class GateMemory(Record):
    """The gates of one champion from one window to the next."""

    champion: str | None
    snapshot_id: str
    window_end: datetime
    gates: dict[str, HeldGate] = {}


class AnomalyScore(Record):
    """How far one metric of a window lies from what the baseline expects."""

    metric: str
    value: float | None
    expected: float | None = None
    scale: float | None = None
    """Standard deviation of such a window about ``expected``."""
    z: float | None = None
    threshold: float | None = None
    anomalous: bool | None = None
    """Null where it cannot be known; ``reason`` says why."""
    windows: int = 0
    """Healthy windows that the reference stands on."""
    reason: str


class ChangeAlarm(Record):
    """A change called by the sequential test."""

    window_end: datetime
    windows: int
    """Windows that it took since the last alarm or the beginning."""
    observations: int
    holds: int
    """Windows for which the alarm stands unless it is raised again: twice as many as it took, and two."""


class ChangeWatch(Record):
    """The sequential test of one stream, from one window to the next."""

    stream: str
    metric: str
    looks_for: str
    """What an alarm means, in words and numbers."""
    run_length: float
    """Windows between two false alarms, at least, on average."""
    log_wealth: list[float | None]
    """State of the e-detector; null stands for nothing yet."""
    log_e: float | None = None
    """Evidence so far; an alarm is raised at ``log(run_length)``."""
    windows: int = 0
    observations: int = 0
    alarms: int = 0
    last: ChangeAlarm | None = None
    active: bool = False
    """Whether the last alarm still stands."""
    since_alarm: int = 0
    reason: str = ""


class AnomalyReport(Record):
    """What is unusual about a window: each metric against its reference, and the sequential tests with it."""

    snapshot_id: str
    champion: str | None
    window_end: datetime
    false_alarms_per_month: float
    """Chosen by the contour: this many from the scores, and this many from the sequential tests, in a month of 15-minute windows."""
    scores: list[AnomalyScore]
    changes: list[ChangeWatch]

    @property
    def alarms(self) -> list[str]:
        """A sentence for each anomaly and each standing alarm."""
        return [score.reason for score in self.scores if score.anomalous] + [change.reason for change in self.changes if change.active]


class DriftItem(Record):
    """One comparison of a reference with now."""

    name: str
    statistic: float | None
    """What ``measure`` names; null where it cannot be known, ``reason`` says why."""
    measure: str = ""
    interval: tuple[float, float] | None = None
    """95% interval of the statistic."""
    null_interval: tuple[float, float] | None = None
    """Where the statistic lies in 95% of the cases while nothing has drifted."""
    p: float | None = None
    adjusted_p: float | None = None
    """``p`` after Holm's correction over the report's items."""
    threshold: float | None = None
    """The least statistic that is worth a word; smaller shifts are not called drift however sure they are."""
    drifted: bool | None = None
    n: tuple[int, int] = (0, 0)
    """Reference and current observations."""
    reason: str
    details: dict[str, Any] = {}


class DriftReport(Record):
    """How the queries, scores and documents of a window differ from those of healthy windows."""

    snapshot_id: str
    champion: str | None
    created_at: datetime
    reference_start: datetime
    reference_end: datetime
    window_start: datetime
    window_end: datetime
    alpha: float
    """Chance that a report on equal windows calls any drift, over all items together."""
    items: list[DriftItem]
    erased: int = 0
    """Requests whose text cannot be opened any more: they count for scores, not for texts."""
    seconds: float | None = None
    html: str | None = None
    """Evidently's page, a file name beside the report."""

    @property
    def drifted(self) -> bool:
        """Whether any item drifted."""
        return any(item.drifted for item in self.items)


class Trigger(Record):
    """A failed gate that starts a cycle."""

    type: str
    metric: str
    value: float | None
    baseline: float | None
    delta: float | None
    actions: tuple[str, ...]
    reason: str


# --------------------------------------------------------------------------- a cycle's artifacts


class ServingConfig(Record):
    """What the search service runs with: one side of a comparison, and the content of a release."""

    model: str
    """Digest of the reranker, ``sha256:...``, computed from the bytes of its weight files."""
    depth: int = Field(ge=0, le=1000)
    fusion_weight: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the first stage's standardised score in the final score; 0 is the cross-encoder alone."""


class DistributionChange(Record):
    """How the queries and documents moved between the baseline window and the current one."""

    new_tokens: list[dict[str, Any]]
    coverage: float | None


class RootCause(Record):
    """What is wrong, ranked evidence behind it."""

    type: Literal["service_fault", "data_fault", "retrieval_miss", "rerank_miss", "latency", "domain_shift", "judgment_artefact", "unknown"]
    affected_categories: list[str]
    distribution_change: DistributionChange
    evidence: list[dict[str, Any]] = []
    detail: str | None = None
    """Leg, stage or kind of the first cause: ``dense``, ``shrunken_index``, ``click_spam``; null where only the type is known."""
    causes: list[dict[str, Any]] = []
    """Causes that differ from the reference window, most likely first: type, detail, score, explained_loss, p_value, n, test, evidence, actions."""
    cannot_tell: list[str] = []
    """What the evidence does not decide: branches without data, causes that explain as much as each other."""


class XaiInsights(Record):
    """Which words, topics and conjunctions of features carry the loss, which of them twice, and what the model looks at (docs/explanations.md)."""

    low_coverage_tokens: list[str]
    importance_scores: dict[str, float]
    suggested_action: str
    contrast: list[dict[str, Any]] = []
    """Words that set the worst quarter of the queries apart, with z, interval and q."""
    topics: list[dict[str, Any]] = []
    """Numbered topics with their NDCG against the rest."""
    conjunctions: list[dict[str, Any]] = []
    """What SliceLine found on the first half of the probes."""
    occlusion: dict[str, Any] = {}
    """What leaving a word out does to the margin between the right and the wrong document; empty where there was no model or no time."""
    attribution: dict[str, Any] = {}
    """Integrated gradients of the worst pairs with their completeness error and deletion test."""
    reproduced: list[dict[str, Any]] = []
    """All slices and words found on one half, with their test on the other: only those with ``reproduced`` true are targets."""
    methods: list[dict[str, Any]] = []
    """What each method took, and what was cut short or could not be known, with the reason."""


class DiagnosticReport(Record):
    """``diagnostic_report.json`` (CONTRACT.md section 4)."""

    cycle_id: str
    timestamp: datetime
    trigger: str
    current_value: float | None
    baseline: float | None
    delta: float | None
    root_cause_analysis: RootCause
    xai_insights: XaiInsights
    recommended_actions: list[dict[str, Any]]
    misses: dict[str, Any] = {}
    """Counts: queries, found in candidates, retrieval misses, rerank misses."""
    slices: list[dict[str, Any]] = []
    weak_tokens: list[dict[str, Any]] = []


class ModelCard(Record):
    """``predator.json`` beside a model's weights: what it is, where it came from, how it is run."""

    name: str
    digest: str
    backend: Literal["torch-fp32", "torch-bf16", "onnx-int8", "openvino-int8", "openvino-bf16", "openvino-f32"]
    max_length: int
    source_digest: str | None = None
    """Digest of the weights this was made from: the deny list knows both."""
    base: str | None = None
    origin: dict[str, Any] = {}
    created_at: datetime | None = None


class Interval(Record):
    """A difference with its 95% interval and p-value, over ``n`` paired queries."""

    estimate: float
    low: float
    high: float
    p_value: float | None = None
    n: int
    sd: float | None = None


class Evaluation(Record):
    """``evaluation.json``: champion and challenger on the same judged queries, candidates, depth and fusion rule."""

    cycle_id: str
    champion: ServingConfig
    challenger: ServingConfig
    corpus: str
    split: str
    n_queries: int
    ndcg_champion: float
    ndcg_challenger: float
    ndcg_difference: Interval
    recall_champion: float | None = None
    recall_challenger: float | None = None
    slices: list[dict[str, Any]] = []
    latency: dict[str, Any] = {}
    """Per side: p50_ms, p95_ms, p99_ms, n: closed-loop searches through the service, arms interleaved."""
    per_query: str = "evaluation_per_query.parquet"
    created_at: datetime


class ExperimentResult(Record):
    """``ab_test_results.json``: the trial on traffic."""

    cycle_id: str
    mode: Literal["ab", "shadow", "interleave"]
    started_at: datetime
    ended_at: datetime
    requests: dict[str, int]
    simulated: bool
    arms: dict[str, dict[str, Metric]]
    guardrails: list[GateResult]
    sample_ratio_p: float | None
    verdict: Verdict
    reason: str


class Decision(Record):
    """``decision-trial.json`` / ``decision-promote.json``: verdict + policy + approval for one stage."""

    cycle_id: str
    stage: Literal["trial", "promote"]
    verdict: Verdict
    gates: list[GateResult]
    policy: str
    approval_required: bool
    approved_by: str | None = None
    approved_at: datetime | None = None
    champion: ServingConfig
    challenger: ServingConfig
    evidence: dict[str, str] = {}
    """Artifact name -> sha256 of the file that the verdict was computed from."""
    drill: bool = False
    """True only when an explicit drill pushed a model past the gates."""
    reason: str
    created_at: datetime

    @property
    def allows_patch(self) -> bool:
        """Whether a patch of this stage may be committed."""
        approved = not self.approval_required or self.approved_by is not None
        return approved and (self.verdict is Verdict.PROMOTE or self.drill)


class HelmPatch(Record):
    """``helm_patch.yaml``'s record: the change of machine-owned values, stored with its reverse."""

    cycle_id: str
    stage: Literal["trial", "promote", "rollback"]
    file: str
    changes: dict[str, Any]
    """Dotted key -> new value."""
    reverse: dict[str, Any]
    """Dotted key -> the value before (null: the key was absent)."""
    base_commit: str | None = None
    commit: str | None = None
    created_at: datetime


class Deployment(Record):
    """What the service answered after a commit: a release that the service did not confirm is a failed one."""

    cycle_id: str
    stage: Literal["trial", "promote", "rollback"]
    commit: str
    expected_digest: str
    served_digest: str | None
    confirmed: bool
    seconds: float
    reason: str
    created_at: datetime


class WatchResult(Record):
    """``watch.json``: the checks after a deploy, all of them, and what they mean."""

    cycle_id: str
    checks: list[dict[str, Any]]
    requests: int
    failed_requests: int
    answer: Literal["keep", "rollback", "continue"]
    gates: list[GateResult]
    reason: str
    created_at: datetime


class Rollback(Record):
    """The way back: reverse patch and deny-list entries in one commit, verified by the digest that the service reports."""

    cycle_id: str
    reason: str
    from_digest: str
    to_digest: str
    commit: str | None
    verified: bool
    seconds: float
    denied: list[str]
    created_at: datetime


class Cycle(Record):
    """One pass of the loop."""

    cycle_id: str = Field(pattern=CYCLE_ID.pattern)
    contour: str
    state: CycleState
    trigger: Trigger
    opened_at: datetime
    updated_at: datetime
    reason: str = ""
    actor: str = "loop"


class LedgerRecord(Record):
    """One line of the audit trail, chained to the one before by its hash."""

    seq: int
    timestamp: datetime
    action: str
    actor: str
    cycle_id: str | None = None
    reason: str = ""
    payload: dict[str, Any] = {}
    previous_hash: str
    hash: str
