"""Ways to run a reranker, and those that no other one beats.

What belongs here: the record of a variant, dominance, and the order in which variants are tested. What must not: measuring (``timing``), choosing
(``optimise``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from predator_si.records import Interval, Record

T = TypeVar("T")


class Variant(Record):
    """One way to run the model, as measured on this machine: weights, backend, passage length, depth, early exit."""

    digest: str
    backend: str
    p50_ms: float
    """Of scoring the candidates of one query, cold."""
    p95_ms: float
    pairs_per_second: float
    ndcg_difference: Interval | None = None
    """Against the trained model itself; null where the variant was not judged."""
    non_inferior: bool | None = None
    """Null where it was not judged."""
    name: str = ""
    source: str | None = None
    """Torch weights that it was exported from."""
    layers: int | None = None
    max_length: int | None = None
    depth: int | None = None
    """Candidates that it scores, at most."""
    early_exit: bool = False
    p99_ms: float | None = None
    ndcg: float | None = None
    """Mean NDCG@10 of the judged queries; null where it was not judged."""
    agreement: float | None = None
    """Mean rank-biased overlap of its first page with the trained model's, on queries whose judgments were not looked at: 0..1."""
    cpu_seconds: float | None = None
    """Processor time per query, all threads."""
    usd_per_1k: float | None = None
    """Processor time of 1,000 queries at the price table's price: an estimate. Null without a price."""
    mean_depth: float | None = None
    """Candidates that were scored per query."""


def front(points: Sequence[T], values: Callable[[T], Sequence[float]]) -> list[T]:
    """The points that no other point beats, in their order: none is at least as good in every value and better in one (Pareto).

    Parameters
    ----------
    values
        Of a point, each the lower the better. Of points with equal values all stay.
    """
    measured = [tuple(values(point)) for point in points]
    return [
        point
        for point, own in zip(points, measured, strict=True)
        if not any(other != own and all(theirs <= ours for theirs, ours in zip(other, own, strict=True)) for other in measured)
    ]


def judged_front(variants: Sequence[Variant]) -> list[Variant]:
    """Of the judged variants those that no other beats in NDCG, P95 and cost (where costs are known)."""

    def values(variant: Variant) -> tuple[float, ...]:
        return (-(variant.ndcg or 0.0), variant.p95_ms, variant.usd_per_1k or 0.0)

    return front([variant for variant in variants if variant.ndcg is not None], values)


def order_of_tests(variants: Sequence[Variant]) -> list[Variant]:
    """Which variants are worth judging, from the one that ranks most like the trained model to the fastest.

    Only those that none beats in speed and agreement are in it: a slower one that ranks less alike has nothing to offer. The order uses no judgment, so testing
    along it and stopping at the first failure keeps the level of a single test however long it is.
    """
    chosen = front(variants, lambda variant: (variant.p50_ms, -(variant.agreement or 0.0)))
    return sorted(chosen, key=lambda variant: (-(variant.agreement or 0.0), -variant.p50_ms, variant.name))


def as_points(variants: Sequence[Variant], chosen: str | None) -> list[dict[str, Any]]:
    """What ``reports.plots.pareto`` draws: the judged variants, which of them are on the front, and which was chosen."""
    best = {id(variant) for variant in judged_front(variants)}
    return [
        {
            "name": variant.name or variant.backend,
            "p95_ms": variant.p95_ms,
            "ndcg": variant.ndcg,
            "front": id(variant) in best,
            "chosen": variant.name == chosen,
        }
        for variant in variants
        if variant.ndcg is not None
    ]
