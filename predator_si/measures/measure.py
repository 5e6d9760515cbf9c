"""A ranking measure as a value with a name.

What belongs here: names, their spelling and their parameters. What must not: any formula (``scoring``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Self

from predator_si.errors import BadInput

Family = Literal["nDCG", "R", "P", "RR", "AP", "ERR", "RBP", "RBPres", "judged"]

_NAME = re.compile(r"^([A-Za-z]+)(?:\(([a-z0-9.=]+)\))?(?:@([1-9]\d*))?$")
_FAMILIES: dict[str, Family] = {
    "nDCG": "nDCG",
    "R": "R",
    "P": "P",
    "RR": "RR",
    "MRR": "RR",
    "AP": "AP",
    "MAP": "AP",
    "ERR": "ERR",
    "RBP": "RBP",
    "RBPres": "RBPres",
    "judged": "judged",
    "Judged": "judged",
}
_UNCUT = frozenset({"RR", "AP", "ERR", "RBP", "RBPres"})
"""Families that also mean something over the whole ranking."""
ERR_MAX_GRADE = 4.0
"""Highest grade of ERR where the name gives none: the scale of the TREC Web track, and of its ``gdeval``."""
RBP_PERSISTENCE = 0.8


@dataclass(frozen=True)
class Measure:
    """A ranking measure: ``nDCG@10``, ``nDCG(exp)@10``, ``R@20``, ``P@10``, ``RR@10``, ``RR``, ``AP@10``, ``AP``, ``ERR@20``, ``ERR(max=3)@20``,
    ``RBP(p=0.8)``, ``RBPres(p=0.8)``, ``judged@10``.

    ``MRR`` and ``MAP`` are read as ``RR`` and ``AP``: the mean is taken by whoever aggregates. A family without ``@k`` looks at the whole ranking.
    ``RBPres`` is the residual of ``RBP``: what the unjudged documents and everything below the ranking could still add.
    """

    name: str
    family: Family
    cutoff: int | None
    exponential: bool = False
    persistence: float = RBP_PERSISTENCE
    max_grade: float = ERR_MAX_GRADE

    @classmethod
    def parse(cls, name: str) -> Self:
        """The measure called ``name``.

        Raises
        ------
        BadInput
            No such measure.
        """
        found = _NAME.match(name)
        family = _FAMILIES.get(found[1]) if found else None
        if not found or family is None or (found[3] is None and family not in _UNCUT):
            raise _unknown(name)
        more = _parameters(name, family, found[2])
        return cls(name=name, family=family, cutoff=int(found[3]) if found[3] else None, **more)


def _parameters(name: str, family: Family, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if family == "nDCG" and text == "exp":
        return {"exponential": True}
    key, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        raise _unknown(name) from None
    if family in ("RBP", "RBPres") and key == "p" and 0.0 < number < 1.0:
        return {"persistence": number}
    if family == "ERR" and key == "max" and number >= 1.0:
        return {"max_grade": number}
    raise _unknown(name)


def _unknown(name: str) -> BadInput:
    return BadInput(
        f"unknown measure {name!r}. Known: nDCG@k, nDCG(exp)@k, R@k, P@k, judged@k, and RR, AP, ERR, ERR(max=grade), RBP, RBP(p=persistence), "
        "RBPres(p=persistence) with or without @k, k from 1; MRR and MAP are read as RR and AP."
    )
