"""What a cycle cost: metered processor and GPU seconds times the contour's prices, and what language models charged.

What belongs here: the arithmetic and the file ``costs.json`` of a cycle. What must not: metering (``orchestration.metering``), prices.

It is an estimate of our own processes, not a bill, and says so: what a search service costs is another metric (``cost_per_1k_requests``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from predator_si.records import LedgerRecord, Record

NAME = "costs.json"
RECORDED = "cycle_cost"
"""Action of the ledger record that keeps a cycle's cost."""


class MeteredWork(Record):
    """One stretch of work on a cycle in one process."""

    at: datetime
    what: str
    cpu_seconds: float = Field(ge=0)
    """Processor time of the process and its ended children, user and system."""
    gpu_seconds: float = Field(ge=0)
    """Wall time for which the process held GPUs, times their number."""
    seconds: float = Field(ge=0)


class CycleCosts(Record):
    """``costs.json``: what a cycle cost so far."""

    cycle_id: str
    total_cost_usd: float
    cpu_usd: float
    gpu_usd: float
    llm_usd: float
    """What language models charged by their price per token; 0 where none was asked."""
    usd_per_vcpu_hour: float
    usd_per_gpu_hour: float
    basis: Literal["estimated"] = "estimated"
    """Price table times metered seconds."""
    work: tuple[MeteredWork, ...]
    updated_at: datetime


def add_work(known: CycleCosts | None, cycle_id: str, work: Iterable[MeteredWork], *, vcpu_hour: float, gpu_hour: float, llm_usd: float) -> CycleCosts:
    """The costs with more work done; every stretch is priced by today's prices.

    Parameters
    ----------
    vcpu_hour, gpu_hour
        USD.
    llm_usd
        All that language models charged for this cycle so far.
    """
    every = (*(known.work if known is not None else ()), *work)
    cpu = sum(one.cpu_seconds for one in every) / 3600 * vcpu_hour
    gpu = sum(one.gpu_seconds for one in every) / 3600 * gpu_hour
    return CycleCosts(
        cycle_id=cycle_id,
        total_cost_usd=cpu + gpu + llm_usd,
        cpu_usd=cpu,
        gpu_usd=gpu,
        llm_usd=llm_usd,
        usd_per_vcpu_hour=vcpu_hour,
        usd_per_gpu_hour=gpu_hour,
        work=every,
        updated_at=max((one.at for one in every), default=datetime.now(UTC)),
    )


def read_costs(folder: Path) -> CycleCosts | None:
    """The costs in a cycle's folder; null where nothing of it was metered.

    Raises
    ------
    BadInput
        The file is there and cannot be read.
    """
    path = folder / NAME
    return CycleCosts.read(path) if path.is_file() else None


def recorded_costs(records: Iterable[LedgerRecord]) -> dict[str, float]:
    """Cycle -> USD by the newest ``cycle_cost`` record of each: what outlives the artifacts."""
    return {str(one.cycle_id): float(one.payload["total_cost_usd"]) for one in records if one.action == RECORDED and one.cycle_id is not None}


def month_costs(month: str, recorded: Mapping[str, float], folders: Path) -> dict[str, float]:
    """Cycle -> USD of the cycles opened in a month (UTC, ``2026-11``): the larger one of what was recorded and the file. Unmetered cycles are not in it."""
    prefix = f"si_{month.replace('-', '_')}_"
    found = {cycle: usd for cycle, usd in recorded.items() if cycle.startswith(prefix)}
    for path in folders.glob(f"{prefix}*/{NAME}"):
        costs = CycleCosts.read(path)
        found[costs.cycle_id] = max(found.get(costs.cycle_id, 0.0), costs.total_cost_usd)
    return found
