"""What the search service's allocation costs, from OpenCost or Kubecost.

What belongs here: the allocation API and USD per thousand requests. What must not: price tables (an estimate has its own source).

``GET /allocation`` (OpenCost; Kubecost has it below ``/model``) with ``window``, ``aggregate`` and ``accumulate`` answers
``{"code": 200, "data": [{name: {"totalCost", "start", "end", "minutes", ...}}]}``. USD per 1,000 requests = totalCost / (requests / 1000), both over the same
window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from predator_si.contour import Credential
from predator_si.errors import BadInput, Unavailable
from predator_si.monitor.sources.access import Endpoint
from predator_si.monitor.sources.reading import Reading
from predator_si.records import Metric, Provenance

METRIC = "cost_per_1k_requests"
COVERED = 0.9
"""An allocation that covers less of the window than this says too little about it."""


@dataclass(frozen=True)
class OpenCost:
    """The allocation of the search service.

    Parameters
    ----------
    address
        ``http(s)://host:port``, with ``/model`` at the end for a Kubecost that is not found without.
    allocation
        ``aggregate=name``, like ``namespace=search`` or ``label:app=search``.
    requests
        How many requests the window had: a metric, null with the reason where that is unknown.
    """

    address: str
    allocation: str
    requests: Callable[[datetime, datetime], Metric]
    credential: Credential | None = None
    env: dict[str, str] | None = None
    timeout: float = 10.0
    name: str = "opencost"

    def read(self, start: datetime, end: datetime) -> Reading:
        """USD per thousand requests of the window, unknown with the reason where cost or requests are."""
        metric, newest = self._metric(start, end)
        unknown = (f"{METRIC}: {metric.reason}",) if metric.reason is not None else ()
        found = Provenance(
            source=self.name, origin=self.address, window_start=start, window_end=end, newest=newest, rows_good=int(metric.known), unknown=unknown
        )
        return Reading(found, metrics={METRIC: metric})

    def _metric(self, start: datetime, end: datetime) -> tuple[Metric, datetime | None]:
        def unknown(reason: str) -> tuple[Metric, None]:
            return Metric(name=METRIC, value=None, unit="USD", direction="down", source="opencost", reason=reason, window_start=start, window_end=end), None

        try:
            row = self._allocation(start, end)
        except (BadInput, Unavailable) as error:
            return unknown(str(error))
        if isinstance(row, str):
            return unknown(row)
        cost, problem = _cost(row, start, end)
        if cost is None:
            return unknown(f"allocation {self.allocation}: {problem}")
        requests = self.requests(start, end)
        if requests.value is None:
            return unknown(f"allocation {self.allocation} cost {cost:.6g} USD, but the number of requests is unknown: {requests.reason}")
        if requests.value <= 0:
            return unknown(f"allocation {self.allocation} cost {cost:.6g} USD, and there was no request to share it")
        newest = min(_moment(row["end"]) or end, end)
        return Metric(
            name=METRIC,
            value=cost / (requests.value / 1000),
            n=int(requests.value),
            unit="USD",
            direction="down",
            source=f"opencost: {self.allocation}, {cost:.6g} USD over {requests.value:.0f} requests ({requests.source})",
            age_seconds=(end - newest).total_seconds(),
            window_start=start,
            window_end=end,
        ), newest

    def _allocation(self, start: datetime, end: datetime) -> dict[str, Any] | str:
        aggregate, _, name = self.allocation.partition("=")
        window = f"{start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ},{end.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        asked = {"window": window, "aggregate": aggregate, "accumulate": "true", "includeIdle": "false", "shareIdle": "false"}
        with Endpoint(self.address, self.credential, env=self.env, timeout=self.timeout) as api:
            body = api.ask("GET", "/allocation", params=asked, missing_ok=True)
            if body is None:
                body = api.ask("GET", "/model/allocation", params=asked)
        if body is None or body.get("code") != 200 or not isinstance(body.get("data"), list):
            return f"answers no allocations: {str(body)[:200]}"
        steps = [step for step in body["data"] if isinstance(step, dict) and step]
        if not steps:
            return "has no allocation data for this window yet"
        if len(steps) > 1:
            return f"answers {len(steps)} steps although one accumulated window was asked for"
        row = steps[0].get(name)
        if not isinstance(row, dict):
            return f"knows no allocation {self.allocation}; there are {', '.join(sorted(map(str, steps[0]))[:10])}"
        return row


def _cost(row: dict[str, Any], start: datetime, end: datetime) -> tuple[float | None, str | None]:
    """Total cost of an allocation, or why it does not speak for the window."""
    total = row.get("totalCost")
    if isinstance(total, bool) or not isinstance(total, int | float) or not math.isfinite(total) or total < 0:
        return None, f"its totalCost is {total!r}"
    began, ended = _moment(row.get("start")), _moment(row.get("end"))
    if began is None or ended is None:
        return None, "it does not say from when to when it is"
    covered = (min(ended, end) - max(began, start)).total_seconds() / (end - start).total_seconds()
    if covered < COVERED:
        return None, f"it covers {max(0.0, covered):.0%} of the window ({began.isoformat()} to {ended.isoformat()}); at least {COVERED:.0%} are needed"
    if (ended - began).total_seconds() > (end - start).total_seconds() / COVERED:
        return None, f"it is of another window ({began.isoformat()} to {ended.isoformat()})"
    return float(total), None


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
