"""The loop's logger, ``AutoOptimizer``: one line for each transition, verdict and refusal, with the cycle's id and never a query.

What belongs here: its name, its form, where it goes. What must not: when something is logged.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
import time
from io import TextIOWrapper
from pathlib import Path

NAME = "AutoOptimizer"
LOG = logging.getLogger(NAME)
_FORM = "%(asctime)sZ %(name)s %(levelname)s %(message)s"
_BYTES = 10_000_000
_SAID: dict[str, str] = {}
"""By who refused: the last reason that this process logged."""


def refused(who: str, reason: str, cycle_id: str | None = None) -> None:
    """One line for something that was not done, once for each new reason: a sensor that looks each minute says the same for hours."""
    told = f"{cycle_id or '-'} {reason}"
    if _SAID.get(who) != told:
        _SAID[who] = told
        LOG.info("%s refused by %s: %s", cycle_id or "-", who, reason[:500])


class _Form(logging.Formatter):
    """One line, whatever the message holds; UTC."""

    def __init__(self) -> None:
        super().__init__(_FORM, "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(super().format(record).split())


class _File(logging.handlers.WatchedFileHandler):
    """Makes its folder with its first line: asking for a home's settings leaves no trace."""

    _complained = False

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; the check whether the file was moved may fail before the base class looks out for errors."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written must not fill the screen of whoever works: one line, and only once."""
        if not self._complained:
            self._complained = True
            sys.stderr.write(f"{NAME}: {self.baseFilename} cannot be written ({type(sys.exception()).__name__}); the ledger holds what it would have said\n")


def write_to(folder: Path) -> None:
    """Append the loop's lines to ``<folder>/optimizer.log``, which ``predator-si logs`` shows; asking again changes nothing.

    Processes share the file: each line is one write at its end. At ten megabytes the file makes room for a new one.
    """
    path = folder / "optimizer.log"
    if any(isinstance(one, logging.FileHandler) and Path(one.baseFilename) == path.absolute() for one in LOG.handlers):
        return
    for one in [one for one in LOG.handlers if isinstance(one, logging.FileHandler)]:
        LOG.removeHandler(one)  # another home's, in a process that works for several
        one.close()
    try:
        if path.stat().st_size > _BYTES:
            path.replace(path.with_suffix(".log.1"))
    except OSError:
        pass  # not there yet, or not to be written: the first line tells
    handler = _File(path, encoding="utf-8", delay=True)
    handler.setFormatter(_Form())
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
