"""How many copies of the search service the chart may start: the one thing of its own block ``search`` that the loop counts with.

What belongs here: the bounds and reading them. What must not: the rest of the block (``release.chart_values``), how many copies the loop asks for
(``orchestration.steps.act``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from predator_si.errors import BadInput
from predator_si.records import Record
from predator_si.values import Values, overlay, read_beside

BLOCK = "search"
_MOST = 20
"""The release file's bound of ``replicas``."""


class Copies(Record):
    """Bounds of the number of copies that answer people."""

    least: int = Field(default=1, ge=1, le=_MOST, strict=True)
    """``search.minReplicas``: the chart starts so many although the release file asks for fewer."""
    most: int = Field(default=_MOST, ge=1, strict=True)
    """``search.autoscaling.maxReplicas`` where it is enabled: people's bound of what load may lead to; else the release file's."""


def read_copies(files: Sequence[Path]) -> Copies:
    """The bounds that values files say, a later one laid over an earlier one as Helm does it.

    Raises
    ------
    BadInput
        A file cannot be read, or a bound is no number within its range.
    """
    search = Values()
    for file in files:
        search = overlay(search, read_beside(file, BLOCK))
    found, scaling = search.tree, search.tree.get("autoscaling")
    most = scaling.get("maxReplicas", _MOST) if isinstance(scaling, dict) and scaling.get("enabled") is True else _MOST
    paths = {"least": ("minReplicas",), "most": ("autoscaling", "maxReplicas")}
    try:
        bounds = Copies(least=found.get("minReplicas", 1), most=most)
    except ValidationError as error:
        first = error.errors()[0]
        path = paths[str(first["loc"][0])]
        raise BadInput(f"{search.place(path) or 'settings'}: {'.'.join((BLOCK, *path))}: {first['msg']}.") from error
    return bounds.model_copy(update={"most": min(_MOST, max(bounds.least, bounds.most))})
