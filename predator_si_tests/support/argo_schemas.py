"""Argo's own kinds by their CRDs, strictly: a field that the CRD does not know is refused, as Kubernetes itself would only drop it silently."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

SCHEMAS = Path(__file__).resolve().parents[3] / "shared" / "schemas" / "argo"
_FILES = {"Application": "application", "AppProject": "appproject", "AnalysisTemplate": "analysis-template", "Rollout": "rollout"}


def problems(made: Mapping[str, Any]) -> list[str]:
    """What is wrong with an object of Argo's, each with its place; skips the test where the CRDs are not at hand."""
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(_schema(made["kind"])).iter_errors(dict(made))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]


@cache
def _schema(kind: str) -> dict[str, Any]:
    path = SCHEMAS / f"{_FILES[kind]}-crd.yaml"
    if not path.is_file():
        pytest.skip("Argo's schemas are not on this machine: they are not part of the project")
    found = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert found["spec"]["names"]["kind"] == kind
    schema: dict[str, Any] = next(one for one in found["spec"]["versions"] if one["storage"])["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    return _strict(schema)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: {name: _strict(one) for name, one in value.items()} if key == "properties" else _strict(value) for key, value in schema.items()}
    if "properties" in made and "additionalProperties" not in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made
