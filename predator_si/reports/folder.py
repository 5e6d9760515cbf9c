"""A cycle's folder as far as it exists: every artifact that can be read, and a line for each that is missing or broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from predator_si.augment import read_manifest
from predator_si.errors import BadInput
from predator_si.evaluate.optimise import Optimisation
from predator_si.records import Decision, Deployment, DiagnosticReport, Evaluation, ExperimentResult, HelmPatch, Record, Rollback, WatchResult

_R = TypeVar("_R", bound=Record)
DIFFERENCE_COLUMNS = (("ndcg_champion", "ndcg_challenger"), ("ndcg_at_10_champion", "ndcg_at_10_challenger"), ("champion", "challenger"))


@dataclass
class CycleFolder:
    """What lies in ``artifacts/<cycle_id>/``. ``missing`` and ``broken`` hold (file, why) of what does not, or cannot be read."""

    path: Path
    diagnosis: DiagnosticReport | None = None
    dataset: dict[str, Any] | None = None
    optimisation: Optimisation | None = None
    evaluation: Evaluation | None = None
    differences: pl.Series | None = None
    experiment: ExperimentResult | None = None
    trial: Decision | None = None
    promotion: Decision | None = None
    patches: list[HelmPatch] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)
    watch: WatchResult | None = None
    rollback: Rollback | None = None
    missing: list[tuple[str, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    @property
    def decision(self) -> Decision | None:
        """The last decision there is."""
        return self.promotion or self.trial

    @property
    def released(self) -> Deployment | None:
        """The newest deployment of a promotion."""
        return next((found for found in reversed(self.deployments) if found.stage == "promote"), None)


def open_folder(path: Path) -> CycleFolder:
    """Read all artifacts of a cycle.

    Raises
    ------
    BadInput
        ``path`` is not a folder. A single broken artifact is no error: it is listed in ``broken``.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder. Give the folder of a cycle's artifacts.")
    found = CycleFolder(path)
    found.diagnosis = _record(found, "diagnostic_report.json", DiagnosticReport, "cycle/diagnostic_report")
    if _there(found, "dataset_manifest.yaml", "cycle/synthetic_dataset"):
        try:
            found.dataset = read_manifest(path / "dataset_manifest.yaml")
        except BadInput as error:
            found.broken.append(("dataset_manifest.yaml", str(error)))
    if (path / "optimisation.json").is_file():  # cycles that change only settings have none
        found.optimisation = _record(found, "optimisation.json", Optimisation, "cycle/optimized_reranker")
    found.evaluation = _record(found, "evaluation.json", Evaluation, "cycle/evaluation")
    if found.evaluation is not None:
        found.differences = _differences(found, found.evaluation.per_query)
    found.trial = _record(found, "decision-trial.json", Decision, "cycle/trial_decision")
    found.experiment = _record(found, "ab_test_results.json", ExperimentResult, "cycle/experiment_result")
    found.promotion = _record(found, "decision-promote.json", Decision, "cycle/release_decision")
    found.patches = _patches(found)
    names = sorted(file.name for file in path.glob("deployment*.json"))
    read = [_record(found, name, Deployment, "cycle/deployment") for name in names or ["deployment.json"]]
    found.deployments = sorted((record for record in read if record is not None), key=lambda record: record.created_at)
    found.watch = _record(found, "watch.json", WatchResult, "cycle/watch")
    if (path / "rollback.json").is_file():
        found.rollback = _record(found, "rollback.json", Rollback, "cycle/rollback")
    return found


def _there(folder: CycleFolder, name: str, asset: str) -> bool:
    exists = (folder.path / name).is_file()
    if not exists:
        folder.missing.append((name, asset))
    return exists


def _record(folder: CycleFolder, name: str, kind: type[_R], asset: str) -> _R | None:
    if not _there(folder, name, asset):
        return None
    try:
        return kind.read(folder.path / name)
    except BadInput as error:
        folder.broken.append((name, str(error)))
        return None


def _patches(folder: CycleFolder) -> list[HelmPatch]:
    import yaml
    from pydantic import ValidationError

    names = [name for name in ("helm_patch-trial.yaml", "helm_patch.yaml", "helm_patch-rollback.yaml") if (folder.path / name).is_file()]
    if "helm_patch.yaml" not in names:
        folder.missing.append(("helm_patch.yaml", "cycle/helm_patch"))
    patches = []
    for name in names:
        try:
            patches.append(HelmPatch.model_validate(yaml.safe_load((folder.path / name).read_text(encoding="utf-8"))))
        except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
            folder.broken.append((name, f"not a patch: {str(error).splitlines()[0]}"))
    return patches


def _differences(folder: CycleFolder, name: str) -> pl.Series | None:
    """Challenger minus champion per query; null values (a failed query) are left out."""
    if not _there(folder, name, "cycle/evaluation"):
        return None
    try:
        frame = pl.read_parquet(folder.path / name)
    except (pl.exceptions.PolarsError, OSError) as error:
        folder.broken.append((name, f"not a Parquet file: {str(error).splitlines()[0]}"))
        return None
    for champion, challenger in DIFFERENCE_COLUMNS:
        if {champion, challenger} <= set(frame.columns):
            return (frame[challenger] - frame[champion]).drop_nulls()
    folder.broken.append((name, f"no columns ndcg_champion and ndcg_challenger; there are {', '.join(frame.columns)}"))
    return None
