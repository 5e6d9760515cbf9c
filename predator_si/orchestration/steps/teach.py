"""What this home knows that can teach: its champion with both legs of its index and the optional models of the cache; how people examine ranks."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import numpy.typing as npt

from predator_si.augment.teacher import EnsembleTeacher, ensemble_of
from predator_si.augment.teacher_models import installed_bi_encoders
from predator_si.evaluate.pair_scores import score_pairs
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.improve import offline_reranker
from predator_si.orchestration.steps.judge import known_bias


def home_teacher(loop: Loop) -> EnsembleTeacher:
    """The ensemble of the served model (through the pair scores that the evaluation uses too), the live index and the fetched bi-encoders."""
    champion, index = offline_reranker(loop, loop.serving().model), loop.index()

    def scores(pairs: list[tuple[str, str]]) -> npt.NDArray[np.floating]:
        return score_pairs(champion, pairs, loop.pair_scores)

    return ensemble_of(index, scores, bi_encoders=installed_bi_encoders(loop.settings.cache, besides=index.embedder.name))


def fitted_propensities(loop: Loop) -> list[float] | None:
    """How likely ranks 1, 2, ... are examined, as far down as the clicks of this home tell; null where they do not tell two of them apart."""
    bias = known_bias(loop)
    known = [] if bias is None else [one.propensity for one in takewhile(lambda one: one.propensity is not None, bias.positions)]
    return [float(value) for value in known if value is not None] if len(known) > 1 else None
