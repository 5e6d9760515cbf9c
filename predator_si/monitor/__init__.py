"""From events and probes to a snapshot of metrics, from a snapshot to gates, from gates to the wish to start a cycle.

Does:

- ``windows.Windows`` measures the raw layer's closed windows into aggregates that add up (``aggregate``, ``requests``, ``parts``, ``totals``), again when
  events came late; ``snapshot.snapshot_of`` names an aggregate's metrics.
- ``measure_window`` makes a :class:`~predator_si.records.MetricsSnapshot` of one window, ``traffic_metrics`` the part that one
  model's requests say; ``probe`` asks the live service judged queries.
- ``click_quality`` estimates ranking quality from clicks; ``update_baseline`` keeps the reference over healthy windows of one champion
  (``healthy_windows``; ``cold_start`` says what is missing; ``expected`` is its value at a time of the week).
- ``default_criteria``, ``evaluate_gate``, ``evaluate_gates``, ``quality_gates_status``: criteria as data, three answers; ``remember`` and ``hold``
  keep a gate from flapping; ``bend`` gives gates the thresholds that people set for a time; ``weigh`` adds what drift and change alarms know to a
  loss that one window cannot prove.
- ``find_anomalies`` scores a window against the baseline and carries the sequential change tests on (``probe_reference_of`` is their reference).
- ``TRIGGERS`` is the trigger table as data; ``decide`` turns failed gates into ``Start`` or ``Skip``, always with the reason.
- ``drift.write_quality_report`` writes evidently's HTML report.

Does not: start anything, read settings, or write into the service. A metric that cannot be known is null with a reason, never a default.
"""

from __future__ import annotations

from predator_si.monitor.anomaly import find_anomalies, probe_reference_of
from predator_si.monitor.baseline import age_note, cold_start, expected, healthy_windows, update_baseline
from predator_si.monitor.clicks import click_quality, click_through
from predator_si.monitor.evidence import weigh
from predator_si.monitor.gates import default_criteria, evaluate_gate, evaluate_gates, quality_gates_status
from predator_si.monitor.hysteresis import hold, remember
from predator_si.monitor.overrides import bend
from predator_si.monitor.probes import ProbeResult, keep_labels, probe
from predator_si.monitor.snapshot import measure_window, traffic_metrics
from predator_si.monitor.traffic import PriceTable, Traffic, champion_traffic
from predator_si.monitor.triggers import TRIGGERS, GateState, Skip, Start, TriggerRule, decide

__all__ = [
    "TRIGGERS",
    "GateState",
    "PriceTable",
    "ProbeResult",
    "Skip",
    "Start",
    "Traffic",
    "TriggerRule",
    "age_note",
    "bend",
    "champion_traffic",
    "click_quality",
    "click_through",
    "cold_start",
    "decide",
    "default_criteria",
    "evaluate_gate",
    "evaluate_gates",
    "expected",
    "find_anomalies",
    "healthy_windows",
    "hold",
    "keep_labels",
    "measure_window",
    "probe",
    "probe_reference_of",
    "quality_gates_status",
    "remember",
    "traffic_metrics",
    "update_baseline",
    "weigh",
]
