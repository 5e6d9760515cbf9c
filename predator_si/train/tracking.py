"""Where training runs are written down: one protocol, and a tracker that keeps everything in memory.

What belongs here: what an experiment tracker must do, for whatever records runs. What must not: MLflow itself
(``orchestration.tracking``), Dagster, deciding which model is the champion: aliases are derived from Git, never the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from predator_si.errors import BadInput, Missing, Refused

REGISTERED_MODEL = "reranker"
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
_ALIAS = re.compile(r"champion|challenger|gold-[1-9]\d*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ExperimentTracker(Protocol):
    """Runs with parameters, metrics and files; models with versions and aliases. One run is open at a time."""

    def start(self, cycle_id: str, name: str, parameters: Mapping[str, Any]) -> str:
        """Open a run of ``cycle_id`` called ``name``; returns its id. BadInput when one is open already."""

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Write metrics of the open run, at ``step`` for a curve. BadInput when no run is open."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """Copy a file to the open run's artifacts, under ``folder``. Missing when there is no such file."""

    def log_table(self, rows: Mapping[str, Sequence[Any]], name: str) -> None:
        """Write a table (column -> values, all as long) to the open run's artifacts as ``<name>.json``. BadInput when no run is open."""

    def register(self, digest: str, folder: Path, tags: Mapping[str, str] | None = None) -> str:
        """Make the model a version of ``reranker``; returns the version. The same digest keeps its version, and tags are laid over the ones it has.

        ``folder`` is the model's folder in the model store. Its weights are not copied: the version's source points at it, since a digest
        names the same bytes for ever, and a copy of 130 MB for each cycle would say nothing more. A ``README.md`` there is the model card.
        """

    def set_alias(self, alias: str, digest: str) -> None:
        """Point ``champion``, ``challenger`` or ``gold-N`` at a registered digest. A gold alias never moves (Refused). Missing when not registered."""

    def clear_alias(self, alias: str) -> None:
        """Take ``champion`` or ``challenger`` off whatever has it; nothing happens when nothing does. A gold alias stays (Refused)."""

    def alias(self, alias: str) -> str | None:
        """The digest that has the alias; ``None`` when none does."""

    def aliases(self) -> dict[str, str]:
        """All aliases of ``reranker`` with the digests that have them."""

    def end(self, status: RunStatus) -> None:
        """Close the open run; nothing happens when none is open."""

    def url(self) -> str | None:
        """Address of the newest run's page, where the tracker has pages."""


@contextmanager
def tracked(tracker: ExperimentTracker, cycle_id: str, name: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    """An open run that is closed whatever happens: FINISHED, FAILED on an error, KILLED on an interruption (a termination, Ctrl-C)."""
    run_id = tracker.start(cycle_id, name, parameters)
    status: RunStatus = "KILLED"
    try:
        yield run_id
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracker.end(status)


def check_alias(alias: str) -> None:
    """BadInput unless ``alias`` is ``champion``, ``challenger`` or ``gold-N``."""
    if not _ALIAS.fullmatch(alias):
        raise BadInput(f"{alias!r} is not an alias of {REGISTERED_MODEL}; there are champion, challenger and gold-N with N from 1.")


def check_clearable(alias: str) -> None:
    """Refused for a gold alias, BadInput for what is no alias."""
    check_alias(alias)
    if alias.startswith("gold-"):
        raise Refused(f"alias {alias} stays where it is: a gold model is a fixed point of comparison. Give the new one the next number.")


def check_movable(alias: str, current: str | None, digest: str) -> None:
    """Refused when ``alias`` is a gold one that another digest than ``digest`` has."""
    check_alias(alias)
    if alias.startswith("gold-") and current not in (None, digest):
        raise Refused(f"alias {alias} is {current} and stays so: a gold model is a fixed point of comparison. Give {digest} the next number.")


def check_model(digest: str, folder: Path) -> None:
    """BadInput unless ``digest`` is one, Missing unless ``folder`` has a model card."""
    if not _DIGEST.fullmatch(digest):
        raise BadInput(f"{digest!r} is not a model digest; it looks like sha256:<64 hex digits>.")
    if not (folder / "predator.json").is_file():
        raise Missing(f"{folder}: no predator.json; register models of the model store only, add this one to it first.")


def unregistered(digest: str) -> Missing:
    """The error of giving an alias to what is not registered."""
    return Missing(f"{digest} is no version of {REGISTERED_MODEL}; register it before giving it an alias.")


def not_open() -> BadInput:
    """The error of writing to no run."""
    return BadInput("no run is open; start one before writing to it.")


@dataclass
class MemoryRun:
    """A run as ``NullTracker`` keeps it."""

    cycle_id: str
    name: str
    parameters: dict[str, Any]
    metrics: list[tuple[int | None, dict[str, float]]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    status: RunStatus | None = None


class NullTracker:
    """Keeps runs, versions and aliases in memory and nowhere else: for tests, and for commands that train without a record."""

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        self.versions: dict[str, str] = {}
        """Digest -> version."""
        self.tags: dict[str, dict[str, str]] = {}
        self._aliases: dict[str, str] = {}
        self._open: MemoryRun | None = None

    def start(self, cycle_id: str, name: str, parameters: Mapping[str, Any]) -> str:
        """See ``ExperimentTracker``."""
        if self._open is not None:
            raise BadInput(f"run {self._open.name!r} of {self._open.cycle_id} is still open; end it before starting {name!r}.")
        self._open = MemoryRun(cycle_id, name, dict(parameters))
        run_id = f"memory-{len(self.runs) + 1}"
        self.runs[run_id] = self._open
        return run_id

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """See ``ExperimentTracker``."""
        self._running().metrics.append((step, dict(values)))

    def log_file(self, path: Path, folder: str = "") -> None:
        """See ``ExperimentTracker``; only the name is kept."""
        run = self._running()
        if not path.is_file():
            raise Missing(f"{path}: no such file to log.")
        run.files.append(f"{folder}/{path.name}" if folder else path.name)

    def log_table(self, rows: Mapping[str, Sequence[Any]], name: str) -> None:
        """See ``ExperimentTracker``."""
        self._running().tables[name] = {column: list(values) for column, values in rows.items()}

    def register(self, digest: str, folder: Path, tags: Mapping[str, str] | None = None) -> str:
        """See ``ExperimentTracker``."""
        check_model(digest, folder)
        self.tags.setdefault(digest, {}).update(tags or {})
        return self.versions.setdefault(digest, str(len(self.versions) + 1))

    def set_alias(self, alias: str, digest: str) -> None:
        """See ``ExperimentTracker``."""
        check_movable(alias, self.alias(alias), digest)
        if digest not in self.versions:
            raise unregistered(digest)
        self._aliases[alias] = digest

    def clear_alias(self, alias: str) -> None:
        """See ``ExperimentTracker``."""
        check_clearable(alias)
        self._aliases.pop(alias, None)

    def alias(self, alias: str) -> str | None:
        """See ``ExperimentTracker``."""
        check_alias(alias)
        return self._aliases.get(alias)

    def aliases(self) -> dict[str, str]:
        """See ``ExperimentTracker``."""
        return dict(self._aliases)

    def end(self, status: RunStatus) -> None:
        """See ``ExperimentTracker``."""
        if self._open is not None:
            self._open.status = status
            self._open = None

    def url(self) -> str | None:
        """Nothing to look at."""
        return None

    def _running(self) -> MemoryRun:
        if self._open is None:
            raise not_open()
        return self._open
