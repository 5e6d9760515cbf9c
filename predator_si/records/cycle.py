"""A cycle, its artifacts and the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from predator_si.records.base import CYCLE_ID, CycleState, Record, Verdict
from predator_si.records.gates import GateResult, Trigger
from predator_si.records.metrics import Metric


class ServingConfig(Record):
    """What the search service runs with: one side of a comparison, and the content of a release."""

    model: str
    """Digest of the reranker, ``sha256:...``, computed from the bytes of its weight files."""
    depth: int = Field(ge=0, le=1000)
    """Candidates that the reranker reads; 0 leaves the first stage's order."""
    fusion_weight: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the first stage's standardised score in the final score; 0 is the cross-encoder alone."""
    early_exit: bool = False
    """Whether scoring stops before ``depth`` once the first page is settled, by the rule kept beside the model."""
    ingest_workers: int | None = Field(default=None, ge=1, le=8)
    """Workers of the ingest queue, where they are what is changed; null: as they are."""
    replicas: int | None = Field(default=None, ge=1, le=20)
    """Copies of the search service, where their number is what is changed; null: as they are."""
    index: str | None = None
    """Build of the first stage's index (``search.index_builds``); null: for a champion the home's first one, for a challenger the champion's."""


class DistributionChange(Record):
    """How the queries and documents moved between the baseline window and the current one."""

    new_tokens: list[dict[str, Any]]
    """Words of the current window that the baseline window did not have, with their counts."""
    coverage: float | None
    """Share of the current words that the baseline window had, 0..1."""


class RootCause(Record):
    """What is wrong, ranked evidence behind it."""

    type: Literal["service_fault", "data_fault", "retrieval_miss", "rerank_miss", "latency", "domain_shift", "judgment_artefact", "unknown"]
    """The most likely cause."""
    affected_categories: list[str]
    """Slices that carry the loss."""
    distribution_change: DistributionChange
    """How queries and documents moved."""
    evidence: list[dict[str, Any]] = []
    """What speaks for the cause: observations with their numbers."""
    detail: str | None = None
    """Leg, stage or kind of the first cause: ``dense``, ``shrunken_index``, ``click_spam``; null where only the type is known."""
    causes: list[dict[str, Any]] = []
    """Causes that differ from the reference window, most likely first: type, detail, score, explained_loss, p_value, n, test, evidence, actions."""
    cannot_tell: list[str] = []
    """What the evidence does not decide: branches without data, causes that explain as much as each other."""


class XaiInsights(Record):
    """Which words, topics and conjunctions of features carry the loss, which of them twice, and what the model looks at (docs/explanations.md)."""

    low_coverage_tokens: list[str]
    """Words that the training data knows too little of."""
    importance_scores: dict[str, float]
    """Word -> how much of the loss goes with it."""
    suggested_action: str
    """What the words speak for, in the names of the trigger table."""
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
    """Type of the trigger that asked for the diagnosis."""
    current_value: float | None
    """Of the metric that triggered it."""
    baseline: float | None
    """What the metric is compared with."""
    delta: float | None
    """Change against the baseline, as a fraction of it."""
    root_cause_analysis: RootCause
    """What is wrong."""
    xai_insights: XaiInsights
    """Which words and slices carry it."""
    recommended_actions: list[dict[str, Any]]
    """What to do about it, best first: type, method or target, target tokens, estimated examples or expected improvement."""
    misses: dict[str, Any] = {}
    """Counts: queries, found in candidates, retrieval misses, rerank misses."""
    slices: list[dict[str, Any]] = []
    """Groups of queries that do worse than the rest, with their test."""
    weak_tokens: list[dict[str, Any]] = []
    """Words whose queries do worse than the rest, with their test."""


class ModelCard(Record):
    """``predator.json`` beside a model's weights: what it is, where it came from, how it is run."""

    name: str
    """As people call it."""
    digest: str
    """sha256 over its sorted weight files: its identity."""
    backend: Literal["torch-fp32", "torch-bf16", "onnx-int8", "openvino-int8", "openvino-bf16", "openvino-f32"]
    """How it is run."""
    max_length: int
    """Tokens of query and document together; what is longer is cut."""
    source_digest: str | None = None
    """Digest of the weights this was made from: the deny list knows both."""
    base: str | None = None
    """Name of the model that training began with."""
    origin: dict[str, Any] = {}
    """Where the weights came from: wheel or hub, revision, sha256, or the training that made them."""
    created_at: datetime | None = None


