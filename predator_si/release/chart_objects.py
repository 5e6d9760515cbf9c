"""What the chart renders, as policies ask for it: pods, their containers, who selects whom.

What belongs here: finding things in rendered objects, and the register of policies. What must not: any policy (``chart_policies``, ``chart_policies_flows``,
``chart_policies_addresses``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
COMPONENT = "app.kubernetes.io/component"
INSTANCE = "app.kubernetes.io/instance"


@dataclass(frozen=True)
class Pod:
    """A pod that some object makes: what it is called in messages, its labels and its specification."""

    owner: str
    kind: str
    namespace: str
    component: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """All containers, those that only prepare included."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]


class Rendered:
    """The objects of one rendering.

    Parameters
    ----------
    objects
        As ``helm.render`` gives them.
    contour
        Whose values they were rendered with.
    """

    def __init__(self, objects: Sequence[Object], contour: str) -> None:
        self.objects, self.contour = list(objects), contour

    def of(self, *kinds: str) -> list[Object]:
        """Objects of these kinds."""
        return [one for one in self.objects if one.get("kind") in kinds]

    def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object of this name; ``None`` where there is none."""
        for one in self.of(kind):
            if one["metadata"]["name"] == name and namespace in (None, one["metadata"].get("namespace")):
                return one
        return None

    @property
    def pods(self) -> list[Pod]:
        """The pods of all workloads."""
        found = []
        for one in self.of("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"):
            spec: Any = one["spec"]
            if one["kind"] == "CronJob":
                spec = spec["jobTemplate"]["spec"]
            template = one if one["kind"] == "Pod" else spec["template"]
            labels = template.get("metadata", {}).get("labels", {})
            found.append(Pod(title(one), one["kind"], one["metadata"].get("namespace", ""), labels.get(COMPONENT, ""), labels, template["spec"]))
        return found

    def deployment(self, component: str) -> Object | None:
        """The Deployment of a component."""
        return next((one for one in self.of("Deployment") if one["metadata"].get("labels", {}).get(COMPONENT) == component), None)


def title(one: Object) -> str:
    """``kind namespace/name`` of an object."""
    meta = one.get("metadata", {})
    return f"{one.get('kind')} {meta.get('namespace', '-')}/{meta.get('name')}"


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        value, known = labels.get(rule["key"]), rule.get("values") or []
        if not {"In": value in known, "NotIn": value not in known, "Exists": value is not None, "DoesNotExist": value is None}[rule["operator"]]:
            return False
    return True


Policy = Callable[[Rendered], Iterable[str]]
POLICIES: dict[str, Policy] = {}
"""By name: what each says of a rendering, one line for each thing that is wrong."""


def policy(rule: Policy) -> Policy:
    """Put a rule into the register, under its own name."""
    POLICIES[rule.__name__] = rule
    return rule


def complaints(objects: Sequence[Object], contour: str, names: Iterable[str] | None = None) -> Iterator[str]:
    """What the policies (all, or those named) say of a rendering: ``policy: object: what is wrong``."""
    from predator_si.release import chart_policies, chart_policies_addresses, chart_policies_flows  # noqa: F401 - they register themselves

    rendered = Rendered(objects, contour)
    for name in names or list(POLICIES):
        for line in POLICIES[name](rendered):
            yield f"{name}: {line}"
