"""Training within a budget, several candidates from each training, and the choice among them.

What belongs here: recipes, what they store, scoring on served weights. What must not: judgments (``labels``), the gate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.evaluate import PairScores, evaluate_model, score_pairs
from predator_si.proof.adapt.plan import Plan
from predator_si.proof.adapt.teaching import SHARPNESS
from predator_si.records import ServingConfig
from predator_si.search.models import ModelStore
from predator_si.search.rerank import Reranker, load_reranker, reference_backend
from predator_si.search.retrieve import Candidates
from predator_si.train.export import export
from predator_si.train.fit import fine_tune
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.select import Choice, Scored, choose

AVERAGES = (0.5,)
"""Shares of the starting weights in the further candidates of each training (WiSE-FT)."""
TWIN_AGREEMENT = 0.95
_CALIBRATION_PAIRS = 96


@dataclass(frozen=True)
class Stored:
    """A candidate: torch weights in the store. ``change`` is the share of the way from the start that it went, for one training: 1 is all of it."""

    name: str
    digest: str
    change: float


@dataclass(frozen=True)
class Lap:
    """One training: what it stored, how many pairs it saw in how many seconds."""

    stored: list[Stored]
    pairs: int
    seconds: float
    losses: list[float]


class Workshop:
    """Trains from one start, exports, scores; every score is kept.

    Parameters
    ----------
    start
        Digest of torch weights in ``store``.
    folder
        For checkpoints.
    """

    def __init__(self, store: ModelStore, start: str, plan: Plan, folder: Path, scores: PairScores) -> None:
        self.store, self.start, self.plan, self.folder, self.scores = store, start, plan, folder, scores
        self.backend = plan.backend or reference_backend()
        self._loaded: dict[str, Reranker] = {}

    def served(self, digest: str) -> str:
        """Digest of the export of torch weights that everything is scored with."""
        return export(self.store, digest, self.backend, self.plan.max_length)

    def reranker(self, digest: str) -> Reranker:
        """The served form of torch weights, loaded once."""
        if digest not in self._loaded:
            self._loaded[digest] = load_reranker(self.store.path(self.served(digest)))
        return self._loaded[digest]

    def teacher_scores(self, pairs: list[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of the starting model, remembered."""
        return score_pairs(self.reranker(self.start), pairs, self.scores)

    def pairs_per_second(self, pairs: Sequence[tuple[str, str]]) -> float:
        """How fast pairs like these are scored, measured on some of them without the memory of scores, after one batch to warm up."""
        reranker = self.reranker(self.start)
        some = [pairs[at] for at in np.linspace(0, len(pairs) - 1, min(_CALIBRATION_PAIRS, len(pairs))).astype(int).tolist()]
        reranker.score_pairs(some[:8])
        began = time.perf_counter()
        reranker.score_pairs(some)
        return len(some) / max(time.perf_counter() - began, 1e-6)

    def check_twin(self, queries: Sequence[str], candidates: Sequence[Candidates]) -> dict[str, Any]:
        """That the served form ranks the candidates of some queries as torch does; no judgment is needed for it.

        Raises
        ------
        BadInput
            Kendall's tau-b, averaged over the queries, is below ``TWIN_AGREEMENT``.
        """
        from scipy.stats import kendalltau

        if self.backend == "torch-fp32":
            return {"backend": self.backend, "kendall_tau": None}
        asked = [(query, own.texts) for query, own in zip(queries, candidates, strict=True) if len(own.texts) > 1]
        if not asked:
            raise BadInput(f"none of {len(queries)} queries has two candidates: there is nothing to rerank. Give a collection of more documents.")
        plain, fast = load_reranker(self.store.path(export(self.store, self.start, "torch-fp32", self.plan.max_length))), self.reranker(self.start)
        pairs = [(plain.score(query, texts), fast.score(query, texts)) for query, texts in asked]
        taus = np.array([float(kendalltau(one, other).statistic) for one, other in pairs])
        tau = float(np.nanmean(taus)) if np.isfinite(taus).any() else 0.0
        if tau < TWIN_AGREEMENT:
            raise BadInput(f"{self.backend} ranks otherwise than torch (mean tau {tau:.3f} on {len(pairs)} queries). Score with --backend torch-fp32 instead.")
        return {"backend": self.backend, "kendall_tau": tau, "n_queries": len(pairs)}

    def train(self, name: str, groups: pl.DataFrame, recipe: TrainingRecipe, on_progress: Callable[[int, int], None] | None = None) -> Lap:
        """One training; its full candidate and one for each share of averaging."""
        trained = fine_tune(self.store, self.start, groups, recipe, self.folder / name.replace(", ", "-").replace(" ", "-"), name=name, on_progress=on_progress)
        stored = [Stored(f"{name}, {share:.0%} of the start" if share else name, digest, 1.0 - share) for share, digest in trained.candidates.items()]
        return Lap(stored, trained.pairs, trained.seconds, trained.losses)

    def per_query(
        self,
        digest: str,
        queries: pl.DataFrame,
        labels: pl.DataFrame,
        candidates: Sequence[Candidates],
        fusion_weight: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> pl.DataFrame:
        """``query_id, ndcg_at_10, ...`` of a model under the plan's depth, in the order of ``queries`` that have a label."""
        reranker = self.reranker(digest)
        config = ServingConfig(model=reranker.digest, depth=self.plan.depth, fusion_weight=fusion_weight)
        return evaluate_model(queries, labels, list(candidates), reranker, config, scores_cache=self.scores, on_progress=on_progress)

    def choose(
        self,
        stored: Sequence[Stored],
        queries: pl.DataFrame,
        labels: pl.DataFrame,
        candidates: Sequence[Candidates],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Stored, Choice]:
        """The candidate to go on with, by ``train.select.choose`` on these labels, ranked as they would be served; the first is the default.

        Labels without judgments cannot tell small differences, and half of the way to the teacher is half of the gain: the order is fixed beforehand, all of
        the first recipe's way first, and the gate asks whether it did harm.
        """
        scored = []
        for at, one in enumerate(stored):
            frame = self.per_query(one.digest, queries, labels, candidates, self.plan.fusion_weight, _part(on_progress, at, len(stored)))
            scored.append(Scored(one.name, float(at), frame["ndcg_at_10"].to_numpy()))
        choice = choose(scored, seed=self.plan.seed)
        return next(one for one in stored if one.name == choice.chosen), choice


def distillation(plan: Plan, seconds: float, **more: Any) -> TrainingRecipe:
    """Listwise soft cross-entropy to the teacher (facts: L-12 alone .661 -> .684 on SciFact with no label, 500 queries, one epoch)."""
    return _recipe(plan, seconds, loss="distil", temperature=1.0 / SHARPNESS, **more)


def supervision(plan: Plan, seconds: float, **more: Any) -> TrainingRecipe:
    """Listwise on judgments, the same trainer and time."""
    return _recipe(plan, seconds, loss="listwise", learning_rate=plan.oracle_learning_rate, **more)


def _recipe(plan: Plan, seconds: float, **more: Any) -> TrainingRecipe:
    facts = {
        "learning_rate": plan.learning_rate,
        "groups_per_step": plan.groups_per_step,
        "max_length": plan.train_length,
        "averages": AVERAGES,
        "group_weights": True,
        "seed": plan.seed,
    }
    return TrainingRecipe(**{**facts, "seconds": max(seconds, 1.0), **more})


def _part(on_progress: Callable[[int, int], None] | None, at: int, parts: int) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(at * total + done, parts * total)
