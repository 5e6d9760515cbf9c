"""Which recorded requests a metric may count, and what a CPU second costs.

What belongs here: selection of events. What must not: any metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.records import Record
from predator_si.search.events import EventFrames

FAILED = (pl.col("status") >= 500) | (pl.col("status") == 429) | pl.col("degraded")
"""The service's fault: it broke, it shed the request, or it served the first stage because the reranker failed. 4xx is the caller's."""
ANSWERED = pl.col("status").is_between(200, 399)


class PriceTable(Record):
    """What compute costs. A metric made from it says ``estimated``: it is price times measured seconds, not a bill."""

    usd_per_vcpu_hour: float = Field(ge=0)
    usd_per_gpu_hour: float = Field(default=0.0, ge=0)
    origin: str = "settings"


@dataclass(frozen=True)
class Traffic:
    """Requests of people (or their replay) in one window that one model answered; probes are not among them.

    Attributes
    ----------
    requests
        Search events that count: answered by the model, or failed without saying by which and not the other variant's.
    actions
        Actions on those requests.
    others
        Requests in the window answered by another model.
    probes
        Probe requests in the window, left out of everything.
    """

    requests: pl.DataFrame
    actions: pl.DataFrame
    others: int
    probes: int

    @property
    def answered(self) -> pl.DataFrame:
        """Requests with an answer that was not degraded."""
        return self.requests.filter(ANSWERED & ~pl.col("degraded"))

    @property
    def served(self) -> pl.DataFrame:
        """Requests that say something about the service: all but the caller's own mistakes (4xx except 429)."""
        return self.requests.filter(ANSWERED | FAILED)

    @property
    def simulated(self) -> bool:
        """Whether any request or action came from the traffic replay."""
        return bool(self.requests["simulated"].any() or self.actions["simulated"].any())


def champion_traffic(events: EventFrames, window_start: datetime, window_end: datetime, digest: str | None, *, variant: str = "champion") -> Traffic:
    """The requests with ``window_start <= timestamp < window_end`` that the model ``digest`` answered in the role of ``variant``.

    A failed request may name no model: it counts for the variant it names, or for the champion. With ``digest`` null every request counts.

    Raises
    ------
    BadInput
        The window has no time zone or does not end after it starts.
    """
    check_window(window_start, window_end)
    window = events.search.filter(pl.col("timestamp").is_between(window_start, window_end, closed="left"))
    people = window.filter(~pl.col("probe") & pl.col("stands_for").is_null())  # a twin's answers say nothing about the champion's latency
    mine = pl.lit(True) if digest is None else (pl.col("model_digest") == digest).fill_null(pl.col("variant").fill_null("champion") == variant)
    requests = people.filter(mine)
    actions = events.actions.join(requests.select("query_id"), on="query_id", how="semi")
    return Traffic(requests=requests, actions=actions, others=people.height - requests.height, probes=window.height - people.height)


def check_window(start: datetime, end: datetime) -> None:
    """Refuse a window without time zones or length.

    Raises
    ------
    BadInput
        The message says both times.
    """
    if start.tzinfo is None or end.tzinfo is None or end <= start:
        raise BadInput(f"window {start} .. {end}: it needs time zones and must end after it starts.")
