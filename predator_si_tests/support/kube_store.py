"""The objects of a fake cluster: what a Kubernetes API server keeps in etcd, with resource versions, selectors and a log that watchers read.

What belongs here: objects and their changes. What must not: HTTP (``kube_api``), permission and admission (``kube_access``), what anything does with them.
"""

from __future__ import annotations

import copy
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

Object = dict[str, Any]
RESOURCES: dict[tuple[str, str], tuple[str, bool]] = {
    ("v1", "namespaces"): ("Namespace", False), ("v1", "nodes"): ("Node", False), ("v1", "pods"): ("Pod", True), ("v1", "events"): ("Event", True),
    ("v1", "services"): ("Service", True), ("v1", "configmaps"): ("ConfigMap", True), ("v1", "secrets"): ("Secret", True),
    ("v1", "serviceaccounts"): ("ServiceAccount", True), ("v1", "persistentvolumeclaims"): ("PersistentVolumeClaim", True),
    ("v1", "persistentvolumes"): ("PersistentVolume", False),
    ("v1", "resourcequotas"): ("ResourceQuota", True), ("batch/v1", "jobs"): ("Job", True), ("batch/v1", "cronjobs"): ("CronJob", True),
    ("apps/v1", "deployments"): ("Deployment", True), ("apps/v1", "statefulsets"): ("StatefulSet", True),
    ("autoscaling/v2", "horizontalpodautoscalers"): ("HorizontalPodAutoscaler", True), ("policy/v1", "poddisruptionbudgets"): ("PodDisruptionBudget", True),
    ("networking.k8s.io/v1", "networkpolicies"): ("NetworkPolicy", True), ("networking.k8s.io/v1", "ingresses"): ("Ingress", True),
    ("rbac.authorization.k8s.io/v1", "roles"): ("Role", True), ("rbac.authorization.k8s.io/v1", "rolebindings"): ("RoleBinding", True),
    ("argoproj.io/v1alpha1", "applications"): ("Application", True), ("argoproj.io/v1alpha1", "appprojects"): ("AppProject", True),
    ("argoproj.io/v1alpha1", "rollouts"): ("Rollout", True), ("argoproj.io/v1alpha1", "analysistemplates"): ("AnalysisTemplate", True),
}  # fmt: skip
"""(group/version, plural) -> (kind, whether it lives in a namespace)."""


class Key(NamedTuple):
    """Where an object is kept. ``namespace`` is empty for what belongs to the whole cluster."""

    version: str
    plural: str
    namespace: str
    name: str


class Change(NamedTuple):
    """One entry of the log that watchers read."""

    number: int
    kind: str
    """ADDED, MODIFIED, DELETED."""
    key: Key
    object: Object


class ApiError(Exception):
    """What the API server answers instead of an object: a ``Status`` with this code and reason."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


def not_found(key: Key) -> ApiError:
    """404 in the API server's words."""
    return ApiError(404, "NotFound", f'{key.plural} "{key.name}" not found')


