"""Actions that need no training: other settings or another stored model, weighed on dev queries before anything is tried on people.

What belongs here: what a configuration costs and brings against the champion's, and which of several is taken. What must not: which trigger asks for
which action (``monitor.triggers``), opening a cycle, the sealed queries that judge the chosen one afterwards.

Every option is compared with the champion on the same dev queries and candidates, per query. Where the best of several gains is taken (recall), the
intervals are corrected for having looked so often (Bonferroni). Where the cheapest that loses nothing is taken, the sealed queries judge it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput, PredatorError, Refused
from predator_si.evaluate.compare import evaluate_model
from predator_si.evaluate.pair_scores import PairScores
from predator_si.evaluate.ranking import LEAST_DEPTH
from predator_si.records import Interval, ModelCard, Record, ServingConfig
from predator_si.search.adaptive_depth import DepthRule
from predator_si.search.rerank import Reranker
from predator_si.search.retrieve import Candidates
from predator_si.statistics import paired_interval, ratio_interval

Goal = Literal["latency", "recall", "cost", "errors", "index"]
MARGIN = 0.01
"""NDCG@10 that an option may lose at most, by the lower end of its interval."""
LATENCY_ALLOWANCE = 0.15
"""An option reaches a latency target when it stays within 115% of it (CONTRACT.md section 3)."""
REPAIR = "repair_index"
"""What comes before any other option for recall: a setting that makes up for documents that are gone would stay when they are back."""
_ALPHA = 0.05
_DEEPEST = 100
"""Each leg of the index brings so many documents at most."""
_WARM = 2
_TIMED = 24
"""Queries that time the reranking; the first two warm the engines up."""


@dataclass(frozen=True)
class Option:
    """A configuration that may replace the champion's.

    Attributes
    ----------
    action
        Of the trigger table: ``quantise``, ``cut_depth`` ...
    note
        What it is, in words.
    candidates
        What its first stage finds, where that is not the champion's: texts and depth in, one :class:`Candidates` a query out.
    """

    action: str
    config: ServingConfig
    note: str
    candidates: Callable[[list[str], int], list[Candidates]] | None = None
    documents_wrong: int | None = None
    """Documents that its index lacks, holds with an old text or holds wrongly; null where no other index is tried."""


class Tried(Record):
    """One option and what was measured of it. Differences are option minus champion, over the same dev queries."""

    action: str
    config: ServingConfig
    note: str
    ndcg_difference: Interval | None = None
    recall_difference: Interval | None = None
    """Of recall at 20; its interval is corrected for the number of options."""
    rerank_ratio: Interval | None = None
    """Reranking time as a ratio to the champion's."""
    processor_ratio: Interval | None = None
    """Processor time of reranking as a ratio to the champion's."""
    rerank_p95_ms: float | None = None
    expected_p95_ms: float | None = None
    """P95 of a search: the served one, with the champion's reranking time exchanged for the option's."""
    documents_wrong: int | None = None
    """Of another index: documents that are not as they were accepted, those set aside for a reason not counted."""
    passes: bool
    reason: str


class ActionPlan(Record):
    """``actions.json``: what a cycle without training tried, with figures, and what it takes."""

    cycle_id: str
    trigger: str
    goal: Goal | None
    champion: ServingConfig
    tried: list[Tried]
    not_built: dict[str, str]
    """Actions of the trigger table that were not tried, with the reason."""
    action: str | None
    config: ServingConfig | None
    train: bool
    """Nothing that is cheap helps, and the row has an action that trains: the cycle goes that way."""
    reason: str
    n_queries: int
    seconds: float
    created_at: datetime


def cut_options(champion: ServingConfig) -> list[Option]:
    """The champion with three quarters, half and a quarter of its depth."""
    depths = sorted({max(1, round(champion.depth * share)) for share in (0.75, 0.5, 0.25)} - {champion.depth}, reverse=True)
    return [
        Option("cut_depth", champion.model_copy(update={"depth": depth, "early_exit": False}), f"{depth} of {champion.depth} candidates are reranked")
        for depth in depths
        if depth < champion.depth
    ]


