"""What an override does to the criteria of its metric."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from predator_si.monitor import bend
from predator_si.records import Criterion, GateOverride

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ABSOLUTE = Criterion(name="ndcg_at_10_min", metric="ndcg_at_10", direction="min", threshold=0.75)
RELATIVE = Criterion(name="ndcg_at_10_relative", metric="ndcg_at_10", direction="min", kind="relative", threshold=-0.03)
ERRORS = Criterion(name="error_rate_max", metric="error_rate", direction="max", threshold=0.01)


def override(metric: str = "ndcg_at_10", threshold: float = 0.7) -> GateOverride:
    later = NOW + timedelta(hours=1)
    return GateOverride(contour="local", metric=metric, threshold=threshold, old=None, actor="api:ann", reason="noise", set_at=NOW, expires_at=later)


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ([ABSOLUTE, RELATIVE, ERRORS], [("ndcg_at_10_min", "absolute", 0.7), ("ndcg_at_10_relative", "relative", -0.03), ("error_rate_max", "absolute", 0.01)]),
        ([RELATIVE, ERRORS], [("ndcg_at_10_min", "absolute", 0.7), ("error_rate_max", "absolute", 0.01)]),
        ([ERRORS], [("error_rate_max", "absolute", 0.01)]),
    ],
)
def test_the_absolute_limit_is_bent_and_a_relative_one_only_where_it_is_alone(criteria: list[Criterion], expected: list[tuple[str, str, float]]) -> None:
    bent = bend(criteria, {"ndcg_at_10": override()})
    assert [(one.name, one.kind, one.threshold) for one in bent] == expected
    assert [one.override is not None for one in bent] == [one.metric == "ndcg_at_10" and one.kind == "absolute" for one in bent]
    assert bend(criteria, {}) == tuple(criteria)
