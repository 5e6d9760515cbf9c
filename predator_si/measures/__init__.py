"""Ranking measures and latency percentiles on plain Polars frames (leaf: knows nobody but ``records`` and ``errors``).

Does: ``per_query`` (nDCG, recall, precision, reciprocal rank, one row per judged query), ``Measure``, ``discounts``, ``percentiles``,
``latency_histogram``.
Does not: read files, compare systems, decide anything.
"""

from __future__ import annotations

from predator_si.measures.latency import latency_histogram, percentiles
from predator_si.measures.ranking import Measure, discounts, per_query

__all__ = ["Measure", "discounts", "latency_histogram", "per_query", "percentiles"]