def widen_options(champion: ServingConfig) -> list[Option]:
    """More candidates, other shares of the first stage, and both; deeper than the champion at most by a factor of 3, and :data:`_DEEPEST`.

    Up to 20 candidates nothing but their order changes, so recall at 20 asks for more than 20 before a weight can matter.
    """
    start = max(champion.depth, LEAST_DEPTH)
    deeper = sorted({min(_DEEPEST, round(start * factor)) for factor in (1.5, 2.0, 3.0)} | {champion.depth})
    weights = sorted({champion.fusion_weight, 0.0, 0.25, 0.5, 0.75})
    options = []
    for depth in deeper:
        for weight in weights:
            config = champion.model_copy(update={"depth": depth, "fusion_weight": weight, "early_exit": False})
            if (depth, weight) != (champion.depth, champion.fusion_weight) and (depth > LEAST_DEPTH or weight == champion.fusion_weight):
                action = "widen_candidates" if weight == champion.fusion_weight else "tune_fusion"
                options.append(Option(action, config, f"{depth} candidates, first stage weighs {weight:g}"))
    return options


def weigh(
    options: Sequence[Option],
    champion: ServingConfig,
    goal: Goal,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates_for: Callable[[list[str], int], list[Candidates]],
    scorer_of: Callable[[str], Reranker],
    server_of: Callable[[str], Reranker] | None = None,
    *,
    rule_of: Callable[[ServingConfig], DepthRule | None] | None = None,
    served_p95_ms: float | None = None,
    margin: float = MARGIN,
    looks: int | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    scores_cache: PairScores | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    clock: Callable[[], tuple[float, float]] = lambda: (time.perf_counter(), time.process_time()),
) -> list[Tried]:
    """Measure every option against the champion.

    Parameters
    ----------
    queries, judgments, candidates_for
        Dev queries as :func:`~predator_si.evaluate.evaluate_model` takes them.
    scorer_of
        Digest -> a reranker that scores for it offline; may be a checked twin.
    server_of
        Digest -> the reranker as it would serve, for times; only ``latency`` and ``cost`` need it.
    rule_of
        Configuration -> when it stops scoring, for those that stop early. No option does: a rule holds for the settings that it was made for.
    served_p95_ms
        P95 of a search as it is now; null where nobody knows.
    looks
        How many options are looked at in all, where these are not all of them; the intervals of recall are corrected for so many.
    clock
        Seconds that have passed, and seconds of processor time that this process has used.

    Returns
    -------
    list[Tried]
        In the order of the options. One that cannot be measured (a model that is gone or cannot score) does not pass, and says why.

    Raises
    ------
    BadInput
        Nothing is judged; or the champion cannot score, which only the goal ``errors`` forgives: it is then what people get, the first stage.
    Refused
        ``should_stop`` said so.
    """
    times = _timings(options, champion, queries, candidates_for, server_of, clock) if server_of is not None and goal in ("latency", "cost") else {}
    deepest = max([champion.depth, LEAST_DEPTH, *(option.config.depth for option in options)])
    found = candidates_for(queries["text"].to_list(), deepest)

    def scored(config: ServingConfig, own: list[Candidates]) -> pl.DataFrame:
        model = scorer_of(config.model) if config.depth > 0 else FirstStageOnly(config.model)
        stops = rule_of(config) if rule_of is not None else None
        return evaluate_model(queries, judgments, own, model, config, rule=stops, scores_cache=scores_cache, should_stop=should_stop)

    try:
        before = scored(champion, found)
    except Refused:
        raise
    except Exception:  # a backend fails in its own ways; whichever it is, the champion does not score
        if goal != "errors":
            raise
        before = scored(champion.model_copy(update={"depth": 0, "early_exit": False}), found)
    confidence = 1.0 - _ALPHA / max(1, len(options), looks or 0)
    tried = []
    for number, option in enumerate(options):
        try:
            after = scored(option.config, found if option.candidates is None else option.candidates(queries["text"].to_list(), deepest))
        except Refused:
            raise
        except Exception as error:  # the same for an option: it does not pass, and the others are still tried
            why = f"cannot be measured ({type(error).__name__}): {error}"
            tried.append(Tried(action=option.action, config=option.config, note=option.note, passes=False, reason=why))
            continue
        joined = before.join(after, on="query_id", suffix="_after")
        ndcg = paired_interval(_minus(joined, "ndcg_at_10"), seed=seed, n_boot=resamples)
        recall = paired_interval(_minus(joined, "recall_at_20"), seed=seed, n_boot=resamples, confidence=confidence)
        measured = _times_of(option.config, champion, times, served_p95_ms)
        tried.append(_judged(option, goal, ndcg, recall, measured, margin))
        if on_progress is not None:
            on_progress(number + 1, len(options))
    return tried


