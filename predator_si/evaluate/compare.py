"""The comparison that carries superiority: two rerankers on identical queries and candidates, paired query by query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.corpora.text import near_duplicate_groups
from predator_si.errors import BadInput
from predator_si.evaluate.pair_scores import PairScores
from predator_si.evaluate.ranking import CandidateSource, candidate_recall, gather, heads_to_score, rerank_run
from predator_si.measures import per_query
from predator_si.records import Evaluation, Interval, ServingConfig, utc_now
from predator_si.search.adaptive_depth import DepthRule
from predator_si.search.rerank import Reranker
from predator_si.statistics import holm, paired_interval, power_sentence, resolvable_effect

_MEASURES = {"nDCG@10": "ndcg_at_10", "R@20": "recall_at_20", "RR@10": "rr_at_10"}
Progress = Callable[[int, int], None]


def evaluate_model(
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates_for: CandidateSource,
    reranker: Reranker,
    config: ServingConfig,
    *,
    rule: DepthRule | None = None,
    scores_cache: PairScores | None = None,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> pl.DataFrame:
    """One model's scores on each judged query.

    Parameters
    ----------
    queries
        ``query_id``, ``text``; those without a relevant document are left out.
    judgments
        ``query_id``, ``doc_id``, ``relevance``.
    candidates_for
        ``HybridIndex.candidates``, or one precomputed :class:`Candidates` per query.
    config
        Depth and fusion weight; its ``model`` must be the reranker's digest.
    rule
        When scoring stops before the depth, as in the service; null never.

    Returns
    -------
    pl.DataFrame
        ``query_id``, ``text``, ``ndcg_at_10``, ``recall_at_20``, ``rr_at_10``, ``candidate_recall``: each 0..1.

    Raises
    ------
    BadInput
        Nothing is judged, a column is missing, or the configuration names another model.
    Refused
        ``should_stop`` said so.
    """
    _same_model(reranker, config, rule)
    judged = gather(queries, judgments, candidates_for, config.depth)
    run = rerank_run(judged, reranker, config, scores_cache, rule=rule, on_progress=on_progress, should_stop=should_stop, skip_hopeless=True)
    scores = per_query(run, judged.judgments, list(_MEASURES)).rename(_MEASURES)
    frame = judged.queries.join(scores, on="query_id", how="left", maintain_order="left")
    return frame.join(candidate_recall(judged), on="query_id", how="left", maintain_order="left")


def compare(
    corpus_name: str,
    split: str,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates_for: CandidateSource,
    champion: Reranker,
    challenger: Reranker,
    configs: tuple[ServingConfig, ServingConfig],
    *,
    rules: tuple[DepthRule | None, DepthRule | None] = (None, None),
    challenger_candidates: CandidateSource | None = None,
    cycle_id: str = "",
    slices: Mapping[str, AbstractSet[str]] | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    scores_cache: PairScores | None = None,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[Evaluation, pl.DataFrame]:
    """Champion against challenger: the NDCG@10 difference with its BCa interval and sign-flip p-value, over all queries and per slice.

    Both sides see the same candidates, fetched once, unless the first stage is what is tried; depth and fusion weight are each side's own ``configs`` entry
    (normally equal).

    Parameters
    ----------
    queries, judgments, candidates_for
        As in :func:`evaluate_model`.
    configs
        (champion's, challenger's) serving configuration.
    rules
        When each side stops scoring, for those whose configuration stops early.
    challenger_candidates
        What the challenger's own first stage finds, where another index is tried; null: what the champion's finds.
    slices
        Name -> query ids. Slices may overlap; their p-values are Holm-adjusted over the slices tested.
    seed, resamples
        Of bootstrap and sign flips.
    on_progress
        Called with (scored pairs, all pairs) over both sides.

    Returns
    -------
    Evaluation
        ``latency`` is empty: the caller measures it through the service. ``slices`` rows: name, n, ndcg_champion, ndcg_challenger,
        difference, low, high, p_value, p_adjusted (null with a ``reason`` for fewer than two queries), resolvable.
    pl.DataFrame
        Per query: ``query_id``, ``text``, ``ndcg_champion``, ``ndcg_challenger``, ``ndcg_difference``, the same for recall at 20
        (``recall_*``), ``candidate_recall``, the names of its ``slices`` where there are any, and its ``cluster``: queries of near-duplicate words (one
        template) share one, and count together in every interval and test.

    Raises
    ------
    BadInput
        As in :func:`evaluate_model`, or fewer than two judged queries.
    Refused
        ``should_stop`` said so; pairs scored so far are in ``scores_cache``.
    """
    sides = (("champion", champion, configs[0]), ("challenger", challenger, configs[1]))
    for (_, reranker, config), rule in zip(sides, rules, strict=True):
        _same_model(reranker, config, rule)
    deepest = max(config.depth for config in configs)
    judged = gather(queries, judgments, candidates_for, deepest)
    seen = (judged, judged if challenger_candidates is None else gather(queries, judgments, challenger_candidates, deepest))
    totals = [sum(map(len, heads_to_score(own, config.depth))) for own, config in zip(seen, configs, strict=True)]
    frame, before = judged.queries, 0
    for (name, reranker, config), rule, total, own in zip(sides, rules, totals, seen, strict=True):
        progress = _offset(on_progress, before, sum(totals))
        run = rerank_run(own, reranker, config, scores_cache, rule=rule, on_progress=progress, should_stop=should_stop, skip_hopeless=True)
        scores = per_query(run, own.judgments, ["nDCG@10", "R@20"]).rename({"nDCG@10": f"ndcg_{name}", "R@20": f"recall_{name}"})
        frame = frame.join(scores, on="query_id", how="left", maintain_order="left")
        before += total
    frame = frame.with_columns(
        ndcg_difference=pl.col("ndcg_challenger") - pl.col("ndcg_champion"), recall_difference=pl.col("recall_challenger") - pl.col("recall_champion")
    ).join(candidate_recall(judged), on="query_id", how="left", maintain_order="left")
    if slices:
        names = [[name for name, members in slices.items() if query_id in members] for query_id in frame["query_id"]]
        frame = frame.with_columns(pl.Series("slices", names, dtype=pl.List(pl.String)))
    frame = frame.with_columns(cluster=pl.Series(near_duplicate_groups(frame["text"].to_list()), dtype=pl.Int64))
    difference = paired_interval(frame["ndcg_difference"].to_numpy(), seed=seed, n_boot=resamples, cluster=clusters_of(frame))
    evaluation = Evaluation(
        cycle_id=cycle_id,
        champion=configs[0],
        challenger=configs[1],
        corpus=corpus_name,
        split=split,
        n_queries=frame.height,
        ndcg_champion=_mean(frame, "ndcg_champion"),
        ndcg_challenger=_mean(frame, "ndcg_challenger"),
        ndcg_difference=difference,
        recall_champion=_mean(frame, "recall_champion"),
        recall_challenger=_mean(frame, "recall_challenger"),
        slices=slice_differences(frame, slices or {}, seed=seed, resamples=resamples),
        resolvable=resolvable_effect(frame.height, difference.sd) if difference.sd else None,
        power=power_sentence(frame.height, difference.sd),
        created_at=utc_now(),
    )
    return evaluation, frame


def slice_differences(
    per_query_scores: pl.DataFrame, slices: Mapping[str, AbstractSet[str]], *, seed: int = 0, resamples: int = 10_000
) -> list[dict[str, Any]]:
    """The difference within each slice, in the order given; ``per_query_scores`` is the frame that :func:`compare` returns."""
    rows: list[dict[str, Any]] = []
    for name, members in slices.items():
        own = per_query_scores.filter(pl.col("query_id").is_in(list(members)))
        row: dict[str, Any] = {"name": name, "n": own.height, "ndcg_champion": None, "ndcg_challenger": None}
        row |= dict.fromkeys(("difference", "low", "high", "p_value", "p_adjusted", "resolvable"))
        if own.height:
            row |= {"ndcg_champion": _mean(own, "ndcg_champion"), "ndcg_challenger": _mean(own, "ndcg_challenger"), "difference": _mean(own, "ndcg_difference")}
        units = own.height if (groups := clusters_of(own)) is None else len(set(groups.tolist()))
        if units < 2:
            row["reason"] = f"{units} independent judged queries in the slice; an interval needs two"
        else:
            found: Interval = paired_interval(own["ndcg_difference"].to_numpy(), seed=seed, n_boot=resamples, cluster=groups)
            row |= {"low": found.low, "high": found.high, "p_value": found.p_value, "resolvable": resolvable_effect(own.height, found.sd or 0.0)}
        rows.append(row)
    tested = [row for row in rows if row["p_value"] is not None]
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_adjusted"] = float(adjusted)
    return rows


def clusters_of(per_query_scores: pl.DataFrame) -> npt.NDArray[np.int64] | None:
    """Which queries depend on each other, as ``statistics`` takes it: null where none does, or where scores of an earlier version do not say."""
    if "cluster" not in per_query_scores.columns or per_query_scores["cluster"].n_unique() == per_query_scores.height:
        return None
    return per_query_scores["cluster"].to_numpy().astype(np.int64)


def _same_model(reranker: Reranker, config: ServingConfig, rule: DepthRule | None) -> None:
    if config.early_exit != (rule is not None) or (rule is not None and not rule.fits(reranker.digest, config.depth, config.fusion_weight)):
        raise BadInput(
            f"{reranker.digest}: the configuration says early_exit {str(config.early_exit).lower()}, and "
            f"{'there is no depth rule' if rule is None else f'the depth rule is for {rule.model} at depth {rule.depth}'}. Calibrate one for it."
        )
    if reranker.digest != config.model:
        raise BadInput(f"the configuration names {config.model}, the loaded reranker is {reranker.digest}; load the model that the configuration names.")


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].to_numpy().mean())


def _offset(on_progress: Progress | None, before: int, total: int) -> Progress | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(before + done, total)