def now() -> str:
    """This moment as the API writes it, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(stamp: str) -> float:
    """How long ago ``stamp`` was."""
    return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()


def dig(found: Any, path: str) -> Any:
    """The value at a dotted path; null where there is none."""
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def merge(below: Object, patch: Mapping[str, Any]) -> Object:
    """A JSON merge patch (RFC 7386) applied in place."""
    for key, value in patch.items():
        if value is None:
            below.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below.get(key), dict):
            merge(below[key], value)
        else:
            below[key] = copy.deepcopy(value)
    return below


def selected(found: Object, labels: str | None, fields: str | None) -> bool:
    """Whether equality-based label and field selectors take this object."""
    have = dig(found, "metadata.labels") or {}
    for term in filter(None, (labels or "").split(",")):
        if "!=" in term:
            name, value = term.split("!=", 1)
            if have.get(name.strip()) == value.strip():
                return False
        elif "=" in term:
            name, value = re.split("==?", term, maxsplit=1)
            if have.get(name.strip()) != value.strip():
                return False
        elif term.strip() not in have:
            return False
    for term in filter(None, (fields or "").split(",")):
        name, value = re.split("==?", term, maxsplit=1)
        if str(dig(found, name) or "") != value:
            return False
    return True


class Store:
    """Objects by key; each write raises one resource version, and wakes whoever watches.

    Objects go in and out as copies. ``condition`` guards everything and is notified after each change.
    """

    def __init__(self) -> None:
        self.condition = threading.Condition(threading.RLock())
        self.log: list[Change] = []
        self.version = 0
        self._objects: dict[Key, Object] = {}

    def create(self, key: Key, made: Object) -> Object:
        """Keep a new object.

        Raises
        ------
        ApiError
            409: there is one of this name.
        """
        with self.condition:
            if key in self._objects:
                raise ApiError(409, "AlreadyExists", f'{key.plural} "{key.name}" already exists')
            made = copy.deepcopy(made)
            metadata = made.setdefault("metadata", {})
            metadata |= {"name": key.name, "uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            if key.namespace:
                metadata["namespace"] = key.namespace
            return self._write("ADDED", key, made)

    def replace(self, key: Key, made: Object, expected_version: str | None = None) -> Object:
        """Put an object in the place of the one that is there.

        Raises
        ------
        ApiError
            404: there is none. 409: it was changed since ``expected_version``.
        """
        with self.condition:
            old = self.get(key)
            if expected_version and expected_version != old["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", f'Operation cannot be fulfilled on {key.plural} "{key.name}": the object has been modified')
            made = copy.deepcopy(made)
            kept = {name: old["metadata"][name] for name in ("uid", "creationTimestamp", "generation")}
            kept["generation"] += int(old.get("spec") != made.get("spec"))
            made.setdefault("metadata", {}).update(kept)
            return self._write("MODIFIED", key, made)

    def update(self, key: Key, change: Callable[[Object], Any]) -> Object:
        """Read, change in place, write, as one step."""
        with self.condition:
            found = self.get(key)
            change(found)
            return self.replace(key, found)

    def delete(self, key: Key) -> Object:
        """Forget an object; what it was."""
        with self.condition:
            found = self.get(key)
            del self._objects[key]
            self._write("DELETED", key, found, keep=False)
            return found

    def get(self, key: Key) -> Object:
        """A copy of an object.

        Raises
        ------
        ApiError
            404: there is none.
        """
        with self.condition:
            if key not in self._objects:
                raise not_found(key)
            return copy.deepcopy(self._objects[key])

    def has(self, key: Key) -> bool:
        """Whether there is an object."""
        return key in self._objects

    def list(self, version: str, plural: str, namespace: str | None = None, labels: str | None = None, fields: str | None = None) -> list[Object]:
        """Copies of all that the selectors take, by name."""
        with self.condition:
            return [
                copy.deepcopy(found)
                for key, found in sorted(self._objects.items())
                if key[:2] == (version, plural) and (namespace is None or key.namespace == namespace) and selected(found, labels, fields)
            ]

    def _write(self, kind: str, key: Key, made: Object, keep: bool = True) -> Object:
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        if keep:
            self._objects[key] = made
        self.log.append(Change(self.version, kind, key, copy.deepcopy(made)))
        self.condition.notify_all()
        return copy.deepcopy(made)


def add_event(store: Store, about: Object, reason: str, message: str, kind: str = "Normal") -> None:
    """An ``Event`` about an object, which ``describe`` and Dagster's debug information show."""
    metadata = about["metadata"]
    name = f"{metadata['name']}.{uuid.uuid4().hex[:10]}"
    concerns = {"kind": about["kind"], "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
    store.create(
        Key("v1", "events", metadata["namespace"], name),
        {
            "apiVersion": "v1", "kind": "Event", "metadata": {}, "involvedObject": concerns, "reason": reason, "message": message, "type": kind,
            "firstTimestamp": now(), "lastTimestamp": now(), "count": 1, "source": {"component": "fake"},
        },
    )  # fmt: skip
