"""What work on a cycle takes: processor and GPU seconds of this process, added to the cycle's ``costs.json``; and what the month's cycles cost.

What belongs here: metering and what the budget guard asks. What must not: prices (the contour), arithmetic (``reports.costs``).
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from predator_si.control import ACTIVE
from predator_si.language_model import AnswerStore
from predator_si.notify.log import LOG
from predator_si.records import Cycle, utc_now
from predator_si.reports.costs import NAME, RECORDED, MeteredWork, add_work, month_costs, read_costs

if TYPE_CHECKING:
    from predator_si.orchestration.loop import Loop

_LARGE = 16 << 20
"""A larger file is named by its size: hashing it would take longer than many a step."""


@contextmanager
def metered(loop: Loop, cycle_id: str, what: str = "work") -> Iterator[None]:
    """Add what the block takes to the cycle's costs, however it ends. A meter that cannot write is logged; it never fails the work.

    A block that changed the cycle's files, or failed, also becomes one ledger record, ``step_done`` or ``step_failed`` (a watch only where it failed):
    ``inputs`` and ``outputs`` (the cycle's files that lay there before, and those that it wrote, name to sha256) and ``cost_usd``.
    """
    began, before = time.monotonic(), _processor_seconds()
    found, failed = files_of(loop.home.artifacts / cycle_id), ""
    try:
        yield
    except BaseException as error:
        failed = type(error).__name__
        raise
    finally:
        seconds = time.monotonic() - began
        taken = max(0.0, _processor_seconds() - before)
        work = MeteredWork(at=utc_now(), what=what, cpu_seconds=taken, gpu_seconds=seconds * _gpus(), seconds=seconds)
        try:
            folder, prices = loop.artifacts(cycle_id), loop.settings.prices
            known = read_costs(folder)
            costs = add_work(known, cycle_id, [work], vcpu_hour=prices.usd_per_vcpu_hour, gpu_hour=prices.usd_per_gpu_hour, llm_usd=_charged(loop, cycle_id))
            loop.save(cycle_id, NAME, costs)
            outputs = {name: digest for name, digest in files_of(folder).items() if found.get(name) != digest}
            if failed or (outputs and what != "watch"):  # a watch looks every few minutes; its record is its own
                grown = costs.total_cost_usd - (known.total_cost_usd if known is not None else 0.0)
                facts = {"inputs": found, "outputs": outputs, "cost_usd": grown, **work.model_dump(mode="json", exclude={"at"})}
                loop.control.append("step_failed" if failed else "step_done", "loop", cycle_id, failed or f"wrote {', '.join(outputs)}"[:500], facts)
        except Exception as error:  # the work itself is done; its cost is then too low, and the log says so
            LOG.error("%s cost of %s not kept (%s: %s)", cycle_id, what, type(error).__name__, error)


def files_of(folder: Path) -> dict[str, str]:
    """A cycle's files as they are now, name to sha256, or ``bytes:N`` where one is large; the costs, which change with each step, apart."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != NAME:
            size = path.stat().st_size
            found[path.name] = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if size <= _LARGE else f"bytes:{size}"
    return found


def spent_in_month(loop: Loop, now: datetime) -> float:
    """USD that the cycles opened in this month (UTC) cost so far, the ones that work now included."""
    month = f"{now.astimezone(UTC):%Y-%m}"
    return sum(month_costs(month, loop.control.get_note(_note(month)) or {}, loop.home.artifacts).values())


def spent_by_cycle(loop: Loop, cycle_id: str) -> float | None:
    """USD that a cycle cost so far; null where nothing of it was metered yet."""
    costs = read_costs(loop.home.artifacts / cycle_id)
    return costs.total_cost_usd if costs is not None else None


def usd_per_hour(loop: Loop) -> float:
    """What this machine costs while it trains, by the contour's prices: its processors, and its GPUs where torch sees any."""
    import os

    import torch

    prices = loop.settings.prices
    return float((os.cpu_count() or 1) * prices.usd_per_vcpu_hour + torch.cuda.device_count() * prices.usd_per_gpu_hour)


def settle_costs(loop: Loop, cycles: Iterable[Cycle]) -> int:
    """Write the cost of each cycle that has ended into the ledger, once, and again where it grew since (a rollback after ``stable``); how many.

    The month's sum is kept as a note, too: the guard asks often, and artifacts do not stay for ever.
    """
    count = 0
    for cycle in cycles:
        costs = read_costs(loop.home.artifacts / cycle.cycle_id) if cycle.state not in ACTIVE else None
        if costs is None:
            continue
        note = _note(cycle.cycle_id[3:10].replace("_", "-"))
        known: dict[str, float] = loop.control.get_note(note) or {}
        if costs.total_cost_usd > known.get(cycle.cycle_id, -1.0) + 1e-9:
            facts = {key: value for key, value in costs.model_dump(mode="json").items() if key != "work"}
            loop.control.append(RECORDED, "loop", cycle.cycle_id, f"{costs.total_cost_usd:.4f} USD, {costs.basis}", facts)
            loop.control.set_note(note, {**known, cycle.cycle_id: costs.total_cost_usd})
            count += 1
    return count


def _note(month: str) -> str:
    return f"costs/{month}"


def _charged(loop: Loop, cycle_id: str) -> float:
    """USD that language models charged for a cycle: those that write training queries, and the one that judges."""
    total = 0.0
    for path in (loop.home.written_queries, loop.home.judgments / "llm.db"):
        if path.is_file():
            with AnswerStore(path) as store:
                total += store.spent(cycle_id)[0]
    return total


def _processor_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _gpus() -> int:
    """GPUs that this process holds: torch has made a context on them. Asking does not load torch."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.device_count()) if torch is not None and torch.cuda.is_initialized() else 0
