"""The raw layer: what the sources say, validated, each event once, by 15-minute windows; what could not be used, in the quarantine.

Does:

- ``Intake(folder, vault).run(sources, now)`` reads every source from where it stopped and stores what is new; gives an ``IntakeReport``.
- ``RawLayer(folder)``: ``dirty_windows()``, ``mark_clean()``, ``quarantine()``, ``parts()``; ``read_window`` gives a window as ``EventFrames``,
  ``with_results`` the documents that some of its searches were served.

Does not: measure anything, keep files longer or shorter (retention), open sealed text.
"""

from __future__ import annotations

from predator_si.monitor.intake.intake import Intake, IntakeReport
from predator_si.monitor.intake.store import COMPRESSION, WINDOW, Ledger, RawLayer, window_name, window_of, window_start
from predator_si.monitor.intake.window import read_window, with_results

__all__ = ["COMPRESSION", "WINDOW", "Intake", "IntakeReport", "Ledger", "RawLayer", "read_window", "window_name", "window_of", "window_start", "with_results"]
