"""The kill switch as a file, for the hour in which the control database cannot be written: locked, full, damaged, or its server away.

What belongs here: the file, and pressing the switch in the database or else in the file. What must not: what the switch means, ending runs.

``Control.kill_switch`` says yes while the file is there, and so do the sensors, the run coordinator, the policy, the training callback and the commit of a
release, which all ask it. The next press, lift or look of the messenger takes the file's word into the database, and the ledger, and removes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from predator_si.errors import PredatorError, Unavailable


@dataclass(frozen=True)
class Press:
    """Who pressed the switch by a file, and why."""

    actor: str
    reason: str


@dataclass(frozen=True)
class StopFlags:
    """``<folder>/stop-<contour>.flag``: that the file is there is what counts.

    Parameters
    ----------
    folder
        The home folder.
    """

    folder: Path

    def path(self, contour: str) -> Path:
        """The file of a contour."""
        return self.folder / f"stop-{re.sub(r'[^A-Za-z0-9._-]', '_', contour)}.flag"

    def press(self, contour: str, actor: str, reason: str) -> Path:
        """Make the file.

        Raises
        ------
        Unavailable
            It cannot be made.
        """
        path = self.path(contour)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise Unavailable(f"{path}: cannot be made ({error.strerror}). Stop the processes of this home, and free its disk.") from error
        try:
            path.write_text(json.dumps({"actor": actor, "reason": reason}), encoding="utf-8")
        except OSError:  # on a full disk an empty file can be made where a written one cannot, and it stops as well
            return path
        return path

    def pressed(self, contour: str) -> Press | None:
        """Who pressed the switch by the file; null where there is no file."""
        path = self.path(contour)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Press(str(found["actor"]), str(found["reason"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Press("unknown", f"{path.name} was there; it does not say whose it is")

    def lift(self, contour: str) -> None:
        """Remove the file.

        Raises
        ------
        Unavailable
            It cannot be removed: the switch stays on.
        """
        path = self.path(contour)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"{path}: cannot be removed ({error.strerror}), so the kill switch stays on. Remove it by hand.") from error


@dataclass(frozen=True)
class Pressed:
    """What came of pressing the switch.

    Attributes
    ----------
    changed
        Whether it was off before.
    problem
        Why the database does not hold it; then the file does. Null where the database took it.
    """

    changed: bool
    problem: str | None


def press_switch(turn: Callable[[], bool], flags: StopFlags, contour: str, actor: str, reason: str) -> Pressed:
    """Press the kill switch: in the database, and where that cannot be written, by the file.

    Parameters
    ----------
    turn
        Presses it in the database (opening that may fail, too); whether it was off before.

    Raises
    ------
    Unavailable
        Neither could be done.
    """
    try:
        return Pressed(turn(), None)
    except PredatorError as error:
        before = flags.pressed(contour)
        try:
            flags.press(contour, actor, reason)
        except PredatorError as second:
            raise type(error)(f"{error} Nor can the switch be pressed by a file: {second}") from second
        return Pressed(before is None, str(error))
