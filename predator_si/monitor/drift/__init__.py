"""How the traffic of one window differs from that of another, for people to look at.

Does: ``write_quality_report`` (evidently's HTML report over latency, scores and query texts), ``describe_requests`` (the columns it compares).
Does not: gate anything. A drifted column is a hint for the reader; cycles start from gates.
"""

from __future__ import annotations

from predator_si.monitor.drift.quality_report import describe_requests, write_quality_report

__all__ = ["describe_requests", "write_quality_report"]
