"""The numbers of the loop once more, in SQL: a dbt project over the raw layer of telemetry, on DuckDB or PostgreSQL.

What belongs here: the dbt project (``project/``), the loading of what has changed, running dbt. What must not: Dagster, any metric in Python
(the fast path has them; that the two agree is worth something only while they are written twice).

Public: ``open_warehouse``, ``load``, ``build``, ``Batch``, ``BuildReport``, ``fast_path_rows``.
"""

from predator_si.warehouse.build import Batch, BuildReport, NodeResult, build, fast_path_rows, load
from predator_si.warehouse.engines import Target, Warehouse, open_warehouse

__all__ = ["Batch", "BuildReport", "NodeResult", "Target", "Warehouse", "build", "fast_path_rows", "load", "open_warehouse"]
