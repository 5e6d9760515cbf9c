"""How the traffic of one window differs from that of healthy ones.

Does: ``measure_drift`` (a :class:`~predator_si.records.DriftReport`: query and document domain, score and margin, new words, languages; each
with statistic, interval, p-value and what chance gives, corrected for their number), ``domain_classifier`` and ``language`` behind it;
``write_quality_report`` (evidently's HTML report over latency, scores and query texts), ``describe_requests`` (the columns it compares).
Does not: gate anything. Drift is a reason that makes a loss believable; without an estimated loss it starts nothing (``monitor.evidence``).
"""

from __future__ import annotations

from predator_si.monitor.drift.domain import DomainAuc, domain_classifier
from predator_si.monitor.drift.language import language, language_mix
from predator_si.monitor.drift.measure import Documents, measure_drift
from predator_si.monitor.drift.quality_report import describe_requests, write_quality_report
from predator_si.monitor.drift.shift import mix_shift, number_shift

__all__ = [
    "Documents",
    "DomainAuc",
    "describe_requests",
    "domain_classifier",
    "language",
    "language_mix",
    "measure_drift",
    "mix_shift",
    "number_shift",
    "write_quality_report",
]
