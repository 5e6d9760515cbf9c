"""Where telemetry comes from: one protocol, one answer, many sources.

Public: ``Source``, ``Reading``, ``Provenance``; the sources ``Spool`` ... Does not: store anything, make metrics out of events.
"""

from __future__ import annotations

from predator_si.monitor.sources.reading import FileMark, Provenance, Reading, Source
from predator_si.monitor.sources.spool import Spool

__all__ = ["FileMark", "Provenance", "Reading", "Source", "Spool"]
