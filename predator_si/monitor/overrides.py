"""A contour's gates as people have bent them for a time.

What belongs here: what an override does to the criteria, and whether one may be set. What must not: keeping them (``control``), the contour's own limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from predator_si.records import Criterion, GateOverride, GateResult


def bend(criteria: Sequence[Criterion], overrides: Mapping[str, GateOverride]) -> tuple[Criterion, ...]:
    """The criteria with other thresholds where an override is in force.

    An override is an absolute limit. It takes the place of the metric's absolute criterion, and the relative one beside it stays; where the contour has
    a relative one only, that is what it stands in for: otherwise a gate could be made stricter but never milder.

    Parameters
    ----------
    criteria
        The contour's own.
    overrides
        By metric, those in force now; one of a metric without a criterion bends nothing.
    """
    absolute = {criterion.metric for criterion in criteria if criterion.kind == "absolute"}
    return tuple(
        _bent(criterion, overrides[criterion.metric])
        if criterion.metric in overrides and (criterion.kind == "absolute" or criterion.metric not in absolute)
        else criterion
        for criterion in criteria
    )


def _bent(criterion: Criterion, override: GateOverride) -> Criterion:
    was = f"{criterion.threshold:g}" if criterion.kind == "absolute" else f"{criterion.threshold:+.0%} of the baseline"
    told = f"{override.threshold:g} instead of {was} until {override.expires_at:%Y-%m-%d %H:%M} UTC, by {override.actor}: {override.reason}"
    name = f"{criterion.metric}_{criterion.direction}"
    return criterion.model_copy(update={"name": name, "kind": "absolute", "threshold": override.threshold, "override": told})


def told(results: Sequence[GateResult]) -> list[GateResult]:
    """The answers, with the override named in the reason of each gate that has one: nobody should take a bent gate for the contour's own."""
    return [
        one if one.criterion.override is None else one.model_copy(update={"reason": f"{one.reason} (overridden: {one.criterion.override})"}) for one in results
    ]
