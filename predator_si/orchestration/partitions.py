"""Cycles as dynamic partitions: a key for each cycle, so that lineage, checks, retries and history are kept per cycle.

What belongs here: the partition set and how a key gets into it. What must not: choosing a cycle's id, which the control database does.
"""

from __future__ import annotations

import dagster as dg

from predator_si.errors import BadInput
from predator_si.records import CYCLE_ID

cycles = dg.DynamicPartitionsDefinition(name="cycles")
"""Ids of the cycles that have begun. Observation is not partitioned: thousands of keys slow the UI down."""


def add_cycle(instance: dg.DagsterInstance, cycle_id: str) -> None:
    """Make ``cycle_id`` a partition; one that is there already stays.

    Raises
    ------
    BadInput
        ``cycle_id`` is not of the form ``si_YYYY_MM_DD_NNN``.
    """
    if not CYCLE_ID.fullmatch(cycle_id):
        raise BadInput(f"{cycle_id!r} is not a cycle id; it looks like si_2026_01_31_001. Take the id that the control database gave the cycle.")
    instance.add_dynamic_partitions(str(cycles.name), [cycle_id])
