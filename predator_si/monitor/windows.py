"""Aggregates of closed 15-minute windows on disk: measured once, measured again when events came late, with the earlier revisions kept.

What belongs here: which windows must be measured, and where the result lies. What must not: how requests are counted (``requests``), snapshots.

Below ``telemetry/windows``::

    <yyyymmddTHHMM>/r0001/aggregate.json, latencies.parquet, <family>.parquet     what was known when the window was first measured
    <yyyymmddTHHMM>/r0002/...                                                     after late events
    <yyyymmddTHHMM>/r0002/origin.json                                             the files and the plan that it was measured with
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from predator_si.errors import Unavailable
from predator_si.monitor.aggregate import Aggregate
from predator_si.monitor.intake import WINDOW, window_name, window_of, window_start
from predator_si.monitor.parts import aggregate_parts
from predator_si.monitor.requests import Plan


@dataclass(frozen=True)
class Measured:
    """One window as it was measured: ``revision`` counts from 1, ``changed`` says whether this call measured it."""

    window: datetime
    revision: int
    changed: bool


class Windows:
    """The windows of one telemetry folder.

    Parameters
    ----------
    telemetry
        Folder with ``search/``, ``actions/`` and, where requests are judged, ``judgments/``, each by ``window=<yyyymmddTHHMM>/*.parquet``.
    plan
        How requests are measured; a window that was measured otherwise is measured again.
    """

    def __init__(self, telemetry: Path, plan: Plan | None = None) -> None:
        self.telemetry = Path(telemetry)
        self.folder = self.telemetry / "windows"
        self.plan = plan or Plan()

    # ----------------------------------------------------------------- measuring

    def tick(self, now: datetime, on_progress: Callable[[int, int], None] | None = None) -> list[Measured]:
        """Measure every closed window that has new files since it was measured, or was never measured; what stands is not touched.

        Raises
        ------
        BadInput
            A file of events or judgments cannot be read.
        Unavailable
            The folder cannot be written.
        """
        names = {path.parent.name[7:] for path in (self.telemetry / "search").glob("window=*/*.parquet")}
        closed = sorted(name for name in names if window_start(name) + WINDOW <= now)
        found = []
        for done, name in enumerate(closed, start=1):
            found.append(self.measure(window_start(name)))
            if on_progress:
                on_progress(done, len(closed))
        return [one for one in found if one.changed]

    def measure(self, window: datetime) -> Measured:
        """The newest revision of a closed window, made now if its files or the plan have changed.

        Raises
        ------
        BadInput, Unavailable
            As :meth:`tick`.
        """
        origin, revision = self._origin(window), self.revision(window)
        if revision and self._stored_origin(window, revision) == origin:
            return Measured(window, revision, changed=False)
        self._store(window, revision + 1, self._compute(window), origin)
        return Measured(window, revision + 1, changed=True)

    def between(self, start: datetime, end: datetime, now: datetime) -> Aggregate:
        """All requests with ``start <= timestamp < end``: whole closed windows from their files, the rest counted now.

        Raises
        ------
        BadInput, Unavailable
            As :meth:`tick`.
        """
        found = Aggregate({}, {}, self.plan.eta)
        for window in _touched(start, end):
            whole = start <= window and window + WINDOW <= end
            if whole and window + WINDOW <= now and self._parts("search", window):
                part = self.load(window, self.measure(window).revision)
            else:
                part = self._compute(window, start, end)
            found = Aggregate.added([found, part])  # one after the other: only the sum stays in memory
        return found

    def _compute(self, window: datetime, start: datetime | None = None, end: datetime | None = None) -> Aggregate:
        judged: Sequence[Path] | None = self._parts("judgments", window) or None
        return aggregate_parts(self._parts("search", window), self._parts("actions", window), judged, self.plan, start=start, end=end)

    # ----------------------------------------------------------------- what is stored

    def revision(self, window: datetime) -> int:
        """Number of the newest revision; 0 where the window was never measured."""
        numbers = [int(path.name[1:]) for path in (self.folder / window_name(window)).glob("r[0-9]*") if path.name[1:].isdigit()]
        return max(numbers, default=0)

    def load(self, window: datetime, revision: int | None = None) -> Aggregate:
        """A revision, the newest unless said.

        Raises
        ------
        BadInput
            There is none, or it is damaged.
        """
        return Aggregate.load(self._place(window, revision or self.revision(window)))

    def _place(self, window: datetime, revision: int) -> Path:
        return self.folder / window_name(window) / f"r{revision:04d}"

    def _parts(self, kind: str, window: datetime) -> list[Path]:
        return sorted((self.telemetry / kind / f"window={window_name(window)}").glob("*.parquet"))

    def _origin(self, window: datetime) -> dict[str, Any]:
        """What a measurement depends on: every file by name and size (a part is never rewritten in place, retention and erasing replace it), and the plan."""
        files = {f"{kind}/{path.name}": path.stat().st_size for kind in ("search", "actions", "judgments") for path in self._parts(kind, window)}
        plan: dict[str, Any] = json.loads(json.dumps(asdict(self.plan)))
        return {"files": files, "plan": plan}

    def _stored_origin(self, window: datetime, revision: int) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self._place(window, revision) / "origin.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def _store(self, window: datetime, revision: int, found: Aggregate, origin: dict[str, Any]) -> None:
        place = self._place(window, revision)
        partial = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            if partial.exists():
                shutil.rmtree(partial)
            found.save(partial)
            (partial / "origin.json").write_text(json.dumps(origin) + "\n")
            partial.replace(place)
        except OSError as error:
            raise Unavailable(f"{place}: a measured window cannot be stored ({error}); free some space or make the folder writable.") from error


def _touched(start: datetime, end: datetime) -> Iterable[datetime]:
    window = window_of(start)
    while window < end:
        yield window
        window += WINDOW
