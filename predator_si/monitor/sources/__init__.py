"""Where telemetry comes from: one protocol, one answer, many sources.

Does:

- ``Source.read(start, end)`` answers with a ``Reading``: validated frames or metrics, what was refused, and the ``Provenance``. A source that is down does
  not raise: it says so.
- Events: ``Spool`` (the embedded service), ``EventFiles`` (Parquet and JSON lines of others), ``PostgresTables``, ``OpenSearchUBI``.
- Metrics: ``Prometheus``, ``OpenCost``. ``resolve_snapshot`` takes each metric from the first source that is fresh.

Does not: store anything (``monitor.intake``), make metrics out of events (``monitor.snapshot``), write to any source.
"""

from __future__ import annotations

from predator_si.monitor.sources.folder import EventFiles
from predator_si.monitor.sources.opencost import OpenCost
from predator_si.monitor.sources.opensearch import OpenSearchUBI
from predator_si.monitor.sources.postgres import PostgresTables
from predator_si.monitor.sources.prometheus import Prometheus
from predator_si.monitor.sources.reading import FileMark, Reading, Source
from predator_si.monitor.sources.resolve import plan, resolve, resolve_snapshot
from predator_si.monitor.sources.spool import Spool

__all__ = [
    "EventFiles",
    "FileMark",
    "OpenCost",
    "OpenSearchUBI",
    "PostgresTables",
    "Prometheus",
    "Reading",
    "Source",
    "Spool",
    "plan",
    "resolve",
    "resolve_snapshot",
]
