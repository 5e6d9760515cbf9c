"""Argo CD's REST contract: its swagger, read where it is present, and stricter than it says itself (a key that it does not name is a fault)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SWAGGER = Path(__file__).resolve().parents[3] / "shared" / "schemas" / "argo" / "argocd-swagger.json"
ABSENT = "Argo's schemas are not on this machine: they are not part of the project"


@cache
def _document() -> dict[str, Any] | None:
    return json.loads(SWAGGER.read_text(encoding="utf-8")) if SWAGGER.is_file() else None


def need_swagger() -> None:
    """Skip the test where the contract is not at hand."""
    if _document() is None:
        pytest.skip(ABSENT)


def faults_of(method: str, path: str, query: dict[str, str], body: Any, status: int, answer: Any) -> list[str]:
    """What of one call the contract does not have: path, method, query, body, answer. Nothing where the contract is not at hand."""
    document = _document()
    if document is None:
        return []
    found = _operation(document, method, path)
    if found is None:
        return [f"{method} {path}: no such call"]
    faults = []
    known = {one["name"]: one for one in found.get("parameters", [])}
    for name in query:
        if known.get(name, {}).get("in") != "query":
            faults.append(f"{method} {path}: query {name} is unknown")
    schema = next((one["schema"] for one in known.values() if one["in"] == "body"), None)
    if body is not None and schema is None:
        faults.append(f"{method} {path}: takes no body")
    elif body is not None:
        faults += _faults(document, schema, body, f"{method} {path} body")
    responses = found["responses"]
    shape = responses.get(str(status), responses.get("default", {})).get("schema")
    return faults + (_faults(document, shape, answer, f"{method} {path} answer {status}") if shape else [])


def _operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any] | None:
    parts = path.strip("/").split("/")
    for template, calls in document["paths"].items():
        wanted = template.strip("/").split("/")
        if len(wanted) == len(parts) and all(one == other or one.startswith("{") for one, other in zip(wanted, parts, strict=True)) and method.lower() in calls:
            return dict(calls[method.lower()])
    return None


_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,), "object": (dict,)}


def _faults(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> list[str]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in ("v1Time", "v1MicroTime"):  # the document describes Go's struct; on the wire it is a text
            return [] if isinstance(value, str) else [f"{where}: {value!r} is not a time"]
        if name == "intstrIntOrString":
            return []
        schema = document["definitions"][name]
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return [f"{where}: {value!r} is not {kind}"]
    if isinstance(value, list):
        return [fault for place, one in enumerate(value) for fault in _faults(document, schema.get("items", {}), one, f"{where}[{place}]")]
    if not isinstance(value, dict):
        return []
    properties, more = schema.get("properties", {}), schema.get("additionalProperties")
    faults = []
    for key, one in value.items():
        if key in properties:
            faults += _faults(document, properties[key], one, f"{where}.{key}")
        elif isinstance(more, dict):
            faults += _faults(document, more, one, f"{where}.{key}")
        elif not more and properties:
            faults.append(f"{where}: key {key} is unknown")
    return faults
