"""One build: load what has changed, let dbt make those windows and test them, and only then call them done.

What belongs here: the order of these steps, dbt's answer as records. What must not: Dagster (``orchestration.assets.warehouse`` shows the same build
as assets), SQL of models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.home import Home
from predator_si.records import Record
from predator_si.warehouse import raw
from predator_si.warehouse.engines import PROJECT, Target, environment, open_warehouse

WAIT_SECONDS = 600.0
"""How long a build waits for another one to end."""


class NodeResult(Record):
    """What became of one model or test."""

    name: str
    kind: Literal["model", "test"]
    status: str
    """``success``, ``error`` or ``skipped`` of a model; ``pass``, ``warn``, ``fail``, ``error`` or ``skipped`` of a test."""
    failures: int | None = None
    """Rows that a test found wrong."""
    message: str | None = None
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with it; a warning is not an error."""
        return self.status in ("success", "pass", "warn", "no-op")


class BuildReport(Record):
    """One build of the warehouse."""

    target: Target
    windows: int
    """Windows that were made anew."""
    snapshots: int
    """Snapshots that were loaded anew."""
    load_seconds: float
    dbt_seconds: float
    nodes: tuple[NodeResult, ...]

    @property
    def good(self) -> bool:
        """Whether every model was made and no test failed."""
        return bool(self.nodes) and all(node.good for node in self.nodes)

    @property
    def wrong(self) -> tuple[NodeResult, ...]:
        """Models that were not made, and tests that failed."""
        return tuple(node for node in self.nodes if not node.good)


@dataclass(frozen=True)
class Batch:
    """What is loaded and waits for dbt.

    Attributes
    ----------
    windows
        Starts of the windows that are made anew, oldest first.
    snapshots, quarantined
        Snapshots and quarantine files that were loaded anew.
    """

    home: Home
    target: Target
    windows: tuple[datetime, ...]
    snapshots: int
    quarantined: int
    seconds: float

    def settle(self) -> None:
        """Say that every model of this batch was made: its windows are done. Without it they are made anew next time."""
        with open_warehouse(self.home, self.target) as warehouse:
            raw.settle(warehouse)


@contextmanager
def load(home: Home, target: Target = "duckdb", *, everything: bool = False, wait_seconds: float = WAIT_SECONDS) -> Iterator[Batch]:
    """Load what has changed and hold the warehouse for the build that follows, one build at a time.

    Raises
    ------
    Unavailable
        Another build has not ended within ``wait_seconds``, or the engine cannot be reached.
    BadInput
        A file of the raw layer or a snapshot cannot be read.
    """
    import filelock

    home.warehouse.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    try:
        with filelock.FileLock(home.warehouse / ".lock", timeout=wait_seconds):
            with open_warehouse(home, target) as warehouse:
                raw.ensure_tables(warehouse)
                windows = raw.load_windows(warehouse, home, everything=everything)
                snapshots, quarantined = raw.load_snapshots(warehouse, home), raw.load_quarantine(warehouse, home)
            yield Batch(home, target, tuple(windows), snapshots, quarantined, time.perf_counter() - begun)
    except filelock.Timeout as error:
        raise Unavailable(f"{home.warehouse}: another build has held it for {wait_seconds:g} s; wait for it, or end it, then build again.") from error


def build(home: Home, target: Target = "duckdb", *, full_refresh: bool = False, usd_per_vcpu_hour: float | None = None) -> BuildReport:
    """Make and test every model for what has changed since the last build.

    Parameters
    ----------
    full_refresh
        Make everything anew from what the raw layer still holds; marts of windows that retention has removed are lost.
    usd_per_vcpu_hour
        Price behind the estimated costs; null leaves them unknown.

    Raises
    ------
    Unavailable
        dbt ended without an answer; the message is its own.
    """
    with load(home, target, everything=full_refresh) as batch:
        begun = time.perf_counter()
        nodes = run_dbt(home, target, ["build", *build_options(usd_per_vcpu_hour, full_refresh=full_refresh)])
        report = BuildReport(
            target=target,
            windows=len(batch.windows),
            snapshots=batch.snapshots,
            load_seconds=batch.seconds,
            dbt_seconds=time.perf_counter() - begun,
            nodes=tuple(nodes),
        )
        if report.good:
            batch.settle()
    return report


def build_options(usd_per_vcpu_hour: float | None, *, full_refresh: bool = False) -> list[str]:
    """Options of ``dbt build``."""
    return ["--vars", json.dumps({"usd_per_vcpu_hour": usd_per_vcpu_hour or 0.0}), *(["--full-refresh"] if full_refresh else [])]


def run_dbt(home: Home, target: Target, arguments: Sequence[str]) -> list[NodeResult]:
    """Run dbt on the project in a process of its own; what became of each model and test.

    Raises
    ------
    Missing
        dbt is not installed beside this Python.
    Unavailable
        It ended without results.
    """
    surroundings = environment(home, target)
    results = Path(surroundings["DBT_TARGET_PATH"]) / "run_results.json"
    results.unlink(missing_ok=True)
    command = [str(dbt_program()), "--quiet", *arguments]
    found = subprocess.run(command, env={**os.environ, **surroundings}, cwd=home.warehouse, capture_output=True, text=True, check=False)
    if not results.is_file():
        said = " ".join((found.stdout + found.stderr).split())[-800:]
        raise Unavailable(f"dbt ended with {found.returncode} before it made anything: {said} Its log is {surroundings['DBT_LOG_PATH']}/dbt.log.")
    return read_results(results)


def read_results(path: Path) -> list[NodeResult]:
    """The ``run_results.json`` of dbt as records."""
    found = []
    for result in json.loads(path.read_text(encoding="utf-8"))["results"]:
        kind, _, name = str(result["unique_id"]).split(".", 2)
        found.append(
            NodeResult(
                name=name.rsplit(".", 1)[0] if kind == "test" and "." in name else name,
                kind="test" if kind == "test" else "model",
                status=result["status"],
                failures=result.get("failures"),
                message=result.get("message"),
                seconds=result["execution_time"],
            )
        )
    return found


def dbt_program() -> Path:
    """The ``dbt`` command that belongs to this Python.

    Raises
    ------
    Missing
        It is not there.
    """
    program = Path(sys.executable).with_name("dbt")
    if not program.is_file():
        raise Missing(f"{program}: dbt is not installed in this environment. Run `pip install -e .` again; dbt-core and dbt-duckdb belong to it.")
    return program


def manifest(home: Home, target: Target) -> Path:
    """The manifest of the project as it is installed now: parsed once, and again when a file of the project has changed."""
    folder = Path(environment(home, target)["DBT_TARGET_PATH"])
    path = folder / "manifest.json"
    newest = max(file.stat().st_mtime for file in PROJECT.rglob("*") if file.is_file())
    if not path.is_file() or path.stat().st_mtime < newest:
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(dbt_program()), "--quiet", "parse"]
        found = subprocess.run(command, env={**os.environ, **environment(home, target)}, cwd=home.warehouse, capture_output=True, text=True, check=False)
        if found.returncode or not path.is_file():
            raise BadInput(f"{PROJECT}: dbt cannot parse the project: {' '.join((found.stdout + found.stderr).split())[-800:]}")
    return path
