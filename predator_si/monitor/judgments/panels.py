"""Which judged queries are asked as probes: frozen within a period, rotated by the calendar, never from the sealed part.

What belongs here: choosing queries. What must not: asking them (``monitor.probes``), weighing parts by traffic (the caller says how many of each).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from predator_si.corpora.text import stable_fraction
from predator_si.errors import BadInput, Refused
from predator_si.records import Baseline, GateResult, MetricsSnapshot

PROBED_SPLIT = "dev"
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday: weekly panels change in the night to Monday, UTC
_ID = re.compile(r"panel (\d+-[0-9a-f]{6})")


@dataclass(frozen=True)
class Panel:
    """The probes of one window.

    Attributes
    ----------
    panel_id
        Number of the period and a hash of pool, seed and calendar: the same id is the same order of the same queries, of which a window takes a prefix
        of each part.
    queries
        ``query_id``, ``text``, ``part``, ``split``.
    counts
        Queries by part.
    starts, ends
        The period.
    """

    panel_id: str
    queries: pl.DataFrame
    counts: Mapping[str, int]
    starts: datetime
    ends: datetime

    @property
    def source(self) -> str:
        """For a metric's ``source``: ``panel 146-3fa9c1 (base 60, shift 60)``."""
        return f"panel {self.panel_id} ({', '.join(f'{part} {n}' for part, n in self.counts.items())})"


def panel(pool: pl.DataFrame, wanted: Mapping[str, int], now: datetime, *, rotation: timedelta = timedelta(days=7), stays: int = 2, seed: int = 0) -> Panel:
    """The panel of the period that ``now`` lies in.

    A query belongs for good to one of ``stays`` classes (by a hash of its id), and one class is drawn anew at each turn of the calendar: so a query stays
    for ``stays`` periods, neighbouring periods share ``(stays - 1) / stays`` of their queries, and in the long run all of the pool are asked. Within a
    period a part's smaller panel is a prefix of its larger one, so that windows which differ in their traffic still share queries.

    Parameters
    ----------
    pool
        ``query_id``, ``text``, ``part``, ``split``: all of them from the probed split.
    wanted
        Queries of each part; a part with fewer gives all that it has.
    rotation
        Length of a period; the calendar is the same on every machine.
    stays
        Periods that a query stays, at least 1; 1 replaces the whole panel at each turn.

    Raises
    ------
    Refused
        The pool holds sealed queries (any split but ``dev``): those are kept for promotion.
    BadInput
        No queries, a period that is not positive, or ``stays`` below 1.
    """
    if rotation <= timedelta(0) or stays < 1:
        raise BadInput(f"probe panel: rotation {rotation} must be positive and stays {stays} at least 1.")
    sealed = pool.filter((pl.col("split") != PROBED_SPLIT).fill_null(True))
    if sealed.height:
        kinds = ", ".join(sorted({str(split) for split in sealed["split"].to_list()}))
        raise Refused(f"probe panel: {sealed.height} of {pool.height} queries are of split {kinds}; probes are dev queries, the sealed part is for promotion.")
    period = int((now - _EPOCH) // rotation)
    chosen = [_draw(pool.filter(pl.col("part") == part), n, period, stays, seed) for part, n in wanted.items() if n > 0]
    queries = pl.concat(chosen) if chosen else pool.head(0)
    if queries.is_empty():
        raise BadInput("probe panel: no judged dev queries in the parts that were asked for; build the corpus with a dev split.")
    known = ",".join(sorted(pool["query_id"].to_list()))
    mark = hashlib.sha256(f"{seed}|{stays}|{rotation.total_seconds()}|{known}".encode()).hexdigest()[:6]
    counts = {part: int(n) for part, n in sorted(queries.group_by("part").len().iter_rows())}
    starts = _EPOCH + period * rotation
    return Panel(f"{period}-{mark}", queries, counts, starts, starts + rotation)


def panel_of(source: str) -> str | None:
    """The panel id in a metric's source; null where it names none."""
    found = _ID.search(source)
    return found[1] if found else None


def same_panel(current: str, reference: str) -> str | None:
    """Null when two metric sources name the same panel, or none at all; else what a reader must know before comparing them."""
    mine, theirs = panel_of(current), panel_of(reference)
    if mine == theirs:
        return None
    return f"measured on probe panel {mine or 'unknown'}, the reference on {theirs or 'unknown'}: part of the difference may be the queries"


def with_panels(gates: Sequence[GateResult], snapshot: MetricsSnapshot, baseline: Baseline | None) -> list[GateResult]:
    """The gates; one that compares a metric with a baseline measured on other probes says so in its reason."""
    found = []
    for gate in gates:
        metric = snapshot.metrics.get(gate.criterion.metric)
        note = None
        if gate.criterion.kind == "relative" and gate.reference is not None and metric is not None and baseline is not None:
            theirs = baseline.sources.get(metric.name)
            note = same_panel(metric.source, theirs) if theirs is not None else None
        found.append(gate if note is None else gate.model_copy(update={"reason": f"{gate.reason}; {note}"}))
    return found


def _draw(pool: pl.DataFrame, n: int, period: int, stays: int, seed: int) -> pl.DataFrame:
    """A prefix of the part's order in this period: one query from each class in turn, each class in its own current order."""
    keyed = []
    for query_id in pool["query_id"].to_list():
        home = int(stable_fraction(f"{seed}:class:{query_id}") * stays)
        epoch = (period - home) // stays  # of each period's `stays` classes exactly one begins a new epoch
        keyed.append((home, stable_fraction(f"{seed}:{home}:{epoch}:{query_id}")))
    ordered = pool.with_columns(_home=pl.Series([home for home, _ in keyed], dtype=pl.Int64), _key=pl.Series([key for _, key in keyed], dtype=pl.Float64))
    ordered = ordered.sort("_key", "query_id").with_columns(_turn=pl.int_range(pl.len()).over("_home"))
    return ordered.sort("_turn", "_home", "query_id").head(n).select(pool.columns)
