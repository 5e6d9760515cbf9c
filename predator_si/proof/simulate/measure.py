"""The tables that lives are drawn from: NDCG@10 per query of several real rankers, and what real rerank calls took.

What belongs here: scoring and timing of train queries; a dev or test query is never read. What must not: drawing, judging.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.corpora.text import stable_fraction
from predator_si.errors import BadInput
from predator_si.evaluate import PairScores, evaluate_model
from predator_si.evaluate.timing import WARM_UP, arm, time_arms
from predator_si.measures import per_query
from predator_si.proof.bench_rerank import Collection
from predator_si.proof.simulate.world import QUALITY, SOURCES, TIMES, write_sources
from predator_si.provenance import provenance
from predator_si.records import ServingConfig
from predator_si.search.models import ModelStore, model_digest
from predator_si.search.rerank import Reranker, load_reranker, reference_backend
from predator_si.train.export import export

Tell = Callable[[str], None]
OnProgress = Callable[[int, int], None]
FIRST = "first stage"
_RUN = {"query_id": pl.String, "doc_id": pl.String, "rank": pl.Int64}


@dataclass(frozen=True)
class TablePlan:
    """Sizes of a measurement.

    Attributes
    ----------
    queries, timed
        Judged train queries of each collection, and those of them whose rerank calls are timed; at most.
    length, short
        Input lengths in tokens of the full and of the cut model.
    weights
        Shares of the first stage that the full model is fused with.
    """

    queries: int = 150
    timed: int = 20
    depth: int = 20
    length: int = 192
    short: int = 48
    weights: tuple[float, ...] = (0.3, 0.5, 0.8)
    seed: int = 0


def measure_tables(
    collections: Sequence[Collection],
    zero_shot: Path,
    store: ModelStore,
    folder: Path,
    plan: TablePlan,
    *,
    scores: PairScores | None = None,
    tell: Tell = lambda _: None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Score and time, and write ``quality.parquet``, ``times.parquet`` and ``sources.json`` into ``folder``.

    Parameters
    ----------
    collections
        Judged collections with their indexes.
    zero_shot
        Folder of a cross-encoder in torch format. Two rerankers are made of it: one that reads whole passages, and one that reads their first words.

    Returns
    -------
    dict
        What ``sources.json`` holds.

    Raises
    ------
    BadInput
        No collection, or one without judged train queries.
    """
    if not collections:
        raise BadInput("tables need a judged collection. Import one: `predator-si corpus import DIR`.")
    digest = model_digest(zero_shot)
    if digest not in store:
        store.add(zero_shot, name=zero_shot.name, backend="torch-fp32", max_length=512, base=zero_shot.name)
    tell("exporting")
    models = {
        "full": load_reranker(store.path(export(store, digest, reference_backend(), plan.length))),
        "short": load_reranker(store.path(export(store, digest, reference_backend(), plan.short))),
    }
    quality, times = [], []
    for one in collections:
        tell(f"{one.name}: scoring")
        quality.append(_scored(one, models, plan, scores, on_progress))
    folder.mkdir(parents=True, exist_ok=True)
    quality_table = pl.concat(quality)
    quality_table.write_parquet(folder / QUALITY, compression="zstd")
    for one in collections:
        tell(f"{one.name}: timing")
        times.append(_timed(one, models, plan, on_progress))
    times_table = pl.concat(times)
    times_table.write_parquet(folder / TIMES, compression="zstd")
    return write_sources(
        folder / SOURCES,
        {
            **provenance("full", plan.seed),
            "model": zero_shot.name,
            "model_digest": digest,
            "backends": {name: model.card.backend for name, model in models.items()},
            "max_length": {name: model.card.max_length for name, model in models.items()},
            "depth": plan.depth,
            "splits": ["train"],
            "queries": dict(quality_table.group_by("collection", maintain_order=True).len().iter_rows()),
            "timed": dict(times_table.group_by("collection", maintain_order=True).len().iter_rows()),
            "load_average": list(os.getloadavg()),
        },
    )


def _queries(one: Collection, plan: TablePlan) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Judged train queries in the order of a stable hash, so that fewer are a part of more."""
    judged = one.corpus.judgments("train", one.part).filter(pl.col("relevance") > 0).select("query_id").unique()
    queries = one.corpus.queries("train", one.part).join(judged, on="query_id", how="semi")
    order = sorted(range(queries.height), key=lambda at: stable_fraction(str(queries["query_id"][at])))
    found = queries.select("query_id", "text", "split")[order[: plan.queries]]
    if found.height < 2:
        raise BadInput(f"collection {one.name}: {found.height} judged train queries; at least two are needed.")
    return found, one.corpus.judgments("train", one.part)


def _scored(one: Collection, models: dict[str, Reranker], plan: TablePlan, scores: PairScores | None, on_progress: OnProgress | None) -> pl.DataFrame:
    queries, judgments = _queries(one, plan)
    found = one.index.candidates(queries["text"].to_list(), plan.depth)
    frame = queries.select(pl.lit(one.name).alias("collection"), "query_id", "split")
    arms = [(FIRST, "full", 0, 0.0), *((name, name, plan.depth, 0.0) for name in models)]
    arms += [(f"full, fused {weight:g}", "full", plan.depth, weight) for weight in plan.weights]
    for name, model, depth, weight in arms:
        config = ServingConfig(model=models[model].digest, depth=depth, fusion_weight=weight)
        own = evaluate_model(queries, judgments, found, models[model], config, scores_cache=scores, on_progress=on_progress)
        frame = frame.join(own.select("query_id", pl.col("ndcg_at_10").alias(name)), on="query_id", how="inner", maintain_order="left")
    for name, leg in (("dense", one.index.dense_scores), ("lexical", one.index.lexical_scores)):
        scored = leg(queries["text"].to_list(), [own.doc_ids for own in found])
        run = pl.concat([_ranked(query_id, own.doc_ids, values) for query_id, own, values in zip(queries["query_id"], found, scored, strict=True)])
        ndcg = per_query(run, judgments, ["nDCG@10"]).rename({"nDCG@10": name})
        frame = frame.join(ndcg, on="query_id", how="inner", maintain_order="left")
    return frame


def _ranked(query_id: str, doc_ids: Sequence[str], scores: npt.NDArray[np.floating]) -> pl.DataFrame:
    """The same candidates in the order of one leg alone; ties keep the first stage's."""
    order = [doc_ids[place] for place in np.argsort(-scores, kind="stable")]
    return pl.DataFrame({"query_id": [query_id] * len(order), "doc_id": order, "rank": range(1, len(order) + 1)}, schema=_RUN)


def _timed(one: Collection, models: dict[str, Reranker], plan: TablePlan, on_progress: OnProgress | None) -> pl.DataFrame:
    """The full model twice, so that two equal arms can be compared, and the short one; interleaved on each query."""
    queries = _queries(one, plan)[0].head(plan.timed + WARM_UP)
    texts = queries["text"].to_list()
    arms = {"full": models["full"], "full again": models["full"], "short": models["short"]}
    timings = time_arms({name: arm(model, plan.depth) for name, model in arms.items()}, texts, one.index.candidates(texts, plan.depth), on_progress=on_progress)
    timed = queries[WARM_UP:].select(pl.lit(one.name).alias("collection"), "query_id")
    return timed.with_columns(
        *(pl.Series(f"{name}, ms", timing.ms) for name, timing in timings.items()),
        *(pl.Series(f"{name}, cpu ms", [1e3 * seconds for seconds in timing.cpu_seconds]) for name, timing in timings.items()),
    )