def choose(goal: Goal, tried: Sequence[Tried], target_ms: float | None = None) -> tuple[Tried | None, str]:
    """The option to take, and why.

    ``latency``: the first that reaches the target, in the order of the trigger table, else the fastest; ``cost``: the one that takes the least
    processor time; ``recall``: a repaired index, else the fewest candidates, and of equally many the highest recall; ``errors`` and ``index``: the first.
    Only those that pass.
    """
    passing = [one for one in tried if one.passes]
    if not passing:
        return None, "no option passes: " + ("; ".join(f"{one.action} ({one.note}): {one.reason}" for one in tried) or "there is none")
    if goal == "latency":
        limit = None if target_ms is None else target_ms * (1.0 + LATENCY_ALLOWANCE)
        for one in passing:
            if limit is not None and one.expected_p95_ms is not None and one.expected_p95_ms <= limit:
                return one, f"{one.action} is the first that reaches the target: P95 {one.expected_p95_ms:.0f} ms is expected, {limit:.0f} ms are allowed"
        best = min(passing, key=lambda one: _estimate(one.rerank_ratio))
        return best, f"{best.action} is the fastest that loses nothing: {_estimate(best.rerank_ratio):.2f} of the champion's reranking time"
    if goal == "cost":
        best = min(passing, key=lambda one: _estimate(one.processor_ratio))
        return best, f"{best.action} costs least and loses nothing: {_estimate(best.processor_ratio):.2f} of the champion's processor time"
    if goal == "recall":
        best = min(passing, key=lambda one: (one.action != REPAIR, one.config.depth, -_estimate(one.recall_difference)))
        gain = best.recall_difference
        assert gain is not None  # it passes by it
        return best, f"{best.note}: the cheapest with more recall@20, {gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] over {len(tried)} options"
    return passing[0], f"{passing[0].action}: {passing[0].note}"


