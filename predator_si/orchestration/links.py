"""Where a cycle can be looked at: its page, report, data, trial, MLflow run, commits.

What belongs here: addresses of what exists. What must not: making any of it, numbers (``metadata``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import yaml

from predator_si.home import Home
from predator_si.reports.dataset_card import DATASET_CARD
from predator_si.reports.pages import TRIAL_PAGE
from predator_si.settings import Settings

_COMMITS = {"trial_commit": "helm_patch-trial.yaml", "release_commit": "helm_patch.yaml", "rollback_commit": "rollback.json"}


def pages_at(settings: Settings) -> str:
    """Address of the operations page, without a slash at its end: as the contour says that people reach it, or on loopback."""
    return (settings.values.notify.link or f"http://127.0.0.1:{settings.ports.api}").rstrip("/")


def operations_url(settings: Settings, cycle_id: str) -> str:
    """Address of a cycle's page."""
    return f"{pages_at(settings)}/operations/cycles/{cycle_id}"


def commit_url(settings: Settings, commit: str) -> str:
    """Address of what a commit of the GitOps repository changed."""
    return f"{pages_at(settings)}/operations/commits/{commit}"


def cycle_urls(settings: Settings, cycle_id: str) -> dict[str, str]:
    """By name, the pages of a cycle that there are now; what does not exist yet is left out."""
    folder, base = Home(settings.home).artifacts / cycle_id, pages_at(settings)
    found = {"operations_page": operations_url(settings, cycle_id)}
    for name, file, path in (("report", "report.html", ""), ("training_data", DATASET_CARD, "/dataset"), ("trial_page", TRIAL_PAGE, "/trial")):
        if (folder / file).is_file():
            found[name] = f"{base}/cycles/{cycle_id}{path}"
    run = _read(folder / "dataset_manifest.yaml").get("mlflow") or {}
    if str(run.get("artifact_uri", "")).startswith("http"):
        found["mlflow_run"] = str(run["artifact_uri"])
    for name, file in _COMMITS.items():
        commit = _read(folder / file).get("commit")
        if commit:
            found[name] = commit_url(settings, str(commit))
    return found


def linked(step: Callable[..., Any]) -> Callable[..., Any]:
    """An asset's function of one cycle, whose result says where the cycle can be looked at.

    The wrapped function takes ``context`` and ``loop``; what it gives as metadata stays.
    """

    @wraps(step)
    def with_links(context: Any, **parts: Any) -> Any:
        import dagster as dg

        result = step(context, **parts)
        urls = cycle_urls(parts["loop"].settings, context.partition_key)
        return result._replace(metadata={**{name: dg.MetadataValue.url(url) for name, url in urls.items()}, **(result.metadata or {})})

    return with_links


def _read(path: Path) -> Mapping[str, Any]:
    """A small YAML or JSON file; empty where there is none that can be read: a link is no reason to fail a step."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
