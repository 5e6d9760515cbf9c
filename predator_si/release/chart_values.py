"""Which values the chart takes: its own keys, the contour's block, and the machine-owned files, as one strict JSON schema.

What belongs here: the shape of the chart's values and ``values.schema.json`` made from it. What must not: rendering (``chart``), the meaning of a contour's
keys (``predator_si.contour``) or of a release (``release_file``): they are taken from there, so that a wrong value is refused here as it is there.

    python -m predator_si.release.chart_values      # writes values.schema.json again
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from predator_si.contour import ContourValues
from predator_si.contour_types import Block
from predator_si.errors import BadInput
from predator_si.release.deny import DenyEntry
from predator_si.release.release_file import Digest, Fusion, Index, Ingest, Reranker
from predator_si.signals import SIGNALS
from predator_si.values import BLOCK, FEATURES

SCHEMA_FILE = "values.schema.json"
NOT_A_DIGEST = "sha256:" + "0" * 64
"""What people write where they do not know the digest yet."""
LOCAL_CONTOURS = ("dev-mac", "local")
"""They run what was built on the same machine, which has no digest."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Image(Block):
    repository: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._:/-]*[a-z0-9]$")]
    digest: Digest | None = None
    tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")] | None = None


class _Images(Block):
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    platform: _Image
    serving: _Image
    training: _Image
    auth_proxy: _Image


class _Amounts(Block):
    cpu: Quantity
    memory: Quantity


class _Resources(Block):
    requests: _Amounts
    limits: _Amounts


class _Sized(Block):
    resources: _Resources


class _Switched(_Sized):
    enabled: bool


class _Namespace(Block):
    create: bool


class _Home(Block):
    create: bool
    existing_claim: Name | None = None
    size: Quantity
    storage_class: Name | None = None
    access_modes: Annotated[list[Literal["ReadWriteOnce", "ReadWriteMany"]], Field(min_length=1)]


class _Autoscaling(Block):
    enabled: bool
    max_replicas: Annotated[int, Field(ge=1, le=100)]
    cpu_utilization: Annotated[int, Field(ge=10, le=100)]


class _Search(_Sized):
    min_replicas: Annotated[int, Field(ge=1, le=20)]
    threads: Annotated[int, Field(ge=1)] | None = None
    score_cache: Annotated[int, Field(ge=0)]
    autoscaling: _Autoscaling
    ingest: _Sized
    candidate: _Switched


class _Dagster(Block):
    compute_logs: Annotated[str, Field(pattern=r"^[a-z0-9]+://\S+$")]
    webserver: _Sized
    daemon: _Sized
    code_server: _Sized


class _Runs(Block):
    namespace: Name | None = None
    claim: Name | None = None
    pipes: bool


class _Secret(Block):
    existing_secret: Name


class _Secrets(Block):
    environment: Name | None = None
    files: Name | None = None


class _AuthProxy(_Switched):
    issuer: Annotated[str, Field(pattern=r"^https://[^\s@]+$")] | None = None
    email_domains: list[Annotated[str, Field(pattern=r"^(\*|[a-z0-9.-]+)$")]]
    existing_secret: Name


class _ServiceMonitor(Block):
    enabled: bool
    interval: Annotated[str, Field(pattern=r"^[0-9]+(ms|s|m)$")]
    labels: dict[str, str]


class _Destination(Block):
    namespace: Name | None = None
    cidr: Annotated[str, Field(pattern=r"^[0-9a-f.:]+/[0-9]{1,3}$")] | None = None
    port: Port

    @model_validator(mode="after")
    def _somewhere(self) -> _Destination:
        if (self.namespace is None) == (self.cidr is None):
            raise ValueError("give namespace or cidr")
        return self


class _Destinations(Block):
    postgres: _Destination | None = None
    kubernetes_api: _Destination | None = None
    git: _Destination | None = None
    argocd: _Destination | None = None
    search: _Destination | None = None
    next_search: _Destination | None = None
    prometheus: _Destination | None = None
    opencost: _Destination | None = None
    event_tables: _Destination | None = None
    opensearch: _Destination | None = None
    tracing: _Destination | None = None
    object_store: _Destination | None = None
    identity: _Destination | None = None
    messages: _Destination | None = None
    language_model: _Destination | None = None


