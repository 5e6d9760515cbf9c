"""What the person chose before the command's name: contour, home, values. Settings are loaded when a command asks, not before.

What belongs here: the options that every command shares. What must not: any command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from predator_si.settings import Settings

GLOBAL_WITH_VALUE = ("--home", "--contour", "--values")
GLOBAL_FLAGS = ("--debug",)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of a table.")]


@dataclass(frozen=True)
class Choices:
    """The global options as given; None is the default of settings.py."""

    contour: str | None = None
    home: Path | None = None
    values: Path | None = None

    def settings(self, *, log: bool = True) -> Settings:
        """Load the settings; nothing is written but, unless ``log`` is false, the loop's log lines of this process into the home."""
        from predator_si.notify.log import write_to
        from predator_si.settings import load_settings

        settings = load_settings(self.contour, self.home, self.values)
        if log:
            write_to(settings.folders.logs)  # with its first line, and not before
        return settings


def settings_of(context: typer.Context, *, log: bool = True) -> Settings:
    """Settings for the command that ``context`` belongs to; without ``log`` for a command whose home must not exist yet."""
    choices = context.find_object(Choices) or Choices()
    return choices.settings(log=log)


def hoisted(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with the global options moved to the front, so that they may stand anywhere: ``predator-si up --home DIR``."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in GLOBAL_FLAGS or word.startswith(tuple(f"{name}=" for name in GLOBAL_WITH_VALUE)):
            front.append(word)
        elif word in GLOBAL_WITH_VALUE:
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return front + rest