class Interval(Record):
    """A difference with its 95% interval and p-value, over ``n`` paired queries."""

    estimate: float
    """Mean of the paired differences."""
    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end."""
    p_value: float | None = None
    """Two-sided; null where no test was made."""
    n: int
    """Pairs."""
    sd: float | None = None
    """Standard deviation of the differences."""


class SealedOpening(Record):
    """Which use of a sealed judged set this is."""

    opening: int
    """1 for the first ever."""
    period: str
    """Month (UTC) in which it was opened, ``2026-11``."""
    candidate: int
    """1 for the first opening of that month: what its claims may spend follows from it."""
    rotation: int
    """Earlier months in which the set was opened: each used up its share of the queries."""


class Holdout(Record):
    """The sealed queries that judged a challenger, and what their use may claim."""

    opening: SealedOpening
    """Which use of the sealed set this was."""
    block: int
    """Which share of the pool was asked, from 0."""
    blocks: int
    """Shares that the pool has; 1: it is too small to rotate, and every month asks the same queries."""
    pool: int
    """Sealed queries there are."""
    level: float
    """Two-sided p-value that a claim of superiority must reach: this candidate's share of the month's error."""
    told: float
    """Best NDCG@10 of this month's queries that may be told (Ladder): not the newest measurement, and no more exact than the set is large."""
    rose: bool
    """Whether this challenger raised it."""
    power: str = ""
    """What this set can resolve at ``level``, in words."""
    before: dict[str, Any] = {}
    """The Ladder's state before this use: best score told, rungs, uses."""
    month_alpha: float | None = None
    """The month's error that ``level`` is a share of."""
    month_candidates: int | None = None
    """Among how many candidates it is shared."""


class Evaluation(Record):
    """``evaluation.json``: champion and challenger on the same judged queries, candidates, depth and fusion rule."""

    cycle_id: str
    champion: ServingConfig
    """The side that serves."""
    challenger: ServingConfig
    """The side that would."""
    corpus: str
    """Name of the judged corpus."""
    split: str
    """Its part whose queries were asked."""
    n_queries: int
    """Judged queries asked of both sides."""
    ndcg_champion: float
    """Mean NDCG@10, 0..1."""
    ndcg_challenger: float
    """Mean NDCG@10, 0..1."""
    ndcg_difference: Interval
    """Challenger less champion, paired by query."""
    recall_champion: float | None = None
    """Mean recall@20, 0..1."""
    recall_challenger: float | None = None
    """Mean recall@20, 0..1."""
    slices: list[dict[str, Any]] = []
    """The difference by group of queries."""
    latency: dict[str, Any] = {}
    """Per side: p50_ms, p95_ms, p99_ms, n: closed-loop searches through the service, arms interleaved."""
    per_query: str = "evaluation_per_query.parquet"
    """File with a row for each query, beside this one."""
    resolvable: float | None = None
    """The true NDCG@10 difference that this set finds with probability .8, one-sided at 5%; null where no spread was seen."""
    power: str = ""
    """The same in words: "this set of 150 queries can resolve 5.1 points of NDCG@10 ..."."""
    holdout: Holdout | None = None
    """Where sealed queries were opened."""
    created_at: datetime


class ExperimentResult(Record):
    """``ab_test_results.json``: the trial on traffic."""

    cycle_id: str
    mode: Literal["ab", "shadow", "interleave"]
    """How traffic was split."""
    started_at: datetime
    """First event of the trial."""
    ended_at: datetime
    """Last event that was looked at."""
    requests: dict[str, int]
    """Arm -> requests of people."""
    simulated: bool
    arms: dict[str, dict[str, Metric]]
    """Arm -> metric -> what was measured."""
    guardrails: list[GateResult]
    """What must not get worse."""
    sample_ratio_p: float | None
    """Of the test that the arms got the shares they should; null where there are no two arms."""
    verdict: Verdict
    """What the trial says."""
    reason: str
    quality: list[GateResult] = []
    """Whether the trial may be judged at all; one that fails holds it."""
    success: list[GateResult] = []
    """What the challenger was shown to do better on live traffic, and what not."""
    slices: list[dict[str, Any]] = []
    """By slice and metric: sizes, change with its sequence, margin, answer, reason."""
    paths: list[dict[str, Any]] = []
    """Confidence sequences over time: metric, margin, unit, points with n, estimate, low, high."""
    would_change: list[str] = []
    """What would change this verdict, in words and numbers."""
    inputs: dict[str, Any] = {}
    """Everything beside the events that the verdict was computed from."""
    evidence: dict[str, str] = {}
    """Events that it was computed from: file name -> sha256."""