class _Network(Block):
    gateway: Name | None = None
    gateway_to_api: bool
    scraper: Name | None = None
    rollouts: Name | None = None
    destinations: _Destinations


class ChartValues(Block):
    """Everything that a values file of the chart may say."""

    contour: Name
    self_improvement: ContourValues
    namespace: _Namespace
    images: _Images
    image_pull_secrets: list[Name]
    node_selector: dict[str, str]
    replicas: Annotated[int, Field(ge=1, le=20)]
    reranker: Reranker
    fusion: Fusion
    ingest: Ingest
    index: Index
    denied: list[DenyEntry]
    home: _Home
    search: _Search
    dagster: _Dagster
    runs: _Runs
    api: _Sized
    mlflow: _Switched
    backup: _Sized
    postgres: _Secret
    secrets: _Secrets
    auth_proxy: _AuthProxy
    service_monitor: _ServiceMonitor
    network: _Network


def chart_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of the chart's values.

    Beyond what the models say: the switches of the loop in their flat spelling, gates by the names of metrics only, the digest that means "not known yet"
    refused, and images by digest in every contour but those that run what was built on the same machine.
    """
    schema = ChartValues.model_json_schema(by_alias=True)
    parts: dict[str, Any] = schema["$defs"]
    block = parts["ContourValues"]["properties"]
    features = parts["Features"]["properties"]
    block.update({name: features[name] for name in FEATURES})
    block["qualityGates"]["propertyNames"] = {"enum": sorted({name for signal in SIGNALS.values() for name in (signal.name, *signal.aliases)})}
    parts["_Image"]["properties"]["digest"]["not"] = {"const": NOT_A_DIGEST}
    parts["_Destination"]["oneOf"] = [{"required": [key], "properties": {key: {"type": "string"}}} for key in ("namespace", "cidr")]  # a null is none
    parts["DenyEntry"]["properties"]["at"].pop("format", None)  # YAML's readers make a time of it, and Helm text again
    for part in parts.values():
        _without_titles(part)
    _without_titles(schema)
    digest = {"properties": {"digest": {"type": "string"}}, "required": ["digest"]}
    schema["if"] = {"properties": {"contour": {"not": {"enum": list(LOCAL_CONTOURS)}}}}
    schema["then"] = {"properties": {"images": {"properties": {"platform": digest, "serving": digest}}}}
    schema["allOf"] = [
        {
            "if": {"properties": {BLOCK: {"properties": {"resources": {"properties": {"gpu": {"const": True}}}}}, **schema["if"]["properties"]}},
            "then": {"properties": {"images": {"properties": {"training": digest}}}},
        },
        {
            "if": {"properties": {BLOCK: {"properties": {"kubecost": {"properties": {"enabled": {"const": True}}}}}}},
            "then": {"properties": {BLOCK: {"properties": {"sources": {"required": ["opencost"], "properties": {"opencost": {"type": "string"}}}}}}},
        },
        {
            "if": {"properties": {"authProxy": {"properties": {"enabled": {"const": True}}}}},
            "then": {"properties": {"images": {"properties": {"authProxy": digest}}, "authProxy": {"required": ["issuer"]}}},
        },
    ]
    schema["properties"]["global"] = {"type": "object"}  # Helm's own
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart predator-umbrella; made by predator_si.release.chart_values",
        **schema,
    }


def schema_text() -> str:
    """``values.schema.json`` as it must stand in the chart."""
    return json.dumps(chart_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _without_titles(node: Any) -> None:
    """Pydantic's titles and descriptions say nothing that the key does not, and would change with every docstring."""
    if isinstance(node, dict):
        for key in ("title", "description", "default"):
            if not isinstance(node.get(key), dict) or key == "default":
                node.pop(key, None)
        for value in node.values():
            _without_titles(value)
    elif isinstance(node, list):
        for value in node:
            _without_titles(value)


def main() -> int:
    """Write the schema into the checkout's chart."""
    from predator_si.settings import CHART

    if not CHART.is_dir():
        raise BadInput(f"{CHART}: no chart there; run this in a checkout.")
    (CHART / SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")
    sys.stdout.write(f"{Path(CHART) / SCHEMA_FILE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
