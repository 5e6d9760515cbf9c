"""The simulated user: which results get clicked, for how long they are read, and what rating is left.

What belongs here: probabilities and draws from them, given a ranking and its judgments. What must not: HTTP, corpora, any estimate made from clicks.

Clicks follow the position-based model (Craswell et al., WSDM 2008; Chuklin, Markov, de Rijke, "Click Models for Web Search", 2015, section 3.2):
a result is clicked when it is examined and attractive, independently of each other, ``P(click | document, position) = examination(position) *
attraction(grade)``. Examination decays as ``1 / position ** eta`` (Joachims, Swaminathan, Schnabel, WSDM 2017); attraction rises with the gain of the
grade, ``(2**grade - 1) / (2**max_grade - 1)``, between a floor (a click on something useless) and a ceiling (something useful passed over): that is
the noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from predator_si.errors import BadInput


@dataclass(frozen=True, slots=True)
class Click:
    """One simulated click: ``position`` counts from 1, ``dwell_seconds`` is the time spent on the document."""

    object_id: str
    position: int
    dwell_seconds: float


@dataclass(frozen=True, slots=True)
class ClickModel:
    """A position-based click model with dwell times and ratings.

    Parameters
    ----------
    eta
        Strength of position bias, at least 0: 0 examines everything, 1 is the usual ``1 / position``.
    attraction_floor, attraction_ceiling
        Probability that an examined document of grade 0, or of the highest grade, is clicked; in [0, 1], floor at most ceiling.
    max_grade
        The highest grade of the judgments, above 0; higher grades count as this one.
    rating_rate
        Share of searches that are rated, in [0, 1].
    dwell_floor_seconds, dwell_ceiling_seconds
        Median dwell on a document of grade 0 and of the highest grade; log-normal around it with ``dwell_sigma``. The usual reading of 30 seconds as
        "satisfied" (Fox et al., TOIS 2005) lies between the two.
    rating_floor, rating_ceiling, rating_sigma
        Mean rating when nothing relevant was shown, and when the best grade stood at position 1; normal noise, rounded, clipped to 1..5.
    """

    eta: float = 1.0
    attraction_floor: float = 0.05
    attraction_ceiling: float = 0.9
    max_grade: float = 1.0
    rating_rate: float = 0.25
    dwell_floor_seconds: float = 8.0
    dwell_ceiling_seconds: float = 60.0
    dwell_sigma: float = 0.6
    rating_floor: float = 2.0
    rating_ceiling: float = 4.8
    rating_sigma: float = 0.6

    def __post_init__(self) -> None:
        """Refuse parameters that are no probabilities."""
        if self.eta < 0:
            raise BadInput(f"click model: eta is {self.eta}; position bias cannot be negative. Use 0 or more.")
        if not 0 <= self.attraction_floor <= self.attraction_ceiling <= 1:
            raise BadInput(f"click model: attraction must satisfy 0 <= floor <= ceiling <= 1, got {self.attraction_floor} and {self.attraction_ceiling}.")
        if not 0 <= self.rating_rate <= 1:
            raise BadInput(f"click model: rating_rate is {self.rating_rate}; it is a share, between 0 and 1.")
        if self.max_grade <= 0:
            raise BadInput(f"click model: max_grade is {self.max_grade}; the highest grade must be above 0.")

    def examination(self, position: int) -> float:
        """Probability that the result at ``position`` (from 1) is looked at: ``1 / position ** eta``."""
        return float(1.0 / position**self.eta)

    def gain(self, grade: float) -> float:
        """Usefulness of a grade in [0, 1]: ``(2**grade - 1) / (2**max_grade - 1)``, clipped."""
        clipped = min(max(grade, 0.0), self.max_grade)
        return float((2.0**clipped - 1.0) / (2.0**self.max_grade - 1.0))

    def attraction(self, grade: float) -> float:
        """Probability that a document of this grade is clicked once it is examined."""
        return self.attraction_floor + (self.attraction_ceiling - self.attraction_floor) * self.gain(grade)

    def click_probability(self, position: int, grade: float) -> float:
        """Probability of a click on a document of ``grade`` at ``position``: examination times attraction."""
        return self.examination(position) * self.attraction(grade)

    def clicks(self, ranking: Sequence[str], grades: Mapping[str, float], rng: np.random.Generator) -> list[Click]:
        """Draw the clicks of one search, in the order of the ranking.

        Parameters
        ----------
        ranking
            Document ids as shown, best first.
        grades
            Judged grade per document id; a document without a judgment counts as grade 0.
        rng
            Source of chance; the same generator state gives the same clicks.
        """
        drawn: list[Click] = []
        for position, object_id in enumerate(ranking, start=1):
            grade = grades.get(object_id, 0.0)
            # Both numbers are drawn for every position, clicked or not, so that the draws of one position never depend on the luck of another.
            chance, spread = rng.random(), rng.standard_normal()
            if chance < self.click_probability(position, grade):
                drawn.append(Click(object_id, position, round(self._dwell_median(grade) * float(np.exp(self.dwell_sigma * spread)), 3)))
        return drawn

    def satisfaction(self, ranking: Sequence[str], grades: Mapping[str, float]) -> float:
        """How well the ranking served, in [0, 1]: the best over positions of examination times gain."""
        return max((self.examination(p) * self.gain(grades.get(d, 0.0)) for p, d in enumerate(ranking, start=1)), default=0.0)

    def rating(self, ranking: Sequence[str], grades: Mapping[str, float], rng: np.random.Generator) -> int | None:
        """Draw a rating 1..5, or None when this search is not rated.

        The mean moves from ``rating_floor`` to ``rating_ceiling`` in a straight line with ``satisfaction``: a relevant document near the top pleases.
        """
        chance, noise = rng.random(), rng.standard_normal()
        if chance >= self.rating_rate:
            return None
        mean = self.rating_floor + (self.rating_ceiling - self.rating_floor) * self.satisfaction(ranking, grades)
        return int(min(max(round(mean + self.rating_sigma * float(noise)), 1), 5))

    def _dwell_median(self, grade: float) -> float:
        """Median dwell in seconds, on a log scale between floor and ceiling."""
        return float(self.dwell_floor_seconds * (self.dwell_ceiling_seconds / self.dwell_floor_seconds) ** self.gain(grade))
