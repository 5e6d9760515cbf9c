"""The generators that need nothing but the service's own log and documents, in the order of their worth."""

from __future__ import annotations

from collections.abc import Sequence

from predator_si.augment.generators.clicks import ClickedAnswers
from predator_si.augment.generators.crops import Crops
from predator_si.augment.generators.log import LogQueries
from predator_si.augment.generators.noise import Noisy
from predator_si.augment.generators.phrases import Phrases
from predator_si.augment.generators.structure import Structure
from predator_si.augment.generators.templates import LEAST_CLIENTS, Templates
from predator_si.augment.material import Generator


def standard_generators(propensities: Sequence[float] | None = None, *, least_clients: int = LEAST_CLIENTS, noise: float = 0.1) -> list[Generator]:
    """What people asked and chose, what they asked, then what is made up: by structure, in people's own forms, from phrases, and crops as filler.

    Parameters
    ----------
    propensities
        Examination of the ranks as fitted from the log (see ``ClickedAnswers``).
    least_clients
        So many clients must share a word or a form of the log before it is used again (``privacy.minClients`` of the contour).
    noise
        At most this share of what is made up, crops apart, gets a typo, and as much a synonym, as learned from the log.
    """
    made_up = (Structure(), Templates(least_clients=least_clients), Phrases())
    return [ClickedAnswers(propensities), LogQueries(), *(Noisy(inner, noise, least_clients=least_clients) for inner in made_up), Crops()]
