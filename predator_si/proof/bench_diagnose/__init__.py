"""``predator-si bench diagnose``: faults planted from outside, and whether the diagnosis names them.

What belongs here: collections, faults, a search service in this process, the count of right and wrong answers. What must not: anything that the diagnosis
could read a fault's name from; it sees snapshots, probes, judgments, events and ``GET /info`` alone.
"""

from predator_si.proof.bench_diagnose.bench import BenchSizes, bench_diagnose
from predator_si.proof.bench_diagnose.table import confusion_table

__all__ = ["BenchSizes", "bench_diagnose", "confusion_table"]