class Decision(Record):
    """``decision-trial.json`` / ``decision-promote.json``: verdict + policy + approval for one stage."""

    cycle_id: str
    stage: Literal["trial", "promote"]
    verdict: Verdict
    """What the evidence says."""
    gates: list[GateResult]
    policy: str
    """`staging` or `full`, as the contour said at that time."""
    approval_required: bool
    """Whether a person must approve it."""
    approved_by: str | None = None
    """Who did; null: nobody yet."""
    approved_at: datetime | None = None
    """When they did."""
    champion: ServingConfig
    """What serves."""
    challenger: ServingConfig
    """What would."""
    evidence: dict[str, str] = {}
    """Artifact name -> sha256 of the file that the verdict was computed from."""
    given: dict[str, Any] = {}
    """What the verdict was given beside the evidence: trigger, targets, level and margin of the contour at that time."""
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
    """The machine-owned values file that it changes."""
    changes: dict[str, Any]
    """Dotted key -> new value."""
    reverse: dict[str, Any]
    """Dotted key -> the value before (null: the key was absent)."""
    base_commit: str | None = None
    """What the branch stood at before."""
    commit: str | None = None
    created_at: datetime


class Deployment(Record):
    """What the service answered after a commit: a release that the service did not confirm is a failed one."""

    cycle_id: str
    stage: Literal["trial", "promote", "rollback"]
    commit: str
    expected_digest: str
    """What the service was to report."""
    served_digest: str | None
    """What it reported; null where it did not answer."""
    confirmed: bool
    """Whether the two agree in time."""
    seconds: float
    """From the commit to the service's answer."""
    reason: str
    created_at: datetime
    sync_seconds: float | None = None
    """Of these, until the deployer said that the commit is in force; null where no deployer was asked."""


class WatchResult(Record):
    """``watch.json``: the checks after a deploy, all of them, and what they mean."""

    cycle_id: str
    checks: list[dict[str, Any]]
    """One row a check: moment, requests, values, answers."""
    requests: int
    """Of people, since the deploy."""
    failed_requests: int
    """Of these, answered with an error or degraded."""
    answer: Literal["keep", "rollback", "continue"]
    """What is to be done."""
    gates: list[GateResult]
    reason: str
    created_at: datetime
    plan: dict[str, Any] = {}
    """What was watched and how strictly, fixed before the first check."""
    evidence: dict[str, list[float]] = {}
    """Question -> log evidence after each check."""
    needed: dict[str, float] = {}
    """Question -> log evidence that is proof."""


class Rollback(Record):
    """The way back: reverse patch and deny-list entries in one commit, verified by the digest that the service reports."""

    cycle_id: str
    reason: str
    from_digest: str
    """What was taken back."""
    to_digest: str
    """What must serve again."""
    commit: str | None
    verified: bool
    """Whether the service reported `to_digest`."""
    seconds: float
    """From the decision to the service's answer."""
    denied: list[str]
    """Digests that went onto the deny list."""
    created_at: datetime


class Cycle(Record):
    """One pass of the loop."""

    cycle_id: str = Field(pattern=CYCLE_ID.pattern)
    contour: str
    state: CycleState
    """Where it stands on its road."""
    trigger: Trigger
    """What it was opened for."""
    opened_at: datetime
    """When it was opened."""
    updated_at: datetime
    """When its state changed last."""
    reason: str = ""
    actor: str = "loop"


class LedgerRecord(Record):
    """One line of the audit trail, chained to the one before by its hash."""

    seq: int
    """1 for the first of the ledger, then without a gap."""
    timestamp: datetime
    action: str
    """What was done."""
    actor: str
    cycle_id: str | None = None
    reason: str = ""
    payload: dict[str, Any] = {}
    """Inputs and outputs of the action, as plain JSON without secrets."""
    previous_hash: str
    """Of the record before; 64 zeros for the first."""
    hash: str
    """sha256 of this record without this field."""
