"""What the registry is told about a cycle's challenger: parameters, scores per dev query, the model card, the model.

What belongs here: gathering what the artifacts say. What must not: aliases (``aliases``), training, measuring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.augment import read_manifest
from predator_si.orchestration.loop import Loop
from predator_si.records import Interval, ServingConfig
from predator_si.statistics import bootstrap_mean_interval
from predator_si.train.model_card import ModelFacts, ancestry, write_model_card
from predator_si.train.tracking import ExperimentTracker, tracked

DEV_SCORES = "dev_per_query.parquet"
_MEASURES = ("ndcg_at_10", "recall_at_20", "rr_at_10")


def register_challenger(
    loop: Loop,
    tracker: ExperimentTracker,
    cycle_id: str,
    challenger: ServingConfig,
    scores: pl.DataFrame,
    *,
    trained: str,
    why: str,
    variants: Sequence[Any] = (),
) -> str:
    """Log the challenger's dev scores query by query and register it with its card; the version.

    Parameters
    ----------
    scores
        As ``evaluate_model`` gives them; the texts stay here.
    trained
        Digest of the torch weights behind it.
    why
        Why this way of running them was chosen.
    variants
        What else was measured (``evaluate.optimise.Variant``), for the table.
    """
    folder, scale = loop.artifacts(cycle_id), loop.plan.scale
    per_query = scores.drop("text", strict=False)
    per_query.write_parquet(folder / DEV_SCORES)
    metrics = {f"dev_{name}": bootstrap_mean_interval(per_query[name].to_numpy(), seed=scale.seed, n_boot=scale.resamples) for name in _MEASURES}
    facts = model_facts(loop, cycle_id, metrics, why)
    write_model_card(loop.models, challenger.model, facts)
    origin = ancestry(loop.models, challenger.model)
    tags = {
        "cycle": cycle_id,
        "source": trained,
        "dataset": facts.dataset_id,
        "data_hash": facts.dataset_hash,
        "base": origin.base,
        "base_revision": origin.revision,
        "licence": origin.licence,
        "dev_ndcg_at_10": f"{metrics['dev_ndcg_at_10'].estimate:.6f}",
    }
    card = loop.models.card(challenger.model)
    parameters = {"backend": card.backend, "depth": challenger.depth, "fusion_weight": challenger.fusion_weight, "chosen": challenger.model}
    with tracked(tracker, cycle_id, f"challenger of {cycle_id}", parameters):
        tracker.log_metrics({name: found.estimate for name, found in metrics.items()}, None)
        tracker.log_table({name: per_query[name].to_list() for name in per_query.columns}, "dev_per_query")
        if variants:
            rows = [one.model_dump(mode="json") for one in variants]
            tracker.log_table({name: [_plain(row.get(name)) for row in rows] for name in rows[0]}, "variants")
        tracker.log_file(folder / DEV_SCORES)
        return tracker.register(challenger.model, loop.models.path(challenger.model), tags)


def model_facts(loop: Loop, cycle_id: str, metrics: dict[str, Interval], why: str) -> ModelFacts:
    """What the cycle's artifacts say about the data and the training behind its model; without a data set, nothing is said about one."""
    folder = loop.artifacts(cycle_id)
    manifest = read_manifest(folder / "dataset_manifest.yaml") if (folder / "dataset_manifest.yaml").is_file() else {}
    statistics = manifest.get("statistics") or {}
    return ModelFacts(
        cycle_id=cycle_id,
        dataset_id=str(manifest.get("dataset_id") or ""),
        dataset_hash=str((manifest.get("dvc") or {}).get("hash") or ""),
        examples=int(statistics.get("total_examples") or 0),
        sources={str(name): int(n) for name, n in (statistics.get("groups_by_source") or {}).items()},
        recipe=_recipe(folder),
        corpus=loop.corpus.name,
        metrics=dict(metrics),
        chosen_because=why,
    )


def _recipe(folder: Path) -> dict[str, Any]:
    """The parameters of the cycle's newest training run, as ``mlflow_run_<id>/metrics.json`` keeps them; empty where nothing was trained."""
    if not (folder / "training.json").is_file():
        return {}
    run = json.loads((folder / "training.json").read_text())["tracker_run"]
    found = json.loads((folder / f"mlflow_run_{run}" / "metrics.json").read_text())["parameters"]
    return {name: value for name, value in found.items() if value not in (None, [], ())}


def _plain(value: Any) -> Any:
    """A cell that a table can show."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
