"""The instance file that the chart renders is one that Dagster and its launcher take, for whatever name the release has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("dagster_k8s", reason="could not import 'dagster_k8s")

from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config
from dagster_k8s import K8sRunLauncher

from predator_si.orchestration.compute_logs import ObjectStoreComputeLogManager
from predator_si.orchestration.coordinator import PredatorRunCoordinator
from predator_si_tests.support.charts import rendered

ENVIRONMENT = ("DAGSTER_PG_HOST", "DAGSTER_PG_DB", "DAGSTER_PG_USERNAME", "DAGSTER_PG_PASSWORD", "PREDATOR_SI_NAMESPACE", "PREDATOR_SI_IMAGE")


def instance_of(contour: str, **site: Any) -> dict[str, Any]:
    """The file in the ConfigMap."""
    objects = rendered(contour, site=site) if site else rendered(contour)
    (text,) = {one["data"]["dagster.yaml"] for one in objects if one["kind"] == "ConfigMap" and "dagster.yaml" in one["data"]}
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def problems(found: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Dagster's own schemas say against it."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "given")
    monkeypatch.setenv("DAGSTER_PG_PORT", "5432")
    monkeypatch.setenv("PREDATOR_SI_COMPUTE_LOGS", "file:///logs")
    (folder / "dagster.yaml").write_text(yaml.safe_dump(found))
    dagster_instance_config(str(folder))
    blocks = {"run_launcher": K8sRunLauncher, "compute_logs": ObjectStoreComputeLogManager, "run_coordinator": PredatorRunCoordinator}
    answers = {name: process_config(resolve_to_config_type(made.config_type()), found[name].get("config", {})) for name, made in blocks.items()}
    return [f"{name}: {error.message}" for name, answer in answers.items() for error in answer.errors or []]


@pytest.mark.parametrize("contour", ["edge-oracle", "compute-nvidia"])
def test_dagster_takes_what_the_chart_renders(contour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(instance_of(contour), tmp_path, monkeypatch) == []


@pytest.mark.parametrize(
    ("block", "key", "value", "says"),
    [
        ("run_launcher", "job_name_space", "x", "job_name_space"),
        ("compute_logs", "upload_interval", "often", "upload_interval"),
        ("run_launcher", "job_image", 1, "job_image"),
    ],
)
def test_a_mistake_in_it_would_be_seen(block: str, key: str, value: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = instance_of("edge-oracle")
    found[block]["config"][key] = value
    assert any(says in problem for problem in problems(found, tmp_path, monkeypatch))


def test_a_run_holds_a_token_only_where_it_starts_pods_itself() -> None:
    def holds(found: dict[str, Any]) -> Any:
        return found["run_launcher"]["config"]["run_k8s_config"]["pod_spec_config"]["automount_service_account_token"]

    assert holds(instance_of("compute-nvidia")) is False
    assert holds(instance_of("compute-nvidia", runs={"pipes": True, "namespace": None, "claim": None})) is True
