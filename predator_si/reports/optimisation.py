"""The variants of a trained model that were measured, which were judged, and which was chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from predator_si.evaluate.optimise import Optimisation
from predator_si.evaluate.pareto import Variant, as_points
from predator_si.reports.page import Markup, element, joined, picture, pill, section, table
from predator_si.reports.plots import pareto

_HEAD = ("P50, ms", "P95, ms")


def optimisation_section(found: Optimisation | None, say: Callable[[str], str]) -> Markup | None:
    """Table of the variants, the fastest first, and the Pareto front of those that were judged; null without an optimisation."""
    if found is None:
        return None
    rows = [_row(variant, found, say) for variant in found.variants]
    head = [say("variant"), *_HEAD, say("agreement"), "NDCG@10", say("difference"), ""]
    content: list[Any] = [element("p", found.reason), table(head, rows, numbers=(1, 2, 3, 4, 5))]
    points = as_points(found.variants, found.chosen_name)
    if len(points) > 1:
        content.append(picture(lambda theme: pareto(points, theme=theme), say("optimisation")))
    return section(say("optimisation"), *content)


def _row(variant: Variant, found: Optimisation, say: Callable[[str], str]) -> tuple[Any, ...]:
    gap = variant.ndcg_difference
    verdict = {None: pill(say("not_judged")), True: pill(say("not_inferior"), "good"), False: pill(say("inferior"), "open")}[variant.non_inferior]
    chosen = variant.digest == found.chosen and (not found.chosen_name or variant.name == found.chosen_name)
    return (
        variant.name or variant.backend,
        f"{variant.p50_ms:,.0f}",
        f"{variant.p95_ms:,.0f}",
        _number(variant.agreement),
        _number(variant.ndcg),
        "-" if gap is None else f"{gap.estimate:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]",
        joined([verdict, pill(say("chosen"), "good")]) if chosen else verdict,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
