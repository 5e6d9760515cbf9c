"""The chart of this checkout, rendered by real Helm with a release that is on trial."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from predator_si.errors import Missing
from predator_si.release.chart import example_files, file_names, render_contour
from predator_si.release.helm import fetch_helm, find_helm
from predator_si.settings import CHART

Content = dict[str, Any]
CONTOURS = ("dev-mac", "local", "edge-oracle", "compute-nvidia")
CHAMPION, CANDIDATE = "sha256:" + "a" * 64, "sha256:" + "b" * 64
RELEASE = {
    "reranker": {"champion": CHAMPION, "candidate": CANDIDATE, "candidateWeight": 0.2, "depth": 20, "backend": "auto"},
    "fusion": {"weights": {"rerank": 0.65, "firstStage": 0.35}},
    "replicas": 1,
    "ingest": {"workers": 1},
    "index": {"build": "first"},
}


@functools.cache
def helm() -> Path:
    """Helm 4, fetched where it is not there; the test is skipped where it cannot be had."""
    try:
        return find_helm()
    except Missing:
        try:
            return fetch_helm()
        except Missing as error:
            pytest.skip(str(error))


def files(
    contour: str, release: dict[str, Any] | None = None, site: dict[str, Any] | None = None, denied: list[dict[str, Any]] | None = None
) -> dict[str, str]:
    """What a GitOps repository holds of a contour: an example's images, ``site`` laid over them."""
    found = example_files(contour)
    names = file_names(contour)
    found[names[0]] = yaml.safe_dump({**yaml.safe_load(found[names[0]]), **(site or {})})
    found[names[1]] = yaml.safe_dump(RELEASE if release is None else release)
    found[names[2]] = yaml.safe_dump({"denied": denied or []})
    return found


def rendered(contour: str, release: dict[str, Any] | None = None, **more: Any) -> list[dict[str, Any]]:
    """The objects of a contour."""
    return render_contour(helm(), CHART, contour, files(contour, release, **more))


@functools.cache
def _once(contour: str) -> list[dict[str, Any]]:
    return rendered(contour)


def objects(contour: str) -> list[dict[str, Any]]:
    """The objects of a contour on trial, the caller's own copy of one rendering."""
    return copy.deepcopy(_once(contour))


def one(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of this kind whose name ends so."""
    matching = [each for each in found if each["kind"] == kind and each["metadata"]["name"] == f"predator-si-{name}"]
    assert matching, f"no {kind} predator-si-{name} among {sorted(each['metadata']['name'] for each in found if each['kind'] == kind)}"
    return matching[0]
