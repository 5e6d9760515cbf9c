"""What every source of telemetry answers with, whatever stands behind it.

What belongs here: the protocol, the answer, and how a frame becomes a validated one. What must not: any source's own language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import polars as pl

from predator_si.monitor.sources.rules import RAW_SCHEMA, Kind, sort_out
from predator_si.records import Metric, Provenance, Record

_ARRIVED = pl.Datetime("us", "UTC")


class FileMark(Record):
    """How far a file was read: ``size`` bytes that were understood, of which ``lines`` lines; ``changed_ns`` is its time of change where it is read whole."""

    size: int
    lines: int = 0
    changed_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A window of one source.

    Attributes
    ----------
    frames
        Valid events by kind: columns of ``RAW_SCHEMA``, ``arrived`` (UTC) and ``sealed`` (the text is a token of our own vault).
    refused
        Records that broke a rule, by kind, with their ``reason``.
    aside
        Lines and files that could not be read at all: ``source``, ``origin``, ``line``, ``reason``, ``kind``, ``text``.
    metrics
        By name, from a source that answers with numbers; an unknown one is null with the reason.
    marks, markers
        How far files were read, and what a spool's markers say; remembered by the raw layer once the rest is stored.
    complete
        Whether the whole window was read: a source that is down, or has more than fits into one reading, says no.
    """

    provenance: Provenance
    frames: Mapping[Kind, pl.DataFrame] = field(default_factory=dict)
    refused: Mapping[Kind, pl.DataFrame] = field(default_factory=dict)
    aside: Sequence[dict[str, Any]] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    marks: Mapping[str, FileMark] = field(default_factory=dict)
    markers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    complete: bool = True


class Source(Protocol):
    """Anything that can say what happened in a window. ``read`` does not raise for a source that is down: it says so in the provenance."""

    @property
    def name(self) -> str:
        """Name in the contour."""
        ...

    def read(self, start: datetime, end: datetime) -> Reading:
        """Everything of ``start <= t < end`` that the source has now."""
        ...


def raw_frame(
    rows: pl.DataFrame, kind: Kind, *, source: str, origin: str, arrived: datetime | pl.Expr, lines: pl.Series | None = None, sealed: bool | pl.Expr = False
) -> pl.DataFrame:
    """Events with what the rules want to know beside: where each came from, when it arrived, whether its text is sealed, what had the wrong type."""
    if "misfit" not in rows.columns:
        rows = rows.with_columns(misfit=pl.lit(None, pl.String))
    return rows.with_columns(
        (pl.lit(None) if lines is None else lines).cast(pl.Int64).alias("line"),
        source=pl.lit(source),
        origin=pl.lit(origin),
        arrived=(pl.lit(arrived) if isinstance(arrived, datetime) else arrived).cast(_ARRIVED),
        sealed=pl.lit(sealed) if isinstance(sealed, bool) else sealed,
    ).select(*RAW_SCHEMA[kind], "arrived", "sealed", "misfit")


def validated(provenance: Provenance, frames: Mapping[Kind, Sequence[pl.DataFrame]], aside: Sequence[dict[str, Any]] = (), **more: Any) -> Reading:
    """The answer made of raw frames: the rules are applied, and the provenance says how many rows were good and what is newest."""
    good: dict[Kind, pl.DataFrame] = {}
    bad: dict[Kind, pl.DataFrame] = {}
    for kind, parts in frames.items():
        if parts:
            fine, bad[kind] = sort_out(pl.concat(parts), kind)
            good[kind] = fine.drop("misfit")
    times: list[Any] = [frame["timestamp"].max() for frame in good.values() if frame.height]
    found = provenance.model_copy(
        update={
            "newest": max((moment for moment in times if moment is not None), default=None),
            "rows_good": sum(frame.height for frame in good.values()),
            "rows_quarantined": sum(frame.height for frame in bad.values()) + len(aside),
        }
    )
    return Reading(found, good, bad, tuple(aside), **more)
