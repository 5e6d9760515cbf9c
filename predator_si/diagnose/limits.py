"""Where the diagnosis says yes: one record of limits.

What belongs here: numbers with their meaning. What must not: any test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Where a branch of the tree says yes. Rates are fractions, lag is seconds."""

    error_rate: float = 0.01
    etl_lag_seconds: float = 60.0
    index_errors: float = 3.0
    relevant_not_indexed: float = 0.02
    min_support: int = 10
    fdr: float = 0.1
    significance: float = 0.05
    listed_tokens: int = 50
    explain_seconds: float = 60.0
    """Wall time that the explaining methods may take together (``explain``)."""
    explain_forwards: int = 6_000
    """Pairs that they may score: fifty queries by occlusion take about 800, twenty pairs by integrated gradients about 2,100."""
