"""What people read: plots, and one self-contained page per cycle.

What belongs here: drawing records and artifacts that exist, naming those that do not. What must not: computing a verdict, changing anything,
fetching anything over the network.

Public: ``metric_history``, ``ndcg_slices``, ``latency_histogram``, ``difference_histogram`` (PNG bytes), ``as_markdown``,
``write_cycle_report``, ``ComparisonRow``, ``manifest``, ``check_manifest``.
"""

from predator_si.reports.cycle import write_cycle_report
from predator_si.reports.manifest import check_manifest, manifest
from predator_si.reports.plots import as_markdown, difference_histogram, latency_histogram, metric_history, ndcg_slices
from predator_si.reports.summary import ComparisonRow

__all__ = [
    "ComparisonRow",
    "as_markdown",
    "check_manifest",
    "difference_histogram",
    "latency_histogram",
    "manifest",
    "metric_history",
    "ndcg_slices",
    "write_cycle_report",
]
