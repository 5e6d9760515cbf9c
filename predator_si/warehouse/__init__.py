"""The numbers of the loop once more, in SQL: a dbt project over the raw layer of telemetry, on DuckDB or PostgreSQL.

What belongs here: the dbt project (``project/``), the loading of what has changed, running dbt. What must not: Dagster, any metric in Python
(the fast path has them; that the two agree is worth something only while they are written twice).

Public
------
- ``build``: load what has changed, make and test it; a ``BuildReport``
- ``open_warehouse``: read it; ``fast_path_agreement``: its numbers beside the newest snapshot's
"""

from predator_si.warehouse.agreement import Agreement, Comparison, fast_path_agreement
from predator_si.warehouse.build import BuildReport, NodeResult, build
from predator_si.warehouse.engines import Target, Warehouse, open_warehouse

__all__ = ["Agreement", "BuildReport", "Comparison", "NodeResult", "Target", "Warehouse", "build", "fast_path_agreement", "open_warehouse"]