class FirstStageOnly:
    """Stands for a model that is not asked: at depth 0 the first stage's order is served, whatever became of the weights."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.card = ModelCard(name="not asked", digest=digest, backend="torch-fp32", max_length=1)

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """No scores, for no texts."""
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """No scores, for no pairs."""
        if pairs:
            raise BadInput(f"{self.digest} is not to be asked at depth 0.")
        return np.empty(0, np.float32)


@dataclass(frozen=True)
class _Timed:
    wall_ms: npt.NDArray[np.float64]
    processor_ms: npt.NDArray[np.float64]


def _timings(
    options: Sequence[Option],
    champion: ServingConfig,
    queries: pl.DataFrame,
    candidates_for: Callable[[list[str], int], list[Candidates]],
    server_of: Callable[[str], Reranker],
    clock: Callable[[], tuple[float, float]],
) -> dict[tuple[str, int], _Timed]:
    """Reranking time of each (model, depth), query by query, all of them in turn: neither a drift of the machine nor a warm cache favours one."""
    texts = queries["text"].to_list()[: _TIMED + _WARM]
    wanted = {(one.model, one.depth) for one in [champion, *(option.config for option in options)]}
    models: dict[str, Reranker] = {}
    for digest in {model for model, depth in wanted if depth > 0}:
        try:
            models[digest] = server_of(digest)
        except PredatorError:
            if digest == champion.model:
                raise
    wanted = {pair for pair in wanted if pair[0] in models or pair[1] == 0}
    spent: dict[tuple[str, int], tuple[list[float], list[float]]] = {pair: ([], []) for pair in sorted(wanted)}
    for number, (text, found) in enumerate(zip(texts, candidates_for(texts, max(depth for _, depth in wanted)), strict=True)):
        for digest, depth in spent if number % 2 == 0 else list(spent)[::-1]:
            wall, processor = clock()
            if depth > 0:
                models[digest].score(text, found.texts[:depth])
            if number >= _WARM:
                now = clock()
                spent[digest, depth][0].append(1e3 * (now[0] - wall))
                spent[digest, depth][1].append(1e3 * (now[1] - processor))
    return {pair: _Timed(np.asarray(wall), np.asarray(processor)) for pair, (wall, processor) in spent.items()}


@dataclass(frozen=True)
class _Measured:
    rerank_ratio: Interval | None = None
    processor_ratio: Interval | None = None
    rerank_p95_ms: float | None = None
    expected_p95_ms: float | None = None


def _times_of(config: ServingConfig, champion: ServingConfig, times: dict[tuple[str, int], _Timed], served_p95_ms: float | None) -> _Measured:
    own, reference = times.get((config.model, config.depth)), times.get((champion.model, champion.depth))
    if own is None or reference is None or len(own.wall_ms) < 2 or not reference.wall_ms.sum() > 0:
        return _Measured()
    p95, before = (float(np.percentile(one.wall_ms, 95)) for one in (own, reference))
    return _Measured(
        rerank_ratio=ratio_interval(own.wall_ms, reference.wall_ms),
        processor_ratio=ratio_interval(own.processor_ms, reference.processor_ms) if reference.processor_ms.sum() > 0 else None,
        rerank_p95_ms=p95,
        expected_p95_ms=None if served_p95_ms is None else max(0.0, served_p95_ms - before + p95),
    )


def _judged(option: Option, goal: Goal, ndcg: Interval, recall: Interval, measured: _Measured, margin: float) -> Tried:
    kept = ndcg.low > -margin
    said = f"NDCG@10 {ndcg.estimate:+.4f} [{ndcg.low:+.4f}, {ndcg.high:+.4f}], n={ndcg.n}"
    if goal == "recall":
        passes = kept and recall.low > 0.0
        said = f"recall@20 {recall.estimate:+.4f} [{recall.low:+.4f}, {recall.high:+.4f}], {said}"
    elif goal == "index":
        passes = option.documents_wrong == 0
        said = f"{option.documents_wrong} documents would still be lost or wrong, {said}"
    elif goal == "errors":
        passes, said = True, f"it can be served; {said}"
    else:
        ratio = measured.rerank_ratio if goal == "latency" else measured.processor_ratio
        what = "reranking time" if goal == "latency" else "processor time"
        passes = kept and ratio is not None and ratio.high < 1.0
        told = "was not measured" if ratio is None else f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] of the champion's"
        said = f"{what} {told}, {said}"
    return Tried(
        action=option.action,
        config=option.config,
        note=option.note,
        ndcg_difference=ndcg,
        recall_difference=recall,
        **vars(measured),
        documents_wrong=option.documents_wrong,
        passes=passes,
        reason=said,
    )


def _minus(joined: pl.DataFrame, measure: str) -> npt.NDArray[np.float64]:
    return (joined[f"{measure}_after"] - joined[measure]).to_numpy().astype(np.float64)


def _estimate(interval: Interval | None) -> float:
    return float("inf") if interval is None else interval.estimate
