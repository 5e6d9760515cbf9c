"""What is kept of the requests of a window: enough for every metric and its interval, little enough to add many windows.

What belongs here: the parts that add up, and their files. What must not: how requests are read (``requests``), which windows there are (``windows``),
what a metric is called (``snapshot``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.measures import Sketch, percentiles
from predator_si.monitor.totals import Totals

EXACT_LIMIT = 10_000_000
"""Up to so many latencies percentiles are exact; above they come from a sketch."""


class CellKey(NamedTuple):
    """Whose requests a cell holds. ``kind`` is ``person``, ``probe`` or ``twin`` (answered by a stand-in: such latencies mean nothing)."""

    model_digest: str | None
    variant: str | None
    kind: str
    segment: str | None


@dataclass(frozen=True)
class Latencies:
    """A distribution of times: every value up to :data:`EXACT_LIMIT`, and a sketch."""

    sketch: Sketch
    values: tuple[npt.NDArray[np.float64], ...] | None

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Latencies:
        """From milliseconds."""
        return cls(Sketch.of(values), (values,) if values.size else ())

    @classmethod
    def added(cls, parts: Sequence[Latencies], limit: int = EXACT_LIMIT) -> Latencies:
        """All times of the parts."""
        sketch = parts[0].sketch
        for part in parts[1:]:
            sketch = sketch + part.sketch
        kept = [part.values for part in parts]
        values = tuple(array for arrays in kept for array in arrays or ()) if sketch.n <= limit and None not in kept else None
        return cls(sketch, values)

    @property
    def exact(self) -> bool:
        """Whether percentiles are exact, and not within the sketch's accuracy."""
        return self.values is not None

    def percentiles(self, qs: Sequence[float]) -> pl.DataFrame:
        """As :func:`~predator_si.measures.percentiles`."""
        if self.values is None:
            return self.sketch.percentiles(qs)
        return percentiles(self.values[0] if len(self.values) == 1 else np.concatenate(self.values), qs)


@dataclass(frozen=True)
class Cell:
    """The requests of one :class:`CellKey`.

    Attributes
    ----------
    counts
        ``requests``, ``answered``, ``served``, ``failed``, ``clicked``, ``clicks``, ``simulated``, ``ratings``,
        ``bad_ratings``; where judgments were given also ``judged`` (requests
        with judgments), ``unjudged_requests``, ``documents`` (shown to judged requests in the first 10), ``unjudged_documents`` (of those), ``repeated``
        (judged documents that a ranking shows twice).
    newest
        Latest event by sort: ``answered``, ``served``, ``timed``, ``rated``.
    families
        Means: ``latency``, ``cpu``, ``clicks``, ``ratings``, ``judged``; a family without observations is absent.
    latencies
        Of answered requests.
    """

    counts: Mapping[str, int]
    newest: Mapping[str, datetime]
    families: Mapping[str, Totals]
    latencies: Latencies

    @classmethod
    def added(cls, parts: Sequence[Cell]) -> Cell:
        """All requests of the parts."""
        if len(parts) == 1:
            return parts[0]
        names = dict.fromkeys(name for part in parts for name in part.counts)
        times = dict.fromkeys(name for part in parts for name in part.newest)
        families = dict.fromkeys(name for part in parts for name in part.families)
        return cls(
            {name: sum(part.counts.get(name, 0) for part in parts) for name in names},
            {name: max(part.newest[name] for part in parts if name in part.newest) for name in times},
            {name: Totals.added([part.families[name] for part in parts if name in part.families]) for name in families},
            Latencies.added([part.latencies for part in parts]),
        )

    def count(self, name: str) -> int:
        """One of the counts; 0 where nothing was counted."""
        return self.counts.get(name, 0)


NO_REQUESTS = Cell({}, {}, {}, Latencies.of(np.empty(0)))


