"""Trailers of a commit: whose loop made it, in which cycle and stage, and what was decided.

What belongs here: writing them, and the words that make ``git log`` show them. What must not: running Git.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping

from predator_si.errors import BadInput

_NAME = re.compile(r"^[A-Z][A-Za-z0-9]*(-[A-Z][A-Za-z0-9]*)*$")
_OURS = ("Cycle", "Stage", "Contour", "Change")


def trailer(name: str) -> str:
    """What ``git log --format`` replaces by the value of our trailer ``name``, or by nothing where a commit has none."""
    return f"%(trailers:key=Predator-{name},valueonly,separator=%x2c)"


def check_names(names: Iterable[str]) -> None:
    """Raise ``BadInput`` for a trailer's name that Git would not take, or that :func:`with_trailers` sets itself."""
    for name in names:
        if not _NAME.match(name) or name in _OURS:
            raise BadInput(f"{name!r} cannot be a trailer: letters, digits and hyphens, and none of {', '.join(_OURS)}, which each commit has already.")


def with_trailers(message: str, cycle_id: str | None, stage: str | None, contour: str | None, more: Mapping[str, str]) -> str:
    """``message`` (subject and, after a blank line, body) with the trailers under it; ``more`` without their ``Predator-``."""
    subject, _, body = message.strip().partition("\n")
    parts = [subject, body.strip()] if body.strip() else [subject]
    trailers = [] if cycle_id is None else [f"Predator-Cycle: {cycle_id}", f"Predator-Stage: {stage}"]
    trailers += [] if cycle_id is None or contour is None else [f"Predator-Contour: {contour}"]
    trailers += [f"Predator-{name}: {_one_line(value)}" for name, value in more.items()]
    # Two processes that make the same change in the same second would make the same commit, and both would believe that their push brought it.
    parts.append("\n".join([*trailers, f"Predator-Change: {secrets.token_hex(6)}"]))
    return "\n\n".join(parts) + "\n"


def _one_line(value: str) -> str:
    """A trailer's value: what is in several lines, or cannot be printed, could pass for another trailer."""
    return "".join(letter for letter in " ".join(str(value).split()) if letter.isprintable())[:300] or "-"
