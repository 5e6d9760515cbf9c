"""Ranking measures and latency percentiles on plain Polars frames (leaf: knows nobody but ``records`` and ``errors``).

Does: ``per_query`` (nDCG, recall, precision, reciprocal rank, average precision, ERR, RBP with its residual,
judged@k; one row per judged query), ``per_segment``, ``holes``, ``Measure``, ``discounts``,
``rank_biased_overlap`` (two rankings without judgments), ``percentiles``, ``latency_histogram``,
``Sketch`` (a latency distribution that can be added to another one).
Does not: read files, compare systems, decide anything.
"""

from __future__ import annotations

from predator_si.measures.latency import latency_histogram, percentiles
from predator_si.measures.measure import Measure
from predator_si.measures.overlap import rank_biased_overlap
from predator_si.measures.ranking import Holes, holes, per_query, per_segment
from predator_si.measures.scoring import discounts
from predator_si.measures.sketch import Sketch

__all__ = ["Holes", "Measure", "Sketch", "discounts", "holes", "latency_histogram", "per_query", "per_segment", "percentiles", "rank_biased_overlap"]
