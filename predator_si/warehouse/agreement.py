"""Whether the fast path (``monitor.snapshot``) and the warehouse say the same about the newest snapshot's time and champion.

What belongs here: reading ``mart_fast_path`` and summing its answers up. What must not: the comparison itself, which the mart makes and shows.
"""

from __future__ import annotations

from typing import Literal

from predator_si.home import Home
from predator_si.records import Record
from predator_si.warehouse.engines import Target, open_warehouse

Answer = Literal["agrees", "differs", "unknown"]


class Comparison(Record):
    """One number of the newest snapshot beside the warehouse's. ``tolerance`` is absolute for counts (0), else of the value, at least of 1."""

    metric: str
    fast_value: float | None
    warehouse_value: float | None
    difference: float | None
    tolerance: float
    answer: Answer
    reason: str


class Agreement(Record):
    """What the comparisons say together: ``differs`` when one differs, ``unknown`` when one cannot be compared, else ``agrees``."""

    answer: Answer
    reason: str
    snapshot_id: str | None = None
    comparisons: tuple[Comparison, ...] = ()

    def as_markdown(self) -> str:
        """A table of the comparisons."""
        rows = [f"| {one.metric} | {_number(one.fast_value)} | {_number(one.warehouse_value)} | {one.answer} | {one.reason} |" for one in self.comparisons]
        return "\n".join(["| number | snapshot | warehouse | answer | reason |", "|---|---|---|---|---|", *rows])


def fast_path_agreement(home: Home, target: Target = "duckdb") -> Agreement:
    """Compare the newest snapshot that the warehouse has loaded.

    Raises
    ------
    BadInput
        There is no warehouse yet.
    Unavailable
        It is being built, or does not answer.
    """
    columns = ("metric", "fast_value", "warehouse_value", "difference", "tolerance", "answer", "reason")
    with open_warehouse(home, target, read_only=True) as warehouse:
        newest = warehouse.rows("select snapshot_id from warehouse.mart_fast_path order by measured_to desc, created_at desc, snapshot_id desc limit 1")
        if not newest:
            return Agreement(answer="unknown", reason="no snapshot has been loaded, so there is nothing to compare with; take one, then build the warehouse")
        rows = warehouse.rows(
            f"select {', '.join(columns)} from warehouse.mart_fast_path where snapshot_id = '{str(newest[0][0]).replace(chr(39), chr(39) * 2)}' order by metric"
        )
    return agreement(str(newest[0][0]), [Comparison(**dict(zip(columns, row, strict=True))) for row in rows])


def agreement(snapshot_id: str, comparisons: list[Comparison]) -> Agreement:
    """Sum the comparisons of one snapshot up; none at all is unknown."""
    answer: Answer = "agrees" if comparisons else "unknown"
    worst: tuple[Answer, ...] = ("unknown", "differs")
    for worse in worst:
        answer = worse if any(one.answer == worse for one in comparisons) else answer
    if answer == "agrees":
        reason = f"{len(comparisons)} numbers are the same in both ways"
    else:
        reason = "; ".join(f"{one.metric}: {one.reason}" for one in comparisons if one.answer == answer)
    return Agreement(
        answer=answer, reason=reason or "the warehouse compares no number of this snapshot", snapshot_id=snapshot_id, comparisons=tuple(comparisons)
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"
