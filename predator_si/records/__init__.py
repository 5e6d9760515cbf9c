"""The nouns of DESIGN.md section 1 as frozen records: the schema of every artifact lives here.

What belongs here: data with names, units and ranges, and how it is read and written as JSON. What must not: any computation beyond a
derived property, any import of a stage.
"""

from __future__ import annotations

from predator_si.records.base import (
    CYCLE_ID,
    Answer,
    CycleState,
    Record,
    Verdict,
    utc_now,
)
from predator_si.records.cycle import (
    Cycle,
    Decision,
    Deployment,
    DiagnosticReport,
    DistributionChange,
    Evaluation,
    ExperimentResult,
    HelmPatch,
    Interval,
    LedgerRecord,
    ModelCard,
    Rollback,
    RootCause,
    ServingConfig,
    WatchResult,
    XaiInsights,
)
from predator_si.records.events import (
    FIRST_STAGE,
    ActionEvent,
    ExposureEvent,
    Judgment,
    ScoredDocument,
    SearchEvent,
    ShadowEvent,
)
from predator_si.records.evidence import (
    AnomalyReport,
    AnomalyScore,
    ChangeAlarm,
    ChangeWatch,
    DriftItem,
    DriftReport,
)
from predator_si.records.gates import (
    Criterion,
    GateMemory,
    GateResult,
    HeldGate,
    Hysteresis,
    Trigger,
)
from predator_si.records.metrics import (
    Baseline,
    CellMetrics,
    Metric,
    MetricCandidate,
    MetricsSnapshot,
    Provenance,
    Reference,
)

__all__ = [
    "CYCLE_ID",
    "FIRST_STAGE",
    "ActionEvent",
    "AnomalyReport",
    "AnomalyScore",
    "Answer",
    "Baseline",
    "CellMetrics",
    "ChangeAlarm",
    "ChangeWatch",
    "Criterion",
    "Cycle",
    "CycleState",
    "Decision",
    "Deployment",
    "DiagnosticReport",
    "DistributionChange",
    "DriftItem",
    "DriftReport",
    "Evaluation",
    "ExperimentResult",
    "ExposureEvent",
    "GateMemory",
    "GateResult",
    "HeldGate",
    "HelmPatch",
    "Hysteresis",
    "Interval",
    "Judgment",
    "LedgerRecord",
    "Metric",
    "MetricCandidate",
    "MetricsSnapshot",
    "ModelCard",
    "Provenance",
    "Record",
    "Reference",
    "Rollback",
    "RootCause",
    "ScoredDocument",
    "SearchEvent",
    "ServingConfig",
    "ShadowEvent",
    "Trigger",
    "Verdict",
    "WatchResult",
    "XaiInsights",
    "utc_now",
]
