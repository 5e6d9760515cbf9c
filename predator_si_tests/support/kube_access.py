"""Who may do what in a fake cluster, and which objects it takes: bearer tokens, RBAC roles, strict schemas, the restricted pod security standard.

What belongs here: refusals, in the API server's words. What must not: keeping objects (``kube_store``), HTTP (``kube_api``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from predator_si_tests.support.kube_store import ApiError, Key, Object, Store, dig

SCHEMA_VERSION = "1.35"
_NOT_SIMULATED = ("initContainers", "affinity", "topologySpreadConstraints", "ephemeralContainers", "priorityClassName", "runtimeClassName")
_OWN_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


@dataclass(frozen=True)
class User:
    """Who a token belongs to. A service account may do what roles allow; anybody else is an administrator."""

    name: str
    namespace: str | None = None
    """Of a service account."""

    @property
    def full_name(self) -> str:
        """As the API server writes it."""
        return self.name if self.namespace is None else f"system:serviceaccount:{self.namespace}:{self.name}"


@dataclass(frozen=True, order=True)
class Permission:
    """One thing that a request asks for, as a rule of a role would grant it."""

    group: str
    resource: str
    """Plural, with a sub-resource after a slash."""
    verb: str


@dataclass
class Access:
    """Tokens and roles. ``used`` is what each service account asked for and got, ``denied`` what it did not get: the base of a role with nothing too much."""

    store: Store
    tokens: dict[str, User] = field(default_factory=dict)
    used: dict[str, set[Permission]] = field(default_factory=dict)
    denied: dict[str, set[Permission]] = field(default_factory=dict)

    def user(self, authorization: str | None) -> User:
        """Whose bearer token this is.

        Raises
        ------
        ApiError
            401: nobody's.
        """
        user = self.tokens.get((authorization or "").removeprefix("Bearer "))
        if user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return user

    def check(self, user: User, asked: Permission, namespace: str | None, name: str | None) -> None:
        """Let a request through where a role that is bound to the user allows it.

        Raises
        ------
        ApiError
            403: no role does.
        """
        if user.namespace is None:
            return
        allowed = namespace is not None and any(_allows(rule, asked, name) for rule in self._rules(user, namespace))
        (self.used if allowed else self.denied).setdefault(user.full_name, set()).add(asked)
        if not allowed:
            what = asked.resource if not asked.group else f"{asked.resource}.{asked.group}" if "/" not in asked.resource else asked.resource
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            named = f' "{name}"' if name else ""
            raise ApiError(
                403, "Forbidden",
                f'{what}{named} is forbidden: User "{user.full_name}" cannot {asked.verb} resource "{asked.resource}" in API group "{asked.group}" {where}',
            )  # fmt: skip

    def _rules(self, user: User, namespace: str) -> Iterator[Mapping[str, Any]]:
        version = "rbac.authorization.k8s.io/v1"
        for binding in self.store.list(version, "rolebindings", namespace):
            for subject in binding.get("subjects") or []:
                mine = subject["kind"] == "ServiceAccount" and subject["name"] == user.name and subject.get("namespace", namespace) == user.namespace
                role = Key(version, "roles", namespace, binding["roleRef"]["name"])
                if mine and binding["roleRef"]["kind"] == "Role" and self.store.has(role):
                    yield from self.store.get(role).get("rules") or []


def _allows(rule: Mapping[str, Any], asked: Permission, name: str | None) -> bool:
    groups, resources, verbs, names = (rule.get(part) or [] for part in ("apiGroups", "resources", "verbs", "resourceNames"))
    return (
        (asked.group in groups or "*" in groups)
        and (asked.resource in resources or "*" in resources)
        and (asked.verb in verbs or "*" in verbs)
        and (not names or name in names)
    )


# --------------------------------------------------------------------------- admission


def admit(store: Store, key: Key, made: Object) -> None:
    """Refuse what a real API server would: a namespace that is not there, fields that its schemas do not know, a pod below its namespace's standard.

    Raises
    ------
    ApiError
        403, 404 or 422, with the reason. 501: the object asks for something that this fake does not simulate, so that nobody takes silence for a proof.
    """
    if key.namespace and not store.has(Key("v1", "namespaces", "", key.namespace)):
        raise ApiError(404, "NotFound", f'namespaces "{key.namespace}" not found')
    check_schema(made)
    if made["kind"] == "Pod":
        _admit_pod(store, key, made)


def check_schema(made: Object) -> None:
    """Validate strictly by Kubernetes' own schemas; kinds of other groups than Kubernetes' own have none here and pass."""
    import kubernetes_validate

    if made["apiVersion"].startswith("argoproj.io/"):
        return
    try:
        kubernetes_validate.validate(made, SCHEMA_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        raise ApiError(422, "Invalid", f'{made["kind"]} "{dig(made, "metadata.name")}" is invalid: {where}: {error.message}') from error
    except kubernetes_validate.SchemaNotFoundError as error:
        raise ApiError(422, "Invalid", f"no schema for {made['apiVersion']} {made['kind']}") from error


def _admit_pod(store: Store, key: Key, pod: Object) -> None:
    spec = pod["spec"]
    for name in _NOT_SIMULATED:
        if spec.get(name):
            raise ApiError(501, "NotImplemented", f"this fake does not simulate {name} of a pod")
    account = spec.setdefault("serviceAccountName", "default")
    if account != "default" and not store.has(Key("v1", "serviceaccounts", key.namespace, account)):
        raise ApiError(
            403,
            "Forbidden",
            f'pods "{key.name}" is forbidden: error looking up service account {key.namespace}/{account}: serviceaccount "{account}" not found',
        )
    labels = dig(store.get(Key("v1", "namespaces", "", key.namespace)), "metadata.labels") or {}
    if labels.get("pod-security.kubernetes.io/enforce") == "restricted":
        broken = sorted(pod_security_violations(spec))
        if broken:
            raise ApiError(403, "Forbidden", f'pods "{key.name}" is forbidden: violates PodSecurity "restricted:latest": {", ".join(broken)}')


def pod_security_violations(spec: Mapping[str, Any]) -> Iterator[str]:
    """What of a pod's spec the restricted standard forbids (kubernetes.io, "Pod Security Standards", restricted profile)."""
    own = spec.get("securityContext") or {}
    for flag in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(flag):
            yield f"host namespaces ({flag}=true)"
    for volume in spec.get("volumes") or []:
        if not _OWN_VOLUMES & volume.keys():
            yield f'restricted volume types (volume "{volume["name"]}")'
    for container in spec["containers"]:
        name, context = container["name"], container.get("securityContext") or {}
        if context.get("privileged"):
            yield f'privileged (container "{name}")'
        if context.get("allowPrivilegeEscalation") is not False:
            yield f'allowPrivilegeEscalation != false (container "{name}")'
        capabilities = context.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or []) or set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield f'unrestricted capabilities (container "{name}" must drop ALL)'
        if (context.get("runAsNonRoot") if "runAsNonRoot" in context else own.get("runAsNonRoot")) is not True:
            yield f'runAsNonRoot != true (pod or container "{name}")'
        if (context.get("runAsUser") if "runAsUser" in context else own.get("runAsUser")) == 0:
            yield f'runAsUser=0 (pod or container "{name}")'
        if ((context.get("seccompProfile") or own.get("seccompProfile")) or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f'seccompProfile (pod or container "{name}")'