@dataclass(frozen=True)
class Aggregate:
    """All cells of some windows, and what does not belong to a cell.

    Attributes
    ----------
    counts
        ``events`` (distinct), ``repeated`` (events that came twice and counted once), ``missing`` (judged requests that no event is known of).
    eta
        Position bias that the clicks were weighted with.
    """

    cells: Mapping[CellKey, Cell]
    counts: Mapping[str, int] = field(default_factory=dict)
    eta: float = 1.0

    @classmethod
    def added(cls, parts: Sequence[Aggregate]) -> Aggregate:
        """All requests of the parts, which must not overlap.

        Raises
        ------
        BadInput
            Parts that were measured with different position bias or different measures.
        """
        if not parts:
            return cls({})
        if len({part.eta for part in parts}) > 1:
            raise BadInput(f"windows measured with different position bias ({sorted({part.eta for part in parts})}) cannot be added; measure them again.")
        grouped: dict[CellKey, list[Cell]] = {}
        for part in parts:
            for key, cell in part.cells.items():
                grouped.setdefault(key, []).append(cell)
        names = dict.fromkeys(name for part in parts for name in part.counts)
        counts = {name: sum(part.counts.get(name, 0) for part in parts) for name in names}
        return cls({key: Cell.added(cells) for key, cells in grouped.items()}, counts, parts[0].eta)

    def cell(self, keys: Iterable[CellKey]) -> Cell:
        """The cells of these keys as one."""
        found = [self.cells[key] for key in keys if key in self.cells]
        return Cell.added(found) if found else NO_REQUESTS

    # ----------------------------------------------------------------- files

    def save(self, folder: Path) -> None:
        """Write into an empty folder: ``aggregate.json``, a Parquet file per family, ``latencies.parquet``."""
        folder.mkdir(parents=True)
        rows: dict[str, list[pl.DataFrame]] = {}
        stored = []
        for number, (key, cell) in enumerate(self.cells.items()):
            at = pl.lit(number, pl.Int32).alias("cell")
            for name, totals in cell.families.items():
                rows.setdefault(name, []).append(totals.to_frame().select(at, pl.all()))
            if cell.latencies.values is not None:
                rows.setdefault("latencies", []).extend(pl.DataFrame({"latency_ms": array}).select(at, pl.all()) for array in cell.latencies.values)
            stored.append(
                {
                    **key._asdict(),
                    "counts": dict(cell.counts),
                    "newest": {name: moment.astimezone(UTC).isoformat() for name, moment in cell.newest.items()},
                    "families": {
                        name: {"n": totals.n, "total": totals.total.tolist(), "squares": totals.squares.tolist()} for name, totals in cell.families.items()
                    },
                    "exact": cell.latencies.exact,
                    "latencies": cell.latencies.sketch.to_dict(),
                }
            )
        for name, frames in rows.items():
            pl.concat(frames).write_parquet(folder / f"{name}.parquet")
        (folder / "aggregate.json").write_text(json.dumps({"eta": self.eta, "counts": dict(self.counts), "cells": stored}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Aggregate:
        """What :meth:`save` wrote.

        Raises
        ------
        BadInput
            A file is missing or damaged.
        """
        try:
            stored: dict[str, Any] = json.loads((folder / "aggregate.json").read_text())
            frames = {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}
            cells = {
                _key(one): _cell(one, {name: frame.filter(pl.col("cell") == i).drop("cell") for name, frame in frames.items()})
                for i, one in enumerate(stored["cells"])
            }
            return cls(cells, stored["counts"], stored["eta"])
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            raise BadInput(
                f"{folder}: not a stored window ({type(error).__name__}: {str(error).splitlines()[0]}). Remove the folder: it is measured again."
            ) from error


def _key(stored: Mapping[str, Any]) -> CellKey:
    return CellKey(stored["model_digest"], stored["variant"], stored["kind"], stored["segment"])


def _cell(stored: Mapping[str, Any], frames: Mapping[str, pl.DataFrame]) -> Cell:
    values = (frames["latencies"]["latency_ms"].to_numpy(),) if "latencies" in frames else ()
    return Cell(
        stored["counts"],
        {name: datetime.fromisoformat(text) for name, text in stored["newest"].items()},
        {name: Totals.from_frame(frames[name], **moments) for name, moments in stored["families"].items()},
        Latencies(Sketch.from_dict(stored["latencies"]), values if stored["exact"] else None),
    )
