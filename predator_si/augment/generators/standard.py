"""The generators that need nothing but the service's own log and documents, in the order of their worth."""

from __future__ import annotations

from collections.abc import Sequence

from predator_si.augment.generators.clicks import ClickedAnswers
from predator_si.augment.generators.crops import Crops
from predator_si.augment.generators.log import LogQueries
from predator_si.augment.generators.phrases import Phrases
from predator_si.augment.generators.structure import Structure
from predator_si.augment.generators.templates import Templates
from predator_si.augment.material import Generator


def standard_generators(propensities: Sequence[float] | None = None) -> list[Generator]:
    """What people asked and chose, what they asked, then what is made up: by structure, in people's own forms, from phrases, and crops as filler.

    Parameters
    ----------
    propensities
        Examination of the ranks as fitted from the log (see ``ClickedAnswers``).
    """
    return [ClickedAnswers(propensities), LogQueries(), Structure(), Templates(), Phrases(), Crops()]
