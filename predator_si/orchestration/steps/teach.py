"""What this home knows that can teach: its champion with both legs of its index and the optional models of the cache; how people examine ranks."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.augment.signals import click_signal
from predator_si.augment.teacher import EnsembleTeacher, ScorePairs, ensemble_of
from predator_si.augment.teacher_models import installed_bi_encoders, load_cross_encoder
from predator_si.errors import Missing
from predator_si.evaluate.pair_scores import score_pairs
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.improve import offline_reranker
from predator_si.orchestration.steps.judge import known_bias


def home_teacher(loop: Loop, log: pl.DataFrame | None = None) -> EnsembleTeacher:
    """The ensemble of the served model (through the pair scores that the evaluation uses too), the live index, the fetched bi-encoders, and clicks.

    Parameters
    ----------
    log
        ``prepare.query_log``: what people clicked has a vote on the queries they asked. Null or without clicks: no such vote.
    """
    champion, index = offline_reranker(loop, loop.serving().model), loop.index()

    def scores(pairs: list[tuple[str, str]]) -> npt.NDArray[np.floating]:
        return score_pairs(champion, pairs, loop.pair_scores)

    larger = larger_teacher(loop)
    clicks = [] if log is None or log.is_empty() else [click_signal(log, fitted_propensities(loop))]
    others = installed_bi_encoders(loop.settings.cache, besides=index.embedder.name)
    return ensemble_of(index, scores, bi_encoders=others, larger=larger, signals=[signal for signal in clicks if signal.grades])


def larger_teacher(loop: Loop) -> ScorePairs | None:
    """The cross-encoder that the contour names as a further teacher; null where it names none.

    Raises
    ------
    Missing
        It is neither a fetched model nor a folder.
    """
    named = loop.settings.values.training.teacher_model
    if named is None:
        return None
    places = [loop.settings.cache / "models" / named, Path(named).expanduser()]
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is None:
        raise Missing(f"training.teacherModel {named!r} is neither a fetched model nor a model folder. Fetch it (`predator-si models`), or name a folder.")
    return load_cross_encoder(folder)


def fitted_propensities(loop: Loop) -> list[float] | None:
    """How likely ranks 1, 2, ... are examined, as far down as the clicks of this home tell; null where they do not tell two of them apart."""
    bias = known_bias(loop)
    known = [] if bias is None else [one.propensity for one in takewhile(lambda one: one.propensity is not None, bias.positions)]
    return [float(value) for value in known if value is not None] if len(known) > 1 else None
